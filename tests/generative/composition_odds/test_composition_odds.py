"""Odds of compositions. Truths: enumeration by hand, numpy against torch, chemistry that was never shown."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core.periodic_table import Element

from generative.composition_odds.model import (
    PACKAGED,
    CompositionOdds,
    candidates,
    charge_features,
    features,
    imbalance,
    scores,
)
from generative.composition_odds.training import Fit, Sizes, by_system, fitted, ranks


def test_candidates_are_all_ways_to_share_out_the_atoms() -> None:
    found = {tuple(row) for row in candidates(3, 4, 6).tolist()}
    assert found == {c for c in itertools.product(range(1, 7), repeat=3) if 4 <= sum(c) <= 6}
    assert len(candidates(1, 1, 20)) == 20


def test_charges_that_are_left_over_are_those_of_the_best_choice_of_states() -> None:
    counts = np.array([[2, 3], [1, 1], [1, 2]])
    aluminium, oxygen = 13, 8  # +3 and -2 alone
    assert imbalance([aluminium, oxygen], counts).tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    iron_oxides = np.array([[1, 1], [2, 3], [3, 4]])
    assert imbalance([26, oxygen], iron_oxides)[:2].tolist() == [0, 0]


def test_a_score_does_not_depend_on_the_order_of_the_elements() -> None:
    odds = CompositionOdds.load()
    counts = candidates(3, 3, 9)
    told = odds.log_probabilities([5, 73, 74], counts)
    order = [2, 0, 1]
    assert odds.log_probabilities([(5, 73, 74)[i] for i in order], counts[:, order]) == pytest.approx(told, abs=1e-9)


def test_numpy_and_torch_give_the_same_scores() -> None:
    torch.manual_seed(0)
    fit = Fit(Sizes(4, 6, 5))
    for parameter in fit.parameters():
        parameter.data.normal_(std=0.3)
    weights = {name: value.astype(np.float64) for name, value in fit.finished().items()}
    system, counts = (8, 22, 56), candidates(3, 3, 8)
    of_elements, of_cells = features(counts)
    vectors, charges = weights["element"][list(system)][None], charge_features(system, counts)[None]
    by_numpy = scores(weights, vectors, of_elements, of_cells, charges)[0]
    tensors = {name: torch.as_tensor(value) for name, value in weights.items()}
    given = [torch.as_tensor(x, dtype=torch.float64) for x in (vectors, of_elements, of_cells, charges)]
    assert by_numpy == pytest.approx(scores(tensors, *given)[0].numpy(), abs=1e-9)
    log_p = CompositionOdds(fit.finished()).log_probabilities(system, counts)
    assert log_p - log_p[0] == pytest.approx(by_numpy - by_numpy[0], abs=1e-6)


def test_training_finds_the_rule_behind_made_compositions() -> None:
    # One atom of a halogen for each of an alkali metal, two for each of an alkaline earth; bromides are never shown.
    cells = [((z, 1), (x, 1)) if z < x else ((x, 1), (z, 1)) for z in (3, 11, 19, 37, 55) for x in (9, 17, 53)]
    cells += [((z, 1), (x, 2)) if z < x else ((x, 2), (z, 1)) for z in (4, 12, 20, 38, 56) for x in (9, 17, 53)]
    *_, (last, fit) = fitted(by_system(cells), Sizes(8, 16, 16), epochs=200, seed=0)
    assert last < 0.5
    odds = CompositionOdds(fit.finished())
    assert ranks(odds, [((11, 1), (35, 1)), ((20, 1), (35, 2)), ((35, 1), (37, 1))]) == [0, 0, 0]


def test_the_shipped_odds_are_small_and_know_chemistry() -> None:
    assert PACKAGED.stat().st_size < 300_000
    odds = CompositionOdds.load()

    def first(symbols: str, n: int) -> list[str]:
        names = symbols.split()
        counts = candidates(len(names), 1, 12)
        log_p = odds.log_probabilities([Element(s).Z for s in names], counts)
        best = counts[np.argsort(-log_p)[:n]] // np.gcd.reduce(counts[np.argsort(-log_p)[:n]], axis=1)[:, None]
        return ["".join(s + (str(c) if c > 1 else "") for s, c in zip(names, row, strict=True)) for row in best]

    assert "NaBr" in first("Na Br", 3)
    assert {"CaF2"} & set(first("Ca F", 3))
    assert {"Al2O3"} & set(first("Al O", 5))
    assert "SrZrO3" in first("Sr Zr O", 5)


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from generative.config import ConditionsConfig; from generative.plans.plan import plan; "
        "plan(ConditionsConfig(policy='likely'), ('Ta', 'W', 'B'), 20, 0); print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
