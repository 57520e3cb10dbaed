"""DFT campaigns of runs and of files: made, brought on by one step, collected, shown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.paths import model_folders
from configs.schema import DiscoverConfig
from generative.crystal.crystals import crystals_of
from storage.documents import write_document
from storage.wording import amount
from tasks.discover.candidates import RELAXED, Proposer, joined
from tasks.discover.inputs import lineage_of
from tasks.discover.phases import competing_hull
from tasks.discover.relax import survivors
from tasks.discover.run import RunFolder
from tasks.files import FileRef
from tasks.loading import PotentialIdentity

if TYPE_CHECKING:
    from dft.campaign.analysis import AnalysisSummary
    from dft.campaign.campaign import Campaign, PlannedCampaign, Wanted
    from dft.campaign.config import DftConfig
    from dft.submission.submitter import Step, Submitter

logger = logging.getLogger(__name__)

TABLE = "dft-jobs.json"
"""The campaign's table, as last collected, in the campaign's folder."""


@dataclass(frozen=True)
class Progress:
    """A campaign after a step.

    Attributes:
        campaign: as on disk.
        rows: one per job; see dft.campaign.collection.rows_of.
        n_open: jobs of which something is still to come.
        notes: what the user should know.
        n_new: records that came into the store.
        summary: of the candidates under DFT; None before any has a record.
    """

    campaign: Campaign
    rows: list[dict[str, Any]]
    n_open: int
    notes: tuple[str, ...] = ()
    n_new: int = 0
    summary: AnalysisSummary | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        states = [row["state"] for row in self.rows]
        return {state: states.count(state) for state in sorted(set(states))}


def jobs_folder(dft: DftConfig, runs_folder: Path) -> Path:
    """Where the job folders of all campaigns of these runs are."""
    return runs_folder / ".dft" if dft.jobs_folder is None else Path(dft.jobs_folder)


def wanted_candidates(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef
) -> list[Wanted]:
    """The best candidates of a run, as relaxed with the potential, and as they were generated."""
    from dft.campaign.campaign import Wanted

    table = candidates.read().slice(0, config.dft.top_n)
    found = []
    for row, generated, relaxed in zip(
        table.to_pylist(), crystals_of(table), crystals_of(table, "relaxed_"), strict=True
    ):
        if row["rank"] is None or relaxed is None:
            break
        lineage = lineage_of(row, config, RunFolder(folder), identity)
        before = None if generated is None else generated.to_structure()
        found.append(Wanted(row["id"], relaxed.to_structure(), "relaxation", before, lineage))
    return found


def wanted_references(
    config: DiscoverConfig, identity: PotentialIdentity, relaxed: pa.Table, best: Sequence[dict[str, Any]]
) -> tuple[list[Wanted], str]:
    """The competing phases near the potential's hull, elements first; see dft.hull.dft_hull.choose_references.

    Args:
        config: of the run.
        identity: the potential.
        relaxed: competing phases, columns RELAXED.
        best: rows of the candidates to be computed: their decompositions go first, and a prototype among them is not
            computed a second time as a competing phase.

    Returns: The phases, and a sentence on those of the hull that the limit leaves out, or an empty one.
    """
    from dft.campaign.campaign import Wanted
    from dft.hull.dft_hull import ReferencePhase, choose_references, left_out_note

    hull = competing_hull(relaxed, config)
    above = hull.phases_above_hull()
    phases = [
        ReferencePhase(row["id"], crystal.to_structure(), height)
        for row, crystal in zip(relaxed.to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True)
        if crystal is not None and (height := above.get(row["id"])) is not None
    ]
    offered = {row["prototype_match"] for row in best if row["proposed_by"] == Proposer.PROTOTYPE}
    phases = [phase for phase in phases if phase.id not in offered]
    # '0.60 TaB2 + 0.40 W'
    formulas = {part.split()[-1] for row in best for part in (row["decomposition"] or "").split(" + ") if part}
    # An element without a phase costs the candidates that hold it, and no other: the hull says so.
    elements = [element for element in config.elements if element not in hull.missing_elements]
    settings = config.dft
    within = settings.references_within_ev_per_atom
    most = settings.references_max
    chosen = choose_references(phases, elements, most=most, within_ev_per_atom=within, wanted_formulas=formulas)
    lineage = {"run": config.name, "relaxation": {"potential": identity.method}}
    wanted = [Wanted(one.id, one.structure, "reference", None, {**lineage, "phase": one.id}) for one in chosen]
    return wanted, left_out_note(phases, chosen, most)


def campaign_of(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef, competing: list[FileRef]
) -> PlannedCampaign:
    """The DFT campaign of a run whose candidates are ranked; nothing is written yet."""
    relaxed = joined([ref.read() for ref in competing], RELAXED)
    best = [row for row in candidates.read().slice(0, config.dft.top_n).to_pylist() if row["rank"] is not None]
    phases, note = wanted_references(config, identity, relaxed, best)
    wanted = [*wanted_candidates(config, folder, identity, candidates), *phases]
    return _planned(config, folder, wanted, [note] if note else [])


def campaign_of_run(folder: Path, dft: DftConfig | None = None) -> PlannedCampaign:
    """The DFT campaign of a finished run, from its files; nothing is written yet.

    Args:
        folder: of the run.
        dft: engine and submission; None takes those of the run's own settings.

    Raises: RunUnfinishedError: if the folder holds no run that came to its report.
    """
    from tasks.discover.finished import finished_run

    config, identity, candidates, competing = finished_run(folder)
    if dft is not None:
        config = config.model_copy(update={"dft": dft})
    return campaign_of(config, folder, identity, candidates, competing)


def campaign_of_crystals(table: pa.Table, config: DiscoverConfig, folder: Path) -> PlannedCampaign:
    """A DFT campaign of crystals from files, all of them; it has no competing phases but what is among them.

    Nothing is written yet.
    """
    from dft.campaign.campaign import Wanted

    table = survivors(table)
    prefix = "relaxed_" if "relaxed_lattice_ang" in table.column_names else ""
    generated = crystals_of(table) if prefix else [None] * len(table)
    wanted = [
        Wanted(
            row["id"],
            crystal.to_structure(),
            "relaxation",
            None if before is None else before.to_structure(),
            {"source": {"id": row["id"]}},
        )
        for row, crystal, before in zip(table.to_pylist(), crystals_of(table, prefix), generated, strict=True)
        if crystal is not None
    ]
    return _planned(config, folder, wanted)


def _planned(config: DiscoverConfig, folder: Path, wanted: list[Wanted], notes: Sequence[str] = ()) -> PlannedCampaign:
    from dft.campaign.campaign import plan_campaign

    root = jobs_folder(config.dft, folder.parent)
    engine = config.dft.engine
    if config.dft.submission.host is None:  # this machine's folders mean nothing to another one
        # A job is run where the variables of this process need not be set, so it is told the folders themselves.
        engine = engine.with_potentials_in(model_folders())
    dft = config.dft.model_copy(update={"engine": engine})
    return plan_campaign(folder, config.name, root, dft, config.store, wanted, notes)


def submitter_of(campaign: Campaign) -> Submitter:
    """The controller of a campaign's jobs."""
    from dft.campaign.collection import record_fault
    from dft.submission.submitter import Submitter

    return Submitter(campaign.root, campaign.dft.submission, record_fault=record_fault)


