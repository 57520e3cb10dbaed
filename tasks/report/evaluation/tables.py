"""Our metrics beside those of papers: one table per protocol, so that metrics of different protocols never meet.

Which protocols of papers are the same as one of ours is stated here, and depends on the task and the gate: a crystal
predicted for a composition is not one decoded from an encoded crystal, and a match rate over valid samples is not one
over all. Everything else is shown in tables of its own, without ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from generative.metrics.magpie import CDVAE_SCALER
from generative.metrics.metric import Evaluation, Metric
from generative.metrics.papers import PaperRow, rows_for
from generative.systems.cdvae.published_targets import TARGETS, published_name
from tasks.report.evaluation.model import EvaluationReport, heading, value_text

OURS = "these samples"

OTHERS: Mapping[str, tuple[tuple[str, str | None], ...]] = {
    "sun": (
        ("mattergen sun by DFT", None),
        ("mattergen sun by MatterSim", None),
        ("crystalite sun by NequIP", None),
        ("crystaldit sun by DFT", None),
        ("crystalite released checkpoint", None),
    ),
    "ground state": (("ground state by DFT", None), ("ground state by DFT with D3", None)),
    "adaptive-cell": (("adaptive-cell", "mp-20-sg16"),),
    "airi accuracy": (("airi accuracy", "aflow"),),
    "metre": (("metre", "mp-20-ps"),),
}
"""Our protocol -> (protocol of papers, data set if it is another) on the same question by other rules or on other data;
shown without ours."""

_AS_CDVAE: Mapping[str, object] = {"n_drawn": 1000, "scaler": CDVAE_SCALER, "oxidation_states": "cdvae"}
_CUTOFFS = {
    "mp-20": (0.4, 10.0),
    "j2dh-8": (0.4, 10.0),
    "perov-5": (0.2, 4.0),
    "carbon-24": (0.2, 4.0),
}
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "cdvae generation": {
        dataset: {**_AS_CDVAE, "cutoff_structure": structure, "cutoff_composition": composition}
        for dataset, (structure, composition) in _CUTOFFS.items()
    },
}
"""Protocol and data set -> settings as published; a metric made with others does not stand beside papers' metrics."""

MODEL_BOUND = frozenset({"W energy", "Frechet distance, CGCNN"})
"""Metrics that depend on a network which the papers trained for them: ours stand beside theirs only by that network."""

NETWORKS: Mapping[str, str] = {target.dataset: published_name(model) for model, target in TARGETS.items()}
"""Data set -> the setting `model` of metrics that its papers' own network made."""


@dataclass(frozen=True)
class TableRow:
    """One system in a table.

    Attributes:
        system: its name.
        cells: one text per column.
        source: citation, or what the row is.
        conditions: what else its values depend on, or empty.
        ours: whether it is measured here.
    """

    system: str
    cells: tuple[str, ...]
    source: str
    conditions: str
    ours: bool


@dataclass(frozen=True)
class Comparison:
    """A table of one protocol on one data set.

    Attributes:
        protocol: name, of ours or of the papers.
        dataset: whose.
        note: one sentence on how to read it.
        columns: headings with units.
        rows: ours first, if there are any.
    """

    protocol: str
    dataset: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def comparisons(evaluation: Evaluation, report: EvaluationReport) -> list[Comparison]:
    """Tables of papers for one protocol: those with our row first, then those of other protocols without it."""
    if report.dataset == "none":
        return []
    tables = []
    for protocol in same_protocols(evaluation, report.task, report.gate):
        if table := comparison(protocol, {report.name: evaluation}, report.dataset):
            tables.append(table)
    for protocol, dataset in OTHERS.get(evaluation.protocol, ()):
        # A table that holds ours was made above already.
        if dataset != report.dataset and (table := comparison(protocol, {}, dataset or report.dataset)):
            tables.append(table)
    return tables


