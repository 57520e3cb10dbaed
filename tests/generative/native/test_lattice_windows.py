"""Lattices refused in bulk are refused by pymatgen one by one, and groups of many are those of a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice

from generative.crystal.crystals import Crystal
from generative.native import door as native
from generative.screening.matching import Tolerances, group
from generative.screening.pair_fits import FEW, Judge, classes_of, stack_cells
from generative.screening.reduction import reduce_crystal
from tests.fuzzing import Fuzz

SETS = [(0.2, 0.3, 5.0), (0.3, 0.5, 10.0), (0.1, 0.1, 3.0)]
CELLS = (
    np.eye(3),
    np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 1.6]]),
    np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]]),
    np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1.0]]),
    np.diag([1.0, 1.0, 4.0]),
)


def some_lattice(rng: np.random.Generator, ltol: float) -> np.ndarray:
    """A common cell stretched and sheared about the tolerance, or any cell; now and then a thin one."""
    if rng.random() < 0.6:
        cell = CELLS[rng.integers(len(CELLS))]
        strain = rng.choice([0.0, 1e-9, 0.3 * ltol, ltol]) * rng.normal(size=(3, 3))
        return cell @ (np.eye(3) + strain) * rng.uniform(2, 5)
    cell = np.diag(rng.uniform(0.5, 2, 3) * rng.choice([1, 1, 1, 3], 3)) + 0.3 * rng.normal(size=(3, 3))
    return cell if abs(np.linalg.det(cell)) > 0.05 else np.eye(3)


def one_atom(lattice: np.ndarray) -> Crystal:
    return Crystal(lattice, np.zeros((1, 3)), np.array([14], dtype=np.int16))


def is_mappable(first: np.ndarray, second: np.ndarray, tolerances: Tolerances) -> bool:
    """By pymatgen: whether a basis of the first lattice has the lengths and angles of the second."""
    mappings = Lattice(first).find_all_mappings(
        Lattice(second), tolerances.ltol, tolerances.angle_tol_deg, skip_rotation_matrix=True
    )
    return any(abs(abs(np.linalg.det(scale)) - 1) < 0.1 for _, _, scale in mappings)


@pytest.mark.fuzz
def test_a_lattice_refused_in_bulk_is_one_that_pymatgen_cannot_map(fuzz: Fuzz) -> None:
    if not native.is_available():
        pytest.skip("numba is not installed: every verdict is pymatgen's own")
    n_refusable = n_refused = 0
    for rng in fuzz.cases(6):
        tolerances = Tolerances.of(*SETS[rng.integers(len(SETS))])
        cells = [reduce_crystal(one_atom(some_lattice(rng, tolerances.ltol))).crystal for _ in range(4 * FEW)]
        stack = stack_cells([cell for cell in cells if cell is not None])
        classes = classes_of(stack)
        assert classes is not None
        seconds = np.arange(1, len(stack.refs))
        judge = Judge(tolerances)
        kept = judge.mappable(classes, 0, seconds)
        assert judge.counts.n_pairs == judge.counts.n_no_lattice == int(np.count_nonzero(~kept))
        truth = [is_mappable(stack.lattices[0], stack.lattices[j], tolerances) for j in seconds]
        for j, may, can in zip(seconds, kept, truth, strict=True):
            if can and not may:
                fuzz.failed(f"{stack.lattices[0].tolist()} onto {stack.lattices[j].tolist()}: refused")
        fuzz.ended("some refused" if not kept.all() else "none refused")
        is_many = np.bincount(classes.number[seconds])[classes.number[seconds]] > FEW  # in others nothing is refused
        n_refusable += int(np.count_nonzero(is_many & ~np.array(truth)))
        n_refused += int(np.count_nonzero(~kept))
    assert 0.9 * n_refusable < n_refused <= n_refusable


def random_crystals(n: int, rng: np.random.Generator) -> list[Crystal]:
    """Crystals of one composition, copies of a few moved and strained about the tolerance, and strangers."""
    numbers = np.repeat(rng.choice([7, 13, 22, 73], 2, replace=False), rng.integers(1, 3, 2)).astype(np.int16)
    models = [(some_lattice(rng, 0.1), rng.random((len(numbers), 3))) for _ in range(5)]
    found = []
    for _ in range(n):
        lattice, frac = models[rng.integers(len(models))]
        if rng.random() < 0.4:
            lattice, frac = some_lattice(rng, 0.2), rng.random((len(numbers), 3))
        lattice = lattice @ (np.eye(3) + 0.04 * rng.normal(size=(3, 3))) * rng.uniform(0.8, 1.25)
        unit = (abs(np.linalg.det(lattice)) / len(numbers)) ** (1 / 3)
        frac = frac + rng.choice([0.02, 0.1, 0.2]) * unit * rng.normal(size=frac.shape) @ np.linalg.inv(lattice)
        found.append(Crystal(lattice, np.mod(frac + rng.random(3), 1), numbers))
    return found


def plain_groups(crystals: list[Crystal], tolerances: Tolerances) -> list[int]:
    """The first earlier opener of a group that pymatgen fits to each crystal, or the crystal itself."""
    matcher = tolerances.matcher()
    reduced = [matcher._get_reduced_structure(crystal.to_structure()) for crystal in crystals]
    first: list[int] = []
    for i, structure in enumerate(reduced):
        openers = (j for j in range(i) if first[j] == j)
        fits = (j for j in openers if matcher.fit(reduced[j], structure, skip_structure_reduction=True))
        first.append(next(fits, i))
    return first


@pytest.mark.fuzz
def test_many_crystals_of_one_composition_fall_into_the_groups_of_a_plain_loop_over_pymatgen(fuzz: Fuzz) -> None:
    for rng in fuzz.cases(2):
        tolerances = Tolerances.of(*SETS[rng.integers(len(SETS))])
        crystals = random_crystals(2 * FEW, rng)
        found, expected = group(crystals, tolerances), plain_groups(crystals, tolerances)
        n_groups = len(set(expected))
        if found.first_members != expected:
            wrong = [i for i, pair in enumerate(zip(found.first_members, expected, strict=True)) if pair[0] != pair[1]]
            fuzz.failed(f"{tolerances}: crystals {wrong} of {len(crystals)} in another group")
        fuzz.ended("the same groups, some of several" if n_groups < len(crystals) else "the same groups")