def look(campaign: Campaign) -> Progress:
    """Where a campaign stands, as far as the files say; asks no queue and writes nothing."""
    from dft.campaign.collection import hull_records, records_of, rows_of, summary_of
    from dft.hull.kpoint_notes import kpoint_notes

    submitter, records = submitter_of(campaign), records_of(campaign)
    statuses = submitter.statuses(campaign.keys)
    rows, summary = rows_of(campaign, statuses, records), summary_of(campaign, statuses, records)
    notes = (*campaign.notes, *kpoint_notes(hull_records(records)).of_hull)
    return Progress(campaign, rows, submitter.n_open(statuses), notes, summary=summary)


def advance(campaign: Campaign, *, submit: bool = True) -> Progress:
    """One step of the submission, and what has been finished into store and table."""
    return collected(campaign, submitter_of(campaign).step(campaign.keys, submit=submit))


def collected(campaign: Campaign, step: Step) -> Progress:
    """Bring home what a step has found finished."""
    from dft.campaign.collection import collect_records, hull_records, records_of, rows_of, summary_of
    from dft.hull.kpoint_notes import kpoint_notes
    from dft.stores import open_job_store

    records = records_of(campaign)
    with open_job_store(campaign.store, campaign.folder) as store:
        done = collect_records(campaign, records, store)
    rows, summary = rows_of(campaign, step.statuses, records), summary_of(campaign, step.statuses, records)
    table = {"name": campaign.name, "summary": asdict(summary), "jobs": rows}
    write_document(campaign.folder / TABLE, table, indent=1)
    written_anew = amount(done.n_repaired, "entry of the job store was", "entries of the job store were")
    repaired = [f"{written_anew} not what the records say: written anew"]
    notes = (
        *campaign.notes,
        *step.notes,
        *(repaired if done.n_repaired else ()),
        *kpoint_notes(hull_records(records)).of_hull,
    )
    return Progress(campaign, rows, step.n_open, notes, done.n_new, summary)


