"""What the page of one candidate is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.report.run.model import PhononFigure, ReportCandidate, ReportInputs


@dataclass(frozen=True)
class NearKnown:
    """A known crystal beside a candidate.

    Attributes:
        id: in the run's dataset, '<source>:<source_id>'.
        formula: reduced.
        spacegroup: international number; None if unknown.
        relation: in what it is near, such as 'same composition'.
        rms: displacement of paired atoms, units of (V/N)^(1/3); None where the crystals were not overlaid.
    """

    id: str
    formula: str
    spacegroup: int | None
    relation: str
    rms: float | None = None


@dataclass(frozen=True)
class DftJob:
    """A DFT job of a candidate.

    Attributes:
        purpose: such as 'relaxation'.
        state: such as 'done'.
        folder: of the job, as RUN/... from the folder of the run.
        energy_ev_per_atom: None until it has one.
        e_above_hull_ev_per_atom: over the other phases of the campaign; None until it has one.
        reason: why it has none, or empty.
    """

    purpose: str
    state: str
    folder: str
    energy_ev_per_atom: float | None = None
    e_above_hull_ev_per_atom: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CandidateInputs:
    """Everything a candidate's page needs.

    Attributes:
        run: of the run it comes from.
        candidate: one of its ranked candidates.
        cif: as relaxed.
        lineage: from the candidate back to checkpoint, seed and data; nested dicts allowed.
        nearest: known crystals, nearest first.
        jobs: its DFT jobs; empty where none were made.
        phonons: its phonons; None where none were computed.
    """

    run: ReportInputs
    candidate: ReportCandidate
    cif: str
    lineage: Mapping[str, Any]
    nearest: tuple[NearKnown, ...] = ()
    jobs: tuple[DftJob, ...] = ()
    phonons: PhononFigure | None = None
