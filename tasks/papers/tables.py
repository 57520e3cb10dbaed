"""Tables of a reproduction that every paper has: claims put to the paper's numbers and to ours."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.papers.claims import UNDECIDED, Claim, NameOf, Numbers, Verdict, judge
from tasks.papers.results import Measured
from tasks.report.evaluation.model import value_text


@dataclass(frozen=True)
class Table:
    """A table for every form of the report.

    Attributes:
        name: for anchors and artifacts, unique.
        title: heading.
        hint: one sentence.
        head: headings.
        rows: texts.
        align: one letter per column, 'l' or 'r'.
        ours: whether each row holds our figures.
    """

    name: str
    title: str
    hint: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    ours: tuple[bool, ...] = ()


def with_error(measured: Measured) -> str:
    """A value with one standard error, in as many digits as the value."""
    value, unit = measured.figure.value, measured.figure.unit
    text = value_text(value, unit)
    if not measured.error > 0:
        return text
    return f"{text} ± {measured.error:.2f}" if unit == "%" else f"{text} ± {measured.error:.2g}"


@dataclass(frozen=True)
class Claims:
    """What a paper says, and the numbers to put it to.

    Attributes:
        claims: in the order in which they are read.
        paper: the paper's own numbers.
        ours: what was measured here.
        name_of: a system's name for readers.
        chosen: the data sets of this reproduction.
    """

    claims: Sequence[Claim]
    paper: Numbers
    ours: Numbers
    name_of: NameOf
    chosen: Collection[str]

    def table(self) -> Table:
        """Every claim beside the paper's numbers and ours; also those about data sets that were not chosen."""
        rows = []
        for claim in self.claims:
            theirs, here = judge(claim, self.paper, self.name_of), judge(claim, self.ours, self.name_of)
            borne = (
                "yes" if theirs.verdict is Verdict.HOLDS
                else "within its errors" if UNDECIDED in theirs.remark
                else "–" if theirs.verdict is Verdict.NOT_MEASURED
                else "no"
            )  # fmt: skip
            remark = here.remark
            if here.verdict is Verdict.NOT_MEASURED:
                known = claim.dataset in self.chosen
                remark = f"no figure of {remark}" if known else "the data set is not among those chosen"
            numbers = (theirs.numbers or "–", borne, here.numbers or "–")
            rows.append((claim.text, claim.dataset, claim.where, *numbers, here.verdict.value, remark))
        headings = ("the paper says", "data", "where", "paper's numbers", "borne out by them")
        hint = (
            "Of several systems on a side the one nearest to the other side decides. It holds where the difference "
            "exceeds two standard errors; the paper's own are binomial for shares, with the counts that it states."
        )
        head = (*headings, "our numbers", "here", "remark")
        return Table("claims", "What the paper says of its systems", hint, head, tuple(rows), "llllllll")

    def counts(self) -> dict[Verdict, int]:
        """How many claims came to each verdict here."""
        found = [judge(claim, self.ours, self.name_of).verdict for claim in self.claims]
        return {verdict: found.count(verdict) for verdict in Verdict}

    def as_dicts(self) -> list[dict[str, Any]]:
        """For JSON."""
        judged = [(claim, judge(claim, self.ours, self.name_of)) for claim in self.claims]
        return [
            {"text": c.text, "dataset": c.dataset, "where": c.where, "verdict": f.verdict.value, "numbers": f.numbers,
             "remark": f.remark}
            for c, f in judged
        ]  # fmt: skip
