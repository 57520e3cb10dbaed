"""What a reproduction has measured so far, and the tables that every paper has: claims, paper beside ours, budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from configs.paths import project_version
from tasks.files import package_versions
from tasks.papers.claims import UNDECIDED, Claim, NameOf, Numbers, OurNumbers, Verdict, verdict_of
from tasks.papers.results import Config, Measured, Result, ResultKey
from tasks.report.evaluation.model import heading, value_text

EMPTY = "–"


@dataclass(frozen=True)
class Collected(Generic[Config]):
    """Results that lie there.

    Attributes:
        config: of the reproduction.
        every: keys of all results that it has to give, in order.
        results: those that lie there.
        missing: key -> why it has no result.
        trained_as: key -> the training that gives its system its weights.
        foreign: keys whose result other code or other packages have made.
    """

    config: Config
    every: tuple[ResultKey, ...]
    results: Mapping[ResultKey, Result]
    missing: Mapping[ResultKey, str]
    trained_as: Mapping[ResultKey, ResultKey]
    foreign: tuple[ResultKey, ...] = ()

    def keys(self, stage: str, dataset: str | None = None) -> list[ResultKey]:
        """All that a stage has to give, of one data set or of every one."""
        return [key for key in self.every if key.stage == stage and dataset in (None, key.dataset)]

    def made(self, *stages: str, dataset: str | None = None) -> list[tuple[ResultKey, Result]]:
        """Those that lie there of these stages, in their order."""
        keys = [key for stage in stages for key in self.keys(stage, dataset)]
        return [(key, self.results[key]) for key in keys if key in self.results]

    def notes(self) -> list[str]:
        """What a reader of the tables must know first."""
        said = []
        if self.missing:
            said.append(f"{len(self.missing)} results are missing; the last table names each with the reason.")
        if self.foreign:
            names = ", ".join(key.name for key in self.foreign[:4]) + (" ..." if len(self.foreign) > 4 else "")
            said.append(f"{len(self.foreign)} results were made by other code or packages than these: {names}.")
        return said + sorted({note for result in self.results.values() for note in result.notes})

    def as_dict(self, claims: Claims) -> dict[str, Any]:
        """reproduction.json: every metric with its settings, error and budget, every claim, what is missing."""
        settings = self.config.model_dump(mode="json", exclude_defaults=True, exclude={"execution", "workers"})
        return {
            "schema_version": 1,
            "name": self.config.name,
            "settings": settings,
            "versions": {"hullward": project_version(), **package_versions()},
            "results": [result.as_dict() for result in self.results.values()],
            "claims": claims.as_dicts(),
            "missing": [{**vars(key), "why": why} for key, why in self.missing.items()],
        }


def short_name(path: str) -> str:
    """The name of a file of crystals, without where it is looked up."""
    return Path(path.rpartition(":")[2]).name


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
        ours: whether each row holds our metrics.
    """

    name: str
    title: str
    hint: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    ours: tuple[bool, ...] = ()


def with_error(measured: Measured | None) -> str:
    """A value with one standard error, in as many digits as the value; a dash for none."""
    if measured is None:
        return EMPTY
    value, unit = measured.metric.value, measured.metric.unit
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
            theirs, here = verdict_of(claim, self.paper, self.name_of), verdict_of(claim, self.ours, self.name_of)
            borne = (
                "yes" if theirs.verdict is Verdict.HOLDS
                else "within its errors" if UNDECIDED in theirs.remark
                else EMPTY if theirs.verdict is Verdict.NOT_MEASURED
                else "no"
            )  # fmt: skip
            remark = here.remark
            if here.verdict is Verdict.NOT_MEASURED:
                known = claim.dataset in self.chosen
                remark = f"no figure of {remark}" if known else "the data set is not among those chosen"
            numbers = (theirs.numbers or EMPTY, borne, here.numbers or EMPTY)
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
        found = [verdict_of(claim, self.ours, self.name_of).verdict for claim in self.claims]
        return {verdict: found.count(verdict) for verdict in Verdict}

    def as_dicts(self) -> list[dict[str, Any]]:
        """For JSON."""
        found = [(claim, verdict_of(claim, self.ours, self.name_of)) for claim in self.claims]
        return [
            {"text": c.text, "dataset": c.dataset, "where": c.where, "verdict": f.verdict.value, "numbers": f.numbers,
             "remark": f.remark}
            for c, f in found
        ]  # fmt: skip


