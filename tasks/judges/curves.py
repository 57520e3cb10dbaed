"""From pairs of predicted and true distances above the hull to errors, verdicts and probabilities.

A probability by distance is fitted in two forms, a logistic curve and a monotone one (isotonic, of twentieths of the
crystals). The monotone one is taken only if its log loss on formulas that the fit has not seen is lower by MARGIN; the
form is then fitted to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dft.potentials.calibration import Curve

GROUPS = 20
"""Of equal number for the monotone form."""
MARGIN = 0.02
"""Of the mean log loss: less is chance with some hundred pairs, and the monotone form knows nothing beyond its last
group."""
LOGISTIC_KNOTS = 121
REACH_IN_WIDTHS = 7.0
"""A logistic curve is written as knots so far to both sides of its middle, where it is 0.001 from its end."""


@dataclass(frozen=True)
class Verdicts:
    """How calls of stability at a bound fare.

    Attributes:
        bound_ev_per_atom: at most so far above the hull is stable, for prediction and truth.
        n_stable: so many are by DFT.
        n_called: so many are called.
        n_right: so many are both.
    """

    bound_ev_per_atom: float
    n_stable: int
    n_called: int
    n_right: int

    @property
    def precision(self) -> float | None:
        """Share of calls that are right; None without a call."""
        return self.n_right / self.n_called if self.n_called else None

    @property
    def recall(self) -> float | None:
        """Share of stable crystals that are called; None if there is none."""
        return self.n_right / self.n_stable if self.n_stable else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both; None without a call and a stable crystal."""
        both = self.n_stable + self.n_called
        return 2 * self.n_right / both if both else None


def verdicts(true: np.ndarray, predicted: np.ndarray, bound_ev_per_atom: float) -> Verdicts:
    """Calls at a bound; distances (n,), eV/atom."""
    stable, called = true <= bound_ev_per_atom, predicted <= bound_ev_per_atom
    return Verdicts(bound_ev_per_atom, int(stable.sum()), int(called.sum()), int((stable & called).sum()))


@dataclass(frozen=True)
class Fit:
    """A curve and why it has its form.

    Attributes:
        form: 'logistic' or 'isotonic'.
        curve: fitted to all.
        log_loss: by form, of the half that the fit had not seen; lower is better.
        base_log_loss: of the share of true ones alone.
        n: pairs.
    """

    form: str
    curve: Curve
    log_loss: dict[str, float]
    base_log_loss: float
    n: int


def fit(predicted: np.ndarray, is_true: np.ndarray, groups: Sequence[str], seed: int) -> Fit:
    """The probability of being true by predicted distance.

    Args:
        predicted: (n,), eV/atom.
        is_true: (n,), bool.
        groups: (n,), such as formulas: all of a group are on one side of the split.
        seed: of the split into halves.
    """
    names = sorted(set(groups))
    kept = np.random.default_rng(seed).permutation(len(names)) < len(names) // 2
    side = dict(zip(names, kept, strict=True))
    learn = np.array([side[name] for name in groups], dtype=bool)
    forms = {"logistic": logistic, "isotonic": isotonic}
    losses = {
        name: _log_loss(form(predicted[learn], is_true[learn]), predicted[~learn], is_true[~learn])
        for name, form in forms.items()
    }
    best = "isotonic" if losses["isotonic"] < losses["logistic"] - MARGIN else "logistic"
    share = float(is_true[learn].mean())
    base = _log_loss(Curve((0.0,), (share,)), predicted[~learn], is_true[~learn])
    return Fit(best, forms[best](predicted, is_true), losses, base, len(predicted))


def logistic(predicted: np.ndarray, is_true: np.ndarray) -> Curve:
    """1 / (1 + exp((d - middle) / width)) by maximum likelihood (Newton's method), as knots.

    The targets are Platt's (Advances in Large Margin Classifiers, 1999), (n_true + 1) / (n_true + 2) and
    1 / (n_false + 2), so that few pairs make no certainty.
    """
    n_true = int(is_true.sum())
    target = np.where(is_true, (n_true + 1) / (n_true + 2), 1 / (len(is_true) - n_true + 2))
    scale = float(np.std(predicted)) or 1.0
    design = np.stack([np.ones(len(predicted)), predicted / scale], axis=1)
    weights = np.zeros(2)
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (target - p)
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]  # of one pair, or of pairs alike, it is singular
        weights = weights + step
        if float(np.abs(step).max()) < 1e-10:
            break
    slope = min(float(weights[1]) / scale, -1e-9)
    middle, width = -float(weights[0]) / slope, -1.0 / slope
    knots = middle + width * np.linspace(-REACH_IN_WIDTHS, REACH_IN_WIDTHS, LOGISTIC_KNOTS)
    return _curve(knots, 1.0 / (1.0 + np.exp((knots - middle) / width)))


def isotonic(predicted: np.ndarray, is_true: np.ndarray) -> Curve:
    """The likeliest never rising shares of groups of like distance, each with one true and one false added."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, min(GROUPS, len(order))) if len(part)]
    at = np.array([predicted[part].mean() for part in parts])
    share = np.array([(is_true[part].sum() + 1) / (len(part) + 2) for part in parts])
    n = np.array([len(part) for part in parts], dtype=float)
    return _curve(at, IsotonicRegression(increasing=False).fit_transform(at, share, sample_weight=n))


def _curve(at: np.ndarray, probability: np.ndarray) -> Curve:
    return Curve(tuple(round(float(x), 5) for x in at), tuple(round(float(p), 5) for p in probability))


def _log_loss(curve: Curve, predicted: np.ndarray, is_true: np.ndarray) -> float:
    p = np.clip([curve.at(float(x)) for x in predicted], 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(is_true, np.log(p), np.log(1 - p))))
