"""Candidates drawn from the generator, chunk by chunk."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.config import ConditionsConfig, RunSampleConfig, SampleConfig, SamplerSettings
from storage.digests import json_digest
from tasks.discover.candidates import SAMPLED, Proposer, table_of
from tasks.discover.run import RunFolder
from tasks.files import FileRef, key_of, keyed
from tasks.loading import checkpoint

if TYPE_CHECKING:
    from generative.requests import Request
    from generative.systems.interface import Generator


@dataclass(frozen=True)
class RunGenerator:
    """One of the generators of a run, most often the only one.

    Attributes:
        proposed_by: as the candidates' column has it.
        settings: of sampling, as if it drew all candidates.
        share: of the candidates, beside those of the others.
        where: its settings stand in those of the run, such as 'sample.generators.1'.
        learned_from: `proposed_by` of the generator that it was made of in a campaign; None where it is its own.
    """

    proposed_by: str
    settings: SampleConfig
    share: float = 1.0
    where: str = "sample"
    learned_from: str | None = None

    @property
    def kind(self) -> type[Generator]:
        """Its class. Raises: CheckpointError: if the checkpoint holds no generator."""
        from generative.checkpoints import generator_type

        return generator_type(self.settings.checkpoint)

    @property
    def told_as(self) -> SampleConfig:
        """The settings as lineage tells of them: a checkpoint that a campaign has made by its place in the campaign's
        folder, which may be moved.
        """
        path = Path(self.settings.checkpoint)
        inside = {"checkpoint": f"{path.parent.name}/{path.name}"} if self.learned_from is not None else {}
        return self.settings.model_copy(update=inside)

    @property
    def sampler(self) -> SamplerSettings:
        """Its settings of sampling, checked.

        Raises: CheckpointError: if the checkpoint holds no generator.
            ValueError: if one of the settings is none of the generator's, or has a value that it cannot have.
        """
        return self.kind.sampler_settings(self.settings.sampler, f"{self.where}.sampler")


@dataclass(frozen=True)
class Chunk:
    """Candidates that are drawn at once, by one generator.

    Attributes:
        generator: who draws.
        number: of the chunk among the generator's own.
        indices: the candidates' places in the run; ascending.
    """

    generator: RunGenerator
    number: int
    indices: Sequence[int]


def generators_of(sample: RunSampleConfig) -> list[RunGenerator]:
    """Who draws the candidates of a run, in the order of the settings; what a campaign has made of them behind them."""
    shared = {"n_candidates": sample.n_candidates, "chunk_size": sample.chunk_size}
    if not sample.generators:
        alone = SampleConfig(checkpoint=sample.checkpoint, sampler=sample.sampler, **shared)
        return [RunGenerator(Proposer.GENERATOR.value, alone)]
    own = {
        entry.label: RunGenerator(
            Proposer.one_generator(entry.label),
            SampleConfig(checkpoint=entry.checkpoint, sampler=entry.sampler, **shared),
            entry.share,
            f"sample.generators.{number}",
        )
        for number, entry in enumerate(sample.generators)
    }
    learned = [
        RunGenerator(
            Proposer.one_generator(one.name),
            own[one.learned_from].settings.model_copy(update={"checkpoint": one.checkpoint}),
            own[one.learned_from].share,
            f"sample.learned.{number}",
            own[one.learned_from].proposed_by,
        )
        for number, one in enumerate(sample.learned)
    ]
    return [*own.values(), *learned]


def check_generator(config: DiscoverConfig) -> None:
    """Find what would stop the run when it comes to sampling, before anything is computed.

    Raises: CheckpointError: if a checkpoint holds no generator.
        ValueError: if a setting of a sampler is none of its generator's, or has a value that it cannot have; if a
            generator does not know an element that will be asked for, or heeds no sites, or no compositions, where
            these are asked for; if two would draw the same candidates. Of several generators the message says which.
        PlanError: if the conditions leave nothing to ask for.
    """
    from generative.checkpoints import CheckpointError, digest
    from generative.plans.plan import check
    from generative.requests import atomic_number

    generators = generators_of(config.sample)
    several = len(generators) > 1
    found: dict[str, str] = {}
    for one in generators:
        try:
            sampler = one.sampler
            draws = json_digest([digest(one.settings.checkpoint), sampler.in_id()]) if several else ""
        except CheckpointError as error:
            raise CheckpointError(f"{one.where}: {error}" if config.sample.generators else str(error)) from None
        named = f"{one.where} ({one.settings.checkpoint})"
        if unknown := [e for e in _asked_elements(config) if atomic_number(e) > one.kind.z_max]:
            raise ValueError(
                f"elements names {', '.join(unknown)}, but {named} knows elements up to atomic number "
                f"{one.kind.z_max} only: leave it out, or name another generator"
            )
        if config.conditions.policy == "sites" and "sites" not in one.kind.heeds:
            raise ValueError(
                f"conditions.policy is 'sites', but {named} does not heed numbers of inequivalent sites: name a "
                "generator that does, such as one of kind wyckoff, or ask for compositions by policy 'given'"
            )
        if config.conditions.policy != "sites" and "composition" not in one.kind.heeds:
            raise ValueError(
                f"conditions.policy is {config.conditions.policy!r}, but {named} is asked for inequivalent sites, not "
                "for compositions: expected policy 'sites', or another generator"
            )
        if draws in found:
            raise ValueError(
                f"{named} is the same generator with the same settings as {found[draws]}, and would draw the same "
                "candidates: leave one out, or change its sampler"
            )
        found[draws] = one.where
    check(config.conditions, config.elements)


def _asked_elements(config: DiscoverConfig) -> Sequence[str]:
    """Elements that requests will hold; of policy 'training' that is known only with the training data."""
    if config.conditions.policy == "training":
        return ()
    if config.conditions.policy in ("enumerate", "likely") or not config.conditions.formulas:
        return config.elements
    return [e for e in config.elements if any(e in re.findall("[A-Z][a-z]?", f) for f in config.conditions.formulas)]


@lru_cache(maxsize=1)
def _portions(
    n: int, size: int, shares: tuple[float, ...], learned_from: tuple[int, ...] = ()
) -> list[tuple[int, int, list[int]]]:
    """Which generator, which of its chunks, and places in the run: of every chunk, by first places.

    Each generator's candidates are in chunks of its own, so that they depend neither on the other generators nor on the
    shares; chunks of a run with fewer candidates come first, the last of each generator cut. What has been learned from
    a generator has its places, n farther on for each time that it has learned; so whatever is learned later, the places
    and chunks of those before stay theirs.
    """
    from generative.plans.turns import share_out

    places = share_out(n, shares)
    times = [0] * len(shares)
    for generator in learned_from:
        times[generator] += 1
        places.append([place + n * times[generator] for place in places[generator]])
    portions = [
        (generator, number, own[first : first + size])
        for generator, own in enumerate(places)
        for number, first in enumerate(range(0, len(own), size))
    ]
    return sorted(portions, key=lambda portion: (max(0, portion[0] - len(shares) + 1), portion[2][0]))


def chunks_of(sample: RunSampleConfig) -> Iterator[Chunk]:
    """The chunks that the candidates of a run are drawn in, in the order of their numbers."""
    generators = generators_of(sample)
    number_of = {one.proposed_by: number for number, one in enumerate(generators)}
    shares = tuple(one.share for one in generators if one.learned_from is None)
    learned_from = tuple(number_of[one.learned_from] for one in generators if one.learned_from is not None)
    for generator, number, places in _portions(sample.n_candidates, sample.chunk_size, shares, learned_from):
        yield Chunk(generators[generator], number, places)


def drawn_by(sample: RunSampleConfig, proposed_by: str, index: int) -> tuple[RunGenerator, int]:
    """Who drew a candidate, and its place in the plan, which its id holds: with one generator that in the run."""
    chunk = next(c for c in chunks_of(sample) if c.generator.proposed_by == proposed_by and index in c.indices)
    return chunk.generator, chunk.number * sample.chunk_size + chunk.indices.index(index)


def sample_chunks(config: DiscoverConfig) -> range:
    """Numbers of the chunks that the candidates of a run are drawn in."""
    return range(sum(1 for _ in chunks_of(config.sample)))


def requests_of(
    config: DiscoverConfig,
    chunk: int,
    training_formulas: Sequence[str] = (),
    hull_ev_per_atom: Mapping[str, float] | None = None,
    heeds: frozenset[str] | None = None,
) -> tuple[Chunk, list[Request]]:
    """A chunk of the run, and what its generator is asked for: the whole chunk, even where the last one is cut.

    Args:
        config: of the run.
        chunk: its number.
        training_formulas: as of generative.plans.plan.plan, as is the next.
        hull_ev_per_atom: likewise.
        heeds: what the generator goes by; with it each request has its turn.

    Raises: PlanError: as generative.plans.plan.plan.
    """
    chunks, size = list(chunks_of(config.sample)), config.sample.chunk_size
    asked_for, hull = chunks[chunk], tuple(sorted((hull_ev_per_atom or {}).items()))
    n_planned = size * (1 + max(one.number for one in chunks))
    planned = config.conditions, config.elements, n_planned, config.seed, tuple(training_formulas), hull
    own = slice(asked_for.number * size, (asked_for.number + 1) * size)
    requests = _planned(*planned)[own]
    if heeds is not None:
        turns = _turns(heeds, *planned)[own]
        requests = [replace(request, turn=turn) for request, turn in zip(requests, turns, strict=True)]
    return asked_for, requests


def asked_in(
    config: DiscoverConfig, training_formulas: Sequence[str] = (), hull_ev_per_atom: Mapping[str, float] | None = None
) -> Iterator[tuple[RunGenerator, Request]]:
    """Who is asked for what, candidate by candidate."""
    for chunk in sample_chunks(config):
        asked_for, requests = requests_of(config, chunk, training_formulas, hull_ev_per_atom)
        yield from ((asked_for.generator, request) for request, _ in zip(requests, asked_for.indices, strict=False))


def draw_chunk(
    config: DiscoverConfig,
    chunk: int,
    training_formulas: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
    hull_ev_per_atom: Mapping[str, float] | None = None,
) -> pa.Table:
    """The crystals of a chunk of the run, in the columns SAMPLED.

    Every generator answers the same plan from its beginning. A plan is a prefix of every longer plan, and the whole
    chunk is drawn even where the last one is cut: so a candidate, whose id names its draw, does not depend on how many
    others were asked for, nor on who else draws.
    """
    from generative.datasets.records import formula_of
    from generative.sampling import sample_chunk

    settings = next(itertools.islice(chunks_of(config.sample), chunk, None)).generator.settings
    loaded = checkpoint(settings.checkpoint, config.execution)
    asked_for, requests = requests_of(config, chunk, training_formulas, hull_ev_per_atom, loaded.generator.heeds)
    drawn = sample_chunk(loaded, requests, settings, config.seed, asked_for.number, progress)
    return table_of(
        [
            {
                "id": s.id,
                "proposed_by": asked_for.generator.proposed_by,
                "index": index,
                # The crystal's own: a baseline may hand out another composition than was asked for.
                "formula": formula_of(s.crystal.atomic_numbers),
                "condition": s.request.to_json(),
                "n_atoms": len(s.crystal.atomic_numbers),
                "lattice_ang": s.crystal.lattice_ang.ravel(),
                "frac_coords": s.crystal.frac.ravel(),
                "atomic_numbers": s.crystal.atomic_numbers,
            }
            for index, s in zip(asked_for.indices, drawn, strict=False)  # the last chunk is cut
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
    from generative.plans.plan import plan

    return plan(conditions, elements, n, seed, training_formulas, dict(hull_ev_per_atom))


@lru_cache(maxsize=4)
def _turns(
    heeds: frozenset[str],
    conditions: ConditionsConfig,
    elements: tuple[str, ...],
    n: int,
    seed: int,
    training_formulas: tuple[str, ...],
    hull_ev_per_atom: tuple[tuple[str, float], ...],
) -> list[int]:
    """The turns of the whole plan for a generator that heeds these: numbers beside the few requests that it repeats."""
    from generative.requests import turns_of

    return turns_of(_planned(conditions, elements, n, seed, training_formulas, hull_ev_per_atom), heeds)


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
    from generative.checkpoints import digest
    from generative.composition_odds.model import CompositionOdds

    asked_for = next(itertools.islice(chunks_of(config.sample), chunk, None))
    generator, settings = asked_for.generator, asked_for.generator.settings
    hull = known_hull(config, dataset.read()) if config.conditions.policy == "grid" else None
    key = key_of(
        "sample",
        sample_chunk_file,
        generator.kind,
        checkpoint=digest(settings.checkpoint),
        conditions=config.conditions.model_dump(mode="json"),
        elements=sorted(config.elements),
        training=dataset.sha256 if config.conditions.policy == "training" else None,
        hull=hull,
        sampler=[settings.chunk_size, generator.sampler.model_dump(mode="json")],
        n=len(asked_for.indices),
        seed=config.seed,
        chunk=asked_for.number,
        **({"odds": CompositionOdds.digest()} if config.conditions.policy == "likely" else {}),
        **({"one_of_several": [generator.proposed_by, asked_for.indices]} if config.sample.generators else {}),
    )

    def compute() -> pa.Table:
        formulas = dataset.read().column("formula").to_pylist() if config.conditions.policy == "training" else ()
        return draw_chunk(config, chunk, formulas, progress, hull)

    return keyed(RunFolder(folder).chunk("sample", chunk), key, compute)


@task(name="sample", task_run_name="sample-{chunk}")
def sample_task(chunk: int, config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """Draw a chunk; see sample_chunk_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    n = config.sample.chunk_size
    with Progress(f"sample-{config.name}-{chunk}", f"sampling chunk {chunk}") as progress:
        ref = sample_chunk_file(config, folder, dataset, chunk, lambda share: progress.update(round(n * share), n))
    get_run_logger().info(
        "chunk %d: %d candidates%s", chunk, len(ref.read()), ", unchanged, skipped" if ref.reused else ""
    )
    return ref
