"""Prefect artifacts of a dataset: its report as markdown with the pictures inside, and the sources as a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from generative.datasets.manifest import Manifest, SourceRecord
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
from tasks.report.run.artifacts import REPORTS_VARIABLE, artifact_key, fitting_rows, in_prefect_run
from tasks.report.run.markdown import data_uri
from tasks.report.run.tables import escape_markdown

TEXT_LIMIT = 300
"""Characters of a cell of a table: a query may be as long as its list of formulas."""

MOST_SOURCES = 50


def publish_dataset(
    folder: Path, manifest: Manifest, statistics: DatasetStatistics, pictures: DatasetPictures
) -> dict[str, UUID]:
    """Publish a dataset's report and its table of sources; ids by key. Outside a Prefect run it does nothing."""
    if not in_prefect_run():
        return {}
    name = folder.resolve().name
    report_key, table_key = artifact_key("dataset", name), artifact_key("sources", name)
    text = dataset_markdown(name, manifest, statistics, pictures, dataset_link(folder))
    about = f"{statistics.n_rows:,} crystals, {len(statistics.elements)} elements, {len(manifest.sources)} sources"
    report = create_markdown_artifact(text, key=report_key, description=about)
    rows = [row | asked_rows(source) for row, source in zip(source_rows(manifest), manifest.sources, strict=True)]
    table = create_table_artifact(fitting_rows(rows)[0], key=table_key, description=f"Sources of {about}")
    # Typed as perhaps a coroutine; in synchronous code, as everywhere here, it is the id.
    return {report_key: cast(UUID, report), table_key: cast(UUID, table)}


def dataset_link(folder: Path) -> str:
    """A link to report.html where `make ui` serves it (HULLWARD_REPORTS_URL); else empty."""
    address, resolved = os.environ.get(REPORTS_VARIABLE), folder.resolve()
    if not address or resolved.parent != Path("runs/datasets").resolve():
        return ""
    return f"**[Open the report as a page]({address.rstrip('/')}/datasets/{quote(resolved.name)}/report.html)**"


def dataset_markdown(
    name: str, manifest: Manifest, statistics: DatasetStatistics, pictures: DatasetPictures, link: str = ""
) -> str:
    """The report as markdown, below 300 kB; the same text for the same inputs."""
    parts = [f"# Dataset {escape_markdown(name)}", link]
    parts += [f"> **Note.** {escape_markdown(warning)}" for warning in warnings_of(manifest)[:20]]
    parts += [escape_markdown(lead_sentence(manifest, statistics)), "## Sources"]
    parts.append(_table(source_rows(manifest)[:MOST_SOURCES]))
    parts.append("read = kept + outside + bad + merged")
    parts.append("\n".join(_asked(source) for source in manifest.sources[:MOST_SOURCES]))
    asked = harvest_rows(manifest)[:MOST_SOURCES]
    if asked:
        parts += ["Databases at the last download:", _table(asked)]
    parts += ["## Elements", _picture("Crystals per element", pictures.elements)]
    if pictures.energies is not None:
        words = f"{methods_sentence(statistics)}{methods_note(statistics, len(METHOD_COLOURS))}"
        parts += ["## Energies", escape_markdown(words), _picture("Energies by method", pictures.energies)]
    if pictures.cells is not None:
        parts += ["## Cells and symmetry", _picture("Cells and symmetry", pictures.cells)]
        parts.append(escape_markdown(spacegroup_note(statistics)))
    if statistics.refusals:
        shown = statistics.refusals[:MOST_REASONS]
        parts.append(f"## Quarantine: {statistics.n_refused:,} records")
        parts.append(_table([{"records": r.count, "source": r.source, "for example": r.example} for r in shown]))
    parts.append(f"Fingerprint `{manifest.fingerprint_sha256}`, written {escape_markdown(manifest.created)}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def _picture(words: str, png: bytes) -> str:
    return f"![{words}]({data_uri(png)})"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "| " + " | ".join(rows[0]) + " |"
    rule = "|" + "|".join("--:" if isinstance(value, int) else ":--" for value in rows[0].values()) + "|"
    body = ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    return "\n".join([head, rule, *body])


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return escape_markdown(text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…")


def _asked(source: SourceRecord) -> str:
    """One source in a line. Where a query has no spaces a few are put in, or it would run over the page's edge."""
    stated = asked_rows(source)
    query = re.sub(r"([,&|])(?=\S)", r"\1 ", stated["query"])
    address = f" at {escape_markdown(stated['endpoint'])}" if "endpoint" in stated else ""
    release = escape_markdown(stated["release or digest"])
    return f"- **{escape_markdown(source.source)}**{address}: {_cell(query)} ({release})"
