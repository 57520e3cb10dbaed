"""What a campaign has brought home: records into the job store, rows for its table, the hull of its own energies."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobflow.core.store import JobStore

from dft.campaign.analysis import AnalysisSummary, CandidateAnalysis, analyse, summarise_candidates
from dft.campaign.campaign import Campaign, Job
from dft.hull.convex_hull import Phase
from dft.hull.dft_hull import place_among_others, record_phases
from dft.hull.kpoint_notes import kpoint_notes
from dft.job_folder import Purpose, read_record
from dft.jobs import FLOW_NAMESPACE
from dft.records import DFTRecord, differences, level_tags
from dft.submission.states import JobState, JobStatus
from storage.digests import json_digest, text_digest

RECORD_NAME = "dft record"
"""The name of every record's document."""


@dataclass(frozen=True)
class Collected:
    """What a collection has done.

    Attributes:
        n_new: records that were not in the store.
        n_repaired: records whose entry in the store was missing parts, damaged or another one.
        n_unchanged: records whose entry was right.
    """

    n_new: int
    n_repaired: int
    n_unchanged: int


def record_fault(folder: Path) -> str:
    """What is wrong with the record in a job folder, one sentence; empty if nothing is."""
    try:
        read_record(folder)
    except ValueError as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def records_of(campaign: Campaign) -> dict[str, DFTRecord]:
    """Records that are there and can be read, by key, in the campaign's order."""
    found = {}
    for job in campaign.jobs:
        folder = campaign.root / job.key
        if not record_fault(folder) and (record := read_record(folder)) is not None:
            found[job.key] = record
    return found


def collect_records(campaign: Campaign, records: dict[str, DFTRecord], store: JobStore) -> Collected:
    """Bring the store up to date with the records on disk, which are the truth. Done twice, the same.

    Args:
        campaign: whose jobs they are.
        records: by key.
        store: connected.

    Returns: What was new, and what had to be written again.
    """
    jobs = {job.key: job for job in campaign.jobs}
    counts = {"new": 0, "repaired": 0, "unchanged": 0}
    for key, record in records.items():
        document = _document(campaign, jobs[key], record)
        there = store.query_one({"uuid": document["uuid"], "index": 1}, load=False)
        there = None if there is None else {name: value for name, value in there.items() if name != "_id"}
        state = "new" if there is None else "unchanged" if there == document else "repaired"
        counts[state] += 1
        if state != "unchanged":
            store.update(document, key=["uuid", "index"])
    return Collected(counts["new"], counts["repaired"], counts["unchanged"])


def _document(campaign: Campaign, job: Job, record: DFTRecord) -> dict[str, Any]:
    output = record.as_document()
    text = json.dumps(output, sort_keys=True)
    return {
        "uuid": str(uuid.uuid5(FLOW_NAMESPACE, f"{RECORD_NAME}/{job.key}")),
        "index": 1,
        "name": RECORD_NAME,
        "metadata": {
            "key": job.key,
            "candidate_id": job.candidate_id,
            "purpose": job.purpose,
            "formula": job.formula,
            "campaign": campaign.name,
            "record_sha256": text_digest(text),
        },
        "hosts": [],
        "output": output,
    }


def hull_records(records: dict[str, DFTRecord]) -> dict[str, DFTRecord]:
    """Relaxed records that share a hull, by key; those of other settings than most are left out."""
    relaxed = {key: record for key, record in records.items() if record.purpose != Purpose.STATIC}
    levels = {key: (record.method, json_digest(level_tags(record))) for key, record in relaxed.items()}
    if not levels:
        return {}
    level = max(sorted(set(levels.values())), key=list(levels.values()).count)
    return {key: record for key, record in relaxed.items() if levels[key] == level}


def rows_of(campaign: Campaign, statuses: dict[str, JobStatus], records: dict[str, DFTRecord]) -> list[dict[str, Any]]:
    """One row per job, in the campaign's order: where it stands, and what it has brought.

    Energies are eV/atom, volumes A^3/atom, relaxed by DFT minus generated (`generated` if the campaign knows it, else
    what the job began with), all by the same engine at the same settings. The energy above hull is that over all other
    phases of the campaign.
    """
    together = hull_records(records)
    phases, said = record_phases(together), kpoint_notes(together).of_record
    rows = []
    for job in campaign.jobs:
        status = statuses[job.key]
        row: dict[str, Any] = {
            "key": job.key,
            "id": job.candidate_id,
            "formula": job.formula,
            "purpose": job.purpose,
            "state": status.state.value,
            "attempts": status.n_attempts,
            "queue_id": status.queue_id,
            "reason": status.reason if status.state is not JobState.DONE else "",
            "earlier_reasons": list(status.reasons),
        }
        if (record := records.get(job.key)) is not None:
            row |= {
                "converged": record.is_converged,
                "energy_ev_per_atom": record.energy_ev_per_atom,
                "method": record.method,
                "ionic_steps": record.n_ionic_steps,
                "wall_time_s": record.wall_time_s,
                "warnings": list(record.warnings),
                **_sampling(record),
            }
            if job.purpose != Purpose.STATIC:
                row |= _change(analysed(job, record, records)) | _place(job.key, phases, said.get(job.key, ""))
        rows.append(row)
    return rows


def analysed(job: Job, record: DFTRecord, records: dict[str, DFTRecord]) -> CandidateAnalysis:
    """What became of one crystal; see dft.campaign.analysis."""
    generated = job.generated_structure
    static = records.get(job.static_key or "")
    return analyse(
        record,
        generated=generated,
        pre_relaxed=record.initial_structure,
        statics=[static] if static is not None and not differences(record, static) else [],
    )


def summary_of(campaign: Campaign, statuses: dict[str, JobStatus], records: dict[str, DFTRecord]) -> AnalysisSummary:
    """Rates, means and medians over the campaign's candidates, of the method that most of them have."""
    candidates = [job for job in campaign.jobs if job.purpose == Purpose.RELAXATION]
    n_failed = sum(
        job.key not in records and statuses[job.key].state in (JobState.FAILED, JobState.LOST) for job in candidates
    )
    found = [analysed(job, records[job.key], records) for job in candidates if job.key in records]
    methods = [one.method for one in found]
    method = max(sorted(set(methods)), key=methods.count, default="")
    return summarise_candidates([one for one in found if one.method == method], n_failed)


def _change(analysis: CandidateAnalysis) -> dict[str, Any]:
    change = analysis.from_generated or analysis.from_pre_relaxed
    assert change is not None  # every record has what it began with
    return {
        "delta_e_ev_per_atom": change.state.de_ev_per_atom,
        "delta_v_ang3_per_atom": change.state.dv_ang3_per_atom,
        "delta_v_percent": change.dv_percent,
        "match": change.state.match,
        "rms": change.state.rms,
    }


def _sampling(record: DFTRecord) -> dict[str, Any]:
    kpoints = record.kpoints
    mesh = None if kpoints is None or kpoints.mesh is None else list(kpoints.mesh)
    return {"kpoint_mesh": mesh, "kpoint_density_ang3": None if kpoints is None else kpoints.density_ang3}


def _place(key: str, phases: list[Phase], kpoint_note: str) -> dict[str, Any]:
    own = next((phase for phase in phases if phase.id == key), None)
    if own is None:
        return {}
    position = place_among_others(own, phases)
    return {
        "formation_energy_ev_per_atom": position.formation_energy_ev_per_atom,
        "e_above_hull_ev_per_atom": position.e_above_hull_ev_per_atom,
        "decomposition": position.decomposition,
        "hull_note": "; ".join(note for note in (position.note, kpoint_note) if note),
    }
