"""evaluation.html: evaluation.md as one page with the pictures inside, which loads nothing and runs nothing."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from generative.metrics.metric import Evaluation
from tasks.report.dataset.page import PICTURE_STYLE, SECURITY_POLICY
from tasks.report.evaluation.markdown import METRIC_HEAD, lead
from tasks.report.evaluation.model import EvaluationReport, value_text
from tasks.report.evaluation.plots import EvaluationPictures
from tasks.report.evaluation.tables import Comparison, comparisons, metric_rows, shared_settings
from tasks.report.run.markdown import data_uri
from tasks.report.run.summary import flattened

STYLE = (
    PICTURE_STYLE
    + " tr.ours td { font-weight: 600; } .count-table td.text.wide { white-space: normal; min-width: 22em; }"
    " .settings { margin: 0 0 14px; } #systems td.text, #finds td.text { white-space: nowrap; }"
)

LEADING = (
    ("cdvae generation", "structural validity"),
    ("cdvae generation", "COV-R"),
    ("cdvae generation", "COV-P"),
    ("cdvae reconstruction", "match rate"),
    ("metre", "METRe"),
    ("airi accuracy", "accuracy"),
    ("sun", "SUN (<= 0.1 eV/atom)"),
    ("ground state", "match rate"),
)
"""(protocol, metric) shown large at the top, as far as they were computed."""


def evaluation_html(report: EvaluationReport, pictures: EvaluationPictures) -> str:
    """The whole page; the same text for the same inputs."""
    sections = [
        _pictures(report, pictures),
        *(_protocol(evaluation, report) for evaluation in report.evaluations),
        _left_out(report),
        _refusals(report),
        _provenance(report),
    ]
    return page(report.name, "evaluation", _header(report), sections)


def page(title: str, kind: str, header: str, sections: Iterable[str]) -> str:
    """A self-contained page in the style of the other reports."""
    style = (importlib.resources.files("tasks.report") / "report.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">',
            f"<title>{safe(title)} – {safe(kind)} – Hullward</title>",
            f"<style>{style}\n{STYLE}</style></head>",
            f'<body><div class="page">{header}<main>',
            *filter(None, sections),
            "</main><footer>Written by Hullward. This file needs no network.</footer></div></body></html>\n",
        ]
    )


def safe(text: object) -> str:
    """Text as it stands, in HTML."""
    return html.escape(str(text), quote=True)


def top(eyebrow: str, title: str, leads: Sequence[str], notes: Sequence[str], counts: Sequence[tuple[str, str]]) -> str:
    """The head of a page: title, sentences, warnings, and large metrics as (value, label)."""
    listed = "".join(f"<li>{safe(note)}</li>" for note in notes)
    shown = "".join(f"<div><dt>{safe(label)}</dt><dd>{safe(value)}</dd></div>" for value, label in counts)
    return (
        f'<header class="top"><p class="eyebrow">Hullward &middot; {safe(eyebrow)}</p><h1>{safe(title)}</h1>'
        + "".join(f'<p class="lead">{safe(text)}</p>' for text in leads)
        + (f'<ul class="notes" aria-label="Warnings">{listed}</ul>' if listed else "")
        + f'<dl class="figures">{shown}</dl></header>'
    )


def section(name: str, title: str, hint: str, content: str) -> str:
    """A section with a heading and one explaining sentence."""
    return f'<section id="{safe(name)}"><h2>{safe(title)}</h2><p class="hint">{safe(hint)}</p>{content}</section>'


class Link(NamedTuple):
    """A cell of a table that leads to a file beside the page."""

    text: str
    address: str


Cell = str | Link


def table_html(
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numeric: Sequence[bool],
    caption: str,
    ours: Sequence[bool] = (),
) -> str:
    """A table; numeric columns to the right, rows of `ours` set off."""
    kinds = ["num" if right else "text" for right in numeric]
    heads = "".join(f'<th scope="col" class="{k}">{safe(h)}</th>' for h, k in zip(head, kinds, strict=True))
    body = []
    for place, row in enumerate(rows):
        marked = ' class="ours"' if place < len(ours) and ours[place] else ""
        body.append(f"<tr{marked}>" + "".join(_cell(t, k) for t, k in zip(row, kinds, strict=True)) + "</tr>")
    return (
        '<div class="card scroll" style="margin-bottom: 16px"><table class="count-table">'
        f"<caption>{safe(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(cell: Cell, kind: str) -> str:
    text = cell.text if isinstance(cell, Link) else cell
    wide = " wide" if kind == "text" and len(text) > 40 else ""
    shown = (
        f'<a href="{safe(quote(cell.address, safe="/#"))}">{safe(text)}</a>' if isinstance(cell, Link) else safe(text)
    )
    return f'<td class="{kind}{wide}">{shown}</td>'


def comparison_html(comparison: Comparison) -> str:
    """A table of papers' rows, with ours in front if it holds any."""
    head = ("system", *comparison.columns, "source", "conditions")
    rows = [(r.system, *r.cells, r.source, r.conditions) for r in comparison.rows]
    numeric = [False, *(True for _ in comparison.columns), False, False]
    caption = f"Papers: {comparison.protocol}, {comparison.dataset}. {comparison.note}"
    return table_html(head, rows, numeric, caption, [r.ours for r in comparison.rows])