# --- tables that every paper has --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """A table of the paper's rows above ours, of one stage and data set.

    Attributes:
        title: heading.
        hint: one sentence.
        units: metrics that are columns, with their units.
        paper: the paper's numbers.
        ours: numbers measured here, which know our names of metrics.
        name_of: a row's name.
        paper_row: what stands beside the name in the paper's rows.
        further: results without a system, shown below: key -> its name, and what stands for its budget.
    """

    title: str
    hint: str
    units: Mapping[str, str]
    paper: Numbers
    ours: OurNumbers
    name_of: NameOf
    paper_row: str = "paper"
    further: Mapping[ResultKey, tuple[str, str]] | None = None


def paper_beside_ours(found: Collected[Config], stage: str, dataset: str, table: Beside) -> Table:
    """The paper's row above ours, for every system and way of placing atoms."""
    rows: list[tuple[str, ...]] = []
    ours: list[bool] = []
    units = table.units

    def measured(name: str, result: Result, budget: str) -> tuple[str, ...]:
        values = [result.measured(table.ours.names.get((stage, metric), metric)) for metric in units]
        count = next((f"{value.metric.n:,}" for value in values if value is not None), "")
        return (name, "ours", *map(with_error, values), count, budget)

    for key in found.keys(stage, dataset):
        name = table.name_of(key.system, key.reverse)
        stated = {f: table.paper.number(stage, dataset, key.system, key.reverse, f) for f in units}
        if any(value is not None for value in stated.values()):
            cells = [EMPTY if v is None else value_text(v.value, units[f]) for f, v in stated.items()]
            rows.append((name, table.paper_row, *cells, "", ""))
            ours.append(False)
        result = found.results.get(key)
        if result is None:
            rows.append((name, "ours", *(EMPTY for _ in units), "not measured", found.missing.get(key, "")))
        else:
            rows.append(measured(name, result, budget_text(found, key)))
        ours.append(True)
    for key, (name, budget) in (table.further or {}).items():
        if key in found.results:
            rows.append(measured(name, found.results[key], budget))
            ours.append(True)
    head = ("system", "", *(heading(f.replace("match rate, ", ""), u) for f, u in units.items()), "n", "budget")
    align = "ll" + "r" * (len(units) + 1) + "l"
    return Table(f"{stage}-{dataset}", table.title, table.hint, head, tuple(rows), align, tuple(ours))


def budget_text(found: Collected[Config], key: ResultKey) -> str:
    """What a system was given: steps, epochs, size, network calls."""
    if key not in found.trained_as:
        return "no network"
    trained = found.results.get(found.trained_as[key])
    if trained is None:
        return ""
    b = trained.budget
    text = f"{b['steps']:,} steps of {b['batch_crystals']} ({b['epochs']:g} epochs), size {b['size']}"
    calls = found.results[key].budget.get("network_calls")
    return text + (f", {calls:,} calls" if calls else "")


def training_table(found: Collected[Config], stages: Sequence[str], name_of: NameOf, hint: str) -> Table:
    """What every training took."""
    rows = []
    for key, result in found.made(*stages):
        b = result.budget
        loss = result.curves.get("val_loss") or ()
        counts = (f"{b['parameters']:,}", f"{b['crystals']:,}", f"{b['steps']:,}", f"{b['batch_crystals']:,}")
        took = (f"{b['epochs']:g}", f"{b['seconds']:,.0f}", f"{b['crystals_per_second']:.4g}", _device(b))
        last = f"{loss[-1][1]:.4g}" if loss else EMPTY
        rows.append((name_of(key.system, ""), key.dataset, str(b["size"]), *counts, *took, last))
    head = (
        "system", "data", "size", "parameters", "crystals", "steps", "batch", "epochs", "seconds",
        "crystals per second", "device", "last validation loss",
    )  # fmt: skip
    return Table("training", "Training", hint, head, tuple(rows), "lllrrrrrrrlr")


def sampling_table(found: Collected[Config], stages: Sequence[str], name_of: NameOf, hint: str) -> Table:
    """How fast every system drew."""
    rows = []
    for key, result in found.made(*stages):
        b = result.budget
        rate = EMPTY if b["crystals_per_second"] is None else f"{b['crystals_per_second']:.4g}"
        counts = (f"{b['n']:,}", f"{b['network_calls']:,}", f"{b['chunk_size']:,}", f"{b['seconds']:,.1f}")
        rows.append((name_of(key.system, ""), key.dataset, key.stage, key.reverse, *counts, rate, _device(b)))
    head = (
        "system", "data", "stage", "decoded by", "crystals", "network calls", "batch", "seconds", "crystals per second",
        "device",
    )  # fmt: skip
    return Table("sampling", "Decoding", hint, head, tuple(rows), "llllrrrrrl")


def missing_table(found: Collected[Config], name_of: NameOf) -> Table:
    """What has no result, and why."""
    rows = tuple(
        (key.stage, key.dataset, name_of(key.system, "") if key.system else EMPTY, key.reverse or EMPTY, why)
        for key, why in found.missing.items()
    )
    return Table("missing", "Not measured", "", ("stage", "data", "system", "decoded by", "why"), rows, "lllll")


def _device(budget: Mapping[str, Any]) -> str:
    return f"{budget['device']}, {budget['torch_threads']} threads"
