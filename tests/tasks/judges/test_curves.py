"""Curves and verdicts against known probabilities, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tasks.judges.curves import fit, isotonic, logistic, verdicts

MIDDLE, WIDTH = 0.08, 0.03


def drawn(n: int, seed: int, probability) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    predicted = rng.normal(0.08, 0.15, n)
    return predicted, rng.random(n) < probability(predicted)


def falling(d: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp((d - MIDDLE) / WIDTH)))


def test_the_logistic_curve_recovers_the_one_that_made_the_data() -> None:
    predicted, is_true = drawn(20_000, 0, falling)
    curve = logistic(predicted, is_true)
    for distance in np.linspace(-0.3, 0.4, 29):
        assert curve.at(float(distance)) == pytest.approx(float(falling(distance)), abs=0.025)


def test_the_logistic_curve_is_the_likeliest_by_another_optimiser() -> None:
    predicted, is_true = drawn(500, 1, falling)
    n_true = is_true.sum()
    target = np.where(is_true, (n_true + 1) / (n_true + 2), 1 / (500 - n_true + 2))  # Platt 1999

    def cost(x: np.ndarray) -> float:
        p = 1 / (1 + np.exp(np.clip((predicted - x[0]) / x[1], -30, 30)))
        return float(-np.sum(target * np.log(p) + (1 - target) * np.log(1 - p)))

    best = minimize(cost, [0.0, 0.1], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    curve = logistic(predicted, is_true)
    for distance in (-0.1, 0.0, 0.05, 0.1, 0.2):
        theirs = 1 / (1 + np.exp((distance - best[0]) / best[1]))
        assert curve.at(distance) == pytest.approx(theirs, abs=2e-3)


def test_a_separable_set_of_six_makes_no_certainty() -> None:
    predicted = np.array([-0.2, -0.1, 0.0, 0.2, 0.3, 0.4])
    curve = logistic(predicted, predicted < 0.1)
    assert 0.7 < curve.at(-0.1) < 0.99  # three pairs of a kind prove little
    assert 0.01 < curve.at(0.3) < 0.3


def test_the_monotone_curve_never_rises_and_follows_steps_that_no_logistic_curve_has() -> None:
    def steps(d: np.ndarray) -> np.ndarray:
        return np.where(d < 0.0, 0.7, np.where(d < 0.15, 0.6, 0.05))

    predicted, is_true = drawn(20_000, 2, steps)
    curve = isotonic(predicted, is_true)
    assert (np.diff(curve.probability) <= 0).all()
    for distance, p in ((-0.15, 0.7), (0.08, 0.6), (0.25, 0.05)):
        assert curve.at(distance) == pytest.approx(p, abs=0.04)
    chosen = fit(predicted, is_true, [str(i) for i in range(len(predicted))], 0)
    assert chosen.form == "isotonic"
    assert chosen.log_loss["isotonic"] < chosen.log_loss["logistic"] < chosen.base_log_loss


def test_the_form_that_made_the_data_is_chosen_and_its_loss_is_near_the_entropy() -> None:
    predicted, is_true = drawn(4_000, 3, falling)
    chosen = fit(predicted, is_true, [str(i) for i in range(len(predicted))], 0)
    p = falling(predicted)
    entropy = float(-np.mean(p * np.log(p) + (1 - p) * np.log(1 - p)))
    assert chosen.form == "logistic"
    assert chosen.log_loss["logistic"] == pytest.approx(entropy, rel=0.08)


def test_a_group_is_never_on_both_sides_of_the_split() -> None:
    # Two groups that contradict each other: rows of both on the side of the fit would end at the loss of a coin.
    predicted = np.tile(np.linspace(-1.0, 1.0, 400), 2)
    is_true = np.concatenate([predicted[:400] < 0, predicted[400:] > 0])
    chosen = fit(predicted, is_true, ["one"] * 400 + ["other"] * 400, 0)
    assert min(chosen.log_loss.values()) > 2 * np.log(2)


def test_verdicts_are_those_counted_by_hand() -> None:
    true, predicted = np.array([-0.01, 0.0, 0.04, 0.2, 0.3]), np.array([0.02, -0.1, 0.01, -0.3, 0.5])
    at_zero = verdicts(true, predicted, 0.0)
    assert (at_zero.n_stable, at_zero.n_called, at_zero.n_right) == (2, 2, 1)
    assert (at_zero.precision, at_zero.recall, at_zero.f1) == (0.5, 0.5, 0.5)
    assert verdicts(true, predicted, 0.05).recall == 1.0
    nothing = verdicts(np.array([0.2]), np.array([0.3]), 0.0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