def _header(report: EvaluationReport) -> str:
    samples = report.samples
    counts = [(f"{samples.n_records:,}", "samples"), (f"{samples.n_records - samples.n_crystals:,}", "no crystals")]
    for protocol, name in LEADING:
        evaluation = report.evaluation(protocol)
        for metric in evaluation.metrics if evaluation else ():
            if metric.name == name:
                unit = f" {metric.unit}" if metric.unit == "%" else ""
                counts.append((value_text(metric.value, metric.unit) + unit, f"{name} ({protocol})"))
    return top(f"evaluation · {report.name}", report.name, [lead(report)], report.notes, counts)


def _pictures(report: EvaluationReport, pictures: EvaluationPictures) -> str:
    shown = [
        (pictures.distributions, "Distributions of samples and reference, in % of each"),
        (pictures.relaxation, "Energy above hull of relaxed samples, and the energy they lost on relaxing"),
    ]
    metrics = [
        f'<figure class="card" style="margin-bottom: 16px"><img src="{data_uri(png)}" alt="{safe(words)}"></figure>'
        for png, words in shown
        if png is not None
    ]
    return (
        section("pictures", "At a glance", "; ".join(w for p, w in shown if p) + ".", "".join(metrics))
        if metrics
        else ""
    )


def _protocol(evaluation: Evaluation, report: EvaluationReport) -> str:
    content = table_html(METRIC_HEAD, metric_rows(evaluation), (False, True, False, True, False), "Measured here.")
    settings = shared_settings(evaluation)
    if settings:
        content += f'<details class="settings"><summary>Settings of these figures</summary>{pairs(settings)}</details>'
    content += "".join(comparison_html(comparison) for comparison in comparisons(evaluation, report))
    return section(evaluation.protocol.replace(" ", "-"), evaluation.protocol, evaluation.about, content)


def _left_out(report: EvaluationReport) -> str:
    if not report.left_out:
        return ""
    hint = "Parts of the protocols that were asked for, and why they are not here."
    return section("left-out", "Not computed", hint, pairs(report.left_out))


def _refusals(report: EvaluationReport) -> str:
    if not report.refusals:
        return ""
    rows = [(f"{r['records']:,}", str(r["reason"]), f"{r['id']}: {r['example']}") for r in report.refusals]
    hint = "They count as samples, and as invalid; per_sample.parquet has each with its reason."
    content = table_html(("records", "reason", "for example"), rows, (True, False, False), "Like reasons together.")
    return section("refusals", "Records that are no crystals", hint, content)


def _provenance(report: EvaluationReport) -> str:
    stated = {
        i.role: f"{i.name}: {i.n_records:,} records, {i.n_crystals:,} crystals; {i.digest}" for i in report.inputs
    }
    stated |= {f"seconds: {name}": f"{value:.1f}" for name, value in report.seconds.items()}
    stated |= {f"package: {name}": number for name, number in report.versions.items()}
    stated |= {f"setting: {name}": value for name, value in flattened(dict(report.settings))}
    content = f"<details open><summary>Inputs, time, packages, settings</summary>{pairs(stated)}</details>"
    return section("provenance", "Where it comes from", f"Created {report.created}.", content)


def pairs(values: Mapping[str, str]) -> str:
    """Names and values as a table."""
    rows = (f'<tr><th scope="row">{safe(key)}</th><td class="mono">{safe(v)}</td></tr>' for key, v in values.items())
    return f"<table>{''.join(rows)}</table>"
