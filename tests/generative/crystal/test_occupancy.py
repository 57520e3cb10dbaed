"""Counts that a space group can hold. Truths: brute force over orbits, PyXtal's own answer, real crystals."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from pyxtal.symmetry import Group

from generative.crystal.occupancy import holds
from generative.crystal.wyckoff import WyckoffCrystal, space_group
from tests.real_crystals import real_crystals


def held_by_brute_force(number: int, most: int) -> set[tuple[int, int]]:
    """Counts of two elements, up to `most` atoms each, that some choice of orbits in the primitive cell gives."""
    held = {(0, 0)}
    for position in space_group(number).positions.values():
        m = position.multiplicity
        repeats = range(most // m + 1) if position.free.any() else range(2)
        orbits = [(a * m, b * m) for a in repeats for b in repeats if position.free.any() or a + b <= 1]
        held = {(x + a, y + b) for x, y in held for a, b in orbits if x + a <= most and y + b <= most}
    return held


@pytest.mark.parametrize("number", [1, 2, 16, 47, 62, 70, 98, 122, 148, 166, 194, 205, 214, 216, 221, 225, 227, 230])
def test_counts_that_are_held_are_those_of_some_choice_of_orbits(number: int) -> None:
    most = 12
    primitive = held_by_brute_force(number, most)
    for a, b in itertools.product(range(1, most + 1), repeat=2):
        cells = [m for m in range(1, most + 1) if a % m == 0 and b % m == 0]
        assert holds(number, [a, b]) == any((a // m, b // m) in primitive for m in cells)
        assert holds(number, [a, b]) == holds(number, [b, a])


def test_pyxtal_says_the_same_of_the_conventional_cell() -> None:
    rng = np.random.default_rng(0)
    answers: Counter[bool] = Counter()
    for number in range(1, 231):
        group, copies = Group(number), len(space_group(number).centring)
        for _ in range(3):
            # Counts without a common divisor, so that no smaller cell can hold them in its place.
            counts = [*rng.integers(1, 9, rng.integers(1, 3)).tolist(), 1]
            found = holds(number, counts)
            assert found == group.check_compatible([n * copies for n in counts])[0], (number, counts)
            answers[found] += 1
    assert min(answers.values()) > 100


def test_every_real_crystal_is_held_by_its_own_group_in_any_cell() -> None:
    for crystal in real_crystals("mp_20_val", 60, 20):
        signature = WyckoffCrystal.of(crystal).signature
        for cells in (1, 2, 3):
            assert holds(signature.spacegroup, [cells * n for n in signature.counts.values()])


def test_a_group_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="231 is no space group"):
        holds(231, [1, 1])
