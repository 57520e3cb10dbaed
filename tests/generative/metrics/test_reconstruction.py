"""Truth: CDVAE's RecEval written out with pymatgen's StructureMatcher."""

import math
from importlib.metadata import version

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.metrics.reconstruction import Gate, evaluate
from tests.generative.metrics.crystal_sets import (
    N_REAL,
    csp_rms,
    perturbed,
    real_crystals,
    samples_of_real,
    structure_of,
)

PROTOTYPES = [
    Structure.from_spacegroup(225, Lattice.cubic(4.2), ["Mg", "O"], [[0] * 3, [0.5] * 3]).get_primitive_structure(),
    Structure(
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O", "O", "O"],
        np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    ),
    Structure(Lattice.hexagonal(3.1, 3.2), ["Ta", "B", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]),
    Structure(
        Lattice.tetragonal(4.6, 2.96),
        ["Ti"] * 2 + ["O"] * 4,
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5], [0.805, 0.195, 0.5]],
    ),
]
TRUTHS = [Crystal.from_structure(s) for s in PROTOTYPES]


def noisy(crystal: Crystal, sigma_ang: float, rng: np.random.Generator) -> Crystal:
    shift = rng.normal(scale=sigma_ang, size=crystal.frac.shape) @ np.linalg.inv(crystal.lattice_ang)
    strain = np.eye(3) + rng.normal(scale=0.02, size=(3, 3))
    return Crystal(crystal.lattice_ang @ strain, (crystal.frac + shift + rng.random(3)) % 1.0, crystal.atomic_numbers)


def rec_eval(predictions: list[Crystal], truths: list[Crystal]) -> list[float | None]:
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    found = [matcher.get_rms_dist(p.to_structure(), t.to_structure()) for p, t in zip(predictions, truths, strict=True)]
    return [None if f is None else f[0] for f in found]


def test_match_rate_and_rms_are_those_of_the_published_evaluation() -> None:
    rng = np.random.default_rng(0)
    truths = TRUTHS * 6
    predictions = [noisy(t, sigma, rng) for t, sigma in zip(truths, np.repeat([0.05, 0.3, 1.0], 8), strict=True)]
    expected = rec_eval(predictions, truths)
    result = evaluate(predictions, truths)
    assert result.rms == pytest.approx(tuple(expected), abs=1e-12)
    matched = [r for r in expected if r is not None]
    assert 0 < len(matched) < len(truths)
    assert result.match_rate == len(matched) / len(truths)
    assert result.mean_rms == pytest.approx(np.mean(matched))


def test_a_perfect_copy_matches_with_no_displacement_and_another_structure_does_not() -> None:
    caesium_chloride = Structure(Lattice.cubic(2.6), ["Mg", "O"], [[0] * 3, [0.5] * 3])
    same, other = evaluate([TRUTHS[0], Crystal.from_structure(caesium_chloride)], [TRUTHS[0]] * 2).rms
    assert same == pytest.approx(0, abs=1e-9)
    assert other is None


def test_the_best_of_k_is_the_smallest_rms_of_the_singles() -> None:
    rng = np.random.default_rng(1)
    samples = [[noisy(t, 0.25, rng) for _ in range(3)] for t in TRUTHS]
    singles = [rec_eval(list(column), TRUTHS) for column in zip(*samples, strict=True)]
    best = [min((r for r in row if r is not None), default=None) for row in zip(*singles, strict=True)]
    result = evaluate(samples, TRUTHS)
    assert result.rms == pytest.approx(tuple(best), abs=1e-12)
    assert result.samples_per_target == 3


def test_gates_refuse_overlaps_and_unbalanced_compositions() -> None:
    truth = TRUTHS[2]  # TaB2, which SMACT refuses
    overlap = Crystal(truth.lattice_ang, np.zeros((3, 3)), truth.atomic_numbers)
    for gate, n_matched, share in ((Gate.NONE, 1, 1.0), (Gate.STRUCTURE, 1, 0.5), (Gate.CDVAE, 0, 0.0)):
        result = evaluate([truth, overlap], [truth, truth], gate)
        assert (result.n_matched, result.gated_share) == (n_matched, share)


def test_failed_samples_count_as_no_match_and_are_counted() -> None:
    nan = Crystal(np.full((3, 3), np.nan), TRUTHS[0].frac, TRUTHS[0].atomic_numbers)
    result = evaluate([None, nan, [None, TRUTHS[2]]], TRUTHS[:3])
    assert (result.n_targets, result.n_matched, result.n_failures) == (3, 1, 3)
    assert math.isnan(evaluate([None], TRUTHS[:1]).mean_rms)


