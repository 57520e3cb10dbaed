"""What became of the candidates of each proposer, side by side: counts over the table of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from tasks.report.run.model import ProposerYield
from tasks.report.run.summary import NEAR_HULL_EV_PER_ATOM
from tasks.report.run.tables import plain_markdown, plain_table

HEAD = (
    "proposed by",
    "drawn",
    "valid",
    "new",
    "unique",
    "relaxed",
    "ranked",
    f"within {NEAR_HULL_EV_PER_ATOM} eV/atom of the hull",
    "on or below it",
)
ABOUT = (
    "Each count is out of what its proposer drew and is left after the step. Of like crystals the first of the run is "
    "kept, so one that two found counts for whoever drew it first. Prototypes are offered beside what is drawn."
)


def proposer_rows(yields: Sequence[ProposerYield]) -> list[tuple[str, ...]]:
    """Texts below HEAD, the sum of all behind them; none where there are no yields."""
    if not yields:
        return []
    counts = [astuple(entry)[1:] for entry in yields]
    named = [*(entry.proposer for entry in yields), "all"]
    sums = tuple(map(sum, zip(*counts, strict=True)))
    return [
        (name, str(drawn), *(f"{n} of {drawn}" for n in left))
        for name, (drawn, *left) in zip(named, [*counts, sums], strict=True)
    ]


def proposer_section(yields: Sequence[ProposerYield]) -> str:
    """The section of the report's page; empty where there is nothing to compare."""
    if not yields:
        return ""
    table = plain_table(HEAD, proposer_rows(yields))
    return f'<section id="proposers"><h2>Yield by proposer</h2><p class="hint">{ABOUT}</p>{table}</section>'


def proposer_markdown(yields: Sequence[ProposerYield]) -> list[str]:
    """The same as Markdown blocks."""
    return ["## Yield by proposer", ABOUT, plain_markdown(HEAD, proposer_rows(yields))] if yields else []
