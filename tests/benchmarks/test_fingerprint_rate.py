"""Rates of fingerprints and of the metrics on them: ours and matminer's on the same crystals in one run, in turn.

HULLWARD_BENCH_CRYSTALS sets how many crystals of MP-20 are computed both ways (default 200). Times are printed, never
asserted; the fingerprints must be equal.
"""

from __future__ import annotations

import os
import time
import warnings

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.metrics import crystal_nn
from generative.metrics.coverage import MP_20, FingerprintSet, coverage
from generative.metrics.distributions import Property, frechet, property_values, wasserstein
from generative.metrics.fingerprints import composition_fingerprints, structure_fingerprints
from generative.metrics.magpie import Scaler
from tests.servers.real import real_records

pytestmark = pytest.mark.benchmark

N_CRYSTALS = int(os.environ.get("HULLWARD_BENCH_CRYSTALS", "200"))
N_LARGE = 10_000


def chosen(n: int) -> list[Crystal]:
    """Crystals drawn from the whole file, so of all sizes up to 20 atoms."""
    records = real_records(7118)
    picked = np.random.default_rng(0).choice(len(records), n, replace=False)
    return [Crystal.from_structure(records[i].structure) for i in picked]


def by_matminer(crystal: Crystal) -> np.ndarray:
    structure = crystal.to_structure()
    featurizer = crystal_nn._featurizer()
    return np.mean([featurizer.featurize(structure, i) for i in range(len(structure))], axis=0)


def test_rate_of_structure_fingerprints_beside_matminer():
    crystals = chosen(N_CRYSTALS)
    started_s = time.perf_counter()
    structure_fingerprints(crystals[:1])
    first_s = time.perf_counter() - started_s
    ours_s, theirs_s = np.zeros(2), np.zeros(2)
    deviation, left, n_sites = 0.0, 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_matminer(crystals[0])
        for crystal in crystals:  # in turn, so that others on the machine disturb both alike
            marks = [np.array([time.perf_counter(), time.process_time()])]
            ours = crystal_nn.structure_fingerprint(crystal)
            marks.append(np.array([time.perf_counter(), time.process_time()]))
            theirs = by_matminer(crystal)
            marks.append(np.array([time.perf_counter(), time.process_time()]))
            ours_s += marks[1] - marks[0]
            theirs_s += marks[2] - marks[1]
            deviation = max(deviation, float(np.abs(ours.values - theirs).max()))
            left += sum(ours.left_to_matminer.values())
            n_sites += len(crystal.frac)
    assert deviation < 1e-6
    print(
        f"\n{N_CRYSTALS} crystals of MP-20, {n_sites / N_CRYSTALS:.1f} atoms on average, one core; by the clock (of "
        f"processor time):\n"
        f"  ours      {N_CRYSTALS / ours_s[0]:7.1f} ({N_CRYSTALS / ours_s[1]:.1f}) crystals/s, "
        f"{1e3 * ours_s[0] / N_CRYSTALS:.1f} ({1e3 * ours_s[1] / N_CRYSTALS:.1f}) ms each\n"
        f"  matminer  {N_CRYSTALS / theirs_s[0]:7.1f} ({N_CRYSTALS / theirs_s[1]:.1f}) crystals/s, "
        f"{1e3 * theirs_s[0] / N_CRYSTALS:.1f} ({1e3 * theirs_s[1] / N_CRYSTALS:.1f}) ms each\n"
        f"  ratio     {theirs_s[0] / ours_s[0]:7.1f} ({theirs_s[1] / ours_s[1]:.1f})\n"
        f"  largest deviation {deviation:.1e}; {left} of {n_sites} sites left to matminer; the first crystal took "
        f"{first_s:.1f} s (imports, compiling or loading)"
    )


def test_time_of_each_part_for_ten_thousand_crystals():
    crystals = chosen(min(N_CRYSTALS, 1000))
    structure_fingerprints(crystals[:1])
    composition_fingerprints(crystals[:1])
    scale = N_LARGE / len(crystals)
    structure = structure_fingerprints(crystals)
    composition = composition_fingerprints(crystals)
    parts = {
        "structure fingerprints, one core (extrapolated)": structure.seconds * scale,
        "composition fingerprints (extrapolated)": composition.seconds * scale,
    }
    rng = np.random.default_rng(1)
    scaler = Scaler.fit(composition.values, "these crystals")
    sets = []
    for _ in range(2):
        rows = rng.integers(len(crystals), size=N_LARGE)
        noise = rng.normal(scale=0.05, size=(N_LARGE, 193))
        sets.append(
            FingerprintSet(
                structure.values[rows] + noise[:, :61],
                scaler.transform(composition.values)[rows] + noise[:, 61:],
                scaler.source,
            )
        )
    started_s = time.perf_counter()
    found = coverage(*sets, MP_20)
    parts["coverage, 10,000 x 10,000"] = time.perf_counter() - started_s
    started_s = time.perf_counter()
    frechet(sets[0].structure, sets[1].structure, "CrystalNN")
    parts["Frechet distance, 10,000 and 10,000"] = time.perf_counter() - started_s
    started_s = time.perf_counter()
    density = np.resize(property_values(Property.DENSITY, crystals), N_LARGE)
    parts["density (extrapolated)"] = (time.perf_counter() - started_s) * scale
    started_s = time.perf_counter()
    wasserstein(Property.DENSITY, density, density)
    parts["Wasserstein distance, 1,000 and 10,000"] = time.perf_counter() - started_s
    assert found.n_samples == N_LARGE
    print("\n" + "\n".join(f"  {name:50s} {seconds:8.2f} s" for name, seconds in parts.items()))
