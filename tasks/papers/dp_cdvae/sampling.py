"""Crystals of a reproduction: test crystals made ready, reconstructions, generated crystals, relaxed ones.

They come in chunks, each a keyed file, so that a killed process loses the chunk it was at. What a chunk took stands in
a file beside it, apart from the crystals, which are the same whenever they are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from configs.reproduction import DatasetEntry, ReproductionConfig
from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from generative.settings_errors import validated
from generative.systems.cdvae.config import CDVAESampler
from storage.documents import read_document, write_document
from storage.progress import LabelledProgress as Progress
from tasks.files import FileRef, key_of, keyed
from tasks.papers.dp_cdvae.training import checkpoint_of, digest_of_file
from tasks.papers.results import NotReadyError, Place, locked

if TYPE_CHECKING:
    import torch

    from generative.crystal.bonds import Bonds
    from generative.systems.cdvae.system import CDVAE


@dataclass(frozen=True)
class Drawn:
    """Crystals that a system has decoded.

    Attributes:
        ids: of the test crystals, or numbers of generated ones.
        crystals: in their order; failed ones are there, as numbers that are no crystal.
        digests: of the files, for the keys of what is made from them.
        sampling: n, seconds, crystals per second, network calls per batch, device.
    """

    ids: tuple[str, ...]
    crystals: tuple[Crystal, ...]
    digests: tuple[str, ...]
    sampling: dict[str, Any]


@dataclass(frozen=True)
class TestSet:
    """Crystals of a file, checked and in the cells in which the systems are trained (primitive, Niggli-reduced).

    Attributes:
        ids: as the file states them.
        crystals: those with at most the data set's number of atoms.
        values: of the property that the regressor learns, (n,), eV/atom; NaN where the file states none.
    """

    ids: tuple[str, ...]
    crystals: tuple[Crystal, ...]
    values: np.ndarray

    def taken(self, places: Sequence[int]) -> TestSet:
        """Those at these places."""
        ids, crystals = tuple(self.ids[i] for i in places), tuple(self.crystals[i] for i in places)
        return TestSet(ids, crystals, self.values[list(places)])


def test_set(config: ReproductionConfig, entry: DatasetEntry) -> TestSet:
    """The test crystals of a data set.

    Raises: tasks.discover.own_files.OwnFileError: if not one can be read.
    """
    return _made_ready(config, entry, entry.test, "test")


def some_training_crystals(config: ReproductionConfig, entry: DatasetEntry) -> tuple[Crystal, ...]:
    """As many training crystals as each system generates, drawn with the seed; all where there are fewer."""
    found = _made_ready(config, entry, entry.train, "training")
    order = np.random.default_rng(config.seed).permutation(len(found.ids))
    return found.taken(order[: entry.n_generate].tolist()).crystals


def _made_ready(config: ReproductionConfig, entry: DatasetEntry, file: str, name: str) -> TestSet:
    path = config.folder / entry.name / f"{name}.parquet"
    key = key_of(
        "reproduce-test", _table,
        file=digest_of_file(file), n_atoms_max=entry.max_atoms, property_name=entry.property_name,
    )  # fmt: skip
    with locked(path.parent):
        table = keyed(path, key, lambda: _table(entry, file)).read()
    crystals = tuple(crystal for crystal in crystals_of(table) if crystal is not None)
    values = np.array([np.nan if v is None else v for v in table.column("value").to_pylist()], dtype=float)
    return TestSet(tuple(table.column("id").to_pylist()), crystals, values)


def _table(entry: DatasetEntry, file: str) -> pa.Table:
    from generative.crystal.crystals import reduced
    from generative.training.data import TrainingError, property_values
    from tasks.discover.own_files import read_crystals

    table, _ = read_crystals([file])
    try:
        values = property_values(table, entry.property_name)
    except TrainingError:  # a test file may state no property: the regressor is then not tried on it
        values = [None] * len(table)
    rows = zip(table.column("source_id").to_pylist(), crystals_of(table), values, strict=True)
    kept = [(str(n), reduced(c), v) for n, c, v in rows if c is not None and len(c.atomic_numbers) <= entry.max_atoms]
    stated = pa.array([value for *_, value in kept], pa.float64())
    columns = structure_columns([crystal for _, crystal, _ in kept])
    return pa.table({"id": [name for name, *_ in kept], "value": stated, **columns})


def targets(config: ReproductionConfig, entry: DatasetEntry) -> TestSet:
    """The test crystals that are reconstructed: all, or `n_reconstruct` of them drawn with the seed, in their order.

    Raises: NotReadyError: if there are none.
    """
    found = test_set(config, entry)
    places = np.random.default_rng(config.seed).permutation(len(found.ids))[: entry.n_reconstruct]
    if not len(places):
        raise NotReadyError(f"{entry.test} holds no crystal of at most {entry.max_atoms} atoms to be reconstructed")
    return found.taken(sorted(places.tolist()))


def bonds_of(config: ReproductionConfig, entry: DatasetEntry, crystals: Sequence[Crystal]) -> list[Bonds | None]:
    """CrystalNN's bonds of these cells, kept between runs."""
    from generative.crystal.bonds import crystal_nn_bonds

    return crystal_nn_bonds(crystals, workers=config.workers, cache=config.folder / entry.name / "bonds")


