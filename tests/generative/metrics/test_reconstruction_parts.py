"""Truth: parts made by hand, and pymatgen's StructureMatcher for every pair of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher

from generative.crystal.crystals import Crystal
from generative.datasets.records import formula_of
from generative.metrics.reconstruction import Gate, evaluate
from generative.metrics.reconstruction_parts import by_formula, by_size, of_parts
from tests.generative.metrics.crystal_sets import perturbed
from tests.servers.real import real_records

SIZES = {"1 to 4 atoms": (1, 4), "5 to 8 atoms": (5, 8), "9 to 12 atoms": (9, 12), "13 to 20 atoms": (13, 20)}
PER_CLASS = 6


@pytest.fixture(scope="module")
def targets() -> list[Crystal]:
    """Real crystals, some of each class of sizes, in an order that mixes them."""
    structures = sorted((record.structure for record in real_records()), key=len)  # the smallest: pymatgen is slow
    chosen = [[s for s in structures if first <= len(s) <= last][:PER_CLASS] for first, last in SIZES.values()]
    assert [len(those) for those in chosen] == [PER_CLASS] * 4
    return [Crystal.from_structure(s) for row in zip(*chosen, strict=True) for s in row]


@pytest.fixture(scope="module")
def samples(targets: list[Crystal]) -> list[list[Crystal]]:
    rng = np.random.default_rng(5)
    return [[perturbed(target, sigma, rng) for sigma in (1.0, 0.6)] for target in targets]


def brute(samples: list[list[Crystal]], targets: list[Crystal]) -> list[list[float]]:
    """rms of every sample with its target by pymatgen alone, NaN without a match."""
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    found = [
        [matcher.get_rms_dist(s.to_structure(), target.to_structure()) for s in row]
        for row, target in zip(samples, targets, strict=True)
    ]
    return [[math.nan if one is None else one[0] for one in row] for row in found]


def test_rates_by_size_and_by_formula_are_those_counted_by_hand_with_pymatgens_matcher(
    targets: list[Crystal], samples: list[list[Crystal]]
) -> None:
    trained = {formula_of(crystal.atomic_numbers) for crystal in targets[::3]}
    found = evaluate(samples, targets)
    made = of_parts(found, by_size(targets) | by_formula(targets, trained), {"known": "a part"})
    rms = np.array(brute(samples, targets))
    sizes = np.array([len(c.atomic_numbers) for c in targets])
    reduced = [c.to_structure().composition.reduced_formula for c in targets]
    known = np.array([formula in {reduced[i] for i in range(0, len(targets), 3)} for formula in reduced])
    members = {name: (first <= sizes) & (sizes <= last) for name, (first, last) in SIZES.items()}
    members |= {"formula in train": known, "formula not in train": ~known}
    assert len(made.metrics) == 2 * 2 * len(members)
    rates = []
    for k in (1, 2):
        matched = np.isfinite(rms[:, :k]).any(axis=1)
        smallest = np.where(np.isfinite(rms[:, :k]), rms[:, :k], np.inf).min(axis=1)
        for name, of_part in members.items():
            rate, mean = (made.metric(f"{what}, best of {k}, {name}") for what in ("match rate", "mean rms"))
            assert (rate.n, rate.value) == (of_part.sum(), pytest.approx(100 * matched[of_part].mean()))
            assert mean.n == (matched & of_part).sum()
            if mean.n:
                assert mean.value == pytest.approx(smallest[matched & of_part].mean(), abs=1e-9)
            assert (rate.settings["k"], rate.settings["known"]) == (k, "a part")
            rates.append(rate.value)
    assert len(set(rates)) > 4  # they do differ
    in_train, others = (made.metric(f"match rate, best of 2, formula {name} train") for name in ("in", "not in"))
    assert in_train.n + others.n == len(targets)


def test_one_sample_per_target_has_the_names_of_the_whole_and_its_gate(targets: list[Crystal]) -> None:
    found = evaluate(list(targets), targets, Gate.STRUCTURE)
    made = of_parts(found, by_size(targets))
    assert [metric.name for metric in made.metrics][:2] == ["match rate, 1 to 4 atoms", "mean rms, 1 to 4 atoms"]
    assert {metric.value for metric in made.metrics if metric.unit == "%"} == {100.0}
    assert {metric.settings["gate"] for metric in made.metrics} == {"structure"}


def test_a_class_without_targets_is_left_out_and_a_part_without_any_says_so(targets: list[Crystal]) -> None:
    large = Crystal(np.eye(3) * 40, np.random.default_rng(0).random((53, 3)), np.full(53, 6, dtype=np.int16))
    assert by_size([targets[0], large]) == {"1 to 4 atoms": [0], "more than 52 atoms": [1]}
    one = targets[:1]
    made = of_parts(evaluate(one, one), by_formula(one, {formula_of(one[0].atomic_numbers)}))
    assert made.metric("match rate, formula in train").value == 100
    missing = made.metric("match rate, formula not in train")
    assert math.isnan(missing.value)
    assert missing.reason == "there are no targets"
