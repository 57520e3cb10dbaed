"""Truth: every reference against every sample with pymatgen's StructureMatcher, written out."""

import math
from functools import lru_cache

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher

from generative.crystal.crystals import Crystal
from generative.metrics.reconstruction import Gate
from generative.metrics.reconstruction_sets import airi_accuracy, metre
from tests.generative.metrics.crystal_sets import (
    N_REAL,
    csp_rms,
    perturbed,
    real_crystals,
    samples_of_real,
    structure_of,
)


@lru_cache(maxsize=1)
def shuffled() -> tuple[Crystal | None, ...]:
    """Samples of the real crystals in another order, so that no index pairs a sample with its own crystal."""
    samples = samples_of_real()
    return tuple(samples[i] for i in np.random.default_rng(1).permutation(len(samples)))


def best_rms() -> list[float]:
    """Per reference the smallest rms among all samples of the same composition; infinity where none matches."""
    best = [math.inf] * N_REAL
    for (_, reference), rms in csp_rms().items():
        best[reference] = min(best[reference], rms)
    return best


def test_metre_and_crmse_are_those_of_all_pairs_written_out() -> None:
    matched = [rms for rms in best_rms() if rms < math.inf]
    found = metre(shuffled(), real_crystals())
    assert found.metric("METRe").value == pytest.approx(100 * len(matched) / N_REAL)
    assert 0 < len(matched) < N_REAL
    penalised = (sum(matched) + 0.5 * (N_REAL - len(matched))) / N_REAL
    assert found.metric("cRMSE").value == pytest.approx(penalised, abs=1e-9)
    assert found.metric("cRMSE").n == N_REAL
    assert found.metric("mean rms of matched references").value == pytest.approx(np.mean(matched), abs=1e-9)
    order = np.random.default_rng(1).permutation(N_REAL)
    of_sample = [min((r for (i, _), r in csp_rms().items() if i == original), default=None) for original in order]
    given = [math.inf if rms is None else rms for rms in found.per_sample["rms"]]
    assert given == pytest.approx([math.inf if rms is None else rms for rms in of_sample], abs=1e-9)
    assert "samples cannot be matched" in found.metric("METRe").reason


def test_metre_does_not_depend_on_the_order_of_the_samples_nor_on_processes() -> None:
    references = real_crystals(30)
    samples = shuffled()[:60]
    forward, backward = metre(samples, references), metre(samples[::-1], references, workers=2)
    assert [f.value for f in forward.metrics] == [f.value for f in backward.metrics]


def test_one_good_sample_serves_all_copies_of_a_reference() -> None:
    crystal = real_crystals()[100]
    assert metre([crystal, None, None], [crystal] * 3).metric("METRe").value == 100


def test_the_gate_keeps_overlapping_samples_out() -> None:
    crystal = real_crystals()[100]
    overlapping = Crystal(crystal.lattice_ang * 0.05, crystal.frac, crystal.atomic_numbers)
    assert metre([overlapping], [crystal]).metric("METRe").value == 100  # volumes are scaled to be equal
    gated = metre([overlapping], [crystal], Gate.STRUCTURE).metric("METRe")
    assert gated.value == 0
    assert (gated.settings["n_samples"], gated.settings["n_samples_compared"]) == (1, 0)


def test_without_samples_nothing_is_found_and_the_error_is_the_tolerance() -> None:
    found = metre([], real_crystals()[:3])
    assert (found.metric("METRe").value, found.metric("cRMSE").value) == (0, 0.5)
    assert math.isnan(found.metric("mean rms of matched references").value)


def test_without_references_the_metrics_are_undefined_with_a_reason() -> None:
    for metric in metre(real_crystals()[:3], []).metrics:
        assert math.isnan(metric.value)
        assert metric.reason.startswith("there are no")


@pytest.mark.parametrize(
    ("name", "ltol", "stol", "angle"),
    [("accuracy", 0.2, 0.3, 5), ("accuracy, tolerances x2", 0.4, 0.6, 10), ("accuracy, tolerances x5", 1.0, 1.5, 25)],
)
def test_accuracy_is_that_of_fit_written_out(name: str, ltol: float, stol: float, angle: float) -> None:
    samples, targets = airi_pairs()
    matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle)
    pairs = zip(map(structure_of, samples), map(structure_of, targets), strict=True)
    truth = [sample is not None and matcher.fit(sample, target) for sample, target in pairs]
    metric = airi_found().metric(name)
    assert metric.value == pytest.approx(100 * np.mean(truth))
    assert metric.n == len(targets)
    assert metric.settings["ltol"] == ltol
    assert sum(truth) > 0


def test_accuracy_grows_with_the_tolerances_and_counts_what_cannot_be_matched() -> None:
    x1, x2, x5 = airi_found().metrics
    assert x1.value < x2.value < x5.value
    assert "count" in x1.reason or "wrong" in x1.reason


@lru_cache(maxsize=1)
def airi_pairs() -> tuple[list[Crystal | None], list[Crystal]]:
    targets = list(real_crystals())
    rng = np.random.default_rng(3)
    samples: list[Crystal | None] = [perturbed(t, (0.1, 0.7, 1.4)[i % 3], rng) for i, t in enumerate(targets)]
    samples[5], samples[17] = None, Crystal(np.full((3, 3), np.nan), targets[17].frac, targets[17].atomic_numbers)
    samples[20] = targets[21]
    return samples, targets


@lru_cache(maxsize=1)
def airi_found():
    return airi_accuracy(*airi_pairs())


def test_accuracy_needs_one_sample_per_target() -> None:
    with pytest.raises(ValueError, match="one sample per target"):
        airi_accuracy([None], [])


def test_accuracy_of_no_targets_is_undefined() -> None:
    assert all(math.isnan(metric.value) for metric in airi_accuracy([], []).metrics)