def decoder(config: ReproductionConfig, reverse: str) -> CDVAESampler:
    """The settings of decoding, with the reverse step named; one without a choice keeps them."""
    named = {} if reverse == "langevin" else {"reverse": reverse}
    return validated(CDVAESampler, {**config.sample.sampler, **named}, "the CDVAE family", "sample.sampler")


def decoding_inputs(config: ReproductionConfig, entry: DatasetEntry, system: str, reverse: str) -> dict[str, Any]:
    """What decoded crystals depend on, beside the code.

    Raises: NotReadyError: if the system is not trained.
    """
    return {
        "checkpoint": checkpoint_of(config, entry.name, system)[1],
        "sampler": decoder(config, reverse).model_dump(mode="json"),
        "chunk_size": config.sample.chunk_size,
        "seed": config.seed,
    }


def reconstructed(config: ReproductionConfig, place: Place, progress: Progress) -> Drawn:
    """One crystal for each target, encoded and decoded.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(place.dataset)
    truths = targets(config, entry)
    bonds = bonds_of(config, entry, truths.crystals)
    settings = decoder(config, place.reverse)
    inputs = decoding_inputs(config, entry, place.system, place.reverse)

    def decode(system: CDVAE, rows: slice, rng: torch.Generator) -> list[Crystal]:
        return system.reconstruct(truths.crystals[rows], rng, settings, bonds[rows], config.sample.chunk_size)

    digests = [crystal.digest for crystal in truths.crystals]
    return _in_chunks(config, place, reconstructed, truths.ids, digests, inputs, decode, progress)


def generated(config: ReproductionConfig, place: Place, progress: Progress) -> Drawn:
    """Crystals decoded from the prior.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(place.dataset)
    settings = decoder(config, place.reverse)
    inputs = decoding_inputs(config, entry, place.system, place.reverse)
    ids = tuple(str(number) for number in range(entry.n_generate))

    def decode(system: CDVAE, rows: slice, rng: torch.Generator) -> list[Crystal]:
        return system.generate(len(ids[rows]), rng, settings, config.sample.chunk_size)

    return _in_chunks(config, place, generated, ids, list(ids), inputs, decode, progress)


