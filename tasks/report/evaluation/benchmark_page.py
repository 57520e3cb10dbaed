"""Generators compared: one table per protocol with a column per metric and a row per generator, papers' rows below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from generative.metrics.metric import Evaluation
from tasks.report.evaluation.markdown import comparison_markdown, table
from tasks.report.evaluation.model import EvaluationReport, heading, value_text
from tasks.report.evaluation.page import comparison_html, page, pairs, safe, section, table_html, top
from tasks.report.evaluation.tables import Comparison, comparison, same_protocols
from tasks.report.run.tables import escape_markdown

LEFT_ASIDE = frozenset({"samples", "reference crystals"})
"""Metrics that say how many there were; the tables' n says it already."""


@dataclass(frozen=True)
class Benchmark:
    """What was found of all generators.

    Attributes:
        name: of the benchmark.
        dataset: whose rows of papers compare, or 'none'.
        reports: one per generator, its name that of the report.
        sampling: generator -> what its sampling.json says: seconds, crystals per second, settings, digest.
        skipped: generator -> why it was left out.
    """

    name: str
    dataset: str
    reports: tuple[EvaluationReport, ...]
    sampling: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]

    @property
    def protocols(self) -> tuple[str, ...]:
        """Protocols of any generator, in order."""
        return tuple(dict.fromkeys(e.protocol for report in self.reports for e in report.evaluations))

    def evaluations(self, protocol: str) -> dict[str, Evaluation]:
        """Generator -> its metrics of a protocol."""
        found = {report.name: report.evaluation(protocol) for report in self.reports}
        return {name: evaluation for name, evaluation in found.items() if evaluation is not None}

    def as_dict(self) -> dict[str, Any]:
        """benchmark.json: every metric of every generator with its settings."""
        return {
            "schema_version": 1,
            "name": self.name,
            "dataset": self.dataset,
            "generators": {r.name: {"sampling": dict(self.sampling[r.name]), **r.as_dict()} for r in self.reports},
            "skipped": dict(self.skipped),
        }


@dataclass(frozen=True)
class ProtocolTable:
    """All generators under one protocol.

    Attributes:
        protocol: its name.
        about: one sentence.
        columns: headings with units.
        rows: generator -> one text per column.
    """

    protocol: str
    about: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def protocol_tables(found: Benchmark) -> Iterator[ProtocolTable]:
    """One table per protocol; metrics of different protocols never meet."""
    for protocol in found.protocols:
        evaluations = found.evaluations(protocol)
        units = {f.name: f.unit for e in evaluations.values() for f in e.metrics if f.name not in LEFT_ASIDE}
        rows = {}
        for name, evaluation in evaluations.items():
            values = {f.name: value_text(f.value, f.unit) for f in evaluation.metrics}
            rows[name] = tuple(values.get(column, "–") for column in units)
        about = next(iter(evaluations.values())).about
        yield ProtocolTable(protocol, about, tuple(heading(n, u) for n, u in units.items()), rows)


def paper_tables(found: Benchmark, protocol: str) -> list[Comparison]:
    """Papers' rows of the same protocol below those of our generators."""
    evaluations = found.evaluations(protocol)
    if found.dataset == "none" or not evaluations:
        return []
    task, gate = found.reports[0].task, found.reports[0].gate
    same = same_protocols(next(iter(evaluations.values())), task, gate)
    return [made for name in same if (made := comparison(name, evaluations, found.dataset))]


SPEED_HEAD = ("generator", "system", "crystals", "crystals per second", "seconds", "device", "CPU threads")


def speed_rows(found: Benchmark) -> list[tuple[str, ...]]:
    """How fast each generator drew."""
    rows: list[tuple[str, ...]] = []
    for name, sampling in found.sampling.items():
        rate, seconds = f"{sampling['crystals_per_second']:.4g}", f"{sampling['seconds']:.4g}"
        machine = (str(sampling["device"]), str(sampling["torch_threads"]))
        rows.append((name, str(sampling["system"]), f"{sampling['n']:,}", rate, seconds, *machine))
    return rows