def same_protocols(evaluation: Evaluation, task: str, gate: str) -> tuple[str, ...]:
    """Protocols of papers that follow the rules by which this evaluation was made."""
    if evaluation.protocol != "cdvae reconstruction":
        return (evaluation.protocol,)
    if task == "reconstruction":
        return ("cdvae reconstruction",) if gate == "cdvae" else ()
    best_of = {metric.settings.get("k") for metric in evaluation.metrics}
    if best_of - {None, 1}:
        return ()
    return ("csp, unfiltered",) if gate == "none" else ("csp, valid samples",) if gate == "cdvae" else ()


def comparison(protocol: str, ours: Mapping[str, Evaluation], dataset: str) -> Comparison | None:
    """A table of what papers state under a protocol, with our evaluations in front; None if papers state nothing.

    Args:
        protocol: of the papers.
        ours: name -> evaluation by the same rules.
        dataset: whose rows.
    """
    stated = rows_for(protocol, dataset)
    if not stated:
        return None
    units = {name: unit for row in stated for name, unit in row.units.items()}
    rows = [_our_row(name, evaluation, units, dataset) for name, evaluation in ours.items()]
    rows += [_paper_row(row, units) for row in stated]
    columns = tuple(heading(name, unit) for name, unit in units.items())
    return Comparison(protocol, dataset, _note(bool(ours)), columns, tuple(rows))


def _our_row(name: str, evaluation: Evaluation, units: Mapping[str, str], dataset: str) -> TableRow:
    published = PUBLISHED.get(evaluation.protocol, {}).get(dataset, {})
    found = {f.name: f for f in evaluation.metrics if f.name in units and f.unit == units[f.name]}
    shown = {key: f for key, f in found.items() if _by_their_network(f, dataset) and _as_published(f, published)}
    cells = tuple(value_text(shown[column].value, unit) if column in shown else "–" for column, unit in units.items())
    conditions = [f"n = {n:,}" for n in sorted({f.n for f in shown.values() if f.n})][:1]
    if len({f.n for f in shown.values() if f.n}) > 1:
        conditions = ["n of each figure: see above"]
    if left := [key for key in found if key not in shown]:
        conditions.append(f"not as published, so not here: {', '.join(left)}")
    return TableRow(name, cells, OURS, "; ".join(conditions), True)


def _by_their_network(metric: Metric, dataset: str) -> bool:
    return metric.name not in MODEL_BOUND or metric.settings.get("model", "") == NETWORKS.get(dataset)


def _as_published(metric: Metric, published: Mapping[str, object]) -> bool:
    return all(metric.settings.get(name, value) == value for name, value in published.items())


def _paper_row(row: PaperRow, units: Mapping[str, str]) -> TableRow:
    cells = tuple(value_text(row.values[name], unit) if name in row.values else "–" for name, unit in units.items())
    return TableRow(row.system, cells, row.cited, row.conditions, False)


def _note(with_ours: bool) -> str:
    if with_ours:
        return (
            "The papers' models were trained on the full training set and judged on the full test set of this data "
            "set; other training or test files give figures that compare with one another, not with these rows."
        )
    return "Other rules or other data than those of these samples: the figures compare with one another, not with them."


def metric_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str, str]]:
    """(metric, value, unit, n, remark) of every metric of a protocol."""
    return [(f.name, value_text(f.value, f.unit), f.unit, f"{f.n:,}", f.reason) for f in evaluation.metrics]


def shared_settings(evaluation: Evaluation) -> dict[str, str]:
    """What the metrics of a protocol depend on: setting -> value, or the values with the metrics they belong to."""
    by_name: dict[str, dict[str, list[str]]] = {}
    for metric in evaluation.metrics:
        for name, value in metric.settings.items():
            text = f"{value:g}" if isinstance(value, float) else str(value)
            by_name.setdefault(name, {}).setdefault(text, []).append(metric.name)
    return {name: _values(values) for name, values in by_name.items()}


def _values(values: Mapping[str, Sequence[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({_few(metrics)})" for value, metrics in values.items())


def _few(metrics: Sequence[str], most: int = 3) -> str:
    return ", ".join(metrics[:most]) + (f" and {len(metrics) - most} more" if len(metrics) > most else "")
