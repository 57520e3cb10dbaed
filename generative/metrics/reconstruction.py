"""The protocol 'CDVAE reconstruction / CSP': does a crystal predicted for a given composition match the true one?

One (or the best of k) prediction per target, compared by index; match rate over ALL targets; mean over the matched ones
of StructureMatcher.get_rms_dist(prediction, truth)[0], in units of (V/N)^(1/3). Tolerances ltol 0.3, stol 0.5, angle 10
degrees, which are looser than those of uniqueness and novelty. A prediction that fails the gate counts as no match.

Source: CDVAE (arXiv:2110.06197), scripts/compute_metrics.py, class RecEval; used unchanged by DiffCSP, FlowMM and
others for crystal structure prediction. Their gate, Gate.CDVAE, is CDVAE's structure rule and SMACT on the prediction;
since the composition is the target's own, its SMACT part lowers the match rate by the targets SMACT refuses. The metric
depends on k and on the gate, so both are in the result. A curve of best-of-k takes the first k predictions of each
target in the order in which they were drawn, so each point is the metric that k predictions would have given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from generative.crystal.crystals import Crystal
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.shares import counted, percentage, statistic
from generative.metrics.validity import unmatchable
from generative.screening import composition
from generative.screening.matching import MATCHER_FAULTS, Tolerances, counts_of, pairwise_rms
from generative.screening.validity import satisfies_cdvae_rule

PROTOCOL = "CDVAE reconstruction / CSP"
EVALUATION = "cdvae reconstruction"
ABOUT = "Share of true crystals matched by the crystal predicted for them, and how closely (arXiv:2110.06197, RecEval)."
RMS_UNIT = "(V/N)^(1/3)"

LTOL, STOL, ANGLE_TOL_DEG = 0.3, 0.5, 10.0
"""CDVAE's tolerances, part of the protocol."""


class Gate(StrEnum):
    """What a prediction must pass before it is compared."""

    NONE = "none"
    """Every prediction is compared."""
    STRUCTURE = "structure"
    """CDVAE's structure rule: distances >= 0.5 A, cell volume >= 0.1 A^3."""
    CDVAE = "cdvae"
    """The structure rule and SMACT's verdict on the composition, as published; the published gate also refuses a
    prediction with a site that CrystalNN cannot place, which is not looked at here."""


@dataclass(frozen=True)
class Reconstruction:
    """Result of the protocol; its text form names everything the metrics depend on.

    Attributes:
        protocol: PROTOCOL.
        n_targets: true crystals; the denominator of match_rate.
        n_matched: targets with at least one matching prediction.
        match_rate: n_matched / n_targets.
        mean_rms: mean over matched targets of the smallest rms among their predictions, units of (V/N)^(1/3); NaN if
            none matched.
        rms: per target, None where nothing matched.
        rms_of_samples: per target and prediction, None where it did not match.
        samples_per_target: the largest k.
        gate: applied to predictions.
        gated_share: share of all predictions that passed the gate.
        n_failures: predictions on which the matcher or the gate raised; they count as no match.
        tolerances: of the matcher.
        seconds: wall time, s.
    """

    protocol: str
    n_targets: int
    n_matched: int
    match_rate: float
    mean_rms: float
    rms: tuple[float | None, ...]
    rms_of_samples: tuple[tuple[float | None, ...], ...]
    samples_per_target: int
    gate: Gate
    gated_share: float
    n_failures: int
    tolerances: Tolerances
    seconds: float = field(default=math.nan, compare=False)

    def __str__(self) -> str:
        return (
            f"{self.protocol}: match rate {100 * self.match_rate:.2f} %, mean rms {self.mean_rms:.4f} "
            f"(n = {self.n_targets}, best of {self.samples_per_target}, gate {self.gate.value} passed by "
            f"{100 * self.gated_share:.1f} %, {self.tolerances}, pymatgen {self.tolerances.pymatgen_version}, "
            f"{self.n_failures} failures)"
        )

    def best_of(self, k: int) -> tuple[float | None, ...]:
        """Per target the smallest rms among its first k predictions, None where none of them matched."""
        return tuple(_smallest(row[:k]) for row in self.rms_of_samples)

    def as_evaluation(self) -> Evaluation:
        """The metrics: match rate and mean rms of all predictions, then of the first k for every k, then the gate."""
        metrics = list(self._metrics_of_best(self.samples_per_target, "match rate", "mean rms"))
        if self.samples_per_target > 1:
            for k in range(1, self.samples_per_target + 1):
                metrics += self._metrics_of_best(k, f"match rate, best of {k}", f"mean rms, best of {k}")
        n_samples = sum(len(row) for row in self.rms_of_samples)
        n_passed = round(self.gated_share * n_samples) if n_samples else 0
        settings = self.settings(self.samples_per_target)
        metrics.append(percentage(EVALUATION, "predictions past the gate", n_passed, n_samples, settings))
        columns = {"rms": tuple(rms for row in self.rms_of_samples for rms in row)}
        return Evaluation(EVALUATION, ABOUT, tuple(metrics), {"matching": self.seconds}, columns)

    def _metrics_of_best(self, k: int, rate_name: str, rms_name: str) -> tuple[Metric, Metric]:
        best = self.best_of(k)
        matched = [rms for rms in best if rms is not None]
        settings = self.settings(k)
        n_short = sum(len(row) < k for row in self.rms_of_samples)
        reasons = (
            counted(self.n_failures, "prediction cannot be matched|predictions cannot be matched"),
            counted(n_short, f"target has fewer than {k} predictions|targets have fewer than {k} predictions"),
        )
        reason = "; ".join(r for r in reasons if r)
        return (
            percentage(EVALUATION, rate_name, len(matched), self.n_targets, settings, reason),
            statistic(EVALUATION, rms_name, matched, "mean", RMS_UNIT, settings, of="matched targets"),
        )

    def settings(self, k: int) -> dict[str, Setting]:
        """What a metric of the first k predictions depends on."""
        return {"k": k, "gate": self.gate.value, **settings_of(self.tolerances)}


