"""evaluation.md: every metric with its denominator and settings, and beside the rows of papers of the same protocol."""

from __future__ import annotations

from collections.abc import Sequence

from generative.metrics.metric import Evaluation
from tasks.report.evaluation.model import EvaluationReport
from tasks.report.evaluation.tables import Comparison, comparisons, metric_rows, shared_settings
from tasks.report.run.tables import escape_markdown

METRIC_HEAD = ("figure", "value", "unit", "n", "remark")


def evaluation_markdown(report: EvaluationReport, pictures: Sequence[str] = ()) -> str:
    """The whole document.

    Args:
        report: what was found.
        pictures: file names of the plots beside it.
    """
    parts = [f"# Evaluation of {escape_markdown(report.name)}", escape_markdown(lead(report))]
    parts += [f"> **Note.** {escape_markdown(note)}" for note in report.notes]
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
    for evaluation in report.evaluations:
        parts += _protocol(evaluation, report)
    if report.left_out:
        missing = [f"- {escape_markdown(part)}: {escape_markdown(why)}" for part, why in report.left_out.items()]
        parts += ["## Not computed", "\n".join(missing)]
    if report.refusals:
        rows = [(f"{r['records']:,}", str(r["reason"]), f"{r['id']}: {r['example']}") for r in report.refusals]
        parts += ["## Records that are no crystals", table(("records", "reason", "for example"), rows, "rll")]
    parts += ["## Where it comes from", _provenance(report)]
    return "\n\n".join(parts) + "\n"


def lead(report: EvaluationReport) -> str:
    """What was judged, in one or two sentences."""
    samples = report.samples
    refused = samples.n_records - samples.n_crystals
    text = f"{samples.n_records:,} samples, "
    if refused:
        text += f"{refused:,} of them no crystals: they count as invalid in every share."
    else:
        text += "every one of them a crystal."
    others = [f"{i.n_crystals:,} crystals of {i.name} ({i.role})" for i in report.inputs if i.role != "samples"]
    return text + (f" Compared with {' and '.join(others)}." if others else "")


def _protocol(evaluation: Evaluation, report: EvaluationReport) -> list[str]:
    parts = [f"## {escape_markdown(evaluation.protocol)}", escape_markdown(evaluation.about)]
    parts.append(table(METRIC_HEAD, metric_rows(evaluation), "lrlrl"))
    settings = shared_settings(evaluation)
    if settings:
        parts.append(
            "Settings: " + "; ".join(f"{escape_markdown(n)} {escape_markdown(v)}" for n, v in settings.items())
        )
    for comparison in comparisons(evaluation, report):
        parts += comparison_markdown(comparison)
    return parts


def comparison_markdown(comparison: Comparison) -> list[str]:
    """Heading, table and note of a comparison with papers."""
    head = ("system", *comparison.columns, "source", "conditions")
    rows = []
    for row in comparison.rows:
        cells = [escape_markdown(text) for text in (row.system, *row.cells, row.source, row.conditions)]
        rows.append([f"**{cells[0]}**", *cells[1:]] if row.ours else cells)
    body = table(head, rows, "l" + "r" * len(comparison.columns) + "ll", escaped=True)
    title = f"### Papers: {escape_markdown(comparison.protocol)}, {escape_markdown(comparison.dataset)}"
    return [title, body, escape_markdown(comparison.note)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str, escaped: bool = False) -> str:
    """A GFM table.

    Args:
        head: headings.
        rows: texts.
        align: one letter per column, 'l' or 'r'.
        escaped: whether the cells are Markdown already.
    """
    lines = ["| " + " | ".join(map(escape_markdown, head)) + " |"]
    lines.append("|" + "|".join("--:" if letter == "r" else ":--" for letter in align) + "|")
    for row in rows:
        lines.append("| " + " | ".join(row if escaped else map(escape_markdown, row)) + " |")
    return "\n".join(lines)


def _provenance(report: EvaluationReport) -> str:
    rows = [
        (i.role, f"{i.name}: {i.n_records:,} records, {i.n_crystals:,} crystals; {i.digest}") for i in report.inputs
    ]
    rows += [("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items()))]
    rows += [("packages", ", ".join(f"{name} {number}" for name, number in report.versions.items()))]
    rows += [("created", report.created)]
    return table(("", ""), [row for row in rows if row[1]], "ll")
