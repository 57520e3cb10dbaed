"""A reproduction for readers: JSON, Markdown, one self-contained page, Prefect artifacts, and a block in a document."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from configs.paths import project_version
from tasks.files import package_versions, write_text
from tasks.reporting.dataset_plots import INK, MUTED
from tasks.reporting.evaluation_markdown import table as markdown_table
from tasks.reporting.evaluation_page import page, safe, section, table_html, top
from tasks.reporting.markdown import data_uri
from tasks.reporting.png import figure_png
from tasks.reporting.tables import escape_markdown
from tasks.reproduction_claims import PAPER_NAMES, Verdict, claims, judge
from tasks.reproduction_results import Place, Result
from tasks.reproduction_tables import Gathered, Table, claims_table, tables

BEGIN, END = "<!-- reproduce: results begin -->", "<!-- reproduce: results end -->"
"""Between these lines a document holds the tables."""

PAPER = "Pakornchote et al., Sci. Rep. 14, 1275 (2024), doi:10.1038/s41598-024-51400-4"


class DocumentError(ValueError):
    """A document without a place for the tables."""


def lead(found: Gathered) -> str:
    """What was made again, on what, in a few sentences."""
    config = found.config
    files = "; ".join(f"{e.name}: trained on {_short(e.train)}, tested on {_short(e.test)}" for e in config.datasets)
    return (
        f"The tables of DP-CDVAE ({PAPER}) made again with Hullward's systems, networks of size {config.size}, "
        f"seed {config.seed}. {files}. The paper's models were trained on the official training sets; figures from "
        "other files compare with one another, not with the paper's rows."
    )


def _short(path: str) -> str:
    return Path(path.rpartition(":")[2]).name


def notes(found: Gathered) -> list[str]:
    """What a reader of the tables must know first."""
    said = []
    if found.missing:
        said.append(f"{len(found.missing)} results are missing; the last table names each with the reason.")
    if found.foreign:
        names = ", ".join(place.name for place in found.foreign[:4]) + (" ..." if len(found.foreign) > 4 else "")
        said.append(f"{len(found.foreign)} results were made by other code or packages than these: {names}.")
    said += sorted({note for result in found.results.values() for note in result.notes})
    return said


def counts(found: Gathered) -> dict[Verdict, int]:
    """How many claims came to each verdict."""
    shown = [row[6] for row in claims_table(found).rows]
    return {verdict: shown.count(verdict.value) for verdict in Verdict}


def as_dict(found: Gathered) -> dict[str, Any]:
    """reproduction.json: every figure with its settings, error and budget, every claim, what is missing."""
    judged = [(claim, judge(claim, found.numbers)) for claim in claims()]
    return {
        "schema_version": 1,
        "name": found.config.name,
        "settings": found.config.model_dump(mode="json", exclude_defaults=True, exclude={"execution", "workers"}),
        "versions": {"hullward": project_version(), **package_versions()},
        "results": [result.as_dict() for result in found.results.values()],
        "claims": [
            {"text": c.text, "dataset": c.dataset, "where": c.where, "verdict": f.verdict.value, "numbers": f.numbers,
             "remark": f.remark}
            for c, f in judged
        ],
        "missing": [{**vars(place), "why": why} for place, why in found.missing.items()],
    }  # fmt: skip


def markdown(found: Gathered, made: list[Table], heading: str = "##") -> str:
    """All tables as Markdown."""
    parts = [escape_markdown(lead(found))]
    parts += [f"> **Note.** {escape_markdown(note)}" for note in notes(found)]
    said = ", ".join(f"{verdict.value}: {n}" for verdict, n in counts(found).items())
    parts.append(f"The paper's claims. {said.capitalize()}.")
    for table in made:
        parts.append(f"{heading} {escape_markdown(table.title)}")
        parts += [escape_markdown(table.hint)] if table.hint else []
        parts.append(markdown_table(table.head, table.rows, table.align))
    return "\n\n".join(parts) + "\n"


def html(found: Gathered, made: list[Table]) -> str:
    """All tables and the curves as one page; the same text for the same results."""
    shown = [(str(n), f"claims: {verdict.value}") for verdict, n in counts(found).items()]
    header = top(f"reproduction · {found.config.name}", "DP-CDVAE", [lead(found)], notes(found), shown)
    sections = []
    for table in made:
        numeric = [letter == "r" for letter in table.align]
        content = table_html(table.head, table.rows, numeric, table.title, table.ours)
        sections.append(section(table.name, table.title, table.hint, content))
    if pictures := curve_pictures(found):
        images = ((data_uri(png), safe(name)) for name, png in pictures.items())
        content = "".join(f'<figure class="card"><img src="{uri}" alt="{name}"></figure>' for uri, name in images)
        sections.append(section("curves", "Losses", "Validation as lines, the total of training dotted.", content))
    return page(found.config.name, "reproduction", header, sections)


def curve_pictures(found: Gathered) -> dict[str, bytes]:
    """Losses over the steps, one picture per data set and stage; file name -> PNG."""
    pictures = {}
    for entry in found.config.datasets:
        for stage in ("train", "regressor"):
            here = (stage, entry.name)
            results = {p: r for p, r in found.results.items() if (p.stage, p.dataset) == here and r.curves}
            if results:
                pictures[f"curves-{stage}-{entry.name}.png"] = _curves_png(results, f"{stage}, {entry.name}")
    return pictures


def _curves_png(results: dict[Place, Result], title: str) -> bytes:
    """A panel per system: every curve whose values are positive, on a logarithmic scale."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), dpi=110, layout="constrained")
    for number, (place, result) in enumerate(results.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        for name, points in result.curves.items():
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if min(values) > 0 and (name == "train_loss" or name.startswith("val_")):
                axes.plot(steps, values, ":" if name == "train_loss" else "-", lw=1.1, label=name)
        if axes.lines:
            axes.set_yscale("log")
            axes.legend(fontsize=6, ncols=2, frameon=False)
        axes.set_title(PAPER_NAMES.get(place.system, "energy regressor"), fontsize=9, color=INK)
        axes.set_xlabel("step", fontsize=8, color=MUTED)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9, color=MUTED)
    return figure_png(figure)


