"""`report.html` of a dataset: one page with pictures, counts and provenance that loads nothing and runs no script."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from generative.datasets.manifest import Manifest
from tasks.report.dataset.plots import METHOD_COLOURS, DatasetPictures
from tasks.report.dataset.statistics import DatasetStatistics
from tasks.report.dataset.summary import (
    MOST_REASONS,
    asked_rows,
    harvest_rows,
    lead_sentence,
    methods_note,
    methods_sentence,
    source_rows,
    spacegroup_note,
    warnings_of,
)
from tasks.report.run.markdown import data_uri
from tasks.report.run.summary import flattened

SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is fetched and nothing runs."""

PICTURE_STYLE = (
    "figure { margin: 0; padding: 14px; background: #ffffff; } "
    "figure img { display: block; width: 100%; height: auto; max-width: 1222px; margin: 0 auto; } "
    ".count-table td, .count-table th { white-space: nowrap; } .count-table td.text { white-space: normal; }"
)


def dataset_html(name: str, manifest: Manifest, statistics: DatasetStatistics, pictures: DatasetPictures) -> str:
    """The whole page; the same text for the same inputs.

    Args:
        name: of the dataset.
        manifest: as read from its folder.
        statistics: of the same folder.
        pictures: of these statistics.
    """
    style = (importlib.resources.files("tasks.report") / "report.css").read_text(encoding="utf-8")
    sections = [
        _sources(manifest),
        _elements(statistics, pictures.elements),
        _energies(statistics, pictures.energies),
        _cells(statistics, pictures.cells),
        _quarantine(statistics),
        _provenance(manifest),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">',
            f"<title>{_safe(name)} – dataset – Hullward</title>",
            f"<style>{style}\n{PICTURE_STYLE}</style></head>",
            f'<body><div class="page">{_header(name, manifest, statistics)}<main>',
            *filter(None, sections),
            "</main><footer>Written by Hullward. This file needs no network; dataset.parquet, rejected.parquet and "
            "manifest.json lie beside it.</footer></div></body></html>\n",
        ]
    )


def _safe(text: object) -> str:
    return html.escape(str(text), quote=True)


def _header(name: str, manifest: Manifest, statistics: DatasetStatistics) -> str:
    system = manifest.elements
    title = "<span>–</span>".join(_safe(e) for e in system) if system and len(system) <= 6 else "Known crystals"
    notes = "".join(f"<li>{_safe(warning)}</li>" for warning in warnings_of(manifest))
    figures = [
        (f"{statistics.n_rows:,}", "crystals"),
        (f"{statistics.n_formulas:,}", "distinct formulas"),
        (f"{len(statistics.elements)}", "elements"),
        (f"{len(manifest.sources)}", "sources"),
        (f"{statistics.n_refused:,}", "records in the quarantine"),
    ]
    counts = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in figures)
    return (
        f'<header class="top"><p class="eyebrow">Hullward &middot; dataset &middot; {_safe(name)}</p><h1>{title}</h1>'
        f'<p class="lead">{_safe(lead_sentence(manifest, statistics))}</p>'
        f'<p class="lead">{_safe(methods_sentence(statistics))}</p>'
        + (f'<ul class="notes" aria-label="Warnings">{notes}</ul>' if notes else "")
        + f'<dl class="figures">{counts}</dl></header>'
    )


def _sources(manifest: Manifest) -> str:
    text = _table(source_rows(manifest), "Records of each source: read = kept + outside + bad + merged.")
    asked = harvest_rows(manifest)
    if asked:
        text += _table(asked, "Databases at the last download; requests include those sent again.")
    for source in manifest.sources:
        text += f"<details><summary>{_safe(source.source)}</summary>{_pairs(asked_rows(source))}</details>"
    return _section(
        "sources",
        "Sources",
        "Every record that was read is kept, outside the chemical system or the filters, bad (in the quarantine, with "
        "the reason), or merged into the same crystal of another source.",
        text,
    )


def _table(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    heads = "".join(f'<th scope="col"{_number_class(rows, key)}>{_safe(key)}</th>' for key in rows[0])
    body = "".join("<tr>" + "".join(_cell(value) for value in row.values()) + "</tr>" for row in rows)
    return (
        f'<div class="card scroll" style="margin-bottom: 16px"><table class="count-table"><caption>{_safe(caption)}'
        f"</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _number_class(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    return ' class="num"' if any(isinstance(row[key], int) for row in rows) else ""


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="num">{value:,}</td>'
    return f'<td class="text">{_safe(value)}</td>'


def _section(name: str, title: str, hint: str, content: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2><p class="hint">{_safe(hint)}</p>{content}</section>'


def _picture(png: bytes, words: str) -> str:
    return f'<figure class="card"><img src="{data_uri(png)}" alt="{_safe(words)}"></figure>'


def _elements(statistics: DatasetStatistics, picture: bytes) -> str:
    commonest = sorted(statistics.elements.items(), key=lambda item: (-item[1], item[0]))[:10]
    words = "Periodic table; the commonest elements: " + ", ".join(f"{s} {n:,}" for s, n in commonest)
    hint = "How many crystals hold each element. Grey: none."
    return _section("elements", "Elements", hint, _picture(picture, words))


def _energies(statistics: DatasetStatistics, picture: bytes | None) -> str:
    if picture is None:
        return ""
    hint = (
        f"{methods_sentence(statistics)} Values are as the sources state them, crystals per bin; the energy above hull "
        f"is that of the source's own hull.{methods_note(statistics, len(METHOD_COLOURS))}"
    )
    return _section("energies", "Energies", hint, _picture(picture, "Histograms of energies by method"))


def _cells(statistics: DatasetStatistics, picture: bytes | None) -> str:
    if picture is None:
        return ""
    hint = "Primitive cells, and space groups by spglib at 0.01 Å unless the source states one." + spacegroup_note(
        statistics
    )
    words = "Histograms of atoms per cell, elements per crystal, crystal systems and the commonest space groups"
    return _section("cells", "Cells and symmetry", hint, _picture(picture, words))


def _quarantine(statistics: DatasetStatistics) -> str:
    if not statistics.refusals:
        return _section("quarantine", "Quarantine", "Every record became a crystal or lay outside.", "")
    shown = statistics.refusals[:MOST_REASONS]
    rows = [
        {"records": r.count, "source": r.source, "reason": r.reason, "for example": f"{r.example_id}: {r.example}"}
        for r in shown
    ]
    rest = statistics.n_refused - sum(r.count for r in shown)
    caption = "Numbers and names in a reason are left out, so that like reasons count together." + (
        f" {rest:,} records with rarer reasons are not listed." if rest else ""
    )
    hint = f"{statistics.n_refused:,} records could not become a crystal; rejected.parquet has each, with its reason."
    return _section("quarantine", "Quarantine", hint, _table(rows, caption))


def _provenance(manifest: Manifest) -> str:
    recorded = manifest.model_dump(mode="json", exclude={"sources"}, exclude_none=True)
    hint = "The fingerprint is of the table's content; runs and checkpoints name the dataset by it."
    content = f"<details open><summary>Manifest</summary>{_pairs(dict(flattened(recorded)))}</details>"
    return _section("provenance", "Where it comes from", hint, content)


def _pairs(values: Mapping[str, str]) -> str:
    rows = (
        f'<tr><th scope="row">{_safe(key)}</th><td class="mono">{_safe(value)}</td></tr>'
        for key, value in values.items()
    )
    return f"<table>{''.join(rows)}</table>"
