"""What the paper on ConditionCDVAE+ says of its model, and its numbers beside ours.

Source: Gao et al., Sci. Rep. 2025, doi:10.1038/s41598-025-06432-9, Tables 1 to 3 and the sections on guided generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from configs.condition_reproduction import FLOW, FOR_ENERGIES, FOR_FORMULAS, FOR_PROPERTIES
from generative.metrics.papers import papers
from tasks.papers.claims import Claim, Number, stated_share
from tasks.papers.condition_cdvae.asked import FREE, JUDGED, target_key

MODEL = "condition-cdvae"
PAPER_NAMES: Mapping[str, str] = {
    MODEL: "ConditionCDVAE+",
    "cdvae": "CDVAE",
    "dp-cdvae": "DP-CDVAE",
    FLOW: "DiffCSP",
}
"""Systems with numbers in the paper; DiffCSP's stand beside our flow, which is another method of its kind."""
OURS: Mapping[str, str] = {
    FLOW: "crystal-flow (for DiffCSP)",
    FOR_ENERGIES: "ConditionCDVAE+, energy",
    FOR_FORMULAS: "ConditionCDVAE+, formula",
    FOR_PROPERTIES: "ConditionCDVAE+, properties",
    "": "CGCNN that judges",
}
NAMES: Mapping[str, str] = {**PAPER_NAMES, **OURS}
"""A system's name for readers."""
PROTOCOLS: Mapping[str, str] = {
    "reconstruct": "cdvae reconstruction",
    "generate": "cdvae generation",
    "relax": "ground state by DFT with D3",
}
TEST_CRYSTALS: Mapping[str, int] = {"mp-20": 9046, "j2dh-8": 3985}
"""Of the paper's test sets: a fifth of 19,926 for J2DH-8."""
COUNTS: Mapping[str, int] = {"generate": 9600, "relax": 400}
"""Crystals of its tables, from which the errors of shares follow."""


def name_of(system: str, reverse: str = "") -> str:
    """A system's name for readers, with what it was asked for."""
    name = NAMES.get(system, system)
    if not reverse:
        return name
    asked = "nothing" if reverse == FREE else reverse.removeprefix("to")
    return f"{name}, asked for {asked}"


class PaperNumbers:
    """The paper's tables, as papers.yaml states them."""

    def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Number | None:
        """A value of Tables 1 to 3; of guided generation the paper states none."""
        name = PAPER_NAMES.get(system, "")
        value = _stated().get((PROTOCOLS.get(stage, ""), dataset, name), {}).get(metric)
        if value is None:
            return None
        if _units()[metric] != "%":
            return Number(value)
        n = TEST_CRYSTALS[dataset] if stage == "reconstruct" or metric == "COV-R" else COUNTS[stage]
        return stated_share(value, n)


@lru_cache(maxsize=1)
def _units() -> dict[str, str]:
    return {name: unit for row in papers() for name, unit in row.units.items()}


@lru_cache(maxsize=1)
def _stated() -> dict[tuple[str, str, str], Mapping[str, float]]:
    rows = [row for row in papers() if row.table.startswith("condition-cdvae-")]
    return {(row.protocol, row.dataset, row.system): row.values for row in rows}


def units_of(stage: str) -> dict[str, str]:
    """The metrics of one of the paper's tables, with their units."""
    rows = [row for row in papers() if row.table.startswith("condition-cdvae-") and row.protocol == PROTOCOLS[stage]]
    return dict(next(row.units for row in rows))


def claims(targets: Sequence[float]) -> tuple[Claim, ...]:
    """All claims, in the order of the tables.

    Args: energies that are asked for.
    """
    return (*_tables(), *_asked(targets))


def _tables() -> Iterator[Claim]:
    def claim(text: str, where: str, stage: str, dataset: str, metric: str, high: str, low: str) -> Claim:
        return Claim(text, where, stage, dataset, metric, ((high, ""),), ((low, ""),))

    for other in ("cdvae", "dp-cdvae"):
        text = f"The model reconstructs more bilayers than {PAPER_NAMES[other]}"
        yield claim(text, "Table 1", "reconstruct", "j2dh-8", "match rate", MODEL, other)
    yield claim(
        "Its reconstructed bilayers are closer than CDVAE's", "Table 1", "reconstruct", "j2dh-8", "mean rms", "cdvae",
        MODEL,
    )  # fmt: skip
    yield claim(
        "CDVAE reconstructs more of MP-20 than the model", "Table 1", "reconstruct", "mp-20", "match rate", "cdvae",
        MODEL,
    )  # fmt: skip
    yield claim(
        "Its reconstructed crystals of MP-20 are closer than CDVAE's", "Table 1", "reconstruct", "mp-20", "mean rms",
        "cdvae", MODEL,
    )  # fmt: skip
    for other in ("cdvae", "dp-cdvae"):
        text = f"More of its bilayers are near real ones than of {PAPER_NAMES[other]}"
        yield claim(text, "Table 2", "generate", "j2dh-8", "COV-P", MODEL, other)
    text = "Its numbers of elements are nearer to the truth than CDVAE's"
    for dataset in ("j2dh-8", "mp-20"):
        yield claim(text, "Table 2", "generate", dataset, "W number of elements", "cdvae", MODEL)
    yield claim(
        "More of its bilayers come to rest than of CDVAE's", "Table 3", "relax", "j2dh-8", "convergence rate", MODEL,
        "cdvae",
    )  # fmt: skip
    text = "Its bilayers are nearer to their ground state: relaxation lowers the energy of CDVAE's more"
    yield claim(text, "Table 3", "relax", "j2dh-8", "mean energy drop per cell", "cdvae", MODEL)


def _asked(targets: Sequence[float]) -> Iterator[Claim]:
    """Energies asked for in ascending order are energies that come in ascending order."""
    ordered = sorted(targets)
    for lower, higher in zip(ordered, ordered[1:], strict=False):
        above, below = target_key("j2dh-8", higher), target_key("j2dh-8", lower)
        yield Claim(
            f"Asked for {higher:g} the model gives higher energies than asked for {lower:g}", "guided by energy",
            "energies", "j2dh-8", f"{JUDGED}: mean", ((above.system, above.reverse),), ((below.system, below.reverse),),
        )  # fmt: skip
