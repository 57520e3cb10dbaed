"""What an evaluation says: metrics that carry everything they depend on, so that none can be quoted without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Setting = str | int | float | bool | None
"""A tolerance, a cut-off, a version, a name: what a metric depends on."""


@dataclass(frozen=True)
class Metric:
    """One number under one protocol.

    Attributes:
        protocol: the protocol's name, such as 'cdvae generation'.
        name: the metric's name within it, such as 'structural validity'.
        value: the number; NaN where it is undefined.
        unit: '%', 'eV/atom', '(V/N)^(1/3)', 'crystals' or '' for a plain number.
        n: crystals, pairs or targets it was computed over: its denominator.
        reason: one sentence if the value is NaN or stands for fewer crystals than were given, else empty.
        settings: tolerances, thresholds, cut-offs, versions, names of models and references it depends on.
    """

    protocol: str
    name: str
    value: float
    unit: str
    n: int
    reason: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The metric for JSON, where an undefined value is null."""
        return {
            "protocol": self.protocol,
            "name": self.name,
            "value": None if math.isnan(self.value) else self.value,
            "unit": self.unit,
            "n": self.n,
            "reason": self.reason,
            "settings": dict(self.settings),
        }


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one protocol.

    Attributes:
        protocol: its name.
        about: one sentence: what it measures, and its source.
        metrics: in the order in which they are read.
        seconds: wall time of each part, s.
        per_sample: column -> one value per sample, in their order (verdicts, distances); empty if there are none.
    """

    protocol: str
    about: str
    metrics: tuple[Metric, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    per_sample: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """The metric of this name.

        Raises:
            KeyError: if there is none; the message lists those there are.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{self.protocol} has no metric {name!r}: expected one of {[f.name for f in self.metrics]}")