def write_reproduction(found: Gathered, document: Path | None = None) -> Path:
    """Write reproduction.html, .md, .json and the curves; and the tables into a document, if one is named.

    Raises: DocumentError: if the document has no place for them.
    """
    folder, made = found.config.folder, tables(found)
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in curve_pictures(found).items():
        (folder / name).write_bytes(png)
    text = f"# Reproduction: {escape_markdown(found.config.name)}\n\n{markdown(found, made)}"
    write_text(folder / "reproduction.md", text)
    write_text(folder / "reproduction.html", html(found, made))
    write_text(folder / "reproduction.json", _json(as_dict(found)))
    if document is not None:
        write_block(document, markdown(found, made, "###"))
    return folder / "reproduction.html"


def _json(content: dict[str, Any]) -> str:
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


def publish(found: Gathered) -> None:
    """The tables as artifacts; nothing outside a Prefect run."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    from tasks.reporting.artifacts import artifact_key, fitting_rows, in_prefect_run

    if not in_prefect_run():
        return
    made = tables(found)
    key = artifact_key("reproduction", found.config.name)
    create_markdown_artifact(markdown(found, made), key=key, description=re.split(r"(?<=\.) ", lead(found))[0])
    for table in made:
        rows = [dict(zip(_distinct(table.head), row, strict=True)) for row in table.rows]
        create_table_artifact(fitting_rows(rows)[0], key=artifact_key(key, table.name), description=table.title)


def _distinct(head: tuple[str, ...]) -> list[str]:
    """Headings as keys: one without words is 'of'."""
    return [word or "of" for word in head]
