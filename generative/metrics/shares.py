"""Metrics that are shares of a count, with their confidence interval, and statistics of values some of which lack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from generative.metrics.metric import Metric, Setting

Z_95 = 1.959963984540054
"""Quantile of the standard normal distribution at 97.5 %: the interval holds 95 %."""


class Interval(NamedTuple):
    """Bounds of a share, both in [0, 1]."""

    low: float
    high: float


def wilson_interval(hits: int, n: int) -> Interval:
    """95 % confidence interval of a share of `hits` among `n` independent trials; NaN if n is 0.

    Unlike the normal approximation it stays inside [0, 1] and is right for shares near 0 and 1, where the shares of
    stable crystals lie.

    Source: Wilson, J. Am. Stat. Assoc. 22, 209 (1927), without continuity correction.
    """
    if n == 0:
        return Interval(math.nan, math.nan)
    share, z2 = hits / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding would leave 1e-17 where the bound is exactly 0 or 1.
    return Interval(0.0 if hits == 0 else max(0.0, centre - half), 1.0 if hits == n else min(1.0, centre + half))


def percentage(
    protocol: str, name: str, hits: int, n: int, settings: Mapping[str, Setting], reason: str = "", of: str = "samples"
) -> Metric:
    """`hits` of `n` in %; NaN with a reason if n is 0.

    Args:
        protocol: the protocol's name.
        name: the metric's name.
        hits: those that count.
        n: the denominator.
        settings: what the metric depends on.
        reason: if some of the n count as misses for a reason worth a sentence.
        of: what is counted, for the reason when there is none of it.
    """
    if n == 0:
        return Metric(protocol, name, math.nan, "%", 0, f"there are no {of}", settings)
    return Metric(protocol, name, 100 * hits / n, "%", n, reason, settings)


def with_interval(share: Metric, hits: int) -> tuple[Metric, Metric, Metric]:
    """A share in % followed by the lower and upper bound of its 95 % Wilson interval, each a metric of its own."""
    low, high = wilson_interval(hits, share.n)
    settings = {**share.settings, "interval": "Wilson, 95 %"}
    bounds = [
        Metric(share.protocol, f"{share.name}, 95 % {end}", 100 * value, "%", share.n, share.reason, settings)
        for end, value in (("low", low), ("high", high))
    ]
    return share, bounds[0], bounds[1]


def statistic(
    protocol: str,
    name: str,
    values: Sequence[float] | np.ndarray,
    how: str,
    unit: str,
    settings: Mapping[str, Setting],
    reason: str = "",
    of: str = "samples",
) -> Metric:
    """A statistic over the finite values; NaN with a reason if there are none.

    Args:
        protocol: the protocol's name.
        name: the metric's name.
        values: any of them may be NaN, which says that a sample has no such value.
        how: 'mean', 'median', 'rms' (root mean square), 'q05' or 'q95' (quantiles by linear interpolation).
        unit: of the values.
        settings: what the metric depends on.
        reason: one sentence to go with a metric that is defined; a count of missing values is made if it is empty.
        of: what has the values, for the reasons.

    Raises:
        KeyError: if `how` is none of the five.
    """
    known = np.asarray(values, dtype=float)
    n_given = len(known)
    known = known[np.isfinite(known)]
    if not len(known):
        empty = f"none of the {n_given} {of} has a value" if n_given else f"there are no {of}"
        return Metric(protocol, name, math.nan, unit, 0, reason or empty, settings)
    if len(known) < n_given and not reason:
        reason = f"{n_given - len(known)} of {n_given} {of} have no value"
    return Metric(protocol, name, _STATISTICS[how](known), unit, len(known), reason, settings)


_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda values: float(np.mean(values)),
    "median": lambda values: float(np.median(values)),
    "rms": lambda values: math.sqrt(float(np.mean(values**2))),
    "q05": lambda values: float(np.quantile(values, 0.05)),
    "q95": lambda values: float(np.quantile(values, 0.95)),
}


def counted(n: int, what: str) -> str:
    """'1 sample ...' or 'n samples ...' as the start of a sentence; empty if n is 0.

    Args:
        n: how many.
        what: the singular and what is said of it, such as 'sample is no crystal|samples are no crystals'.
    """
    one, _, many = what.partition("|")
    return "" if n == 0 else f"{n} {one if n == 1 else many}"