def _in_chunks(
    config: ReproductionConfig,
    place: Place,
    computed_by: Callable[..., Drawn],
    ids: Sequence[str],
    digests: Sequence[str],
    inputs: dict[str, Any],
    decode: Callable[[CDVAE, slice, torch.Generator], list[Crystal]],
    progress: Progress,
) -> Drawn:
    folder, size = place.folder(config), config.sample.chunk_size
    checkpoint, _ = checkpoint_of(config, place.dataset, place.system)
    refs, seconds, calls = [], 0.0, 0
    for chunk, first in enumerate(range(0, len(ids), size)):
        rows = slice(first, first + size)
        key = key_of(f"reproduce-{place.stage}", computed_by, **inputs, chunk=chunk, rows=[ids[rows], digests[rows]])
        path = folder / f"{chunk:05d}.parquet"
        refs.append(keyed(path, key, lambda: _chunk(config, place, checkpoint, ids, rows, path, chunk, decode)))  # noqa: B023
        taken = read_document(path.with_suffix(".json"), f"remove it and {path.name} and give the same command again")
        seconds, calls = seconds + taken["seconds"], max(calls, taken["network_calls"])
        progress(place.name, min(first + size, len(ids)), len(ids))
    tables = [ref.read() for ref in refs]
    crystals = [crystal for table in tables for crystal in crystals_of(table) if crystal is not None]
    sampling = {
        "n": len(crystals),
        "seconds": round(seconds, 3),
        "crystals_per_second": round(len(crystals) / seconds, 4) if seconds else None,
        "network_calls": calls,
        "chunk_size": size,
        "device": taken["device"],
        "torch_threads": taken["torch_threads"],
    }
    return Drawn(tuple(ids), tuple(crystals), tuple(ref.sha256 for ref in refs), sampling)


def _chunk(
    config: ReproductionConfig,
    place: Place,
    checkpoint: str,
    ids: Sequence[str],
    rows: slice,
    path: Path,
    chunk: int,
    decode: Callable[[CDVAE, slice, torch.Generator], list[Crystal]],
) -> pa.Table:
    from generative.sampling import chunk_generator
    from generative.systems.cdvae.system import CDVAE
    from tasks.loading import checkpoint as load
    from tasks.loading import device_of

    device = device_of(config.execution)
    system = load(checkpoint, config.execution).system
    assert isinstance(system, CDVAE)  # the settings name members of the family
    # The same draws for every reverse step of a system, so that what differs between them is the step.
    rng = _on(chunk_generator(config.seed, place.stage, chunk), device)
    with _counted_calls(system) as count:
        started = time.perf_counter()
        crystals = decode(system, rows, rng)
        seconds = time.perf_counter() - started
    taken = {
        "n": len(crystals),
        "seconds": seconds,
        "network_calls": count(),
        "device": device,
        "torch_threads": config.execution.torch_threads,
    }
    write_document(path.with_suffix(".json"), taken)
    return pa.table({"id": list(ids[rows]), **structure_columns(crystals)})


def _on(rng: torch.Generator, device: str) -> torch.Generator:
    """A generator of the same seed on a device, where drawing there spares a copy per draw."""
    import torch

    return rng if device == "cpu" else torch.Generator(device=device).manual_seed(rng.initial_seed())


@contextmanager
def _counted_calls(system: CDVAE) -> Iterator[Callable[[], int]]:
    """Gives a function that says how often the system's denoiser was called."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    hook = system.denoiser.register_forward_hook(count)
    try:
        yield lambda: calls[0]
    finally:
        hook.remove()


def relaxed(config: ReproductionConfig, drawn: Drawn, folder: Path, progress: Progress) -> pa.Table:
    """The crystals relaxed under pressure: columns of tasks.discover.candidates.RELAXED; those that are none are left
    out.

    Args:
        config: potential, pressure, criteria, crystals per chunk.
        drawn: crystals with their ids.
        folder: of the chunks.
        progress: told of every crystal.
    """
    from generative.metrics.validity import unreadable
    from tasks.discover.own_files import formula_of
    from tasks.loading import identify

    run = DiscoverConfig(seed=config.seed, relax=config.ground_state.relax, execution=config.execution)
    pairs = [(i, c) for i, c in zip(drawn.ids, drawn.crystals, strict=True) if not unreadable(c)]
    size, refs = run.relax.chunk_size, []
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
            potential=identify(run.relax, run.execution).fingerprint,
            relax=run.relax.model_dump(mode="json", exclude={"potential", "fallback"}),
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