def test_the_number_of_processes_does_not_change_the_result() -> None:
    rng = np.random.default_rng(2)
    predictions = [noisy(t, 0.3, rng) for t in TRUTHS]
    assert evaluate(predictions, TRUTHS, Gate.STRUCTURE, workers=2) == evaluate(predictions, TRUTHS, Gate.STRUCTURE)


def test_the_text_names_all_that_the_metrics_depend_on() -> None:
    text = str(evaluate(TRUTHS, TRUTHS))
    for words in (
        "CDVAE reconstruction / CSP",
        "100.00 %",
        "n = 4",
        "best of 1",
        "gate none",
        "ltol 0.3",
        "stol 0.5",
        "angle 10",
    ):
        assert words in text


@pytest.mark.parametrize(("predictions", "truths"), [([], []), ([None], TRUTHS[:2])])
def test_predictions_that_do_not_pair_with_targets_are_refused(predictions: list[None], truths: list[Crystal]) -> None:
    with pytest.raises(ValueError, match="one entry per target"):
        evaluate(predictions, truths)


def test_metrics_on_real_crystals_are_those_of_the_published_evaluation() -> None:
    samples = samples_of_real()
    matched = [csp_rms()[i, i] for i in range(N_REAL) if (i, i) in csp_rms()]
    evaluation = evaluate(samples, real_crystals()).as_evaluation()
    assert evaluation.metric("match rate").value == pytest.approx(100 * len(matched) / N_REAL)
    assert evaluation.metric("mean rms").value == pytest.approx(np.mean(matched), abs=1e-9)
    assert evaluation.metric("mean rms").n == len(matched) < N_REAL
    n_crystals = sum(structure_of(sample) is not None for sample in samples)
    assert evaluation.metric("predictions past the gate").value == pytest.approx(100 * n_crystals / N_REAL)


def test_the_curve_of_best_of_k_is_that_of_the_first_k_predictions_alone() -> None:
    targets = real_crystals()[-24:]
    rng = np.random.default_rng(4)
    samples = [[perturbed(t, sigma, rng) for sigma in (1.2, 0.8, 0.3)] for t in targets]
    truth = [rec_eval(list(column), list(targets)) for column in zip(*samples, strict=True)]
    evaluation = evaluate(samples, targets).as_evaluation()
    rates = []
    for k in (1, 2, 3):
        best = [min((r for r in row[:k] if r is not None), default=None) for row in zip(*truth, strict=True)]
        matched = [r for r in best if r is not None]
        rate, rms = evaluation.metric(f"match rate, best of {k}"), evaluation.metric(f"mean rms, best of {k}")
        assert rate.value == pytest.approx(100 * len(matched) / len(targets))
        assert rms.value == pytest.approx(np.mean(matched), abs=1e-9)
        assert (rate.n, rms.n, rate.settings["k"]) == (len(targets), len(matched), k)
        rates.append(rate.value)
    assert 0 < rates[0] < rates[2] <= 100
    assert evaluation.metric("match rate").value == rates[2]
    flat = [math.nan if rms is None else rms for row in zip(*truth, strict=True) for rms in row]
    given = [math.nan if rms is None else rms for rms in evaluation.per_sample["rms"]]
    assert given == pytest.approx(flat, abs=1e-9, nan_ok=True)
    assert evaluation.metric("predictions past the gate").value == 100


def test_metrics_carry_gate_tolerances_and_version_and_count_failures() -> None:
    metric = evaluate([None, TRUTHS[1]], TRUTHS[:2], Gate.STRUCTURE).as_evaluation().metric("match rate")
    assert metric.value == 50
    assert "1 prediction" in metric.reason
    assert metric.settings["gate"] == "structure"
    assert {"ltol": 0.3, "stol": 0.5, "angle_tol_deg": 10.0}.items() <= metric.settings.items()
    assert metric.settings["pymatgen"] == version("pymatgen")


def test_no_match_leaves_the_rms_undefined_with_a_reason() -> None:
    metric = evaluate([None], TRUTHS[:1]).as_evaluation().metric("mean rms")
    assert math.isnan(metric.value)
    assert metric.reason == "there are no matched targets"


def test_targets_with_fewer_predictions_than_k_are_counted() -> None:
    evaluation = evaluate([[TRUTHS[0]] * 2, [TRUTHS[1]]], TRUTHS[:2]).as_evaluation()
    assert "1 target has fewer than 2" in evaluation.metric("match rate, best of 2").reason
    assert evaluation.metric("match rate, best of 1").reason == ""


def test_a_crystal_the_matcher_cannot_handle_has_no_rms() -> None:
    lost = Crystal(np.full((3, 3), np.nan), TRUTHS[0].frac, TRUTHS[0].atomic_numbers)
    found = evaluate([lost], TRUTHS[:1])
    assert found.rms == (None,)
    assert found.n_failures == 1
