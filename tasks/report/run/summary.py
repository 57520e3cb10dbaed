"""The numbers a report leads with, and how numbers are written; shared by the page, the tables and the artifact."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dft.results import KeptSymmetry
from storage.wording import amount
from tasks.discover.candidates import NEAR_HULL_EV_PER_ATOM as NEAR_HULL_EV_PER_ATOM
from tasks.discover.candidates import Proposer
from tasks.report.hull_geometry import ON_HULL_EV_PER_ATOM
from tasks.report.run.model import Counts, ReportCandidate, ReportInputs


def safe(text: object) -> str:
    """Text as it stands, in HTML and in its attributes."""
    return html.escape(str(text), quote=True)


class Ranked(Protocol):
    """What is counted of a ranked candidate: a ReportCandidate has it, and so does a row's record."""

    @property
    def e_above_hull_ev_per_atom(self) -> float | None:
        """Distance to the hull; None if unknown."""

    @property
    def known_match(self) -> str | None:
        """Id of the database's crystal it matches; None if new."""

    @property
    def relax_status(self) -> str:
        """How the relaxation ended."""

    @property
    def proposed_by(self) -> str:
        """A tasks.discover.candidates.Proposer."""

    @property
    def kept(self) -> KeptSymmetry | None:
        """What its relaxation in its space group found; None where it relaxed freely."""


@dataclass(frozen=True, kw_only=True)
class Summary(Counts):
    """Counts over the candidates of a run, and the best of them.

    Attributes:
        best: lowest energy above hull, by the judge where there is one; None if none is known.
    """

    best: ReportCandidate | None


def counts_of(candidates: Sequence[Ranked]) -> Counts:
    """The counts of these candidates."""
    above = [e for c in candidates if (e := c.e_above_hull_ev_per_atom) is not None and is_number(e)]
    return Counts(
        n_candidates=len(candidates),
        n_prototypes=sum(c.proposed_by == Proposer.PROTOTYPE for c in candidates),
        n_new=sum(c.known_match is None for c in candidates),
        n_on_hull=sum(e <= ON_HULL_EV_PER_ATOM for e in above),
        n_near_hull=sum(e <= NEAR_HULL_EV_PER_ATOM for e in above),
        n_with_hull=len(above),
        n_converged=sum(c.relax_status == "converged" for c in candidates),
        n_kept=sum(c.kept is not None for c in candidates),
        n_saddle_points=sum(c.kept is not None and c.kept.is_minimum is False for c in candidates),
    )


def summarise(candidates: Sequence[ReportCandidate], counts: Counts | None = None) -> Summary:
    """The counts of these candidates, or those given where these are but the best of many; and the best."""
    known = [c for c in candidates if is_number(c.e_above_hull_ev_per_atom)]
    judged = [c for c in known if c.opinion is not None and is_number(c.opinion.e_above_hull_ev_per_atom)]
    best = min(judged or known, key=lambda c: (_decisive(c), c.rank, c.id), default=None)
    return Summary(**vars(counts or counts_of(candidates)), best=best)


def _decisive(candidate: ReportCandidate) -> float:
    """The energy above hull that ranks it: the judge's, or without one the first potential's; 0 where unknown."""
    opinion = candidate.opinion
    above = candidate.e_above_hull_ev_per_atom if opinion is None else opinion.e_above_hull_ev_per_atom
    return above or 0.0


def prototype_name(candidate: ReportCandidate) -> str:
    """Structure type and decoration of the prototype it is like, without the source's name; empty if there is none."""
    return (candidate.prototype_match or "").split(":", 1)[-1]


def proposers(summary: Summary) -> str:
    """Such as '118 generated, 13 stable prototypes'; empty where all were generated."""
    if not summary.n_prototypes:
        return ""
    return (
        f"{summary.n_candidates - summary.n_prototypes} generated, {amount(summary.n_prototypes, 'stable prototype')}"
    )


def any_phonons(candidates: Sequence[ReportCandidate]) -> bool:
    """Whether phonons were asked for: then one candidate at least has some, or says why it has none."""
    return any(c.lowest_phonon_thz is not None or c.phonon_note for c in candidates)


def is_number(value: float | None) -> bool:
    """Whether a value is known and finite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A number for reading, with a true minus sign and no negative zero; empty if unknown."""
    if value is None or not math.isfinite(value):
        return ""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def duration(seconds: float | None) -> str:
    """A wall time for reading; empty if unknown."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def theory_warning(inputs: ReportInputs) -> str:
    """One sentence on what the energies are worth."""
    judges = f", but for the second opinion by {' and '.join(inputs.judges)}" if inputs.judges else ""
    return (
        f"All energies come from {inputs.potential_method}, a machine-learned potential{judges}: they are screening "
        f"energies, not "
        "DFT, and a candidate's place on the hull is a reason to compute it, not a result"
    )


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, value) rows in their own order; empty values are written as a dash."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            rows += flattened(value, name)
        elif isinstance(value, (list, tuple)) and not any(isinstance(v, (Mapping, list, tuple)) for v in value):
            rows.append((name, ", ".join(str(v) for v in value) or "\u2013"))
        else:
            rows.append((name, "\u2013" if value is None or value == "" or value == {} else str(value)))
    return rows
