"""The run's report: gathers what the stages left in the run's folder and renders it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.datasets.origins import LABELS, Origin
from storage.atomic import write_text
from storage.checksums import check
from storage.tables import read_table
from storage.wording import amount
from tasks.discover.candidate_page import chosen_row, with_pages, write_best_pages, write_page
from tasks.discover.candidates import RELAXED, Proposer, Stage, joined, plain
from tasks.discover.finished import finished_run
from tasks.discover.input_notes import shared_notes
from tasks.discover.inputs import InputsOutcome
from tasks.discover.phases import competing_hull, counted, phases_file
from tasks.discover.phonons import phonon_figures
from tasks.discover.run import RunFolder, generator_digests, read_manifest, update_manifest
from tasks.discover.sample import generators_of
from tasks.discover.second_opinion import judged_phases
from tasks.files import OF_A_RUN, FileRef
from tasks.loading import PotentialIdentity

if TYPE_CHECKING:
    from tasks.report.run.model import HullData, JudgedPhase, ProposerYield, Rejection, ReportInputs, StageYield

FUNNEL = (
    ("valid", (Stage.VALIDITY, Stage.COMPOSITION), "screen"),
    ("novel", (Stage.KNOWN,), None),
    ("unique", (Stage.DUPLICATE,), "unique"),
    ("relaxed", (Stage.RELAXATION,), "relax"),
    ("novel after relaxation", (Stage.KNOWN_RELAXED,), None),
    ("unique after relaxation", (Stage.DUPLICATE_RELAXED,), "rank"),
)
"""Steps of the funnel, the rejections each stands for, and the timed stage it belongs to."""


def yields_of(rows: list[dict[str, Any]], stable_ev_per_atom: float, seconds: dict[str, float]) -> list[StageYield]:
    """How many candidates each step let through; counts over the table, so they always add up.

    The steps are those of generated candidates; the prototypes that were offered beside them have a step of their own.
    """
    from tasks.report.run.model import StageYield

    generated = [row for row in rows if row["proposed_by"] != Proposer.PROTOTYPE]
    alive = len(generated)
    steps = [StageYield("sampled", alive, alive, seconds.get("sample"))]
    for (name, _, timed), left in zip(FUNNEL, _left_after_each_step(generated), strict=True):
        steps.append(StageYield(name, alive, left, seconds.get(timed) if timed else None))
        alive = left
    if offered := [row for row in rows if row["proposed_by"] == Proposer.PROTOTYPE]:
        ranked = sum(row["rank"] is not None for row in offered)
        steps.append(StageYield("stable prototypes", len(offered), ranked, note="offered beside the generated ones"))
        alive += ranked
    near = sum(
        1
        for row in rows
        if row["rank"] is not None
        and row["e_above_hull_ev_per_atom"] is not None
        and row["e_above_hull_ev_per_atom"] <= stable_ev_per_atom
    )
    steps.append(StageYield(f"within {stable_ev_per_atom:g} eV/atom of the hull", alive, near))
    return steps


def _left_after_each_step(rows: Sequence[dict[str, Any]]) -> list[int]:
    """How many of the rows each step of FUNNEL let through."""
    rejected = Counter(row["rejected_by"] for row in rows)
    turned_away = (sum(rejected[stage.value] for stage in stages) for _, stages, _ in FUNNEL)
    return [len(rows) - n for n in accumulate(turned_away)]


def yields_by_proposer(rows: Sequence[dict[str, Any]], generators: Sequence[str]) -> list[ProposerYield]:
    """What became of each generator's candidates, and of the prototypes that were offered; they add up to yields_of.

    Args:
        rows: of candidates.parquet.
        generators: as the column `proposed_by` calls them, those that drew nothing included.
    """
    from tasks.report.run.model import ProposerYield
    from tasks.report.run.ranked_rows import RankedRow
    from tasks.report.run.summary import counts_of

    found = []
    for proposer in (*generators, Proposer.PROTOTYPE.value):
        own = [row for row in rows if row["proposed_by"] == proposer]
        if not own and proposer == Proposer.PROTOTYPE:
            continue
        valid, new, unique, relaxed, *_ = _left_after_each_step(own)
        counts = counts_of([RankedRow.of(row) for row in own if row["rank"] is not None])
        label = "stable prototypes" if proposer == Proposer.PROTOTYPE else proposer.partition(":")[2]
        ranked = (counts.n_candidates, counts.n_near_hull, counts.n_on_hull)
        found.append(ProposerYield(label, len(own), valid, new, unique, relaxed, *ranked))
    return found


def unheeded_notes(rows: Sequence[dict[str, Any]], generators: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each of several generators that does not go by all that it was asked for.

    Args:
        rows: of candidates.parquet.
        generators: what the manifest says of them.
    """
    from generative.requests import Request

    notes = []
    for proposer, said in generators.items():
        asked = {row["condition"] for row in rows if row["proposed_by"] == proposer}
        asks: set[str] = set().union(*(Request.from_json(text).asks for text in asked))
        if unheeded := sorted(asks - set(said["heeds"])):
            label = proposer.partition(":")[2]
            notes.append(f"{label} does not heed what was asked of {', '.join(unheeded)}; the other generators may.")
    return notes


