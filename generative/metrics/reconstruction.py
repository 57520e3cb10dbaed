"""The protocol 'CDVAE reconstruction / CSP': does a crystal predicted for a given composition match the true one?

One (or the best of k) prediction per target, compared by index; match rate over ALL targets; mean over the matched ones
of StructureMatcher.get_rms_dist(prediction, truth)[0], in units of (V/N)^(1/3). Tolerances ltol 0.3, stol 0.5, angle 10
degrees, which are looser than those of uniqueness and novelty. A prediction that fails the gate counts as no match.

Source: CDVAE (arXiv:2110.06197), scripts/compute_metrics.py, class RecEval; used unchanged by DiffCSP, FlowMM and
others for crystal structure prediction. Their gate, Gate.CDVAE, is CDVAE's structure rule and SMACT on the prediction;
since the composition is the target's own, its SMACT part lowers the match rate by the targets SMACT refuses. The figure
depends on k and on the gate, so both are in the result.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from generative.crystals import Crystal
from generative.screening import composition
from generative.screening.matching import MATCHER_FAULTS, Tolerances, counts_of
from generative.screening.validity import satisfies_cdvae_rule

PROTOCOL = "CDVAE reconstruction / CSP"

LTOL, STOL, ANGLE_TOL_DEG = 0.3, 0.5, 10.0
"""CDVAE's tolerances, part of the protocol."""


class Gate(StrEnum):
    """What a prediction must pass before it is compared."""

    NONE = "none"
    """Every prediction is compared."""
    STRUCTURE = "structure"
    """CDVAE's structure rule: distances >= 0.5 A, cell volume >= 0.1 A^3."""
    CDVAE = "cdvae"
    """The structure rule and SMACT's verdict on the composition, as published."""


@dataclass(frozen=True)
class Reconstruction:
    """Result of the protocol; its text form names everything the figures depend on.

    Attributes:
        protocol: PROTOCOL.
        n_targets: true crystals; the denominator of match_rate.
        n_matched: targets with at least one matching prediction.
        match_rate: n_matched / n_targets.
        mean_rms: mean over matched targets of the smallest rms among their predictions, units of (V/N)^(1/3); NaN if
            none matched.
        rms: per target, None where nothing matched.
        samples_per_target: the largest k.
        gate: applied to predictions.
        gated_share: share of all predictions that passed the gate.
        n_failures: predictions on which the matcher or the gate raised; they count as no match.
        tolerances: of the matcher.
    """

    protocol: str
    n_targets: int
    n_matched: int
    match_rate: float
    mean_rms: float
    rms: tuple[float | None, ...]
    samples_per_target: int
    gate: Gate
    gated_share: float
    n_failures: int
    tolerances: Tolerances

    def __str__(self) -> str:
        return (
            f"{self.protocol}: match rate {100 * self.match_rate:.2f} %, mean rms {self.mean_rms:.4f} "
            f"(n = {self.n_targets}, best of {self.samples_per_target}, gate {self.gate.value} passed by "
            f"{100 * self.gated_share:.1f} %, {self.tolerances}, pymatgen {self.tolerances.pymatgen_version}, "
            f"{self.n_failures} failures)"
        )


class _Outcome(NamedTuple):
    """One target: smallest rms or None, predictions that passed the gate, predictions that raised."""

    rms: float | None
    n_passed: int
    n_failures: int


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
        workers: processes; above 1 they are spawned, so the caller's main module must be importable. The result does
            not depend on it.

    Raises: ValueError: if there are no targets, or not one entry of predictions per target.
    """
    if not truths or len(predictions) != len(truths):
        raise ValueError(
            f"{len(predictions)} predictions beside {len(truths)} targets: expected one entry per target, in order"
        )
    samples = [(p,) if p is None or isinstance(p, Crystal) else tuple(p) for p in predictions]
    gates = [gate] * len(truths)
    outcomes: list[_Outcome]
    if workers == 1:
        outcomes = list(map(_outcome, samples, truths, gates))
    else:
        # Spawned, not forked: a fork of a process whose torch threads hold locks may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            outcomes = list(pool.map(_outcome, samples, truths, gates, chunksize=32))
    return _summary(outcomes, samples, gate)


def match_rms(prediction: Crystal, truth: Crystal) -> float | None:
    """StructureMatcher.get_rms_dist(prediction, truth)[0] at the protocol's tolerances; None if they do not match.

    Raises: one of MATCHER_FAULTS: as pymatgen does on degenerate cells.
    """
    found = _tolerances().matcher().get_rms_dist(prediction.to_structure(), truth.to_structure())
    return None if found is None else float(found[0])


def _tolerances() -> Tolerances:
    return Tolerances.of(LTOL, STOL, ANGLE_TOL_DEG)


def _outcome(samples: tuple[Crystal | None, ...], truth: Crystal, gate: Gate) -> _Outcome:
    best: float | None = None
    n_passed = n_failures = 0
    for sample in samples:
        if sample is None:
            n_failures += 1
            continue
        try:
            if not _passes(sample, gate):
                continue
            n_passed += 1
            rms = match_rms(sample, truth)
        except MATCHER_FAULTS:  # the protocol counts it as no match; it is counted apart, not hidden
            n_failures += 1
            continue
        if rms is not None and (best is None or rms < best):
            best = rms
    return _Outcome(best, n_passed, n_failures)


def _passes(sample: Crystal, gate: Gate) -> bool:
    """Whether a prediction passes the gate; numbers that are no crystal pass none, not even Gate.NONE.

    Raises: one of MATCHER_FAULTS: if pymatgen cannot build the crystal.
    """
    finite = np.isfinite(sample.lattice_ang).all() and np.isfinite(sample.frac).all()
    if not finite or not abs(np.linalg.det(sample.lattice_ang)) > 0:
        raise ValueError("the prediction holds values that are not finite, or has no volume")
    if gate is Gate.NONE:
        return True
    if not satisfies_cdvae_rule(sample.to_structure()):
        return False
    return gate is Gate.STRUCTURE or composition.check(counts_of(sample)).valid


def _summary(outcomes: Iterable[_Outcome], samples: Sequence[tuple[Crystal | None, ...]], gate: Gate) -> Reconstruction:
    outcomes = list(outcomes)
    matched = [outcome.rms for outcome in outcomes if outcome.rms is not None]
    n_samples = sum(len(k) for k in samples)
    return Reconstruction(
        protocol=PROTOCOL,
        n_targets=len(outcomes),
        n_matched=len(matched),
        match_rate=len(matched) / len(outcomes),
        mean_rms=math.fsum(matched) / len(matched) if matched else math.nan,
        rms=tuple(outcome.rms for outcome in outcomes),
        samples_per_target=max(len(k) for k in samples),
        gate=gate,
        gated_share=sum(outcome.n_passed for outcome in outcomes) / n_samples if n_samples else math.nan,
        n_failures=sum(outcome.n_failures for outcome in outcomes),
        tolerances=_tolerances(),
    )
