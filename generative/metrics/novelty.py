"""Uniqueness among samples and novelty against known crystals, at tolerances that have a name.

A sample is unique if it is the first of its group (as StructureMatcher.group_structures groups, in the samples' order)
and novel if StructureMatcher.fit accepts it against no known crystal. Both are shares of ALL samples: one that is no
crystal, or that the matcher cannot handle, is neither, and is counted. The tolerances differ between papers and move
the shares by tens of points, so every metric is made at each named set:

    pymatgen  ltol 0.2, stol 0.3, angle  5   pymatgen's defaults; MatterGen (arXiv:2312.03687) for ordered crystals
    csp       ltol 0.3, stol 0.5, angle 10   CDVAE's (arXiv:2110.06197), the loosest
    lemat     ltol 0.1, stol 0.3, angle  5   LeMat-GenBench, the strictest

ConditionCDVAE+ (Sci. Rep. 2025, doi:10.1038/s41598-025-06432-9) calls a crystal novel if its 'RMSD' to the training
crystals is not less than '0.3 A'. The matcher's rms is in units of (V/N)^(1/3), though, not in A, so the rule reads:
novel if no training crystal matches, or if the smallest rms of those that match is at least 0.3. The tolerances are not
stated; those of its reconstruction test are taken, and match means get_rms_dist, which compares the root mean square
displacement with stol (fit compares the largest).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.nearest_match import nearest_match
from generative.metrics.reconstruction import RMS_UNIT, csp_tolerances, settings_of
from generative.metrics.shares import counted, percentage, statistic
from generative.metrics.validity import unmatchable
from generative.screening.matching import ReferenceSet, Tolerances, find_known, group

UNIQUENESS = "uniqueness"
UNIQUENESS_ABOUT = "Share of samples that repeat no earlier sample, at each named set of tolerances."
NOVELTY = "novelty"
NOVELTY_ABOUT = "Share of samples that no known crystal matches, at each named set of tolerances."
CONDITION_CDVAE = "condition-cdvae novelty"
CONDITION_CDVAE_ABOUT = (
    "Share of samples that no training crystal matches with an rms below 0.3 (V/N)^(1/3) (ConditionCDVAE+, Sci. Rep. "
    "2025, which prints angstrom)."
)

TOLERANCES: Mapping[str, tuple[float, float, float]] = {
    "pymatgen": (0.2, 0.3, 5.0),
    "csp": (0.3, 0.5, 10.0),
    "lemat": (0.1, 0.3, 5.0),
}
"""ltol, stol, angle in degrees."""

CONDITION_CDVAE_MIN_RMS = 0.3
"""ConditionCDVAE+'s threshold, units of (V/N)^(1/3)."""


@dataclass(frozen=True)
class Flags:
    """A verdict per sample, in order.

    Attributes:
        values: True or False; None where there is no verdict, which counts as a miss.
        reasons: why there is none, by index.
        n_fits: pairs given to the matcher.
    """

    values: tuple[bool | None, ...]
    reasons: dict[int, str]
    n_fits: int

    @property
    def n_hits(self) -> int:
        """Samples with the verdict True."""
        return sum(value is True for value in self.values)


def named_tolerances(name: str) -> Tolerances:
    """The tolerances of this name with the installed pymatgen.

    Raises: ValueError: if there is none of this name.
    """
    if name not in TOLERANCES:
        raise ValueError(f"there are no tolerances named {name!r}: expected one of {sorted(TOLERANCES)}")
    return Tolerances.of(*TOLERANCES[name])


def uniqueness(
    samples: Sequence[Crystal | None], names: Sequence[str] = tuple(TOLERANCES), workers: int = 1
) -> Evaluation:
    """Share of samples that are the first of their kind, and how many kinds there are.

    Args:
        samples: in order; None is a sample that is no crystal.
        names: of sets of tolerances, keys of TOLERANCES.
        workers: of the matcher; the result does not depend on it.
    """
    metrics: list[Metric] = []
    seconds, columns = {}, {}
    for name in names:
        started = time.perf_counter()
        tolerances = named_tolerances(name)
        flags = unique_flags(samples, tolerances, workers)
        settings = {"tolerances": name, "n_samples": len(samples), "n_fits": flags.n_fits, **settings_of(tolerances)}
        metrics += [
            percentage(UNIQUENESS, f"unique ({name})", flags.n_hits, len(samples), settings, _reason(flags)),
            Metric(UNIQUENESS, f"distinct ({name})", flags.n_hits, "crystals", len(samples), _reason(flags), settings),
        ]
        columns[f"unique_{name}"] = flags.values
        seconds[f"unique ({name})"] = time.perf_counter() - started
    return Evaluation(UNIQUENESS, UNIQUENESS_ABOUT, tuple(metrics), seconds, columns)