def lead_of(found: Benchmark) -> str:
    """What was compared, in one sentence."""
    inputs = {i.role: i for i in found.reports[0].inputs} if found.reports else {}
    text = f"{len(found.reports)} generators"
    if "reference" in inputs:
        text += f", each asked for the compositions of {inputs['reference'].n_crystals:,} crystals"
        text += f" of {inputs['reference'].name}"
    return text + ". Figures of different protocols stand in different tables."


def benchmark_markdown(found: Benchmark) -> str:
    """benchmark.md, and the text of the artifact."""
    parts = [f"# Generators: {escape_markdown(found.name)}", escape_markdown(lead_of(found))]
    parts += [f"> **Note.** {escape_markdown(f'{name} was left out: {why}')}" for name, why in found.skipped.items()]
    parts += ["## Speed of sampling", table(SPEED_HEAD, speed_rows(found), "llrrrlr")]
    for made in protocol_tables(found):
        parts += [f"## {escape_markdown(made.protocol)}", escape_markdown(made.about)]
        rows = [(name, *cells) for name, cells in made.rows.items()]
        parts.append(table(("generator", *made.columns), rows, "l" + "r" * len(made.columns)))
        for comparison_ in paper_tables(found, made.protocol):
            parts += comparison_markdown(comparison_)
    return "\n\n".join(parts) + "\n"


def benchmark_html(found: Benchmark) -> str:
    """The comparison as one self-contained page; the same text for the same inputs."""
    notes = [f"{name} was left out: {why}" for name, why in found.skipped.items()]
    counts = [(str(len(found.reports)), "generators")]
    for report in found.reports:
        if (evaluation := report.evaluation("cdvae reconstruction")) is not None:
            rate = evaluation.metric("match rate")
            counts.append((f"{value_text(rate.value, rate.unit)} %", f"match rate, {report.name}"))
    header = top(f"benchmark · {found.name}", "Generators", [lead_of(found)], notes, counts)
    numeric = (False, False, True, True, True, False, True)
    sections = [
        section("speed", "Speed of sampling", "Wall time of sampling alone.",
                table_html(SPEED_HEAD, speed_rows(found), numeric, "As measured when each generator drew.")),
        *(_protocol_section(found, made) for made in protocol_tables(found)),
        _details(found),
    ]  # fmt: skip
    return page(found.name, "benchmark", header, sections)


def _protocol_section(found: Benchmark, made: ProtocolTable) -> str:
    rows = [(name, *cells) for name, cells in made.rows.items()]
    numeric = [False, *(True for _ in made.columns)]
    content = table_html(("generator", *made.columns), rows, numeric, "Measured here.")
    content += "".join(comparison_html(made_) for made_ in paper_tables(found, made.protocol))
    return section(made.protocol.replace(" ", "-"), made.protocol, made.about, content)


def _details(found: Benchmark) -> str:
    content = []
    for report in found.reports:
        link = f'<p><a href="{quote(report.name)}/evaluation.html">The whole evaluation of {safe(report.name)}</a></p>'
        stated = {
            "checkpoint": str(found.sampling[report.name]["checkpoint_sha256"]),
            "not computed": "; ".join(f"{part}: {why}" for part, why in report.left_out.items()) or "–",
            "notes": " ".join(report.notes) or "–",
            "created": report.created,
        }
        content.append(f"<details><summary>{safe(report.name)}</summary>{link}{pairs(stated)}</details>")
    hint = "Each generator has a folder beside this page with its samples, verdicts and report."
    return section("generators", "Generators", hint, "".join(content))


def publish(found: Benchmark) -> None:
    """The comparison as a markdown artifact and the metrics as table artifacts; nothing outside a Prefect run."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    from tasks.report.run.artifacts import artifact_key, fitting_rows, in_prefect_run

    if not in_prefect_run():
        return
    about = lead_of(found)
    create_markdown_artifact(benchmark_markdown(found), key=artifact_key("benchmark", found.name), description=about)
    for made in protocol_tables(found):
        rows = [{"generator": n, **dict(zip(made.columns, cells, strict=True))} for n, cells in made.rows.items()]
        key = artifact_key("benchmark", found.name, made.protocol)
        create_table_artifact(fitting_rows(rows)[0], key=key, description=f"{made.protocol}: {made.about}")
