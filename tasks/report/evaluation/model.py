"""What the report of an evaluation is made from, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from generative.metrics.metric import Evaluation, Metric
from storage.checksums import DamagedFileError
from storage.documents import read_document


@dataclass(frozen=True)
class EvaluationInput:
    """One file that was read.

    Attributes:
        role: 'samples', 'reference' or 'train'.
        name: as it may be written down: of an absolute path the last part.
        digest: of what was read.
        n_records: records in it.
        n_crystals: those that are crystals.
    """

    role: str
    name: str
    digest: str
    n_records: int
    n_crystals: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON and tables."""
        return dict(vars(self))


@dataclass(frozen=True)
class EvaluationReport:
    """All that was found about some samples.

    Attributes:
        name: of the samples, such as the file's name.
        dataset: whose rows of papers compare, or 'none'.
        task: 'prediction' or 'reconstruction'.
        gate: what a sample passed before it was matched with its target.
        inputs: the files.
        evaluations: in the order in which they are read.
        left_out: part of a protocol -> one sentence on why it was not computed.
        notes: one sentence each on what a reader must know.
        refusals: reason, with numbers left out -> how many records and one example.
        settings: of the evaluation, as JSON.
        versions: of the packages the metrics depend on.
        seconds: wall time of each part, s.
        created: when, UTC.
        key: digest of what it was made from, where it is made again only if that changed; else empty.
    """

    name: str
    dataset: str
    task: str
    gate: str
    inputs: tuple[EvaluationInput, ...]
    evaluations: tuple[Evaluation, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refusals: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    created: str = ""
    key: str = ""

    @property
    def samples(self) -> EvaluationInput:
        """The file of samples."""
        return next(i for i in self.inputs if i.role == "samples")

    def evaluation(self, protocol: str) -> Evaluation | None:
        """The metrics of a protocol; None if it was not computed."""
        return next((e for e in self.evaluations if e.protocol == protocol), None)

    def as_dict(self) -> dict[str, Any]:
        """evaluation.json: undefined values are null, no path of this machine."""
        return {
            "schema_version": 1,
            "name": self.name,
            "created": self.created,
            "key": self.key,
            "dataset": self.dataset,
            "inputs": {i.role: i.as_dict() for i in self.inputs},
            "figures": [metric.as_dict() for evaluation in self.evaluations for metric in evaluation.metrics],
            "protocols": [
                {"protocol": e.protocol, "about": e.about, "seconds": _rounded(e.seconds)} for e in self.evaluations
            ],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "refusals": [dict(refusal) for refusal in self.refusals],
            "seconds": _rounded(self.seconds),
            "versions": dict(self.versions),
            "settings": dict(self.settings),
        }

    @classmethod
    def read(cls, path: Path) -> Self:
        """The report of an evaluation.json, without its per-sample columns.

        Raises: ValueError: if the file is none.
        """
        try:
            stated = read_document(path, "make it again")
            made = [_evaluation(entry, stated["figures"]) for entry in stated["protocols"]]
            settings = stated["settings"]
            return cls(
                name=stated["name"],
                dataset=stated["dataset"],
                task=settings["task"],
                gate=settings["gate"],
                inputs=tuple(EvaluationInput(**entry) for entry in stated["inputs"].values()),
                evaluations=tuple(made),
                notes=tuple(stated["notes"]),
                refusals=tuple(stated["refusals"]),
                key=stated["key"],
                **{field: stated[field] for field in ("left_out", "settings", "versions", "seconds", "created")},
            )
        except DamagedFileError:
            raise
        except (OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name} is no evaluation ({type(error).__name__}: {error}): make it again") from None


def _evaluation(entry: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Evaluation:
    own = [Metric(**{**f, "value": _number(f["value"])}) for f in metrics if f["protocol"] == entry["protocol"]]
    return Evaluation(entry["protocol"], entry["about"], tuple(own), entry["seconds"])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def value_text(value: float, unit: str) -> str:
    """A value for a table: two decimals of a percentage, else four digits; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    if unit == "%":
        return f"{value:.2f}"
    if unit in ("crystals", "") and value == int(value):
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def heading(name: str, unit: str) -> str:
    """A column's heading with its unit."""
    return f"{name} ({unit})" if unit else name