def novelty(
    samples: Sequence[Crystal | None],
    known: ReferenceSet,
    known_name: str,
    names: Sequence[str] = tuple(TOLERANCES),
    workers: int = 1,
) -> Evaluation:
    """Share of samples that no known crystal matches.

    Args:
        samples: in order; None is a sample that is no crystal.
        known: the crystals that are not new, such as the training set.
        known_name: what they are, with version or fingerprint; part of the metrics.
        names: of sets of tolerances, keys of TOLERANCES.
        workers: of the matcher; the result does not depend on it.
    """
    metrics: list[Metric] = []
    seconds, columns = {}, {}
    for name in names:
        started = time.perf_counter()
        tolerances = named_tolerances(name)
        flags = novel_flags(samples, known, tolerances, workers)
        settings: dict[str, Setting] = {
            "tolerances": name,
            "known": known_name,
            "n_known": len(known),
            "n_fits": flags.n_fits,
            **settings_of(tolerances),
        }
        metrics.append(percentage(NOVELTY, f"novel ({name})", flags.n_hits, len(samples), settings, _reason(flags)))
        columns[f"novel_{name}"] = flags.values
        seconds[f"novel ({name})"] = time.perf_counter() - started
    return Evaluation(NOVELTY, NOVELTY_ABOUT, tuple(metrics), seconds, columns)


def condition_cdvae_novelty(
    samples: Sequence[Crystal | None], training: ReferenceSet, training_name: str, workers: int = 1
) -> Evaluation:
    """ConditionCDVAE+'s novelty: no training crystal matches, or the smallest rms is at least 0.3 (V/N)^(1/3).

    Args:
        samples: in order; None is a sample that is no crystal.
        training: training crystals only; the paper leaves test and validation crystals out.
        training_name: what they are, with version or fingerprint; part of the metrics.
        workers: of the matcher; the result does not depend on it.
    """
    started = time.perf_counter()
    readable, reasons = _readable(samples)
    kept = dict(readable)
    found = nearest_match([kept.get(i) for i in range(len(samples))], training, csp_tolerances(), workers)
    best = found.of_sample
    # A match below the threshold is a verdict whatever other pairs failed.
    reasons |= {i: reason for i, reason in found.failures.items() if not best[i] < CONDITION_CDVAE_MIN_RMS}
    values = tuple(
        None if i in reasons else not rms < CONDITION_CDVAE_MIN_RMS  # NaN: nothing matches, so it is novel
        for i, rms in enumerate(best.tolist())
    )
    flags = Flags(values, reasons, found.n_pairs)
    settings: dict[str, Setting] = {
        "rms_min": CONDITION_CDVAE_MIN_RMS,
        "rms_unit": RMS_UNIT,
        "known": training_name,
        "n_known": len(training),
        "n_pairs": found.n_pairs,
        **settings_of(csp_tolerances()),
    }
    matched = best[np.isfinite(best)]
    metrics = (
        percentage(CONDITION_CDVAE, "novel", flags.n_hits, len(samples), settings, _reason(flags)),
        percentage(CONDITION_CDVAE, "matched by a training crystal", len(matched), len(samples), settings),
        statistic(
            CONDITION_CDVAE, "median of smallest rms", matched, "median", RMS_UNIT, settings, of="matched samples"
        ),
    )
    columns = {"novel": values, "rms": tuple(None if math.isnan(rms) else rms for rms in best.tolist())}
    seconds = {"matching": time.perf_counter() - started}
    return Evaluation(CONDITION_CDVAE, CONDITION_CDVAE_ABOUT, metrics, seconds, columns)


def unique_flags(samples: Sequence[Crystal | None], tolerances: Tolerances, workers: int = 1) -> Flags:
    """Whether each sample is the first of its group."""
    readable, reasons = _readable(samples)
    grouping = group([crystal for _, crystal in readable], tolerances, workers)
    values: list[bool | None] = [None] * len(samples)
    for position, (index, _) in enumerate(readable):
        opens = grouping.first_members[position] == position
        if opens and position in grouping.failures:  # it might repeat an earlier one: not known
            reasons[index] = grouping.failures[position]
        else:
            values[index] = opens
    return Flags(tuple(values), reasons, grouping.n_fits)


def novel_flags(
    samples: Sequence[Crystal | None], known: ReferenceSet, tolerances: Tolerances, workers: int = 1
) -> Flags:
    """Whether no known crystal matches, for each sample."""
    readable, reasons = _readable(samples)
    search = find_known([crystal for _, crystal in readable], known, tolerances, workers)
    values: list[bool | None] = [None] * len(samples)
    for position, (index, _) in enumerate(readable):
        is_novel = search.matches[position] is None
        if is_novel and position in search.failures:
            reasons[index] = search.failures[position]
        else:
            values[index] = is_novel
    return Flags(tuple(values), reasons, search.n_fits)


def _readable(samples: Sequence[Crystal | None]) -> tuple[list[tuple[int, Crystal]], dict[int, str]]:
    """(index, crystal) of the samples that can be matched, and why the others cannot."""
    readable, reasons = [], {}
    for index, sample in enumerate(samples):
        fault = unmatchable(sample)
        if sample is None or fault:
            reasons[index] = fault
        else:
            readable.append((index, sample))
    return readable, reasons


def _reason(flags: Flags) -> str:
    return counted(len(flags.reasons), "sample has no verdict and counts as a miss|samples have no verdict: misses")