def settings_of(tolerances: Tolerances) -> dict[str, Setting]:
    """A matcher's tolerances and version as settings of a metric."""
    return {
        "ltol": tolerances.ltol,
        "stol": tolerances.stol,
        "angle_tol_deg": tolerances.angle_tol_deg,
        "pymatgen": tolerances.pymatgen_version,
    }


def evaluate(
    predictions: Sequence[Crystal | None | Sequence[Crystal | None]],
    truths: Sequence[Crystal],
    gate: Gate = Gate.NONE,
    workers: int = 1,
) -> Reconstruction:
    """Match rate and mean normalised rms of predictions against true crystals of the same index.

    Args:
        predictions: per target one crystal, or a sequence of k of which the best counts; None is a failed sample.
        truths: the targets.
        gate: what a prediction must pass first.
        workers: of the matcher; the result does not depend on it.

    Raises: ValueError: if there are no targets, or not one entry of predictions per target.
    """
    if not truths or len(predictions) != len(truths):
        raise ValueError(
            f"{len(predictions)} predictions beside {len(truths)} targets: expected one entry per target, in order"
        )
    started = time.perf_counter()
    samples = [(p,) if p is None or isinstance(p, Crystal) else tuple(p) for p in predictions]
    passed, n_failures = _gated(samples, gate)
    pairs = [(samples[target][k], truths[target]) for target, k in passed]
    found = pairwise_rms([p for p, _ in pairs if p is not None], [t for _, t in pairs], csp_tolerances(), workers)
    rms: list[list[float | None]] = [[None] * len(row) for row in samples]
    for (target, k), value in zip(passed, found.rms.tolist(), strict=True):
        rms[target][k] = None if math.isnan(value) else value
    n_samples = sum(len(row) for row in samples)
    matched = [best for best in map(_smallest, rms) if best is not None]
    return Reconstruction(
        protocol=PROTOCOL,
        n_targets=len(truths),
        n_matched=len(matched),
        match_rate=len(matched) / len(truths),
        mean_rms=math.fsum(matched) / len(matched) if matched else math.nan,
        rms=tuple(_smallest(row) for row in rms),
        rms_of_samples=tuple(tuple(row) for row in rms),
        samples_per_target=max(len(row) for row in samples),
        gate=gate,
        gated_share=len(passed) / n_samples if n_samples else math.nan,
        n_failures=n_failures + len(found.failures),
        tolerances=csp_tolerances(),
        seconds=time.perf_counter() - started,
    )


def csp_tolerances() -> Tolerances:
    """The tolerances of the protocol, with the installed pymatgen's version."""
    return Tolerances.of(LTOL, STOL, ANGLE_TOL_DEG)


def passes(sample: Crystal, gate: Gate) -> bool:
    """Whether a prediction passes the gate; what cannot be matched passes none, not even Gate.NONE.

    Raises: one of MATCHER_FAULTS: if the crystal cannot be matched (validity.unmatchable), or built by pymatgen.
    """
    fault = unmatchable(sample)
    if fault:
        raise ValueError(fault)
    if gate is Gate.NONE:
        return True
    if not satisfies_cdvae_rule(sample.to_structure()):
        return False
    return gate is Gate.STRUCTURE or composition.check(counts_of(sample)).valid


def _gated(samples: Sequence[tuple[Crystal | None, ...]], gate: Gate) -> tuple[list[tuple[int, int]], int]:
    """(target, k) of the predictions that passed the gate, and how many are no crystal or made it raise."""
    passed, n_failures = [], 0
    for target, row in enumerate(samples):
        for k, sample in enumerate(row):
            try:
                if sample is None:
                    n_failures += 1
                elif passes(sample, gate):
                    passed.append((target, k))
            except MATCHER_FAULTS:  # the protocol counts it as no match; it is counted apart, not hidden
                n_failures += 1
    return passed, n_failures


def _smallest(row: Sequence[float | None]) -> float | None:
    return min((rms for rms in row if rms is not None), default=None)
