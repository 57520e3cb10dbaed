"""A chemical system of a campaign: made ready once, then worked on round by round, with the stages of a run.

A system is a run of several generators whose plan is looked at as far as its relaxations reach: candidates have the
ids, places and files that `hullward discover` with the system's settings would give them. Each proposer's candidates
are taken in the order of its own plan; one that is known, or like an earlier one of anybody in the system, costs
nothing. What a proposer has learned to be is a further generator of the run (tasks.campaign.learning), and the only one
of the proposer's that is asked from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from configs.campaign import CampaignConfig
from configs.schema import DiscoverConfig
from generative.config import RunSampleConfig
from generative.crystal.crystals import crystals_of
from generative.datasets.config import FilesSource
from storage.digests import text_digest
from tasks.campaign.finds import credited, finds_of_others, known_with_finds
from tasks.campaign.learning import Learned
from tasks.campaign.systems import CampaignError
from tasks.discover.candidates import KEPT, RELAXED, SCREENED, table_of
from tasks.discover.known import choose_references, ingest_known
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_chunk_file, relax_chunks, survivors
from tasks.discover.run import RunFolder
from tasks.discover.sample import RunGenerator, check_generator, chunks_of, generators_of, sample_chunk_file
from tasks.discover.screen import screen_chunk_file, unique_table
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed
from tasks.loading import PotentialIdentity
from tasks.timing import StageSeconds


class KnownSystem(BaseModel):
    """A chemical system and what is known of it.

    Attributes:
        elements: in alphabetic order.
        folder: of its run.
        known: its known crystals.
        references: its competing phases, not yet relaxed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: tuple[str, ...]
    folder: Path
    known: FileRef
    references: FileRef

    @property
    def name(self) -> str:
        """Its elements joined by '-'."""
        return "-".join(self.elements)


class ReadySystem(KnownSystem):
    """The same with its competing phases relaxed: columns RELAXED."""

    competing: FileRef


