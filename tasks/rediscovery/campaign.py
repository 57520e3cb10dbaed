"""One proposer in one chemical system: drawn, screened, relaxed and ranked by the stages of a run.

Every proposer has a small run of its own: what counts as a repeat, and so what a relaxation is spent on, must not
depend on who else proposes. The first `k` relaxations of a campaign are the campaign with the budget `k`: its plan is a
prefix of every longer one, and a candidate is only ever a repeat of an earlier one. Several proposers together are
merged of these (tasks.rediscovery.counting), so nothing is relaxed twice.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from configs.rediscovery import RediscoveryConfig
from configs.schema import DiscoverConfig
from generative.config import RunSampleConfig
from generative.datasets.filters import chemical_system
from tasks.discover.known import choose_references
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_chunk_file, relax_chunks, survivors
from tasks.discover.sample import check_generator, sample_chunk_file, sample_chunks
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed
from tasks.loading import PotentialIdentity
from tasks.rediscovery.proposers import MadeProposer
from tasks.timing import StageSeconds


class HiddenSystem(BaseModel):
    """A chemical system, what is known of it, and what is hidden in it.

    Attributes:
        elements: in alphabetic order.
        folder: of its campaigns.
        known: its known crystals.
        targets: the hidden ones, columns TARGETS.
        competing: the competing phases, relaxed.
        relaxed: the hidden crystals, relaxed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: tuple[str, ...]
    folder: Path
    known: FileRef
    targets: FileRef
    competing: tuple[FileRef, ...]
    relaxed: tuple[FileRef, ...]

    @property
    def name(self) -> str:
        """Its elements joined by '-'."""
        return "-".join(self.elements)


class Campaign(BaseModel):
    """What a proposer has found in a system.

    Attributes:
        system: the system's name.
        proposer: the proposer's name.
        ranked: its relaxed candidates, columns RANKED; their order is that of `index`.
        drawn: crystals drawn until the last of them.
        rejected: how many of these were turned away before relaxation, by stage.
        seconds: by stage, as measured when it was computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    proposer: str
    ranked: FileRef
    drawn: int
    rejected: dict[str, int]
    seconds: dict[str, float]


def run_of(
    config: RediscoveryConfig, elements: tuple[str, ...], proposer: MadeProposer | None = None
) -> DiscoverConfig:
    """The settings of the run that a campaign is; without a proposer, those of what all of a system share."""
    n = len(elements)
    asked = config.conditions.model_copy(update={"n_elements_min": n, "n_elements_max": n})
    sample = {"n_candidates": config.sample.n_candidates, "chunk_size": config.sample.chunk_size}
    drawn_by = {} if proposer is None else {"checkpoint": proposer.checkpoint, "sampler": proposer.entry.sampler}
    return DiscoverConfig(
        name="-".join(elements).lower(),
        seed=config.seed,
        elements=elements,
        conditions=asked,
        sample=RunSampleConfig.model_validate({**sample, **drawn_by}),
        screen=config.screen,
        relax=config.relax,
        # A decorated prototype would be a candidate of every campaign, and is nobody's.
        hull=config.hull.model_copy(update={"prototypes_within_ev_per_atom": None}),
        execution=config.execution,
    )


def hidden_system(
    config: RediscoveryConfig,
    elements: tuple[str, ...],
    targets: FileRef,
    known: FileRef,
    identity: PotentialIdentity,
) -> HiddenSystem:
    """A system made ready: its known crystals, its competing phases and hidden crystals relaxed, once for everybody."""
    run, name = run_of(config, elements), "-".join(elements)
    folder = config.folder / "systems" / name
    common = folder / "common"
    of_system = key_of("of system", hidden_system, elements=elements, known=known.sha256, targets=targets.sha256)
    own_known = keyed(
        common / "known.parquet", of_system, lambda: chemical_system(known.read(), elements), ROWS_PER_GROUP
    )

    def own() -> pa.Table:
        table = targets.read()
        return table.filter(pc.equal(table.column("system"), name))

    own_targets = keyed(common / "targets.parquet", of_system, own)
    references = choose_references(run, common, own_known)

    def relaxed(source: FileRef) -> tuple[FileRef, ...]:
        chunks = relax_chunks(source, run)
        # The file lies beside the benchmark's folder, for all benchmarks.
        return tuple(relax_chunk_file(run, config.folder, identity, source, n, shared=True) for n in chunks)

    return HiddenSystem(
        elements=elements,
        folder=folder,
        known=own_known,
        targets=own_targets,
        competing=relaxed(references),
        relaxed=relaxed(own_targets),
    )


def run_campaign(
    config: RediscoveryConfig, system: HiddenSystem, proposer: MadeProposer, identity: PotentialIdentity
) -> Campaign:
    """One proposer's campaign: as many relaxations as the largest budget has, or as many as its draws come to.

    Raises: CheckpointError, ValueError: as tasks.discover.sample.check_generator.
    """
    run = run_of(config, system.elements, proposer)
    check_generator(run)
    folder = system.folder / proposer.entry.name
    seconds, most = StageSeconds(folder), config.budgets[-1]
    proposed, drawn, rejected = _proposed(run, folder, system.known, most, seconds)
    relaxed = [
        seconds("relax", n, partial(relax_chunk_file, run, folder, identity, proposed, n, shared=False))
        for n in relax_chunks(proposed, run)
    ]
    competing = list(system.competing)
    ranked = seconds("rank", 0, partial(rank_file, run, folder, identity, system.known, proposed, relaxed, competing))
    return Campaign(
        system=system.name,
        proposer=proposer.entry.name,
        ranked=ranked,
        drawn=drawn,
        rejected=rejected,
        seconds=seconds.of_stage,
    )


def _proposed(
    run: DiscoverConfig, folder: Path, known: FileRef, most: int, seconds: StageSeconds
) -> tuple[FileRef, int, dict[str, int]]:
    """The first candidates that nothing turns away, the draws up to the last of them, and what became of the others."""
    screened: list[FileRef] = []
    for chunk in sample_chunks(run):
        sampled = seconds("sample", chunk, partial(sample_chunk_file, run, folder, known, chunk))
        screened.append(seconds("screen", chunk, partial(screen_chunk_file, run, folder, sampled, known)))
        # In a folder of its own, so that a rerun finds the beginnings done too.
        unique = unique_file(run, folder / "unique" / f"{chunk:05d}", screened)
        candidates = unique.read()
        kept = survivors(candidates)
        if len(kept) >= most:
            break
    kept = kept.slice(0, most)
    n_drawn = 1 + kept.column("index")[-1].as_py() if len(kept) == most else len(candidates)
    turned_away = candidates.slice(0, n_drawn).column("rejected_by").drop_null().value_counts().to_pylist()
    key = key_of("proposed", survivors, unique=unique.sha256, most=most)
    ref = keyed(folder / "proposed.parquet", key, lambda: kept, ROWS_PER_GROUP)
    return ref, n_drawn, {str(count["values"]): int(count["counts"]) for count in turned_away}
