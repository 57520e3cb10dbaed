"""Coverage against a second implementation by whole distance matrices, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from generative.metrics import coverage as module
from generative.metrics.coverage import (
    CARBON_24,
    MP_20,
    PEROV_5,
    Cutoffs,
    FingerprintSet,
    coverage,
    dominant_feature,
    nearest,
)
from generative.metrics.generation import coverage_metrics
from generative.metrics.magpie import feature_names

TIGHT = Cutoffs(1.0, 2.0, "this test")


def random_set(n: int, seed: int) -> FingerprintSet:
    rng = np.random.default_rng(seed)
    return FingerprintSet(rng.normal(size=(n, 61)) / 10, rng.normal(size=(n, 132)) / 4, "same")


def on_a_line(structure: list[float], composition: list[float]) -> FingerprintSet:
    """Crystals whose fingerprints differ in one number each."""
    s, c = np.zeros((len(structure), 61)), np.zeros((len(structure), 132))
    s[:, 7], c[:, 9] = structure, composition
    return FingerprintSet(s, c, "same")


def test_metrics_equal_those_from_whole_distance_matrices():
    samples, reference = random_set(70, 1), random_set(50, 2)
    s = np.linalg.norm(samples.structure[:, None] - reference.structure[None], axis=2)
    c = np.linalg.norm(samples.composition[:, None] - reference.composition[None], axis=2)
    cutoffs = Cutoffs(float(np.median(s.min(axis=0))), float(np.quantile(c.min(axis=1), 0.7)), "quantiles")
    found = coverage(samples, reference, cutoffs)
    recall = np.mean((s.min(axis=0) <= cutoffs.structure) & (c.min(axis=0) <= cutoffs.composition))
    precision = np.mean((s.min(axis=1) <= cutoffs.structure) & (c.min(axis=1) <= cutoffs.composition))
    assert 0 < recall < 1
    assert 0 < precision < 1
    assert found.cov_recall == pytest.approx(recall)
    assert found.cov_precision == pytest.approx(precision)
    assert found.amsd_recall == pytest.approx(s.min(axis=0).mean())
    assert found.amsd_precision == pytest.approx(s.min(axis=1).mean())
    assert found.amcd_recall == pytest.approx(c.min(axis=0).mean())
    assert found.amcd_precision == pytest.approx(c.min(axis=1).mean())


def test_the_two_nearest_may_be_different_crystals():
    reference = on_a_line([0.0], [0.0])
    apart = on_a_line([0.5, 50.0], [50.0, 0.5])
    assert coverage(apart, reference, TIGHT).cov_recall == 1.0
    assert coverage(apart, reference, TIGHT).cov_precision == 0.0


def test_a_distance_equal_to_the_cutoff_counts():
    assert coverage(on_a_line([1.0], [2.0]), on_a_line([0.0], [0.0]), TIGHT).cov_recall == 1.0
    beyond = on_a_line([np.nextafter(1.0, 2)], [2.0])
    assert coverage(beyond, on_a_line([0.0], [0.0]), TIGHT).cov_recall == 0.0


def test_precision_divides_by_all_generated_crystals_and_the_mean_distances_do_not():
    samples = on_a_line([0.0, 0.2, math.nan, 0.0], [0.0, 0.0, 0.0, math.nan])
    found = coverage(samples, on_a_line([0.0], [0.0]), TIGHT)
    assert found.cov_precision == 2 / 4
    assert found.amsd_precision == pytest.approx(0.1)
    assert (found.n_samples, found.n_samples_without) == (4, 2)


def test_reference_crystals_without_fingerprint_leave_the_denominator_and_are_counted():
    found = coverage(on_a_line([0.0], [0.0]), on_a_line([0.0, 9.0, math.nan], [0.0, 0.0, 0.0]), TIGHT)
    assert found.cov_recall == 1 / 2
    assert (found.n_reference, found.n_reference_without) == (2, 1)


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
def test_the_size_of_blocks_changes_nothing(rows, monkeypatch):
    first, second = random_set(61, 3).structure, random_set(40, 4).structure
    expected = np.linalg.norm(first[:, None] - second[None], axis=2)
    monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    of_first, of_second = nearest(first, second)
    np.testing.assert_allclose(of_first, expected.min(axis=1), atol=1e-12)
    np.testing.assert_allclose(of_second, expected.min(axis=0), atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_nearest_rows_are_the_first_of_the_nearest_by_brute_force(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 3, (rng.integers(1, 40), 3)).astype(float) for _ in range(2))  # many ties
    monkeypatch.setattr(module, "BLOCK_ROWS", int(rng.integers(1, 12)))
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    of_first, of_second = module.nearest_rows(first, second)
    np.testing.assert_array_equal(of_first.row, distances.argmin(axis=1))
    np.testing.assert_array_equal(of_second.row, distances.argmin(axis=0))


@pytest.mark.parametrize("seed", range(10))
def test_a_feature_that_makes_most_of_the_distances_is_named_and_no_other(seed):
    rng = np.random.default_rng(seed)
    samples, reference = random_set(30, seed), random_set(20, seed + 100)
    plain = coverage(samples, reference, TIGHT)
    assert (plain.dominant_recall, plain.dominant_precision) == ("", "")
    column, far = int(rng.integers(132)), 10.0 ** rng.uniform(3, 6)
    reference.composition[0, column] += far  # one crystal of the reference: recall sees it, precision goes elsewhere
    found = coverage(samples, reference, TIGHT)
    assert found.dominant_recall.startswith(f"{feature_names()[column]}, ")
    assert found.dominant_precision == ""
    metrics = {metric.name: metric for metric in coverage_metrics("p", found, {})}
    assert feature_names()[column] in metrics["AMCD-R"].reason
    assert metrics["AMCD-P"].reason == metrics["COV-R"].reason == ""


def test_equal_sets_and_tables_of_other_features_have_a_name_for_what_dominates_or_none():
    assert dominant_feature(np.zeros((3, 132))) == ""
    assert dominant_feature(np.array([[0.0, 3.0, 4.0]])) == "feature 2, 64 % of the squared distances"
    assert dominant_feature(np.array([[3.0, 3.0]])) == ""


def test_without_any_fingerprint_nothing_is_covered_and_distances_are_undefined():
    found = coverage(on_a_line([math.nan], [0.0]), on_a_line([0.0], [0.0]), TIGHT)
    assert (found.cov_recall, found.cov_precision) == (0.0, 0.0)
    assert math.isnan(found.amsd_recall)
    assert "no generated crystal" in found.reason


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0)])
def test_an_empty_side_leaves_everything_undefined_with_a_reason(n, m):
    found = coverage(on_a_line([0.0] * n, [0.0] * n), on_a_line([0.0] * m, [0.0] * m), TIGHT)
    assert math.isnan(found.cov_recall)
    assert math.isnan(found.cov_precision)
    assert found.reason


def test_the_papers_cutoffs_and_all_counts_stand_in_the_result():
    assert (MP_20.structure, MP_20.composition) == (0.4, 10)
    assert (PEROV_5.structure, PEROV_5.composition) == (0.2, 4)
    assert (CARBON_24.structure, CARBON_24.composition) == (0.2, 4)
    found = coverage(random_set(5, 1), random_set(4, 2), MP_20)
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["cutoffs"] == {"structure": 0.4, "composition": 10.0, "source": "CDVAE, MP-20"}
    assert plain["scaler"] == "same"
    assert "cut-offs 0.4 / 10" in str(found)


def test_differently_standardised_sets_are_refused():
    other = FingerprintSet(np.zeros((1, 61)), np.zeros((1, 132)), "another")
    with pytest.raises(ValueError, match="one scaler for both"):
        coverage(random_set(2, 1), other, TIGHT)


def test_sets_and_cutoffs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="one row of each per crystal"):
        FingerprintSet(np.zeros((2, 61)), np.zeros((3, 132)), "same")
    with pytest.raises(ValueError, match="at least zero"):
        Cutoffs(-0.1, 4.0, "mine")
