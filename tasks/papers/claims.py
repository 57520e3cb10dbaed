"""Whether numbers bear out what a paper says of its systems.

A claim orders systems by a metric, or says that metrics are high or close. It is put to two sets of numbers by the same
rule: the paper's own (which need not bear out every sentence of its text), and ours with their errors. "Holds" is said
only where the difference exceeds two standard errors; what lies within them is not called an order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from generative.metrics.metric import Metric
from tasks.papers.results import Result, ResultKey, share_error

NameOf = Callable[[str, str], str]
"""A system's name for readers, by its own name and the way in which it places atoms."""

NETWORK_CALLS = "network calls"
"""A number that is no metric of a protocol but part of what drawing took."""

SIGMAS = 2.0
"""A difference of this many standard errors is one."""

UNDECIDED, REVERSED, BEYOND = "within two standard errors", "the other way round", "beyond the limit"
NO_ERROR = "too few crystals for an error"
"""Why a claim does not hold."""


class Number(NamedTuple):
    """A value with one standard error: 0 where it has none (a count, or the paper states none), inf if unknown."""

    value: float
    error: float = 0.0


class Numbers(Protocol):
    """Where numbers come from."""

    def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Number | None:
        """The number, None where it is not measured."""


def stated_share(value: float, n: int) -> Number:
    """A share in % as a paper states it, of `n` crystals: with the binomial error that follows."""
    return Number(value, share_error(Metric("", "", value, "%", n)).error)


@dataclass(frozen=True)
class OurNumbers:
    """What was measured here.

    Attributes:
        results: by key.
        names: (stage, metric) -> our name of the metric, where it differs from the paper's.
    """

    results: Mapping[ResultKey, Result]
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Number | None:
        """A metric with its error."""
        result = self.results.get(ResultKey(stage, dataset, system, reverse))
        if result is None:
            return None
        if metric == NETWORK_CALLS:
            calls = result.budget.get("network_calls")
            return Number(float(calls)) if calls else None
        found = result.measured(self.names.get((stage, metric), metric))
        if found is None:
            return None
        return Number(found.metric.value, found.error if math.isfinite(found.error) else math.inf)


class Verdict(StrEnum):
    """What numbers say of a claim."""

    HOLDS = "holds"
    DOES_NOT = "does not at this budget"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, about one data set.

    Attributes:
        text: what is said.
        where: table.
        stage: that measures it.
        dataset: on which.
        metric: as the numbers name it.
        high: (system, reverse) of what lies higher; under all other kinds all that is spoken of.
        low: (system, reverse) of what lies lower; under 'within' the one that is compared with.
        kind: 'order': each of `high` lies above each of `low`; 'at least' or 'at most' a limit; 'within' a limit of
            `low`.
        limit: see kind.
    """

    text: str
    where: str
    stage: str
    dataset: str
    metric: str
    high: tuple[tuple[str, str], ...]
    low: tuple[tuple[str, str], ...] = ()
    kind: Literal["order", "at least", "at most", "within"] = "order"
    limit: float = 0.0


@dataclass(frozen=True)
class Finding:
    """A claim put to numbers.

    Attributes:
        verdict: see Verdict.
        numbers: the two that decide, with the systems they belong to; empty if it is not measured.
        remark: why it does not hold, or what of it is not measured.
    """

    verdict: Verdict
    numbers: str
    remark: str = ""


def verdict_of(claim: Claim, numbers: Numbers, name_of: NameOf) -> Finding:
    """Whether numbers bear out a claim; of several systems on a side the one nearest to the other side decides.

    Args: claim; numbers to put it to; name_of: a system's name for readers, by its own name and reverse.
    """
    high, missing_high = _known(claim, claim.high, numbers, name_of)
    low, missing_low = _known(claim, claim.low, numbers, name_of)
    if not high or (claim.low and not low):
        return Finding(Verdict.NOT_MEASURED, "", _named("", [*missing_high, *missing_low]))
    without = _named("without ", [*missing_high, *missing_low])
    if claim.kind == "at least":
        name, worst = min(high, key=lambda item: item[1].value)
        return _finding(worst.value - claim.limit, worst.error, f"{_text(worst)} ({name})", without, BEYOND)
    if claim.kind == "at most":
        name, worst = max(high, key=lambda item: item[1].value)
        return _finding(claim.limit - worst.value, worst.error, f"{_text(worst)} ({name})", without, BEYOND)
    if claim.kind == "within":
        base_name, base = low[0]
        name, far = max(high, key=lambda item: abs(item[1].value - base.value))
        room = claim.limit - abs(far.value - base.value)
        said = f"{_text(far)} ({name}), {_text(base)} ({base_name})"
        return _finding(room, math.hypot(far.error, base.error), said, without, BEYOND)
    high_name, above = min(high, key=lambda item: item[1].value)
    low_name, below = max(low, key=lambda item: item[1].value)
    sign = ">" if above.value > below.value else "<" if above.value < below.value else "="
    said = f"{_text(above)} ({high_name}) {sign} {_text(below)} ({low_name})"
    return _finding(above.value - below.value, math.hypot(above.error, below.error), said, without, REVERSED)


def _known(
    claim: Claim, sides: tuple[tuple[str, str], ...], numbers: Numbers, name_of: NameOf
) -> tuple[list[tuple[str, Number]], list[str]]:
    known, missing = [], []
    for system, reverse in sides:
        number = numbers.number(claim.stage, claim.dataset, system, reverse, claim.metric)
        name = name_of(system, reverse)
        if number is None:
            missing.append(name)
        else:
            known.append((name, number))
    return known, missing


def _finding(difference: float, error: float, said: str, without: str, contrary: str) -> Finding:
    if difference > SIGMAS * error:
        return Finding(Verdict.HOLDS, said, without)
    undecided = UNDECIDED if math.isfinite(error) else NO_ERROR
    why = undecided if abs(difference) <= SIGMAS * error else contrary
    return Finding(Verdict.DOES_NOT, said, "; ".join(filter(None, (why, without))))


def _named(lead: str, names: list[str]) -> str:
    return f"{lead}{', '.join(dict.fromkeys(names))}" if names else ""


def _text(number: Number) -> str:
    value = f"{number.value:.4g}"
    return f"{value} ± {number.error:.2g}" if 0 < number.error < math.inf else value