def rejections_of(rows: list[dict[str, Any]]) -> list[Rejection]:
    """Why candidates were turned away, by step of the funnel and class of reason (first clause, numbers left out)."""
    from tasks.report.run.model import Rejection

    def kind(row: dict[str, Any]) -> str:
        stage, reason = row["rejected_by"], row["reason"] or ""
        if stage in {Stage.KNOWN.value, Stage.KNOWN_RELAXED.value}:
            return f"matches a known crystal ({LABELS.get(row['known_origin'], LABELS[Origin.UNSTATED])})"
        if stage in {Stage.DUPLICATE.value, Stage.DUPLICATE_RELAXED.value}:
            return "matches another candidate"
        if stage == Stage.RELAXATION.value:
            return str(row["relax_status"])
        # "two atoms are 0.31 A apart: expected ..." and "... 0.42 A apart ..." are one class.
        return re.sub(r"-?\d\S*( A\^3| A| degrees)?", "…", re.split(r"[:;,]\s", reason)[0]) or "no reason given"

    step_of = {stage.value: name for name, stages, _ in FUNNEL for stage in stages}
    counted = Counter((step_of[row["rejected_by"]], kind(row)) for row in rows if row["rejected_by"])
    order = [name for name, _, _ in FUNNEL]
    return [
        Rejection(step, reason, count)
        for (step, reason), count in sorted(
            counted.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0])
        )
    ]


def hull_data(
    phases: pa.Table,
    competing: pa.Table,
    config: DiscoverConfig,
    identity: PotentialIdentity,
    judged: Mapping[str, JudgedPhase] | None = None,
) -> tuple[HullData, list[str]]:
    """Competing phases with formation energies, origins and the judge's opinion, and what is missing in sentences."""
    from tasks.report.run.ranked_rows import hull_of_phases

    hull = competing_hull(competing, config)
    notes = []
    if hull.missing_elements:
        missing = ", ".join(hull.missing_elements)
        notes.append(f"No elemental phase of {missing} is known: candidates with it have no hull energy.")
    if hull.phases_without_energy:
        names = ", ".join(phase.id for phase in hull.phases_without_energy[:5])
        more = len(hull.phases_without_energy) - 5
        tail = f" and {more} more" if more > 0 else ""
        first = next((phase for phase in hull.phases_without_energy if phase.reason), None)
        why = "" if first is None else f"; {first.id}: {first.reason}"
        notes.append(f"Competing phases left out of the hull, for their relaxation gave no energy: {names}{tail}{why}.")
    return hull_of_phases(phases, config.elements, identity.method, judged), notes


def origin_notes(phases: pa.Table) -> list[str]:
    """A sentence where novelty means less than a reader expects, because no database is behind it."""
    compounds = [row for row in phases.to_pylist() if len(re.findall("[A-Z]", row["formula"])) > 1]
    if any(row["origin"] != Origin.PROTOTYPE for row in compounds):
        return []
    return [
        "No compound of this system comes from a database: all competing phases are decorated prototypes, so nothing "
        "is known to be new. Add a source such as materials-project."
    ]


def _input_folders(inputs: list[InputsOutcome]) -> dict[str, str | None]:
    return {outcome.candidate_id: outcome.folder for outcome in inputs}


def _said_of(identity: PotentialIdentity) -> dict[str, Any]:
    return {"method": identity.method, "sha256": identity.fingerprint, "check": list(identity.notes)}


