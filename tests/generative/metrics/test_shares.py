"""Truth: scipy's binomial test and numpy's statistics."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from generative.metrics.shares import percentage, statistic, wilson_interval, with_interval


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (1, 1), (3, 10), (386, 1024), (1, 2500), (2499, 2500)])
def test_the_interval_of_a_share_is_scipys(hits: int, n: int) -> None:
    truth = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, n) == pytest.approx((truth.low, truth.high), abs=1e-12)


def test_a_share_comes_with_both_bounds_as_metrics_of_their_own() -> None:
    share, low, high = with_interval(percentage("p", "SUN", 3, 10, {"hull": "h"}), 3)
    assert (low.name, high.name) == ("SUN, 95 % low", "SUN, 95 % high")
    assert low.value < share.value == 30 < high.value
    assert low.settings["hull"] == "h"


def test_a_share_of_nothing_is_undefined_and_says_so() -> None:
    for metric in with_interval(percentage("p", "novel", 0, 0, {}), 0):
        assert math.isnan(metric.value)
        assert metric.n == 0
        assert "no samples" in metric.reason


@pytest.mark.parametrize(
    ("how", "truth"),
    [
        ("mean", np.mean),
        ("median", np.median),
        ("rms", lambda v: np.linalg.norm(v) / math.sqrt(len(v))),
        ("q05", lambda v: np.percentile(v, 5)),
        ("q95", lambda v: np.percentile(v, 95)),
    ],
)
def test_statistics_are_numpys_over_the_values_there_are(how: str, truth) -> None:
    values = np.random.default_rng(0).normal(size=101)
    metric = statistic("p", how, [*values, math.nan, math.inf], how, "eV", {})
    assert metric.value == pytest.approx(truth(values), rel=1e-12)
    assert metric.n == 101
    assert "2 of 103" in metric.reason


def test_a_statistic_of_no_values_is_undefined_and_says_why() -> None:
    empty, missing = (statistic("p", "dE", values, "mean", "eV", {}) for values in ([], [math.nan] * 3))
    assert math.isnan(empty.value)
    assert empty.reason == "there are no samples"
    assert missing.reason == "none of the 3 samples has a value"
    assert missing.n == 0
