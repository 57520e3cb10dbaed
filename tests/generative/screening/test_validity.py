"""Truths: brute force over a large block of images, pymatgen's neighbour lists, closed forms."""

import dataclasses
import itertools
import math
import time

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal
from generative.screening.validity import check, min_distance_ang, reduce_lattice, satisfies_cdvae_rule

CONFIG = ScreenConfig()


def rocksalt(a_ang: float = 4.2) -> Crystal:
    return Crystal.from_structure(
        Structure.from_spacegroup(225, Lattice.cubic(a_ang), ["Mg", "O"], [[0] * 3, [0.5] * 3])
    )


def brute_force_min_distance_ang(lattice: np.ndarray, frac: np.ndarray, images: int) -> float:
    """All images within a block of (2 images + 1)^3 cells around the home cell."""
    steps = np.arange(-images, images + 1)
    shifts = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    smallest = math.inf
    for i, j in itertools.combinations_with_replacement(range(len(frac)), 2):
        delta = frac[j] - frac[i] + shifts
        if i == j:
            delta = delta[np.abs(shifts).sum(axis=1) > 0]
        smallest = min(smallest, float(np.sqrt(((delta @ lattice) ** 2).sum(axis=1).min())))
    return smallest


@pytest.mark.parametrize("n_atoms", [1, 2, 5])
@pytest.mark.parametrize("skew", [0, 1, 4])
def test_the_shortest_distance_is_that_of_brute_force_over_many_images(n_atoms: int, skew: int) -> None:
    rng = np.random.default_rng(100 * n_atoms + skew)
    for _ in range(12):
        lattice = rng.normal(size=(3, 3)) * rng.uniform(1, 6, size=(3, 1))
        while abs(np.linalg.det(lattice)) < 0.15 * np.prod(np.linalg.norm(lattice, axis=1)):
            lattice = rng.normal(size=(3, 3)) * rng.uniform(1, 6, size=(3, 1))  # nine images are enough above 0.15
        shear = np.eye(3)
        shear[1, 0], shear[2, 0], shear[2, 1] = rng.integers(-skew, skew + 1, size=3)
        frac = rng.random((n_atoms, 3))
        # The brute force looks at the unsheared cell, whose near images are near; the fast path gets the sheared one.
        expected = brute_force_min_distance_ang(lattice, frac, images=9)
        sheared = shear @ lattice
        moved = frac @ np.linalg.inv(shear) + rng.integers(-3, 4, size=(n_atoms, 3))
        assert min_distance_ang(sheared, moved) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_shortest_distance_of_flat_and_needle_cells_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(3)
    for shape in ([0.3, 20, 20], [0.2, 0.4, 40], [30, 0.5, 12]):
        lattice = np.diag(shape) + 0.05 * rng.normal(size=(3, 3))
        frac = rng.random((4, 3))
        expected = brute_force_min_distance_ang(lattice, frac, images=12)
        assert min_distance_ang(lattice, frac) == pytest.approx(expected, rel=1e-9)


def test_an_atom_is_its_own_neighbour_through_the_cell_wall() -> None:
    lattice = np.diag([0.4, 30.0, 30.0])
    verdict = check(Crystal(lattice, np.zeros((1, 3)), np.array([6])), ScreenConfig(volume_per_atom_max_ang3=1000))
    assert verdict.min_distance_ang == pytest.approx(0.4)
    assert not verdict.valid
    assert verdict.reason == "two atoms are 0.400 A apart: expected at least 0.5 A"


def test_rocksalt_has_the_distance_and_volume_of_the_closed_form() -> None:
    verdict = check(rocksalt(4.2), CONFIG)
    assert verdict.valid
    assert verdict.reason == ""
    assert verdict.min_distance_ang == pytest.approx(2.1)
    assert verdict.volume_per_atom_ang3 == pytest.approx(4.2**3 / 8)


def test_reduction_keeps_the_lattice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lattice = rng.normal(size=(3, 3)) @ np.diag(rng.uniform(0.5, 20, 3))
        change = reduce_lattice(lattice) @ np.linalg.inv(lattice)
        np.testing.assert_allclose(change, np.round(change), atol=1e-6)
        assert abs(np.linalg.det(change)) == pytest.approx(1)


def with_(crystal: Crystal, **changes: np.ndarray) -> Crystal:
    return dataclasses.replace(crystal, **changes)


