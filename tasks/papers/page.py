"""A reproduction for readers: JSON, Markdown, one self-contained page, Prefect artifacts, and a block in a document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from storage.atomic import write_text
from tasks.papers.claims import NameOf, Verdict
from tasks.papers.report import Claims, Collected, Table
from tasks.papers.results import Config, Result, ResultKey
from tasks.report.dataset.plots import INK, MUTED
from tasks.report.evaluation.markdown import table as markdown_table
from tasks.report.evaluation.page import page, safe, section, table_html, top
from tasks.report.png import figure_png
from tasks.report.run.markdown import data_uri
from tasks.report.run.tables import escape_markdown

BEGIN, END = "<!-- reproduce: results begin -->", "<!-- reproduce: results end -->"
"""Between these lines a document holds the tables."""


class DocumentError(ValueError):
    """A document without a place for the tables."""


@dataclass(frozen=True)
class Report:
    """All that readers are shown.

    Attributes:
        name: of the reproduction.
        folder: where it is written.
        subject: what was made again.
        lead: how, in a few sentences.
        notes: what a reader of the tables must know first.
        verdicts: how many claims of the paper came to each verdict.
        tables: in the order in which they are read.
        pictures: file name -> PNG of curves.
        content: reproduction.json.
    """

    name: str
    folder: Path
    subject: str
    lead: str
    notes: Sequence[str]
    verdicts: Mapping[Verdict, int]
    tables: Sequence[Table]
    pictures: Mapping[str, bytes]
    content: Mapping[str, Any]


def report_on(
    found: Collected[Config],
    claimed: Claims,
    subject: str,
    lead: str,
    tables: Sequence[Table],
    pictures: Mapping[str, bytes],
) -> Report:
    """What readers are shown of results; tables without a row are left out.

    Args: results; claims put to them; what was made again; how, in a few sentences; tables and pictures in order.
    """
    return Report(
        name=found.config.name,
        folder=found.config.folder,
        subject=subject,
        lead=lead,
        notes=found.notes(),
        verdicts=claimed.counts(),
        tables=[table for table in tables if table.rows],
        pictures=pictures,
        content=found.as_dict(claimed),
    )


def markdown(report: Report, heading: str = "##") -> str:
    """All tables as Markdown."""
    parts = [escape_markdown(report.lead)]
    parts += [f"> **Note.** {escape_markdown(note)}" for note in report.notes]
    said = ", ".join(f"{verdict.value}: {n}" for verdict, n in report.verdicts.items())
    parts.append(f"The paper's claims. {said.capitalize()}.")
    for table in report.tables:
        parts.append(f"{heading} {escape_markdown(table.title)}")
        parts += [escape_markdown(table.hint)] if table.hint else []
        parts.append(markdown_table(table.head, table.rows, table.align))
    return "\n\n".join(parts) + "\n"


def html(report: Report) -> str:
    """All tables and the curves as one page; the same text for the same results."""
    shown = [(str(n), f"claims: {verdict.value}") for verdict, n in report.verdicts.items()]
    header = top(f"reproduction · {report.name}", report.subject, [report.lead], list(report.notes), shown)
    sections = []
    for table in report.tables:
        numeric = [letter == "r" for letter in table.align]
        content = table_html(table.head, table.rows, numeric, table.title, table.ours)
        sections.append(section(table.name, table.title, table.hint, content))
    if report.pictures:
        images = ((data_uri(png), safe(name)) for name, png in report.pictures.items())
        content = "".join(f'<figure class="card"><img src="{uri}" alt="{name}"></figure>' for uri, name in images)
        sections.append(section("curves", "Losses", "Validation as lines, the total of training dotted.", content))
    return page(report.name, "reproduction", header, sections)


def curves_png(results: Mapping[ResultKey, Result], title: str, name_of: NameOf) -> bytes:
    """A panel per system: every curve whose values are positive, on a logarithmic scale.

    Args: results of trainings; heading; name_of: a system's name for readers.
    """
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), dpi=110, layout="constrained")
    for number, (key, result) in enumerate(results.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        for name, points in result.curves.items():
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if min(values) > 0 and (name == "train_loss" or name.startswith("val_")):
                axes.plot(steps, values, ":" if name == "train_loss" else "-", lw=1.1, label=name)
        if axes.lines:
            axes.set_yscale("log")
            axes.legend(fontsize=6, ncols=2, frameon=False)
        axes.set_title(name_of(key.system, ""), fontsize=9, color=INK)
        axes.set_xlabel("step", fontsize=8, color=MUTED)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9, color=MUTED)
    return figure_png(figure)


def write_report(report: Report, document: Path | None = None) -> Path:
    """Write reproduction.html, .md, .json and the curves; and the tables into a document, if one is named.

    Raises: DocumentError: if the document has no place for them.
    """
    folder = report.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in report.pictures.items():
        (folder / name).write_bytes(png)
    write_text(folder / "reproduction.md", f"# Reproduction: {escape_markdown(report.name)}\n\n{markdown(report)}")
    write_text(folder / "reproduction.html", html(report))
    write_text(folder / "reproduction.json", _json(report.content))
    if document is not None:
        write_block(document, markdown(report, "###"))
    return folder / "reproduction.html"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False, default=str) + "\n"


def write_block(document: Path, text: str) -> None:
    """Put the text between the marks of a document, in the place of what stands there.

    Raises: DocumentError: if the marks are not there once, in order.
    """
    try:
        whole = document.read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(f"{document}: not readable ({error.strerror}); name a Markdown file") from None
    if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(BEGIN) > whole.index(END):
        raise DocumentError(f"{document}: expected the lines {BEGIN} and {END}, once each, around the tables' place")
    before, rest = whole.split(BEGIN)
    write_text(document, f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}")


def publish(report: Report) -> None:
    """The tables as artifacts; nothing outside a Prefect run."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    from tasks.report.run.artifacts import artifact_key, fitting_rows, in_prefect_run

    if not in_prefect_run():
        return
    key = artifact_key("reproduction", report.name)
    create_markdown_artifact(markdown(report), key=key, description=re.split(r"(?<=\.) ", report.lead)[0])
    for table in report.tables:
        rows = [dict(zip(_distinct(table.head), row, strict=True)) for row in table.rows]
        create_table_artifact(fitting_rows(rows)[0], key=artifact_key(key, table.name), description=table.title)


def _distinct(head: tuple[str, ...]) -> list[str]:
    """Headings as keys: one without words is 'of'."""
    return [word or "of" for word in head]