def gather(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    candidates: FileRef,
    competing: list[FileRef],
    inputs: list[InputsOutcome],
    seconds: dict[str, float],
) -> ReportInputs:
    """Everything the report needs, from the files of the run."""
    from generative.screening.matching import Tolerances
    from tasks.report.run.asked import asked_figures, best_of_formulas
    from tasks.report.run.model import ReportInputs
    from tasks.report.run.ranked_rows import LISTING, MOST_LISTED, RankedRow, report_candidates
    from tasks.report.run.summary import counts_of

    run = RunFolder(folder)
    table = candidates.read()
    rows = plain(table).to_pylist()
    n_ranked = len(table) - table.column("rank").null_count
    listed = table.slice(0, min(n_ranked, MOST_LISTED))
    known = FileRef.inspected(run.known, check(run.known, OF_A_RUN))
    phases = phases_file(config, folder, known, competing).read()
    manifest = read_manifest(run)
    dataset, generators = manifest["dataset"], manifest.get("generators", {})
    judges = [PotentialIdentity.model_validate(said) for said in manifest.get("judges", [])]
    judged = judged_phases(config, folder, judges[0]) if judges else {}
    hull, notes = hull_data(phases, joined([ref.read() for ref in competing], RELAXED), config, identity, judged)
    replaced = identity.notes[:1] if identity.stands_in_for(config.relax.potential) else ()
    cut = [note] if (note := (manifest.get("competing_phases") or {}).get("note")) else []
    failed = [f"No VASP inputs for {o.candidate_id}: {o.reason}" for o in inputs if o.folder is None]
    failed += shared_notes({o.candidate_id: o.notes for o in inputs})
    n_rejected = sum(source["n_rejected"] for source in dataset["sources"])
    refused = amount(n_rejected, "record of the sources is", "records of the sources are")
    quarantined = [f"{refused} in dataset/rejected.parquet."] if n_rejected else []
    n_not_read = sum(source.get("n_files_not_read", 0) for source in dataset["sources"])
    left = amount(n_not_read, "file of the sources' folders was", "files of the sources' folders were")
    quarantined += [f"{left} not read: see dataset/manifest.json."] if n_not_read else []
    return ReportInputs(
        run_name=config.name,
        elements=config.elements,
        potential_method=identity.method,
        judges=tuple(judge.method for judge in judges),
        notes=(
            *replaced,
            *origin_notes(phases),
            *cut,
            *notes,
            *unheeded_notes(rows, generators),
            *failed,
            *quarantined,
        ),
        settings=config.model_dump(mode="json"),
        provenance={
            "known crystals": {"rows": dataset["n_rows"], "fingerprint_sha256": dataset["fingerprint_sha256"]},
            "generator": {
                name.partition(":")[2]: {key: said[key] for key in ("checkpoint", "sha256", "share")}
                for name, said in generators.items()
            }
            or {"checkpoint": config.sample.checkpoint, "sha256": manifest["generator_sha256"]},
            "potential": _said_of(identity),
            **({"judge": {judge.name: _said_of(judge) for judge in judges}} if judges else {}),
            "seed": config.seed,
            "code_sha256": manifest["code_sha256"],
            "packages": manifest["packages"],
            "hardware": manifest["hardware"],
        },
        yields=tuple(yields_of(rows, config.hull.stable_ev_per_atom, seconds)),
        proposers=tuple(yields_by_proposer(rows, list(generators)) if generators else ()),
        rejected=tuple(rejections_of(rows)),
        candidates=tuple(with_pages(report_candidates(listed, _input_folders(inputs), n_ranked))),
        counts=counts_of([RankedRow.of(row) for row in rows if row["rank"] is not None]),
        listing_path=LISTING if n_ranked > MOST_LISTED else "",
        asked=asked_figures(rows),
        best_of_formulas=best_of_formulas(rows),
        phonons=phonon_figures(candidates, folder, config.phonons.n_best),
        hull=hull,
        tolerances=vars(Tolerances.from_config(config.screen)),
        run_folder=str(folder),
    )


def write_run_report(
    report: ReportInputs, run: RunFolder, table: pa.Table, inputs: list[InputsOutcome], seconds: dict[str, float]
) -> Path:
    """report.html, pages of the best, the CIFs of all ranked, and their list where the report does not hold all.

    Stage times and yields go into the manifest.
    """
    from tasks.report.run.cif_files import MOST_IN_ONE_FOLDER, remove_cifs, write_cifs
    from tasks.report.run.page import write_report
    from tasks.report.run.ranked_rows import LISTING, MOST_LISTED, all_candidates, write_listing

    provenance = report.provenance
    lineage = {
        "run": report.run_name,
        "seed": str(provenance["seed"]),
        **{f"{name} sha256": sha256 for name, sha256 in generator_digests(read_manifest(run)).items()},
        "known crystals sha256": provenance["known crystals"]["fingerprint_sha256"],
        "energies": report.potential_method,
    }
    remove_cifs(run.path)
    n_symmetrised = MOST_LISTED if report.n_ranked > MOST_IN_ONE_FOLDER else None
    write_cifs(all_candidates(table, _input_folders(inputs)), run.path, lineage, n_symmetrised)
    if report.listing_path:
        write_listing(table, run.path / report.listing_path)
    else:
        (run.path / LISTING).unlink(missing_ok=True)
    update_manifest(
        run,
        stage_seconds=seconds,
        yields=[{"stage": y.stage, "n_in": y.n_in, "n_out": y.n_out} for y in report.yields],
        yields_by_proposer=[asdict(y) for y in report.proposers],
        asked=[asdict(figure) for figure in report.asked],
        best_of_formulas=[asdict(best) for best in report.best_of_formulas],
        phonons=[asdict(figure) for figure in report.phonons],
        phases_by_origin=counted(read_table(run.path / "phases.parquet", OF_A_RUN)),
        potential={
            "method": report.potential_method,
            "check": report.provenance["potential"]["check"],
            "notes": list(report.notes),
        },
    )
    write_text(run.path / "settings.json", json.dumps(dict(report.settings), indent=2, sort_keys=True) + "\n")
    write_best_pages(report, plain(table).slice(0, len(report.candidates)).to_pylist(), run.path)
    return write_report(report, run.path / "report.html")