GOOD = rocksalt()
NAN_FRAC = GOOD.frac.copy()
NAN_FRAC[3, 1] = np.nan
BAD = {
    "NaN coordinate": (with_(GOOD, frac=NAN_FRAC), "not finite"),
    "infinite lattice": (with_(GOOD, lattice_ang=np.full((3, 3), np.inf)), "not finite"),
    "zero lattice": (with_(GOOD, lattice_ang=np.zeros((3, 3))), "0 A^3 per atom"),
    "flat lattice": (with_(GOOD, lattice_ang=np.diag([4.0, 4.0, 0.0])), "0 A^3 per atom"),
    "left-handed": (with_(GOOD, lattice_ang=-GOOD.lattice_ang), "left-handed"),
    "overflowing lattice": (with_(GOOD, lattice_ang=1e200 * np.eye(3)), "cell vector"),
    "long vector": (with_(GOOD, lattice_ang=np.diag([101.0, 4, 4])), "101 A long"),
    "dense": (with_(GOOD, lattice_ang=2.4 * np.eye(3)), "expected 2 to 150"),
    "dilute": (with_(GOOD, lattice_ang=11.0 * np.eye(3)), "expected 2 to 150"),
    "sharp angle": (with_(GOOD, lattice_ang=np.array([[8.0, 0, 0], [9.9, 1.5, 0], [0, 0, 9]])), "degrees"),
    "overlap": (with_(GOOD, frac=np.zeros((8, 3))), "0.000 A apart"),
    "no atoms": (Crystal(np.eye(3), np.zeros((0, 3)), np.zeros(0, dtype=int)), "no atoms"),
    "unknown element": (with_(GOOD, atomic_numbers=np.full(8, 104)), "atomic number 104"),
    "atomic number zero": (with_(GOOD, atomic_numbers=np.zeros(8, dtype=int)), "atomic number 0"),
    "wrong shape": (with_(GOOD, frac=GOOD.frac[:5]), "expected (3, 3), (n, 3) and (n,)"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_numbers_give_a_sentence_and_no_exception(name: str) -> None:
    crystal, words = BAD[name]
    verdict = check(crystal, CONFIG)
    assert not verdict.valid
    assert words in verdict.reason
    assert verdict.reason.count(". ") == 0


def test_a_disordered_structure_is_refused_with_a_reason() -> None:
    alloy = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    verdict = check(alloy, CONFIG)
    assert not verdict.valid
    assert "disordered" in verdict.reason


def test_ten_thousand_atoms_are_checked_in_bounded_time() -> None:
    rng = np.random.default_rng(0)
    side = 100.0
    grid = np.stack(np.meshgrid(*[np.arange(22)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:10_000] / 22
    frac = grid + rng.uniform(-0.001, 0.001, grid.shape)
    start = time.perf_counter()
    verdict = check(Crystal(side * np.eye(3), frac, np.full(10_000, 29)), CONFIG)
    assert verdict.valid
    assert verdict.min_distance_ang == pytest.approx(100 / 22, abs=0.4)
    assert time.perf_counter() - start < 30  # all pairs times 27 images would need gigabytes and minutes


def test_nearly_every_real_crystal_is_valid_and_agrees_with_pymatgen(real_structures) -> None:  # noqa: ANN001
    structures = [
        s for name in ("mp_20_biternary_test", "carbon_24_val", "perov_5_val") for s in real_structures(name, 40)
    ]
    verdicts = [check(s, CONFIG) for s in structures]
    assert sum(v.valid for v in verdicts) >= 0.97 * len(verdicts)
    for structure, verdict in zip(structures[::3], verdicts[::3], strict=True):
        if verdict.valid:
            radius = verdict.min_distance_ang
            assert len(structure.get_neighbor_list(radius * (1 - 1e-6))[0]) == 0
            assert len(structure.get_neighbor_list(radius * (1 + 1e-6))[0]) > 0


def test_the_published_cdvae_rule_ignores_an_atoms_own_images() -> None:
    thin = Structure(Lattice.orthorhombic(0.3, 30, 30), ["C"], [[0, 0, 0]])
    assert satisfies_cdvae_rule(thin)
    assert not satisfies_cdvae_rule(Structure(Lattice.cubic(5), ["C", "C"], [[0, 0, 0], [0.09, 0, 0]]))
    assert not satisfies_cdvae_rule(Structure(Lattice.cubic(0.46), ["C"], [[0, 0, 0]]))


@pytest.mark.benchmark
def test_checks_per_second(real_structures, record_property) -> None:  # noqa: ANN001
    crystals = [Crystal.from_structure(s) for s in real_structures("mp_20_biternary_test", 200)]
    for crystal in crystals[:20]:
        check(crystal, CONFIG)
    start = time.perf_counter()
    for crystal in crystals:
        check(crystal, CONFIG)
    rate = len(crystals) / (time.perf_counter() - start)
    record_property("validity_checks_per_s", rate)
    print(f"validity: {rate:.0f} crystals/s, one core")
