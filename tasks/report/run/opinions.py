"""What a judge says of candidates, in words and counts; the columns JUDGED as the report reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.report.run.model import SecondOpinion
from tasks.report.run.summary import NEAR_HULL_EV_PER_ATOM, number


def opinion_of(row: Mapping[str, Any]) -> SecondOpinion | None:
    """The columns JUDGED of a row of candidates; None if no judge had it, or the run had no judge."""
    if row.get("judge_method") is None:
        return None
    return SecondOpinion(
        method=row["judge_method"],
        first_rank=row["first_rank"],
        e_above_hull_ev_per_atom=row["judge_e_above_hull_ev_per_atom"],
        formation_energy_ev_per_atom=row["judge_formation_energy_ev_per_atom"],
        decomposition=row["judge_decomposition"] or "",
        change_ev_per_atom=row["opinion_change_ev_per_atom"],
        agree=row["opinions_agree"],
        probability=row["near_hull_probability"],
        source=row["probability_source"] or "",
        spread_ev_per_atom=row["committee_spread_ev_per_atom"],
        hull_note=row["judge_hull_note"] or "",
        note=row["judge_note"] or "",
    )


def any_judged(opinions: Iterable[SecondOpinion | None]) -> bool:
    """Whether a judge had any candidate."""
    return any(opinion is not None for opinion in opinions)


def percent(probability: float | None) -> str:
    """A probability for reading; empty if unknown."""
    return "" if probability is None else f"{100 * probability:.0f} %"


def verdict(opinion: SecondOpinion) -> str:
    """Whether the two opinions agree, in a word or two; empty where the errors are not known."""
    return {None: "", True: "agree", False: "differ"}[opinion.agree]


def remark(opinion: SecondOpinion) -> str:
    """The judge's opinion in one line: '0.034 eV/atom above hull by the judge, 72 % within 0.1 by DFT'."""
    if opinion.e_above_hull_ev_per_atom is None:
        return opinion.note
    above = f"{number(opinion.e_above_hull_ev_per_atom)} eV/atom above hull by the judge"
    chance = f", {percent(opinion.probability)} within {NEAR_HULL_EV_PER_ATOM:g} by DFT"
    return above + (chance if opinion.probability is not None else "")


def counts_sentence(opinions: Iterable[SecondOpinion | None]) -> str:
    """How many were judged, and how they fared; empty without a judge."""
    judged = [opinion for opinion in opinions if opinion is not None]
    if not judged:
        return ""
    placed = [h for opinion in judged if (h := opinion.e_above_hull_ev_per_atom) is not None]
    near = sum(h <= NEAR_HULL_EV_PER_ATOM for h in placed)
    said = (
        f"Second opinion by {judged[0].method} on {len(judged)} of the best, which decides their order: {near} lie "
        f"within {NEAR_HULL_EV_PER_ATOM:g} eV/atom of the hull of its own energies"
    )
    if lost := len(judged) - len(placed):
        said += f"; {lost} it cannot judge"
    if known := [opinion.agree for opinion in judged if opinion.agree is not None]:
        said += f"; on {known.count(False)} of {len(known)} the two opinions differ by more than their errors"
    return said


def probability_sentence(opinions: Iterable[SecondOpinion | None]) -> str:
    """What the probability means, and what it was measured on; or that nothing is known. Empty without a judge."""
    judged = [opinion for opinion in opinions if opinion is not None]
    if not judged:
        return ""
    if source := next((opinion.source for opinion in judged if opinion.source), ""):
        return (
            f"The probability is the share of measured crystals at such a distance by the judge that DFT puts within "
            f"{NEAR_HULL_EV_PER_ATOM:g} eV/atom of the hull ({source.rstrip('.')}); it counts wrong energies, and no "
            "competing phase that this run does not know"
        )
    return f"How often {judged[0].method} is right was not measured for these settings: no probability is stated"
