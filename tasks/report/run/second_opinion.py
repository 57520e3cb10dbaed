"""What a judge says of the best candidates: a section of the report, as HTML and as Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence

from tasks.report.run.model import ReportCandidate
from tasks.report.run.opinions import counts_sentence, percent, probability_sentence, verdict
from tasks.report.run.summary import number
from tasks.report.run.tables import escape_markdown, markdown_formula, plain_markdown, plain_table

HEAD = (
    "formula", "rank", "rank before", "above hull, first, eV/atom", "above hull, judge, eV/atom", "difference",
    "within 0.1 eV/atom by DFT", "the two opinions", "decomposes into, judge", "notes",
)  # fmt: skip


MOST_IN_MARKDOWN = 50
"""Rows of an artifact, which Prefect's lists load whole."""


def _rows(candidates: Sequence[ReportCandidate]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for c in candidates:
        if (o := c.opinion) is None:
            continue
        spread = o.spread_ev_per_atom
        notes = (
            o.note,
            "" if spread is None else f"spread of the committee {number(spread)} eV/atom",
            o.hull_note and f"hull: {o.hull_note}",
        )
        rows.append(
            (
                c.formula,
                str(c.rank),
                str(o.first_rank),
                number(c.e_above_hull_ev_per_atom),
                number(o.e_above_hull_ev_per_atom),
                number(o.change_ev_per_atom, signed=True),
                percent(o.probability),
                verdict(o),
                o.decomposition,
                "; ".join(filter(None, notes)),
            )
        )
    return rows


def _sentences(candidates: Sequence[ReportCandidate]) -> str:
    opinions = [c.opinion for c in candidates]
    return f"{counts_sentence(opinions)}. {probability_sentence(opinions)}."


def opinion_section(candidates: Sequence[ReportCandidate]) -> str:
    """The section of the report's page; empty without a judge."""
    if not (rows := _rows(candidates)):
        return ""
    hint = f'<p class="hint">{html.escape(_sentences(candidates))}</p>'
    return f'<section id="opinions"><h2>Second opinion</h2>{hint}{plain_table(HEAD, rows)}</section>'


def opinion_markdown(candidates: Sequence[ReportCandidate]) -> list[str]:
    """The same as Markdown blocks."""
    if not (rows := _rows(candidates)):
        return []
    shown = [(markdown_formula(row[0]), *row[1:]) for row in rows[:MOST_IN_MARKDOWN]]
    more = [f"{len(rows) - len(shown)} more are in report.html."] if len(rows) > len(shown) else []
    table = plain_markdown(HEAD, shown, escaped=1)
    return ["## Second opinion", escape_markdown(_sentences(candidates)), table, *more]
