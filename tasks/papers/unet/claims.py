"""What the paper on conditional generation and modification says of its systems, and its numbers beside ours.

Source: conditional generation and modification of crystals by diffusion and flow matching (AIRI), Tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from configs.unet_reproduction import COPY, SAME
from generative.metrics.papers import papers
from tasks.papers.claims import Claim, Number, stated_share

PAPER_NAMES = {
    "unet-ddpm": "DDPM",
    "unet-ddim": "DDIM",
    "unet-flow-normal": "CFM, N(0,1)",
    "unet-flow-uniform": "CFM, U(0,1)",
    "unet-modify-regression": "regression",
    "unet-modify-diffusion": "diffusion",
    "unet-modify-flow": "CFM",
}
BASELINES = {COPY: "copied prototype", SAME: "source unchanged"}
TESTED = {"generate": 41_344, "modify": 25_344}
"""Test items: 41,344 formulas; 99 batches of 256 pairs in the published notebooks."""
TABLES = {"generate": "airi-1", "modify": "airi-2"}


def name_of(system: str, reverse: str = "") -> str:
    """A system's name in the paper; a baseline's own."""
    return (PAPER_NAMES | BASELINES)[system]


@lru_cache(maxsize=1)
def _stated() -> dict[tuple[str, str], float]:
    rows = [(stage, row) for stage, table in TABLES.items() for row in papers() if row.table == table]
    return {(stage, row.system): row.values["accuracy"] for stage, row in rows}


class PaperNumbers:
    """Tables 1 and 2: match rates on AFLOW, which stand beside ours on whatever data."""

    def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Number | None:
        """A match rate with its binomial error."""
        value = _stated().get((stage, PAPER_NAMES.get(system, "")))
        if value is None or metric != "match rate":
            return None
        return stated_share(value, TESTED[stage])


def claims(datasets: Sequence[str]) -> Iterator[Claim]:
    """All claims, of each data set in turn."""
    for dataset in datasets:
        for stage, text, high, low in (
            ("generate", "A flow matches far more from uniform than from normal noise", "flow-uniform", "flow-normal"),
            ("generate", "DDIM matches more than DDPM", "ddim", "ddpm"),
            ("modify", "Regression modifies better than diffusion", "modify-regression", "modify-diffusion"),
            ("modify", "Diffusion modifies better than a flow", "modify-diffusion", "modify-flow"),
        ):
            where = "Table 1" if stage == "generate" else "Table 2"
            sides = ((f"unet-{high}", ""),), ((f"unet-{low}", ""),)
            yield Claim(text, where, stage, dataset, "match rate", *sides)
