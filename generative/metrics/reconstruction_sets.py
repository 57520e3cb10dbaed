"""Structure prediction beyond one-to-one: METRe and cRMSE against all samples, and accuracy by StructureMatcher.fit.

METRe (match everyone to reference) asks of each reference whether ANY sample matches it, so it does not depend on which
polymorph a sample happens to be paired with. cRMSE is the mean over all references of the smallest rms among the
samples that match, where a reference that none matches counts with the site tolerance itself (0.5 at the tolerances of
the field), so that a low match rate cannot buy a low error. Both grow better with the number of samples, which is
therefore a setting of the metrics.

Accuracy here is the share of targets for which StructureMatcher.fit(sample, target) is True. fit compares the LARGEST
displacement of paired atoms with the site tolerance, get_rms_dist (match rate, METRe) the root mean square: the two
verdicts differ even at equal tolerances.

Source: METRe and cRMSE: arXiv:2509.12178, as cRMSE is written out in later work that reports it:
cRMSE = (1/N_ref) [sum over matched references of min over matching samples of rms + stol (N_ref - N_matched)].
Accuracy: 'Unleashing the power of novel conditional generative approaches for new materials discovery' (AIRI), whose
code averages over batches and so weights the crystals of a last, smaller batch a little more; here all weigh the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.nearest_match import nearest_match
from generative.metrics.reconstruction import RMS_UNIT, Gate, csp_tolerances, passes, settings_of
from generative.metrics.shares import counted, percentage, statistic
from generative.metrics.validity import unmatchable
from generative.screening.matching import (
    MATCHER_FAULTS,
    ReferenceSet,
    Tolerances,
    find_known,
)

METRE = "metre"
METRE_ABOUT = (
    "Share of reference crystals matched by any sample, and the error with a penalty for the rest (METRe, cRMSE)."
)
AIRI = "airi accuracy"
AIRI_ABOUT = "Share of targets whose sample StructureMatcher.fit accepts at three sets of tolerances (AIRI)."

AIRI_TOLERANCES = {"x1": (0.2, 0.3, 5.0), "x2": (0.4, 0.6, 10.0), "x5": (1.0, 1.5, 25.0)}
"""ltol, stol, angle in degrees: pymatgen's defaults and multiples of them, as published."""


def metre(
    samples: Sequence[Crystal | None], references: Sequence[Crystal], gate: Gate = Gate.NONE, workers: int = 1
) -> Evaluation:
    """METRe, cRMSE and the mean rms of matched references at ltol 0.3, stol 0.5, angle 10 degrees.

    Args:
        samples: all that were drawn, in any order; None is a failed sample.
        references: crystals that should be found.
        gate: what a sample must pass before it is compared.
        workers: of the matcher; the result does not depend on it.
    """
    started = time.perf_counter()
    tolerances = csp_tolerances()
    compared, n_failures = _past_gate(samples, gate)
    known = ReferenceSet([str(i) for i in range(len(references))], references)
    found = nearest_match(compared, known, tolerances, workers)
    best = found.of_reference
    settings: dict[str, Setting] = {
        "gate": gate.value,
        "n_samples": len(samples),
        "n_samples_compared": sum(sample is not None for sample in compared),
        "n_references": len(references),
        "n_pairs": found.n_pairs,
        "penalty_of_unmatched": tolerances.stol,
        **settings_of(tolerances),
    }
    reasons = (
        counted(n_failures, "sample cannot be matched|samples cannot be matched"),
        counted(
            len(found.failures), "sample met a pair that cannot be matched|samples met pairs that cannot be matched"
        ),
    )
    reason = "; ".join(r for r in reasons if r)
    matched = best[np.isfinite(best)]
    corrected = np.where(np.isfinite(best), best, tolerances.stol)
    metrics = (
        percentage(METRE, "METRe", len(matched), len(references), settings, reason, "references"),
        statistic(METRE, "cRMSE", corrected, "mean", RMS_UNIT, settings, reason, "references")
        if len(references)
        else Metric(METRE, "cRMSE", math.nan, RMS_UNIT, 0, "there are no references", settings),
        statistic(
            METRE, "mean rms of matched references", matched, "mean", RMS_UNIT, settings, of="matched references"
        ),
    )
    seconds = {"matching": time.perf_counter() - started}
    columns = {"rms": tuple(None if math.isnan(rms) else rms for rms in found.of_sample.tolist())}
    return Evaluation(METRE, METRE_ABOUT, metrics, seconds, columns)


def airi_accuracy(samples: Sequence[Crystal | None], targets: Sequence[Crystal]) -> Evaluation:
    """Accuracy in % at pymatgen's default tolerances and at two and five times these.

    Args:
        samples: one per target, by index; None is a failed sample, which counts as no match.
        targets: the crystals asked for.

    Raises: ValueError: if there is not one sample per target.
    """
    if len(samples) != len(targets):
        raise ValueError(f"{len(samples)} samples beside {len(targets)} targets: expected one sample per target")
    metrics, seconds, columns = [], {}, {}
    for factor, values in AIRI_TOLERANCES.items():
        started = time.perf_counter()
        tolerances = Tolerances.of(*values)
        outcomes = [_fits(sample, target, tolerances) for sample, target in zip(samples, targets, strict=True)]
        n_failures = sum(outcome is None for outcome in outcomes)
        reason = counted(n_failures, "sample cannot be matched and counts as wrong|samples cannot be matched: wrong")
        settings: dict[str, Setting] = {"verdict": "StructureMatcher.fit", **settings_of(tolerances)}
        name = "accuracy" if factor == "x1" else f"accuracy, tolerances {factor}"
        n_hits = sum(outcome is True for outcome in outcomes)
        metrics.append(percentage(AIRI, name, n_hits, len(targets), settings, reason, "targets"))
        columns[f"fits_{factor}"] = tuple(outcomes)
        seconds[f"fits {factor}"] = time.perf_counter() - started
    return Evaluation(AIRI, AIRI_ABOUT, tuple(metrics), seconds, columns)


def _fits(sample: Crystal | None, target: Crystal, tolerances: Tolerances) -> bool | None:
    """StructureMatcher.fit(sample, target); None where there is no verdict."""
    if sample is None or unmatchable(sample):
        return None
    # The sample stands as the reference because it is the first argument of fit, which is not symmetric.
    found = find_known([target], ReferenceSet(["sample"], [sample]), tolerances)
    if found.matches[0] is not None:
        return True
    return None if found.failures else False


def _past_gate(samples: Sequence[Crystal | None], gate: Gate) -> tuple[list[Crystal | None], int]:
    """The samples with None for those that did not pass the gate, and how many are no crystal."""
    compared: list[Crystal | None] = []
    n_failures = 0
    for sample in samples:
        passed = False
        try:
            if sample is None:
                n_failures += 1
            else:
                passed = passes(sample, gate)
        except MATCHER_FAULTS:  # counted apart; it matches nothing
            n_failures += 1
        compared.append(sample if passed else None)
    return compared, n_failures
