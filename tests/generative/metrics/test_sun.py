"""Truth: pymatgen's matcher and boolean arithmetic, written out."""

import math
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import binomtest

from generative.metrics.metric import Evaluation
from generative.metrics.sun import sun
from generative.screening.matching import ReferenceSet
from tests.generative.metrics.crystal_sets import (
    KNOWN,
    N_REAL,
    first_of_groups,
    fits_no_known,
    real_crystals,
    samples_of_real,
)


@lru_cache(maxsize=1)
def energies() -> np.ndarray:
    rng = np.random.default_rng(11)
    values = rng.normal(0.05, 0.1, N_REAL)
    values[rng.random(N_REAL) < 0.1] = np.nan
    values[:2] = 0.0, 0.1  # at the thresholds
    return values


@lru_cache(maxsize=1)
def found() -> Evaluation:
    crystals = real_crystals()[KNOWN]
    references = ReferenceSet([str(i) for i in range(len(crystals))], crystals)
    return sun(
        samples_of_real(),
        references,
        energies(),
        known_name="half",
        hull="MP 2026",
        potential="none",
        tolerances="csp",
    )


def truth() -> dict[str, np.ndarray]:
    unique = np.isin(np.arange(N_REAL), list(first_of_groups(0.3, 0.5, 10)))
    novel = np.array([flag is True for flag in fits_no_known(0.3, 0.5, 10)])
    return {"unique": unique, "novel": novel, "unique and novel": unique & novel}


def test_uniqueness_novelty_and_their_product_are_pymatgens() -> None:
    for name, flags in truth().items():
        assert found().metric(name).value == pytest.approx(100 * flags.mean())
        assert 0 < flags.sum() < N_REAL
    assert found().per_sample["unique"] == tuple(truth()["unique"].tolist())
    assert found().per_sample["novel"] == tuple(truth()["novel"].tolist())


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_products_with_stability_are_counted_over_all_samples(threshold: float) -> None:
    stable = np.array([not math.isnan(e) and e <= threshold for e in energies()])
    unique, novel = truth()["unique"], truth()["novel"]
    sets = {"stable": stable, "SU": stable & unique, "SN": stable & novel, "SUN": stable & unique & novel}
    for name, flags in sets.items():
        title = f"{name} (<= {threshold:g} eV/atom)"
        share, low, high = (found().metric(title + end) for end in ("", ", 95 % low", ", 95 % high"))
        assert share.value == pytest.approx(100 * flags.mean())
        assert 0 < flags.sum() < N_REAL
        interval = binomtest(int(flags.sum()), N_REAL).proportion_ci(method="wilson")
        assert (low.value, high.value) == pytest.approx((100 * interval.low, 100 * interval.high))
        assert share.n == low.n == high.n == N_REAL
        assert {"threshold_ev_per_atom": threshold, "hull": "MP 2026"}.items() <= share.settings.items()
    assert found().per_sample[f"sun_{threshold:g}"] == tuple(sets["SUN"].tolist())


def test_a_crystal_at_the_threshold_is_stable() -> None:
    crystal = real_crystals()[0]
    result = sun([crystal], ReferenceSet([], []), [0.0], known_name="", hull="", potential="")
    assert result.metric("SUN (<= 0 eV/atom)").value == 100


def test_every_metric_names_hull_potential_matcher_and_n() -> None:
    for metric in found().metrics:
        assert {"hull", "potential", "known", "tolerances", "stol", "pymatgen", "n_samples"} <= metric.settings.keys()


def test_unknown_places_on_the_hull_are_counted_and_left_out_of_the_mean() -> None:
    known = energies()[np.isfinite(energies())]
    metric = found().metric("mean energy above hull")
    assert metric.value == pytest.approx(known.mean())
    assert metric.n == len(known)
    assert found().metric("median energy above hull").value == pytest.approx(np.median(known))
    assert f"{N_REAL - len(known)} samples have no energy" in found().metric("stable (<= 0 eV/atom)").reason


def test_an_empty_set_is_undefined_and_a_missing_energy_is_refused() -> None:
    nothing = ReferenceSet([], [])
    result = sun([], nothing, [], known_name="", hull="", potential="")
    assert all(math.isnan(metric.value) and metric.reason for metric in result.metrics)
    with pytest.raises(ValueError, match="one energy per sample"):
        sun([None], nothing, [], known_name="", hull="", potential="")
