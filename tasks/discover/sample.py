"""Candidates drawn from the generator, chunk by chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.config import ConditionsConfig
from tasks.discover.candidates import SAMPLED, Proposer, table_of
from tasks.discover.run import RunFolder
from tasks.files import FileRef, key_of, keyed
from tasks.loading import checkpoint

if TYPE_CHECKING:
    from generative.requests import Request


def check_generator(config: DiscoverConfig) -> None:
    """Find what would stop the run when it comes to sampling, before anything is computed.

    Raises: CheckpointError: if `sample.checkpoint` holds no generator.
        ValueError: if a setting of `sample.sampler` is none of its generator's, or has a value that it cannot have.
    """
    from generative.checkpoints import generator_type

    generator_type(config.sample.checkpoint).sampler_settings(config.sample.sampler)


def sample_chunks(config: DiscoverConfig) -> range:
    """Numbers of the chunks that the candidates of a run are drawn in."""
    return range(-(-config.sample.n_candidates // config.sample.chunk_size))


def draw_chunk(
    config: DiscoverConfig,
    chunk: int,
    n: int,
    training_formulas: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
    hull_ev_per_atom: Mapping[str, float] | None = None,
) -> pa.Table:
    """The first n crystals of a chunk of the plan, in the columns SAMPLED.

    A plan is a prefix of every longer plan, and the whole chunk is drawn even where the last one is cut: so a
    candidate, whose id names its draw, does not depend on how many others were asked for.
    """
    from generative.datasets.records import formula_of
    from generative.sampling import sample_chunk

    settings, size = config.sample, config.sample.chunk_size
    hull = tuple(sorted((hull_ev_per_atom or {}).items()))
    n_planned = size * len(sample_chunks(config))
    requests = _planned(config.conditions, config.elements, n_planned, config.seed, tuple(training_formulas), hull)
    loaded = checkpoint(settings.checkpoint, config.execution)
    asked = requests[chunk * size : (chunk + 1) * size]
    drawn = sample_chunk(loaded, asked, settings, config.seed, chunk, progress)[:n]
    return table_of(
        [
            {
                "id": s.id,
                "proposed_by": Proposer.GENERATOR.value,
                "index": s.index,
                # The crystal's own: a baseline may hand out another composition than was asked for.
                "formula": formula_of(s.crystal.atomic_numbers),
                "condition": s.request.to_json(),
                "n_atoms": len(s.crystal.atomic_numbers),
                "lattice_ang": s.crystal.lattice_ang.ravel(),
                "frac_coords": s.crystal.frac.ravel(),
                "atomic_numbers": s.crystal.atomic_numbers,
            }
            for s in drawn
        ],
        SAMPLED,
    )


@lru_cache(maxsize=1)
def _planned(
    conditions: ConditionsConfig,
    elements: tuple[str, ...],
    n: int,
    seed: int,
    training_formulas: tuple[str, ...],
    hull_ev_per_atom: tuple[tuple[str, float], ...],
) -> list[Request]:
    """The whole plan, once per process: it has no middle to begin at, so each chunk would plan all before it."""
    from generative.plans import plan

    return plan(conditions, elements, n, seed, training_formulas, dict(hull_ev_per_atom))


def known_hull(config: DiscoverConfig, known: pa.Table) -> dict[str, float]:
    """Formation energy of the hull of known crystals at each listed formula, eV/atom, by their own energies.

    Of several levels of theory the commonest is taken; where no crystal has an energy, nothing is given.
    """
    from pymatgen.core.composition import Composition

    from dft.hull.convex_hull import hull_from_formation_energies
    from generative.datasets.levels import level_of

    names = ["id", "formula", "formation_energy_ev_per_atom", "method", "run_type"]
    rows = [row for row in known.select(names).to_pylist() if row["formation_energy_ev_per_atom"] is not None]
    if not rows:
        return {}
    levels = [level_of(row["method"], row["run_type"]) for row in rows]
    ((method, _),) = Counter(levels).most_common(1)
    same = [row for row, level in zip(rows, levels, strict=True) if level == method]
    hull = hull_from_formation_energies(
        {row["id"]: Composition(row["formula"]) for row in same},
        {row["id"]: row["formation_energy_ev_per_atom"] for row in same},
        str(method),
        config.elements,
    )
    found = {}
    for text in config.conditions.formulas:
        composition = Composition(text)
        above = hull.place(composition, 0.0, str(method)).e_above_hull_ev_per_atom
        if above is not None:
            found[str(composition.reduced_formula)] = -above
    return found


def sample_chunk_file(
    config: DiscoverConfig,
    folder: Path,
    dataset: FileRef,
    chunk: int,
    progress: Callable[[float], None] | None = None,
) -> FileRef:
    """Draw one chunk of the run's plan; `progress` is called with the share of the work done."""
    from generative.checkpoints import digest, generator_type

    settings, generator = config.sample, generator_type(config.sample.checkpoint)
    n = min(settings.chunk_size, settings.n_candidates - chunk * settings.chunk_size)
    hull = known_hull(config, dataset.read()) if config.conditions.policy == "grid" else None
    key = key_of(
        "sample",
        sample_chunk_file,
        generator,
        checkpoint=digest(settings.checkpoint),
        conditions=config.conditions.model_dump(mode="json"),
        elements=sorted(config.elements),
        training=dataset.sha256 if config.conditions.policy == "training" else None,
        hull=hull,
        sampler=[settings.chunk_size, generator.sampler_settings(settings.sampler).model_dump(mode="json")],
        n=n,
        seed=config.seed,
        chunk=chunk,
    )

    def compute() -> pa.Table:
        formulas = dataset.read().column("formula").to_pylist() if config.conditions.policy == "training" else ()
        return draw_chunk(config, chunk, n, formulas, progress, hull)

    return keyed(RunFolder(folder).chunk("sample", chunk), key, compute)


@task(name="sample", task_run_name="sample-{chunk}")
def sample_task(chunk: int, config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """Draw a chunk; see sample_chunk_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"sample-{config.name}-{chunk}", f"sampling chunk {chunk}") as progress:
        ref = sample_chunk_file(config, folder, dataset, chunk, lambda share: progress.update(round(100 * share), 100))
    get_run_logger().info(
        "chunk %d: %d candidates%s", chunk, len(ref.read()), ", unchanged, skipped" if ref.reused else ""
    )
    return ref
