"""Slabs set apart from their vacuum, in cells skewed, turned and multiplied at random."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from storage.vacuum import VACUUM_ANG, slab_of

UNIMODULAR = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
    [[1, 1, 0], [0, 1, 0], [2, -1, 1]],
    [[1, 0, 1], [0, 1, 1], [0, 0, 1]],
    [[2, 1, 3], [1, 1, 1], [-1, 0, -1]],
]


def slab(vacuum_ang: float, thickness_ang: float = 4.0, seed: int = 0) -> Structure:
    """Six atoms in a triclinic plane, in a cell whose third vector leans."""
    rng = np.random.default_rng(seed)
    plane = [[4.0, 0.3, 0.0], [1.1, 5.0, 0.0]]
    lattice = Lattice([*plane, [0.9, -1.2, thickness_ang + vacuum_ang]])
    height = rng.uniform(0, thickness_ang, 6)
    height[:2] = 0.0, thickness_ang
    frac = np.column_stack([rng.random((6, 2)), rng.random() + height / (thickness_ang + vacuum_ang)])
    return Structure(lattice, ["Ga", "Se", "In", "S", "Te", "Al"], frac)


def turned(crystal: Structure, whole: list[list[int]], seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    lattice = np.array(whole) @ crystal.lattice.matrix @ rotation
    frac = crystal.frac_coords @ np.linalg.inv(np.array(whole)) + rng.integers(-2, 3, (len(crystal), 3))
    return Structure(Lattice(lattice), crystal.species, frac)


@pytest.mark.parametrize("whole", UNIMODULAR, ids=str)
def test_a_slab_is_the_same_in_any_cell_of_its_lattice(whole: list[list[int]]) -> None:
    given = slab(15.0)
    other = turned(given, whole, seed=3)
    first, found = (slab_of(one.lattice.matrix, one.frac_coords) for one in (given, other))
    assert first is not None
    assert found is not None
    assert found.thickness_ang == pytest.approx(4.0, abs=1e-9)
    assert found.vacuum.width_ang == pytest.approx(15.0, abs=1e-9)
    assert found.widest_gap_ang == pytest.approx(first.widest_gap_ang, abs=1e-9)
    np.testing.assert_allclose(found.plane_ang @ found.plane_ang.T, first.plane_ang @ first.plane_ang.T, atol=1e-9)
    np.testing.assert_allclose(found.plane_ang @ found.direction, 0, atol=1e-9)


@pytest.mark.parametrize("whole", UNIMODULAR, ids=str)
def test_another_vacuum_moves_no_atom_of_the_slab_against_another(whole: list[list[int]]) -> None:
    other = turned(slab(15.0), whole, seed=4)
    found = slab_of(other.lattice.matrix, other.frac_coords)
    assert found is not None
    lattice, frac = found.with_vacuum(40.0)
    made = Structure(Lattice(lattice), other.species, frac)
    assert made.lattice.c == pytest.approx(44.0)
    assert np.linalg.det(lattice) > 0
    assert made.lattice.angles[:2] == pytest.approx((90.0, 90.0))
    # Distances shorter than either vacuum are those within the slab, images in its plane included.
    distances = [one.distance_matrix for one in (other, made)]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-8)
    again = slab_of(lattice, frac)
    assert again is not None
    assert again.vacuum.width_ang == pytest.approx(40.0)
    assert again.vacuum.axis == 2


def test_bulk_a_wire_and_a_molecule_are_no_slabs() -> None:
    bulk = slab(3.0)
    assert slab_of(bulk.lattice.matrix, bulk.frac_coords) is None
    wire = Structure(Lattice([[4, 0, 0], [1, 15, 0], [0, 2, 16]]), ["Se", "Te"], [[0, 0, 0], [0.5, 0.05, 0.04]])
    assert slab_of(wire.lattice.matrix, wire.frac_coords) is None
    molecule = Structure(Lattice.cubic(14.0), ["O", "O"], [[0, 0, 0], [0.08, 0, 0]])
    assert slab_of(molecule.lattice.matrix, molecule.frac_coords) is None


def test_a_wide_cell_of_a_slab_whose_tilted_planes_are_far_apart_is_a_slab_all_the_same() -> None:
    wide = slab(20.0)
    wide.make_supercell([3, 2, 1])
    found = slab_of(wide.lattice.matrix, wide.frac_coords)
    assert found is not None
    assert found.vacuum.width_ang == pytest.approx(20.0)
    assert found.vacuum.width_ang > VACUUM_ANG


def test_two_layers_far_apart_are_one_slab_with_a_wide_gap() -> None:
    lattice = Lattice.hexagonal(3.8, 40.0)
    apart = Structure(lattice, ["Ga", "Se", "Ga", "Se"], [[0, 0, 0.1], [0, 0, 0.15], [0, 0, 0.32], [0, 0, 0.37]])
    found = slab_of(apart.lattice.matrix, apart.frac_coords)
    assert found is not None
    assert found.widest_gap_ang == pytest.approx(6.8)
