"""What a campaign has brought home: records into the job store, rows for its table, the hull of its own energies."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobflow.core.store import JobStore

from dft.campaign import Campaign, Job
from dft.ground_state import MatchTolerances, compare
from dft.hull import CompetingHull, Phase
from dft.jobs import FLOW_NAMESPACE
from dft.records import DFTRecord
from dft.submission.states import JobState, JobStatus

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


@dataclass(frozen=True)
class _Relaxed:
    """A record as dft.ground_state.compare reads it."""

    structure: Any
    energy_ev_per_atom: float | None
    initial_energy_ev_per_atom: float | None
    n_steps: int


def record_fault(folder: Path) -> str:
    """What is wrong with the record in a job folder, one sentence; empty if nothing is."""
    try:
        DFTRecord.from_json((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def records_of(campaign: Campaign) -> dict[str, DFTRecord]:
    """Records that are there and can be read, by key, in the campaign's order."""
    found = {}
    for job in campaign.jobs:
        file = campaign.root / job.key / "record.json"
        if file.exists() and not record_fault(file.parent):
            found[job.key] = DFTRecord.from_json(file.read_text(encoding="utf-8"))
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
            "record_sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
        "hosts": [],
        "output": output,
    }


def campaign_hull(campaign: Campaign, records: dict[str, DFTRecord]) -> CompetingHull | None:
    """The hull of the campaign's converged records at the campaign's own settings; None without any.

    All records span it, candidates included: what lies on it is stable among all that was computed.
    """
    phases = hull_phases(campaign, records)
    elements = sorted({symbol for phase in phases for symbol in phase.elements})
    return CompetingHull(phases, elements) if phases else None


def hull_phases(campaign: Campaign, records: dict[str, DFTRecord]) -> list[Phase]:
    """Converged records of the method that most of the campaign's have, as phases named by their keys."""
    usable = {key: record for key, record in records.items() if record.is_converged and record.purpose != "static"}
    methods = [record.method for record in usable.values()]
    if not methods:
        return []
    method = max(sorted(set(methods)), key=methods.count)
    return [
        Phase(key, record.structure.composition, record.enthalpy_ev_per_atom, method)
        for key, record in usable.items()
        if record.method == method
    ]


def rows_of(campaign: Campaign, statuses: dict[str, JobStatus], records: dict[str, DFTRecord]) -> list[dict[str, Any]]:
    """One row per job, in the campaign's order: where it stands, and what it has brought.

    Energies are eV/atom, volumes A^3/atom, relaxed minus generated (`generated` if the campaign knows it, else what the
    job began with). The energy above hull is that over all other phases of the campaign.
    """
    phases = hull_phases(campaign, records)
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
            row |= _result(job, record, phases, records.get(job.static_key or ""))
        rows.append(row)
    return rows


def _result(job: Job, record: DFTRecord, phases: list[Phase], generated: DFTRecord | None) -> dict[str, Any]:
    energy = record.energy_ev_per_atom
    found: dict[str, Any] = {"converged": record.is_converged, "energy_ev_per_atom": energy, "method": record.method}
    if job.purpose == "static":
        return found | {"wall_time_s": record.wall_time_s, "warnings": list(record.warnings)}
    began = job.generated_structure or record.initial_structure
    is_comparable = generated is not None and generated.method == record.method
    before = generated.energy_ev_per_atom if generated is not None and is_comparable else None
    state = compare(began, _Relaxed(record.structure, energy, before, record.n_ionic_steps), MatchTolerances())
    found |= {
        "delta_e_ev_per_atom": state.de_ev_per_atom,
        "delta_v_ang3_per_atom": state.dv_ang3_per_atom,
        "match": state.match,
        "rms": state.rms,
        "ionic_steps": record.n_ionic_steps,
        "wall_time_s": record.wall_time_s,
        "warnings": list(record.warnings),
    }
    own = next((phase for phase in phases if phase.id == job.key), None)
    if own is not None:
        others = [phase for phase in phases if phase.id != job.key]
        elements = sorted({symbol for phase in phases for symbol in phase.elements})
        place = CompetingHull(others, elements).place(own.composition, own.energy_ev_per_atom, own.method)
        if len(own.elements) == 1 and place.e_above_hull_ev_per_atom is None:
            place = CompetingHull(phases, elements).place(own.composition, own.energy_ev_per_atom, own.method)
        found |= {
            "formation_energy_ev_per_atom": place.formation_energy_ev_per_atom,
            "e_above_hull_ev_per_atom": place.e_above_hull_ev_per_atom,
            "decomposition": place.decomposition,
            "hull_note": place.note,
        }
    return found