def _report_parts(
    identity: PotentialIdentity, candidates: FileRef, competing: list[FileRef], inputs: list[InputsOutcome]
) -> dict[str, Any]:
    """What render_again needs besides the files; file names are relative to the folder of runs, which may be moved."""
    return {
        "potential": identity.model_dump(mode="json"),
        "candidates": candidates.sha256,
        "competing": [{"name": ref.path.name, "sha256": ref.sha256, "size": ref.size} for ref in competing],
        "inputs": [outcome.model_dump(mode="json") for outcome in inputs],
    }


def _generators(config: DiscoverConfig) -> dict[str, Any]:
    """What the manifest keeps of who drew: the digest of the only checkpoint, or several generators by their names."""
    from generative.checkpoints import digest, heeds_of

    if not config.sample.generators:
        return {"generators": {}, "generator_sha256": digest(config.sample.checkpoint)}
    return {
        "generators": {
            one.proposed_by: {
                "checkpoint": one.settings.checkpoint,
                "sha256": digest(one.settings.checkpoint),
                "share": one.share,
                "heeds": sorted(heeds_of(one.settings.checkpoint)),
            }
            for one in generators_of(config.sample)
        },
        "generator_sha256": None,
    }


def _gathered(folder: Path) -> tuple[ReportInputs, FileRef, list[InputsOutcome], dict[str, float]]:
    """The report of a finished run, its candidates, what became of their inputs, and the stages' seconds."""
    config, identity, candidates, competing = finished_run(folder)
    manifest = read_manifest(RunFolder(folder))
    inputs = [InputsOutcome.model_validate(outcome) for outcome in manifest["report"]["inputs"]]
    # The ranking was called "hull" in runs of earlier versions.
    seconds = {"rank" if stage == "hull" else stage: value for stage, value in manifest["stage_seconds"].items()}
    return gather(config, folder, identity, candidates, competing, inputs, seconds), candidates, inputs, seconds


def render_again(folder: Path) -> Path:
    """Write report.html and the CIFs of a finished run once more, from its files alone; nothing is computed.

    Raises: RunUnfinishedError: if the folder holds no run that came to its report.
    """
    report, candidates, inputs, seconds = _gathered(folder)
    return write_run_report(report, RunFolder(folder), candidates.read(), inputs, seconds)


def render_candidate(folder: Path, name: str) -> Path:
    """Write the page of one candidate of a finished run, from its files alone, by its id or the beginning of it.

    Raises:
        RunUnfinishedError: if the folder holds no run that came to its report.
        NoCandidateError: if no ranked candidate has this id, or several begin so.
    """
    from tasks.report.run.ranked_rows import report_candidates

    report, candidates, inputs, _ = _gathered(folder)
    table = candidates.read()
    row = chosen_row(table, name, folder)
    place = table.column("id").to_pylist().index(row["id"])
    (candidate,) = report_candidates(table.slice(place, 1), _input_folders(inputs), report.n_ranked)
    return write_page(report, candidate, row, folder)


@task(name="report")
def report_task(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    candidates: FileRef,
    competing: list[FileRef],
    inputs: list[InputsOutcome],
    seconds: dict[str, float],
) -> Path:
    """Render the report and publish its artifacts; see gather and write_run_report."""
    from tasks.report.run.artifacts import Progress, publish

    update_manifest(
        RunFolder(folder),
        report=_report_parts(identity, candidates, competing, inputs),
        **_generators(config),
    )
    with Progress(f"report-{config.name}", "writing the report"):
        report = gather(config, folder, identity, candidates, competing, inputs, seconds)
        page = write_run_report(report, RunFolder(folder), candidates.read(), inputs, seconds)
        publish(report)
    get_run_logger().info("report of %d candidates: %s", report.n_ranked, page)
    return page
