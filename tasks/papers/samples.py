"""Crystals of a reproduction: drawn from a checkpoint, and relaxed.

They come in chunks, each a keyed file, so that a killed process loses the chunk it was at. What a chunk took stands in
a file beside it, apart from the crystals, which are the same whenever they are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa

from configs.schema import DiscoverConfig
from dft.config import RelaxConfig
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from storage.documents import read_document, write_document
from tasks.files import FileRef, key_of, keyed
from tasks.papers.results import AnyComparison, Progress, ResultKey
from tasks.source_code import Entry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from generative.systems.interface import System

Drawing = TypeVar("Drawing", bound="System")


@dataclass(frozen=True)
class Drawn:
    """Crystals that a system has drawn.

    Attributes:
        ids: of what each was drawn for, or its number.
        crystals: in their order; failed ones are there, as numbers that are no crystal.
        sampling: n, seconds, crystals per second, network calls per batch, device.
    """

    ids: tuple[str, ...]
    crystals: tuple[Crystal, ...]
    sampling: dict[str, Any]


@dataclass(frozen=True)
class Plan(Generic[Drawing]):
    """What is drawn, by whom and how.

    Attributes:
        checkpoint: folder of the system.
        kind: class that the system must be of.
        ids: one per crystal.
        asked: what each is drawn for, as plain types: part of the chunks' keys beside the ids.
        inputs: what crystals depend on besides, and the code does not say.
        computed_by: function whose code draws.
        draw: crystals of some rows; the generator, on the CPU, is that of their chunk.
        network: whose calls are counted.
    """

    checkpoint: str
    kind: type[Drawing]
    ids: Sequence[str]
    asked: Sequence[str]
    inputs: Mapping[str, Any]
    computed_by: Entry
    draw: Callable[[Drawing, slice, torch.Generator], list[Crystal]]
    network: Callable[[Drawing], nn.Module]


def in_chunks(config: AnyComparison, key: ResultKey, plan: Plan[Drawing], progress: Progress) -> Drawn:
    """Draw a plan in chunks of `sample.chunk_size`, those that lie there taken as they are."""
    folder, size, n = key.folder(config), config.sample.chunk_size, len(plan.ids)
    refs, seconds, calls = [], 0.0, 0
    for chunk, first in enumerate(range(0, n, size)):
        rows = slice(first, first + size)
        digest = key_of(
            f"reproduce-{key.stage}", plan.computed_by, **plan.inputs,
            chunk=chunk, rows=[plan.ids[rows], plan.asked[rows]],
        )  # fmt: skip
        path = folder / f"{chunk:05d}.parquet"
        refs.append(keyed(path, digest, lambda: _chunk(config, key, plan, rows, path, chunk)))  # noqa: B023
        taken = read_document(path.with_suffix(".json"), f"remove it and {path.name} and give the same command again")
        seconds, calls = seconds + taken["seconds"], max(calls, taken["network_calls"])
        progress(key.name, min(first + size, n), n)
    crystals = [crystal for ref in refs for crystal in crystals_of(ref.read()) if crystal is not None]
    sampling = {
        "n": len(crystals),
        "seconds": round(seconds, 3),
        "crystals_per_second": round(len(crystals) / seconds, 4) if seconds else None,
        "network_calls": calls,
        "chunk_size": size,
        "device": taken["device"],
        "torch_threads": taken["torch_threads"],
    }
    return Drawn(tuple(plan.ids), tuple(crystals), sampling)


def _chunk(config: AnyComparison, key: ResultKey, plan: Plan[Drawing], rows: slice, path: Path, chunk: int) -> pa.Table:
    from generative.sampling import chunk_generator
    from tasks.loading import checkpoint as load
    from tasks.loading import device_of

    system = load(plan.checkpoint, config.execution).system
    assert isinstance(system, plan.kind)  # the settings name no other, and the training made it
    # The same draws for every system and way of a stage, so that what differs between them is not chance.
    rng = chunk_generator(config.seed, key.stage, chunk)
    with _counted_calls(plan.network(system)) as count:
        started = time.perf_counter()
        crystals = plan.draw(system, rows, rng)
        seconds = time.perf_counter() - started
    taken = {
        "n": len(crystals),
        "seconds": seconds,
        "network_calls": count(),
        "device": device_of(config.execution),
        "torch_threads": config.execution.torch_threads,
    }
    write_document(path.with_suffix(".json"), taken)
    return pa.table({"id": list(plan.ids[rows]), **structure_columns(crystals)})


def on_device(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator of the same seed on a device, where drawing there spares a copy per draw."""
    import torch

    return rng if device.type == "cpu" else torch.Generator(device=device).manual_seed(rng.initial_seed())


@contextmanager
def _counted_calls(network: nn.Module) -> Iterator[Callable[[], int]]:
    """Gives a function that says how often the network was called."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    hook = network.register_forward_hook(count)
    try:
        yield lambda: calls[0]
    finally:
        hook.remove()


def relaxed(config: AnyComparison, relax: RelaxConfig, drawn: Drawn, folder: Path, progress: Progress) -> pa.Table:
    """The crystals relaxed: columns of tasks.discover.candidates.RELAXED; those that are none are left out.

    Args:
        config: seed, and where the work is done.
        relax: potential, pressure, criteria, crystals per chunk.
        drawn: crystals with their ids.
        folder: of the chunks.
        progress: told of every crystal.
    """
    from generative.metrics.validity import unreadable
    from tasks.discover.own_files import formula_of
    from tasks.loading import identify, potential_code

    run = DiscoverConfig(seed=config.seed, relax=relax, execution=config.execution)
    pairs = [(i, c) for i, c in zip(drawn.ids, drawn.crystals, strict=True) if not unreadable(c)]
    size, refs = relax.chunk_size, []
    for first in range(0, max(1, len(pairs)), size):
        part = pairs[first : first + size]
        table = pa.table(
            {
                "id": pa.array([name for name, _ in part], pa.string()),
                "formula": pa.array([formula_of(crystal) for _, crystal in part], pa.string()),
                **structure_columns([crystal for _, crystal in part]),
            }
        )
        key = key_of(
            "reproduce-relax",
            _relaxed_chunk,
            *potential_code(run.relax),
            potential=identify(run.relax, run.execution).fingerprint,
            relax=relax.model_dump(mode="json", exclude={"potential", "fallback"}),
            crystals=[[name, crystal.digest] for name, crystal in part],
        )

        def tell(done: int, _: int, first: int = first) -> None:
            progress("relaxing", first + done, len(pairs))

        refs.append(_relaxed_chunk(folder / f"relaxed-{first:05d}.parquet", key, table, run, tell))
    return pa.concat_tables([ref.read() for ref in refs])


def _relaxed_chunk(
    path: Path, key: str, table: pa.Table, run: DiscoverConfig, tell: Callable[[int, int], None]
) -> FileRef:
    from tasks.discover.own_files import relax_crystals

    return keyed(path, key, lambda: relax_crystals(table, run, tell))
