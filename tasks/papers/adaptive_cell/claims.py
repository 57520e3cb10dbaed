"""What the paper on adaptive crystal cells says of its model, and its numbers beside ours.

Source: Sultanov et al., arXiv:2310.10695, Table 1 and section 5.3 (11 of 36 structures), Table 3 and section 5.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from configs.adaptive_cell_reproduction import COPIES, MODEL
from generative.metrics.papers import papers
from tasks.papers.adaptive_cell.compounds import PAPER_COMPOUNDS
from tasks.papers.claims import Claim, Number, stated_share

PAPER_NAMES: Mapping[str, str] = {
    MODEL: "adaptive cell",
    COPIES: "training structures",
    "pgcgm": "PGCGM",
    "cdvae": "CDVAE (retrained)",
}
"""Systems with numbers in the paper; the last two are not made again."""
OTHERS = {"prototype-substitution": "prototype substitution", "random-symmetric": "random, symmetric"}

N_GENERATED, N_TESTED = 1000, 7325
"""Crystals of every row of Table 1, and of the test set; shares have the errors that follow."""
RECOVERED, ASKED_FOR = 11, 36
"""Section 5.3."""
CLOSE_KJ_PER_MOL = 1.0
"""Room beyond the paper's distance from the hull: 10 meV/atom, less than any potential's error."""


def name_of(system: str, reverse: str = "") -> str:
    """A system's name for readers."""
    return (dict(PAPER_NAMES) | OTHERS).get(system, system)


@lru_cache(maxsize=1)
def _stated() -> dict[tuple[str, str], Mapping[str, float]]:
    return {(row.table, row.system): row.values for row in papers() if row.table.startswith("adaptive-cell-")}


class PaperNumbers:
    """Table 1, section 5.3 and Table 3."""

    def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Number | None:
        """A number as stated; shares with their binomial error."""
        if stage == "generate":
            value = _stated().get(("adaptive-cell-1", PAPER_NAMES.get(system, "")), {}).get(metric)
            counts = {"COV-P": N_GENERATED, "COV-R": N_TESTED}
            return None if value is None else stated_share(value, counts[metric]) if metric in counts else Number(value)
        if system != MODEL:
            return None
        if stage == "known" and metric == "recovered":
            return stated_share(100 * RECOVERED / ASKED_FOR, ASKED_FOR)
        if stage == "compounds" and dataset in PAPER_COMPOUNDS:
            formula, group = PAPER_COMPOUNDS[dataset]
            # Its compound is the best that it states of a chemical system.
            value = _stated()["adaptive-cell-3", f"{formula} ({group})"].get(metric.removesuffix(", best of all"))
            return None if value is None else Number(value)
        return None


def claims(dataset: str, chemistries: Sequence[str]) -> Iterator[Claim]:
    """All claims, in the order of the paper; those on chemical systems that it states results of."""
    model, copies = ((MODEL, ""),), ((COPIES, ""),)

    def of_table_one(text: str, metric: str, kind: str = "order", **sides: object) -> Claim:
        return Claim(text, "Table 1", "generate", dataset, metric, kind=kind, **{"high": model, **sides})  # type: ignore[arg-type]

    yield of_table_one(
        "Nearly every sample has a test crystal near it (95 % at least)", "COV-P", "at least", limit=95.0
    )
    yield of_table_one(
        "Nearly every test crystal has a sample near it (95 % at least)", "COV-R", "at least", limit=95.0
    )
    text = "It covers the test crystals as training structures do (2 points)"
    yield of_table_one(text, "COV-R", "within", low=copies, limit=2.0)
    for feature in ("CrystalNN", "CGCNN"):
        metric = f"Frechet distance, {feature}"
        others = (("pgcgm", ""), ("cdvae", ""))
        text = f"{feature}: nearer to the test set than PGCGM and CDVAE"
        yield of_table_one(text, metric, high=others, low=model)
        text = f"{feature}: training structures are nearer to the test set"
        yield of_table_one(text, metric, low=copies)
    text = "Samples have the space group that was asked for (99 % at least)"
    yield Claim(text, "section 4", "generate", dataset, "asked space group", model, kind="at least", limit=99.0)
    text = "Known structures that it has not seen are recovered (11 of 36; a tenth at least)"
    yield Claim(text, "section 5.3", "known", dataset, "recovered", model, kind="at least", limit=10.0)
    yield from (claim for name in chemistries if name in PAPER_COMPOUNDS for claim in _of_chemistry(name))


def _of_chemistry(name: str) -> Iterator[Claim]:
    formula, group = PAPER_COMPOUNDS[name]
    stated = _stated()["adaptive-cell-3", f"{formula} ({group})"]["energy above hull"]
    model, limit = ((MODEL, ""),), stated + CLOSE_KJ_PER_MOL

    def claim(text: str, metric: str, kind: str, limit: float = 0.0) -> Claim:
        return Claim(text, "Table 3", "compounds", name, metric, model, kind=kind, limit=limit)  # type: ignore[arg-type]

    yield claim(f"Crystals of {formula} come out", "candidates of the paper's formula", "at least")
    text = f"A ternary within {limit:.2f} kJ/mol of the hull comes out ({stated:.2f} there)"
    yield claim(text, "energy above hull, best of all", "at most", limit)
    yield claim("One of the best has no imaginary mode", "of the best without imaginary modes", "at least")
