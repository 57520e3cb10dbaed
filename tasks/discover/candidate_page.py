"""A page of its own for a candidate: gathers what the run's files say of it, and writes the file."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from generative.crystal.crystals import crystals_of
from generative.datasets.origins import split_by_origin
from storage.atomic import write_text
from storage.tables import read_table
from tasks.discover.candidates import Proposer, plain
from tasks.discover.run import RunFolder, generator_digests, read_manifest
from tasks.files import OF_A_RUN

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from tasks.report.candidate.model import DftJob, NearKnown
    from tasks.report.run.model import ReportCandidate, ReportInputs

FOLDER = "candidates"
"""Of the pages, in the run's folder."""

MOST_PAGES = 10
"""Pages that are written with the report, of the best; the others when they are asked for."""

MOST_NEAR = 6
"""Known crystals named beside a candidate."""

MOST_OVERLAID = 24
"""Known crystals whose structure type is compared with that of a candidate."""


class NoCandidateError(ValueError):
    """A name that no ranked candidate of the run has."""


def chosen_row(table: pa.Table, name: str, folder: Path) -> dict[str, Any]:
    """The row of the ranked candidate of this id, or of the only one whose id begins so; columns but the crystals'.

    Raises: NoCandidateError: if there is none, or more than one.
    """
    rows = [row for row in plain(table).to_pylist() if row["id"].startswith(name)]
    ranked = [row for row in rows if row["rank"] is not None]
    if len(ranked) == 1:
        return dict(ranked[0])
    if ranked:
        ids = ", ".join(row["id"] for row in ranked[:5])
        raise NoCandidateError(f"{len(ranked)} candidates of {folder} have an id that begins with {name!r}: {ids}")
    if rows:
        reason = f"{rows[0]['rejected_by']}: {rows[0]['reason']}"
        raise NoCandidateError(f"{rows[0]['id']} of {folder} was turned away ({reason}), so it has no page")
    raise NoCandidateError(f"{folder} has no candidate {name!r}: expected an id of its table, or the beginning of one")


def nearest_known(structure: Structure, known: pa.Table, tolerances: Mapping[str, Any]) -> tuple[NearKnown, ...]:
    """Known crystals of a candidate's composition, and those that lie on it once elements are exchanged.

    Args:
        structure: of the candidate, as relaxed.
        known: the run's dataset; prototypes of ours are no known crystals.
        tolerances: ltol, stol and angle_tol_deg of the matcher.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from tasks.report.candidate.model import NearKnown

    databases, _ = split_by_origin(known)
    formula, anonymous = structure.composition.reduced_formula, structure.composition.anonymized_formula
    ltol, stol, angle_tol = (float(tolerances[name]) for name in ("ltol", "stol", "angle_tol_deg"))
    rms_of: Any = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol).get_rms_anonymous  # has no types
    same: list[NearKnown] = []
    alike: list[NearKnown] = []
    n_compared = 0
    for row, crystal in zip(plain(databases).to_pylist(), crystals_of(databases), strict=True):
        if crystal is None:
            continue
        other = crystal.to_structure()
        if other.composition.reduced_formula == formula:
            same.append(NearKnown(row["id"], row["formula"], row["spacegroup"], "same composition"))
        elif other.composition.anonymized_formula == anonymous and n_compared < MOST_OVERLAID:
            n_compared += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = rms_of(other, structure)[0]
            if found is not None:
                group = row["spacegroup"]
                alike.append(NearKnown(row["id"], row["formula"], group, "same structure type", float(found)))
    alike.sort(key=lambda near: (near.rms or 0.0, near.id))
    return tuple([*same, *alike][:MOST_NEAR])


def jobs_of(folder: Path, name: str) -> tuple[DftJob, ...]:
    """The DFT jobs of a candidate, as far as the files say."""
    from dft.campaign.campaign import FILE, Campaign
    from tasks.dft.campaign import look
    from tasks.report.candidate.model import DftJob

    if not (folder / FILE).is_file():
        return ()
    campaign = Campaign.read(folder)
    return tuple(
        DftJob(
            row["purpose"],
            row["state"],
            f"RUN/{os.path.relpath(campaign.root / row['key'], folder)}",
            row.get("energy_ev_per_atom"),
            row.get("e_above_hull_ev_per_atom"),
            row["reason"] or "",
        )
        for row in look(campaign).rows
        if row["id"] == name
    )


def lineage_stated(row: Mapping[str, Any], report: ReportInputs, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """From a candidate back to what proposed it, as the run's files have it: the checkpoint need not be there."""
    stated: dict[str, Any] = {"run": report.run_name, "proposed by": row["proposed_by"]}
    if row["proposed_by"] == Proposer.PROTOTYPE:
        stated["prototype"] = row["prototype_match"]
    else:
        stated["asked"] = {k: v for k, v in json.loads(row["condition"] or "{}").items() if v not in (None, [], {})}
        stated |= {"seed": manifest["seed"], "index": row["index"]}
        stated["checkpoint sha256"] = generator_digests(manifest).get(row["proposed_by"], "")
    return {
        **stated,
        "known crystals sha256": manifest["dataset"]["fingerprint_sha256"],
        "potential": report.potential_method,
        "code sha256": manifest["code_sha256"],
        "packages": manifest["packages"],
    }


