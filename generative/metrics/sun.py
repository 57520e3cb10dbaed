"""Stable, unique, novel (S.U.N.) and every product of the three, with the confidence of each share.

'S.U.N.' is not one metric: threshold on the energy above hull, hull, potential or DFT, matcher and number of samples
all differ between papers, and the same generator gets from 0.2 to 42 %. So all of them are settings of each metric.

Definitions: stable means energy above hull <= threshold (0 and 0.1 eV/atom); a sample whose place on the hull is not
known is not stable, and is counted. Unique means first of its group in the samples' order, novel means matched by no
known crystal, both by StructureMatcher at the named tolerances. A product is the share of samples for which all its
parts hold; the denominator of every share is the number of ALL samples.

Source: MatterGen (arXiv:2312.03687), which takes 0.1 eV/atom; LeMat-GenBench, which takes 0 for 'stable' and the range
above 0 up to 0.1 for 'metastable', so its M.S.U.N. is the difference of the two SUN metrics here. Interval: Wilson.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.novelty import named_tolerances, novel_flags, unique_flags
from generative.metrics.reconstruction import settings_of
from generative.metrics.shares import counted, percentage, statistic, with_interval
from generative.screening.matching import ReferenceSet, Tolerances

PROTOCOL = "sun"
ABOUT = (
    "Share of samples that are stable, unique and novel, and every product of the three (MatterGen, LeMat-GenBench)."
)

THRESHOLDS_EV_PER_ATOM = (0.0, 0.1)


def sun(
    samples: Sequence[Crystal | None],
    known: ReferenceSet,
    e_above_hull_ev_per_atom: Sequence[float] | np.ndarray,
    *,
    known_name: str,
    hull: str,
    potential: str,
    crystals: str = "relaxed",
    tolerances: str = "pymatgen",
    thresholds_ev_per_atom: Sequence[float] = THRESHOLDS_EV_PER_ATOM,
    workers: int = 1,
) -> Evaluation:
    """S, U, N, SU, SN, UN and SUN in %, each with the bounds of its 95 % interval.

    Args:
        samples: crystals that are compared, in order; None is a sample that is none.
        known: the crystals that are not new.
        e_above_hull_ev_per_atom: one per sample, eV/atom; NaN where it is not known.
        known_name: what the known crystals are, with version or fingerprint.
        hull: competing phases of the hull, with version or fingerprint.
        potential: that made the energies, of samples and hull alike; or the DFT method.
        crystals: 'relaxed' or 'generated': which form of the samples is compared.
        tolerances: a key of novelty.TOLERANCES.
        thresholds_ev_per_atom: largest energy above hull of a stable crystal, eV/atom.
        workers: of the matcher; the result does not depend on it.

    Raises: ValueError: if there is not one energy per sample.
    """
    energies = np.asarray(e_above_hull_ev_per_atom, dtype=float).reshape(-1)
    if len(energies) != len(samples):
        raise ValueError(f"{len(energies)} energies beside {len(samples)} samples: expected one energy per sample")
    started = time.perf_counter()
    used = named_tolerances(tolerances)
    unique, novel, n_unmatched = _matched(samples, known, used, workers)
    n_unknown = int((~np.isfinite(energies)).sum())
    settings: dict[str, Setting] = {
        "crystals": crystals,
        "tolerances": tolerances,
        **settings_of(used),
        "known": known_name,
        "n_known": len(known),
        "hull": hull,
        "potential": potential,
        "n_samples": len(samples),
    }
    unmatched = counted(n_unmatched, "sample has no verdict of the matcher|samples have no verdict of the matcher")
    unplaced = counted(n_unknown, "sample has no energy above hull|samples have no energy above hull")
    metrics = _shares({"unique": unique, "novel": novel, "unique and novel": unique & novel}, settings, unmatched)
    reason = "; ".join(part for part in (unplaced, unmatched) if part)
    columns: dict[str, tuple[object, ...]] = {
        "e_above_hull_ev_per_atom": tuple(e if np.isfinite(e) else None for e in energies.tolist()),
        "unique": tuple(unique.tolist()),
        "novel": tuple(novel.tolist()),
    }
    for threshold in thresholds_ev_per_atom:
        stable = energies <= threshold  # False for NaN
        sets = {"stable": stable, "SU": stable & unique, "SN": stable & novel, "SUN": stable & unique & novel}
        named = {f"{name} (<= {threshold:g} eV/atom)": flags for name, flags in sets.items()}
        metrics += _shares(named, {**settings, "threshold_ev_per_atom": threshold}, reason)
        columns[f"sun_{threshold:g}"] = tuple(sets["SUN"].tolist())
    metrics += [
        statistic(PROTOCOL, f"{how} energy above hull", energies, how, "eV/atom", settings)
        for how in ("mean", "median")
    ]
    return Evaluation(PROTOCOL, ABOUT, tuple(metrics), {"matching": time.perf_counter() - started}, columns)


def _matched(
    samples: Sequence[Crystal | None], known: ReferenceSet, tolerances: Tolerances, workers: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(unique, novel, samples without a verdict of one or the other); the first two boolean, (n,)."""
    unique = unique_flags(samples, tolerances, workers)
    novel = novel_flags(samples, known, tolerances, workers)
    arrays = [np.array([value is True for value in flags.values], dtype=bool) for flags in (unique, novel)]
    return arrays[0], arrays[1], len(unique.reasons.keys() | novel.reasons.keys())


def _shares(sets: dict[str, np.ndarray], settings: dict[str, Setting], reason: str) -> list[Metric]:
    metrics: list[Metric] = []
    for name, flags in sets.items():
        n_hits = int(flags.sum())
        metrics += with_interval(percentage(PROTOCOL, name, n_hits, len(flags), settings, reason), n_hits)
    return metrics