def with_settings(campaign: Campaign, assignments: Sequence[str]) -> Campaign:
    """The campaign with other settings of its submission (`dft.submission.walltime_s=3600`), from now on.

    Raises: ConfigError: for a setting that is none, or one outside dft.submission, which would make other jobs.
    """
    import dataclasses

    from configs.overrides import override
    from configs.schema import ConfigError, parse
    from dft.campaign.config import DftConfig

    if not assignments:
        return campaign
    if strange := [text for text in assignments if not text.startswith("dft.submission.")]:
        raise ConfigError(
            f"--set {strange[0].partition('=')[0]}: expected a setting below dft.submission; an engine's settings make "
            "other jobs, so submit again for those"
        )
    changed = override({"dft": campaign.dft.model_dump(mode="json")}, assignments)["dft"]
    campaign = dataclasses.replace(campaign, dft=parse(DftConfig, changed, "the command line"))
    campaign.write()
    return campaign


def campaign_folders(runs_folder: Path) -> list[Path]:
    """Folders of runs that have a campaign of which something is still to come, or a run that waits for it."""
    from dft.campaign.campaign import FILE, Campaign, CampaignError
    from tasks.dft.waiting import WAITING

    def is_open(folder: Path) -> bool:
        try:
            return (folder / WAITING).exists() or look(Campaign.read(folder)).n_open > 0
        except CampaignError as error:  # one that is damaged must not keep the others waiting
            logger.warning("%s", error)
            return False

    return [file.parent for file in sorted(runs_folder.glob(f"*/{FILE}")) if is_open(file.parent)]


@task(name="dft")
def dft_task(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef, competing: list[FileRef]
) -> int:
    """Begin or bring on the run's DFT jobs; the number of those of which something is still to come."""
    return follow(campaign_of(config, folder, identity, candidates, competing).write())


@task(name="begin", task_run_name="begin-{folder.name}")
def begin_task(folder: Path, dft: DftConfig | None) -> int:
    """Begin the DFT jobs of a finished run; the number of jobs of which something is still to come."""
    return follow(campaign_of_run(folder, dft).write())


@task(name="advance", task_run_name="advance-{folder.name}")
def advance_task(folder: Path) -> int:
    """Bring a campaign on by one step; the number of jobs of which something is still to come."""
    from dft.campaign.campaign import Campaign

    return follow(Campaign.read(folder))


def follow(campaign: Campaign) -> int:
    """One step, said in the log and shown as artifacts; the number of open jobs."""
    from dft.submission.submitter import SubmitterBusyError
    from tasks.report.dft.artifacts import publish_campaign

    logger = get_run_logger()
    try:
        progress = advance(campaign)
    except SubmitterBusyError as error:
        logger.warning(str(error))
        progress = look(campaign)
    said = ", ".join(f"{n} {state}" for state, n in progress.counts.items())
    logger.info("DFT jobs of %s: %s", campaign.name, said or "none")
    for note in progress.notes:
        logger.warning(note)
    publish_campaign(progress)
    return progress.n_open
