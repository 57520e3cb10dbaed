"""What a reproduction has measured so far, on disk: one JSON document per stage, data set, system and way of decoding.

A document says what it was made from (`inputs`: settings and digests) and by what (`digest`: besides, code and
packages). A stage is done again where the digest differs; a table takes what has the right inputs, and says what other
code has made. So results that another machine has made can be brought here and stand in the table.
"""

from __future__ import annotations

import fcntl
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from configs.comparison import ComparisonConfig, NamedEntry
from generative.metrics.metric import Metric
from storage.atomic import sweep
from storage.digests import json_digest
from storage.documents import read_document, write_document
from tasks.files import key_of, refuse_to_compute
from tasks.source_code import Entry

N_BOOTSTRAP = 200


class NotReadyError(RuntimeError):
    """A stage that needs what is not there; the message is the sentence for the table."""


class ReproductionError(RuntimeError):
    """A reproduction of which some results could not be made; the message names the first."""


AnyComparison = ComparisonConfig[NamedEntry]
"""The settings of a reproduction, whatever its paper."""

Config = TypeVar("Config", bound=AnyComparison)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many are."""


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class ResultKey:
    """Names one result: the stage, the data set, the system, and how atoms were placed.

    Attributes:
        stage: such as 'train' or 'generate'.
        dataset: such as 'perov-5'.
        system: such as 'dp-cdvae'; empty for stages that belong to the data set.
        reverse: how atoms were placed where a system can do it in several ways ('langevin', 'eq7', 'eq6'); else empty.
    """

    stage: str
    dataset: str
    system: str = ""
    reverse: str = ""

    @property
    def name(self) -> str:
        """For file names and messages."""
        return "-".join(filter(None, (self.stage, self.dataset, self.system, self.reverse)))

    def folder(self, config: AnyComparison) -> Path:
        """Where the stage keeps its files."""
        last = "-".join(filter(None, (self.stage, self.reverse)))
        return config.folder / self.dataset / self.system / last

    def file(self, config: AnyComparison) -> Path:
        """The document of its result."""
        return self.folder(config) / "result.json"


@dataclass(frozen=True)
class Measured:
    """A metric with the error that a sample of this size leaves.

    Attributes:
        metric: value, unit, denominator, settings.
        error: one standard error of the value, in its unit; NaN where it is not known.
        error_by: 'binomial', 'standard error of the mean' or 'bootstrap'; empty without an error.
    """

    metric: Metric
    error: float = math.nan
    error_by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = self.error if math.isfinite(self.error) else None
        return {**self.metric.as_dict(), "error": error, "error_by": self.error_by}


@dataclass(frozen=True)
class Result:
    """What one stage has measured.

    Attributes:
        key: which result.
        inputs: digest of the settings and files it was made from.
        digest: of these, the code and the packages.
        metrics: in the order in which they are read.
        budget: steps, seconds, crystals per second, device, network calls: what it took.
        curves: name -> [step, value] pairs, of trainings.
        notes: sentences that a reader of the metrics must know.
        reused: whether it lay there already.
    """

    key: ResultKey
    inputs: str
    digest: str
    metrics: tuple[Measured, ...]
    budget: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reused: bool = False

    def measured(self, name: str) -> Measured | None:
        """The metric of this name if it has a value."""
        found = next((m for m in self.metrics if m.metric.name == name), None)
        return found if found is not None and math.isfinite(found.metric.value) else None

    def as_dict(self) -> dict[str, Any]:
        """The document. Its words "place" and "key" are those of the first version: results on disk outlive names."""
        return {
            "schema_version": 1,
            "place": vars(self.key),
            "inputs": self.inputs,
            "key": self.digest,
            "figures": [metric.as_dict() for metric in self.metrics],
            "budget": dict(self.budget),
            "curves": {name: [list(point) for point in points] for name, points in self.curves.items()},
            "notes": list(self.notes),
        }

    def write(self, file: Path) -> None:
        """Write the document; it appears whole or not at all."""
        write_document(file, self.as_dict(), indent=1)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """The document; None if there is none, or one that cannot be read, which is made again."""
        try:
            stated = read_document(file, "it is made again")
            return cls(
                ResultKey(**stated["place"]),
                stated["inputs"],
                stated["key"],
                tuple(map(_measured, stated["figures"])),
                stated["budget"],
                stated["curves"],
                tuple(stated["notes"]),
            )
        except (OSError, KeyError, TypeError, ValueError):
            return None


def _measured(stated: Mapping[str, Any]) -> Measured:
    metric = {name: value for name, value in stated.items() if name not in ("error", "error_by")}
    value, error = (math.nan if x is None else float(x) for x in (stated["value"], stated["error"]))
    return Measured(Metric(**{**metric, "value": value}), error, stated["error_by"])


@dataclass(frozen=True)
class Made:
    """What a stage's own function gives; see Result."""

    metrics: tuple[Measured, ...]
    budget: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def digest_of(parts: Mapping[str, Any]) -> str:
    """Digest of settings and digests."""
    return json_digest(parts, spaced=True, finite=False, default=str)


def kept(
    config: AnyComparison, key: ResultKey, code: Sequence[Entry], inputs: Mapping[str, Any], make: Callable[[], Made]
) -> Result:
    """The result that lies there if it was made from the same by the same code, else made and written."""
    file = key.file(config)
    digest = key_of(key.stage, *code, inputs=inputs)
    with locked(key.folder(config)):
        found = Result.read(file)
        if found is not None and found.digest == digest:
            return replace(found, reused=True)
        made = make()
        result = Result(key, digest_of(inputs), digest, made.metrics, made.budget, made.curves, made.notes)
        result.write(file)
        return result


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works in a folder; another one waits. The system drops the lock of a killed one."""
    if not folder.is_dir():
        refuse_to_compute(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(folder, below=False)
        yield


def share_error(metric: Metric) -> Measured:
    """A share in % with its binomial standard error.

    It is the standard deviation of the true share after the draw, if all shares were as likely before it: nearly
    sqrt(p (1 - p) / n), but 100 % of a few crystals has an error too.
    """
    if not metric.n or not math.isfinite(metric.value):
        return Measured(metric)
    share = (metric.value / 100 * metric.n + 1) / (metric.n + 2)
    return Measured(metric, 100 * math.sqrt(share * (1 - share) / (metric.n + 3)), "binomial")


def mean_error(metric: Metric, values: Sequence[float]) -> Measured:
    """A mean with its standard error; with fewer than two values it has none."""
    if len(values) < 2:
        return Measured(metric)
    return Measured(metric, float(np.std(values, ddof=1)) / math.sqrt(len(values)), "standard error of the mean")


def bootstrap_error(
    metric: Metric, values: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int
) -> Measured:
    """A statistic with the standard deviation it has over samples drawn again from its own values."""
    if len(values) < 2 or not math.isfinite(metric.value):
        return Measured(metric)
    rng = np.random.default_rng(seed)
    again = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(N_BOOTSTRAP)]
    return Measured(metric, float(np.std(again, ddof=1)), "bootstrap")
