"""The standard setting: the same crystal in any disguise becomes the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal, wrap_unit
from generative.crystal.standard_setting import in_standard_setting, in_standard_settings

CRYSTALS = {
    "rock salt": ("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]),
    "perovskite": ("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]),
    "zinc blende": ("F-43m", Lattice.cubic(5.4), ["Zn", "S"], [[0, 0, 0], [0.25] * 3]),
    "rutile": ("P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "diboride": ("P6/mmm", Lattice.hexagonal(3.03, 3.23), ["Ti", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]),
}


def disguised(structure: Structure, rng: np.random.Generator) -> Crystal:
    """The crystal from another origin, turned, in another order, in a sheared cell."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shear = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    lattice = shear @ structure.lattice.matrix
    frac = wrap_unit(structure.frac_coords @ np.linalg.inv(shear) + rng.random(3))
    order = rng.permutation(len(structure))
    numbers = np.array([site.specie.Z for site in structure], dtype=np.int16)
    return Crystal(lattice @ (rotation * np.sign(np.linalg.det(rotation))), frac[order], numbers[order])


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_disguised_crystal_comes_back_in_the_same_numbers(name: str) -> None:
    rng = np.random.default_rng(1)
    conventional = Structure.from_spacegroup(*CRYSTALS[name])
    expected = in_standard_setting(Crystal.from_structure(conventional))
    assert StructureMatcher().fit(expected.to_structure(), conventional)
    assert len(expected.frac) == len(conventional.get_primitive_structure())
    for _ in range(5):
        found = in_standard_setting(disguised(conventional, rng))
        gram = found.lattice_ang @ found.lattice_ang.T
        np.testing.assert_allclose(gram, expected.lattice_ang @ expected.lattice_ang.T, atol=1e-4)
        np.testing.assert_array_equal(found.atomic_numbers, expected.atomic_numbers)
        apart = found.frac - expected.frac
        assert np.abs(apart - np.round(apart)).max() < 1e-4


def test_a_crystal_without_symmetry_keeps_its_atoms_and_is_sorted() -> None:
    rng = np.random.default_rng(0)
    lattice = Lattice.from_parameters(4, 5, 6, 81, 95, 103)
    structure = Structure(lattice, ["O", "Ti", "O", "Ba"], rng.random((4, 3)))
    found = in_standard_setting(Crystal.from_structure(structure))
    assert found.atomic_numbers.tolist() == [8, 8, 22, 56]
    assert found.frac[0].tolist() <= found.frac[1].tolist()
    assert StructureMatcher().fit(found.to_structure(), structure)
    again = in_standard_setting(found)
    np.testing.assert_allclose(again.frac, found.frac, atol=1e-6)


def test_a_flat_cell_and_coinciding_atoms_come_back_as_they_can() -> None:
    flat = Crystal(np.array([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]]), np.zeros((1, 3)), np.array([6], dtype=np.int16))
    assert in_standard_setting(flat).atomic_numbers.tolist() == [6]
    twice = Crystal(np.eye(3) * 3, np.zeros((2, 3)), np.array([6, 6], dtype=np.int16))
    assert in_standard_setting(twice).atomic_numbers.tolist() == [6, 6]


def test_kept_settings_are_those_that_are_computed_and_are_read_instead_of_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    crystals = [disguised(Structure.from_spacegroup(*entry), rng) for entry in CRYSTALS.values()]
    expected = [in_standard_setting(crystal).digest for crystal in crystals]
    first = in_standard_settings([*crystals, crystals[0]], cache=tmp_path)
    assert [crystal.digest for crystal in first] == [*expected, expected[0]]
    monkeypatch.setattr("generative.crystal.standard_setting.in_standard_setting", None)
    assert [crystal.digest for crystal in in_standard_settings(crystals, cache=tmp_path)] == expected
