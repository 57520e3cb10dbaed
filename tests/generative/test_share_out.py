"""Candidates shared out among generators: every beginning keeps the shares, and is that of every longer run."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from generative.plans.turns import share_out

NAMED = [(1.0,), (0.5, 0.5), (0.9, 0.1), (0.7, 0.2, 0.1), (1.0, 1.0, 1.0), (1e-6, 1e6), (0.1,) * 10]
DRAWN = [tuple(random.Random(seed).uniform(0.001, 1) for _ in range(2 + seed % 9)) for seed in range(12)]


@pytest.mark.parametrize("shares", NAMED + DRAWN)
def test_after_any_number_of_places_each_has_its_share_to_within_one(shares: tuple[float, ...]) -> None:
    n = 400
    places = share_out(n, shares)
    assert sorted(place for own in places for place in own) == list(range(n))
    whole = sum(Fraction(str(share)) for share in shares)
    for share, own in zip(shares, places, strict=True):
        assert own == sorted(own)
        taken = 0
        for so_far in range(n + 1):
            assert abs(taken - so_far * Fraction(str(share)) / whole) < 1
            taken += so_far in own


@pytest.mark.parametrize("shares", NAMED + DRAWN)
def test_the_places_of_a_shorter_run_are_the_beginning_of_a_longer_one(shares: tuple[float, ...]) -> None:
    longer = share_out(100, shares)
    for n in (0, 1, 7, 64):
        assert share_out(n, shares) == [[place for place in own if place < n] for own in longer]


def test_only_the_ratio_of_shares_counts() -> None:
    assert share_out(50, (0.3, 0.1)) == share_out(50, (3.0, 1.0)) == share_out(50, (75.0, 25.0))
    assert share_out(8, (3.0, 1.0)) == [[0, 1, 2, 4, 5, 6], [3, 7]]