class SystemRound(BaseModel):
    """What a round has done in a system.

    Attributes:
        system: its name.
        number: of the round, from 0.
        shares: relaxations that each proposer was given.
        looked_at: candidates of this round, columns SCREENED: those relaxed, and all that were turned away on the way.
        screened: those of all rounds so far.
        relaxed: chunks of this round's relaxations.
        ranked: all rounds' candidates, columns RANKED.
        counts: by proposer: candidates looked at in this round, and how many of them were relaxed.
        seconds: of one process, as measured when it was computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    number: int
    shares: dict[str, int]
    looked_at: FileRef
    screened: FileRef
    relaxed: tuple[FileRef, ...]
    ranked: FileRef
    counts: dict[str, tuple[int, int]]
    seconds: float

    @property
    def exhausted(self) -> list[str]:
        """Proposers that had fewer candidates to relax than they were given relaxations."""
        return [name for name, wanted in self.shares.items() if self.counts.get(name, (0, 0))[1] < wanted]


def dataset_folders(config: CampaignConfig) -> dict[str, Path]:
    """Where the crystals of each file among the sources lie, by its settings; read once for all campaigns."""
    from tasks.rediscovery.targets import dataset_folder

    shared = config.folder.parent
    files = [source for source in config.data.sources if isinstance(source, FilesSource)]
    return {source.model_dump_json(): dataset_folder(source, config.data.workers, shared) for source in files}


def run_of(
    config: CampaignConfig, elements: tuple[str, ...], folders: Mapping[str, Path], learned: Sequence[Learned] = ()
) -> DiscoverConfig:
    """The settings of the run that a system is.

    Args:
        config: of the campaign.
        elements: of the system, in alphabetic order.
        folders: as dataset_folders gives them, so that no system reads a file again.
        learned: what proposers have become so far.
    """
    n = len(elements)
    name = "-".join(elements)
    sources = [
        FilesSource(path=str(folders[source.model_dump_json()])) if isinstance(source, FilesSource) else source
        for source in config.data.sources
    ]
    elements_asked = {"n_elements_min": min(n, config.conditions.n_elements(n)[0]), "n_elements_max": n}
    return DiscoverConfig(
        name=name.lower(),
        # Of its own, so that a system's candidates depend neither on its place nor on the others.
        seed=int(text_digest(f"{config.seed} {name}")[:8], 16) % 2**31,
        elements=elements,
        data=config.data.model_copy(update={"sources": tuple(sources)}),
        conditions=config.conditions.model_copy(update=elements_asked),
        sample=RunSampleConfig(
            n_candidates=config.sample.n_candidates,
            chunk_size=config.sample.chunk_size,
            generators=config.proposers,
            learned=tuple(one.generator for one in learned),
        ),
        screen=config.screen,
        relax=config.relax,
        # A decorated prototype would be a candidate of every system that holds it, and is nobody's find.
        hull=config.hull.model_copy(update={"prototypes_within_ev_per_atom": None}),
        judge=config.judge,
        phonons=config.phonons,
        inputs=config.inputs,
        store=config.store,
        execution=config.execution.model_copy(update={"runs_folder": str(config.folder / "systems")}),
    )


def known_system(config: CampaignConfig, elements: tuple[str, ...], identity: PotentialIdentity) -> KnownSystem:
    """What is known of a system, in its folder.

    Raises: CheckpointError, ValueError: as tasks.discover.sample.check_generator.
    """
    run = run_of(config, elements, dataset_folders(config))
    check_generator(run)
    folder = Path(run.execution.runs_folder) / run.name
    known = ingest_known(run, folder, identity)
    references = choose_references(run, folder, known)
    return KnownSystem(elements=elements, folder=folder, known=known, references=references)


def all_references(systems: Sequence[KnownSystem], folder: Path) -> FileRef:
    """The competing phases of all systems, each once, in the order in which systems name them.

    Raises: CampaignError: if a system has no hull, for want of a crystal of one of its elements.
    """
    tables = [system.references.read() for system in systems]
    for system, table in zip(systems, tables, strict=True):
        if missing := sorted(set(system.elements) - set(table.column("chemsys").to_pylist())):
            raise CampaignError(
                f"no crystal of {', '.join(missing)} alone is known, without which nothing in {system.name} has a "
                "place on the hull: add a source that holds it, such as {kind: prototypes, n_elements_max: 1}, or "
                "leave the system out"
            )
    every = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    first: dict[str, int] = {}
    for row, name in enumerate(every.column("id").to_pylist()):
        first.setdefault(name, row)
    key = key_of("all references", all_references, references=[system.references.sha256 for system in systems])
    rows = pa.array(first.values(), pa.int64())
    return keyed(folder / "references.parquet", key, lambda: every.take(rows), ROWS_PER_GROUP)


def ready_systems(systems: Sequence[KnownSystem], relaxed: Sequence[FileRef]) -> list[ReadySystem]:
    """The systems with their competing phases relaxed.

    Args:
        systems: as known_system gives them.
        relaxed: chunks of the relaxations of all_references.
    """
    done = pa.concat_tables([ref.read() for ref in relaxed])
    row_of = {name: row for row, name in enumerate(done.column("id").to_pylist())}
    ready = []
    for system in systems:
        rows = [row_of[name] for name in system.references.read_columns("id").column("id").to_pylist()]
        own = done.take(pa.array(rows, pa.int64()))
        ready.append(ReadySystem(**system.model_dump(), competing=shared_phases(system.folder, own)))
    return ready


def shared_phases(folder: Path, relaxed: pa.Table) -> FileRef:
    """Relaxed phases, columns RELAXED, in a file beside the systems, named by what it holds."""
    phases = relaxed.select([f.name for f in (*RELAXED, *KEPT) if f.name in relaxed.column_names])
    energies = phases.select(["id", "energy_ev_per_atom"]).to_pylist()
    crystals = [crystal and crystal.digest for crystal in crystals_of(phases, "relaxed_")]
    key = key_of("shared phases", shared_phases, energies=energies, crystals=crystals)
    return keyed(RunFolder(folder).shared_references / f"{key[:32]}.parquet", key, lambda: phases)


def work(
    config: CampaignConfig,
    system: ReadySystem,
    earlier: Sequence[SystemRound],
    shares: Mapping[str, int],
    number: int,
    finds: FileRef,
    identity: PotentialIdentity,
    learned: Sequence[Learned] = (),
) -> SystemRound:
    """One round in a system: candidates looked at until every proposer has had its share of relaxations, and ranked.

    Args:
        config: of the campaign.
        system: where.
        earlier: its rounds so far.
        shares: relaxations of each proposer.
        number: of the round.
        finds: what all systems have found in the rounds before, columns FINDS.
        identity: the potential.
        learned: what proposers have become by now.
    """
    run = run_of(config, system.elements, dataset_folders(config), learned)
    folder = system.folder / "rounds" / f"{number:05d}"
    seconds = StageSeconds(folder)
    known, competing = surroundings(system, finds, folder / "known.parquet")
    held_against = drawn_against(system, finds, known, folder / "found.parquet") if learned else known
    looked = seconds("look", 0, partial(looked_at, run, system, earlier, shares, held_against, folder))
    relaxed = [
        seconds("relax", n, partial(relax_chunk_file, run, folder, identity, looked, n, shared=False))
        for n in relax_chunks(looked, run)
    ]
    parts = [*(one.looked_at for one in earlier), looked]
    screened = joined_candidates(parts, folder / "screened.parquet")
    every = [ref for one in earlier for ref in one.relaxed] + relaxed
    ranked = seconds("rank", 0, partial(rank_file, run, folder, identity, known, screened, every, competing))
    return SystemRound(
        system=system.name,
        number=number,
        shares=dict(shares),
        looked_at=looked,
        screened=screened,
        relaxed=tuple(relaxed),
        ranked=ranked,
        counts=_counts(looked.read_columns("proposed_by", "rejected_by"), [entry.label for entry in config.proposers]),
        seconds=sum(seconds.of_stage.values()),
    )


def surroundings(system: ReadySystem, finds: FileRef, path: Path) -> tuple[FileRef, list[FileRef]]:
    """What candidates of a system are held against: known crystals, and relaxed competing phases.

    Both with what other systems have found within its elements, if there is anything.

    Args:
        system: the system.
        finds: of all systems, columns FINDS.
        path: where the known crystals go, if they are not the dataset's alone.
    """
    others = finds_of_others(finds.read(), system.name)
    if not len(others):
        path.unlink(missing_ok=True)
        return system.known, [system.competing]
    known = known_with_finds(system.known, others, path)
    return known, [system.competing, shared_phases(system.folder, others)]


def drawn_against(system: ReadySystem, finds: FileRef, known: FileRef, path: Path) -> FileRef:
    """What candidates of proposers that have learned must differ from: known crystals, and the system's own finds.

    A find is learned as it has relaxed, and would be drawn again so for its own composition. The repeats of a run are
    told from the crystals that were drawn, which may have been unlike it.

    Args:
        system: the system.
        finds: of all systems, columns FINDS.
        known: with what others have found.
        path: where the crystals go, if there are more than those.
    """
    every = finds_of_others(finds.read(), system.name, its_own=True)
    return known_with_finds(system.known, every, path) if len(every) else known


def joined_candidates(parts: Sequence[FileRef], path: Path) -> FileRef:
    """Candidates of several rounds in one table."""
    key = key_of("screened", joined_candidates, parts=[ref.sha256 for ref in parts])
    return keyed(path, key, lambda: pa.concat_tables([ref.read() for ref in parts]), ROWS_PER_GROUP)


def looked_at(
    run: DiscoverConfig,
    system: KnownSystem,
    earlier: Sequence[SystemRound],
    shares: Mapping[str, int],
    known: FileRef,
    folder: Path,
) -> FileRef:
    """The next candidates of each proposer in turn: as many as it may relax, and those turned away before the last.

    Args:
        run: settings of the system's run.
        system: the system.
        earlier: its rounds so far.
        shares: relaxations by proposer.
        known: what a candidate must differ from.
        folder: of the round.
    """
    from generative.checkpoints import digest

    generators = generators_of(run.sample)
    key = key_of(
        "look",
        looked_at,
        *(one.kind for one in generators),
        checkpoints=[digest(one.settings.checkpoint) for one in generators],
        samplers=[one.sampler.model_dump(mode="json") for one in generators],
        sample=run.sample.model_dump(mode="json", include={"n_candidates", "chunk_size"}),
        generators=[(one.proposed_by, one.share) for one in generators],
        conditions=run.conditions.model_dump(mode="json"),
        elements=run.elements,
        screen=run.screen.model_dump(mode="json"),
        seed=run.seed,
        known=known.sha256,
        earlier=[one.looked_at.sha256 for one in earlier],
        shares=sorted(shares.items()),
    )

    def compute() -> pa.Table:
        alive = pa.concat_tables([table_of([], SCREENED), *(survivors(one.looked_at.read()) for one in earlier)])
        parts = [table_of([], SCREENED)]
        before: Counter[str] = Counter()
        for one in earlier:
            before.update(one.looked_at.read_columns("proposed_by").column("proposed_by").to_pylist())
        for name, generator in present(run).items():
            n_before = before[generator.proposed_by]
            for new in _next_of(run, system, generator, n_before, shares.get(name, 0), alive, known, folder):
                parts.append(new)
                alive = pa.concat_tables([alive, survivors(new)])
        return pa.concat_tables(parts)

    return keyed(folder / "looked-at.parquet", key, compute, ROWS_PER_GROUP)


def present(run: DiscoverConfig) -> dict[str, RunGenerator]:
    """Who draws for each proposer: what it has become last, or itself."""
    proposers = [entry.label for entry in run.sample.generators]
    return {credited(one.learned_from or one.proposed_by, proposers): one for one in generators_of(run.sample)}


def _next_of(
    run: DiscoverConfig,
    system: KnownSystem,
    generator: RunGenerator,
    n_before: int,
    missing: int,
    alive: pa.Table,
    known: FileRef,
    folder: Path,
) -> Iterator[pa.Table]:
    """The next candidates of one proposer, chunk by chunk, up to the last that it may relax; see looked_at.

    Args:
        run: settings of the system's run.
        system: the system.
        generator: who draws.
        n_before: candidates of its plan that were looked at before.
        missing: relaxations that it has.
        alive: what was relaxed in the system, or is to be in this round, before it.
        known: what a candidate must differ from.
        folder: of the round.
    """
    fields = [field.name for field in SCREENED]
    chunks = [n for n, c in enumerate(chunks_of(run.sample)) if c.generator.proposed_by == generator.proposed_by]
    first, skipped = divmod(n_before, run.sample.chunk_size)
    for chunk in chunks[first:]:
        if not missing:
            return
        sampled = sample_chunk_file(run, system.folder, system.known, chunk)
        rows = screen_chunk_file(run, folder, sampled, known).read().select(fields).slice(skipped)
        skipped = 0
        new = unique_table(pa.concat_tables([alive, rows]), run.screen).slice(len(alive))
        passed = pc.indices_nonzero(pc.is_null(new.column("rejected_by"))).to_pylist()
        if len(passed) >= missing:
            new = new.slice(0, passed[missing - 1] + 1)
        kept = survivors(new)
        alive, missing = pa.concat_tables([alive, kept]), missing - len(kept)
        yield new


def _counts(looked: pa.Table, proposers: Collection[str]) -> dict[str, tuple[int, int]]:
    """By proposer: candidates, and those that nothing turned away."""
    every: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for row in looked.to_pylist():
        name = credited(row["proposed_by"], proposers)
        every[name] += 1
        passed[name] += row["rejected_by"] is None
    return {name: (every[name], passed[name]) for name in sorted(every)}