def _matches(candidate: ReportCandidate) -> Iterator[NearKnown]:
    """What screening and ranking found it to be like."""
    from tasks.report.candidate.model import NearKnown

    if candidate.known_match:
        yield NearKnown(candidate.known_match, candidate.formula, candidate.spacegroup_number, "the same crystal")
    if candidate.prototype_match:
        yield NearKnown(candidate.prototype_match, candidate.formula, None, "the prototype's structure type")


def write_page(report: ReportInputs, candidate: ReportCandidate, row: Mapping[str, Any], folder: Path) -> Path:
    """Write one candidate's page below the run's folder.

    Args:
        report: of the run.
        candidate: one of its ranked candidates.
        row: its row in candidates.parquet.
        folder: of the run.
    """
    from tasks.report.candidate.model import CandidateInputs
    from tasks.report.candidate.page import candidate_html, page_name
    from tasks.report.run.cif_files import cif_text

    run = RunFolder(folder)
    lineage = lineage_stated(row, report, read_manifest(run))
    comments = [f"Hullward candidate {candidate.id} of the run {report.run_name}", "cell: as relaxed, P1"]
    phonons = next((figure for figure in report.phonons if figure.rank == candidate.rank), None)
    inputs = CandidateInputs(
        run=report,
        candidate=candidate,
        cif=cif_text(candidate.structure, candidate.id, comments),
        lineage=lineage,
        nearest=(
            *_matches(candidate),
            *nearest_known(candidate.structure, read_table(run.known, OF_A_RUN), report.tolerances),
        ),
        jobs=jobs_of(folder, candidate.id),
        phonons=phonons,
    )
    target = folder / FOLDER / page_name(candidate)
    target.parent.mkdir(exist_ok=True)
    write_text(target, candidate_html(inputs))
    return target


def with_pages(candidates: Iterable[ReportCandidate]) -> Iterator[ReportCandidate]:
    """The candidates by rank, the best with the path of the page that they will have."""
    from tasks.report.candidate.page import page_name

    for number, candidate in enumerate(candidates):
        page = f"{FOLDER}/{page_name(candidate)}" if number < MOST_PAGES else ""
        yield replace(candidate, page_path=page)


def write_best_pages(report: ReportInputs, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """The pages of the candidates that the report links, those of earlier reports removed."""
    by_id = {row["id"]: row for row in rows}
    for old in (folder / FOLDER).glob("*.html"):
        old.unlink()
    for candidate in report.candidates:
        if candidate.page_path:
            write_page(report, candidate, by_id[candidate.id], folder)
