"""Crystals by Wyckoff positions: exact both ways, and the same description for the same crystal."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure
from pymatgen.symmetry.groups import SpaceGroup as PymatgenGroup

from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import (
    PARTNER,
    Signature,
    WyckoffCrystal,
    WyckoffError,
    space_group,
)
from tests.real_crystals import real_crystals


def made(number: int, rng: np.random.Generator) -> WyckoffCrystal:
    """A random crystal of the group: two general positions, and one more, so that no higher group is met by chance."""
    group = space_group(number)
    general, *special = reversed(group.positions.values())
    occupied = [general, general, special[int(rng.integers(len(special)))] if special else general]
    if number >= 195:  # cubic: one general position alone is up to 192 atoms
        occupied = occupied[1:]
    a, b, c = 6 + 3 * rng.random(3)
    cell = {
        "triclinic": (a, b, c, 81, 97, 104),
        "monoclinic": (a, b, c, 90, 104, 90),
        "orthorhombic": (a, b, c, 90, 90, 90),
        "tetragonal": (a, a, c, 90, 90, 90),
        "trigonal": (a, a, c, 90, 90, 120),
        "hexagonal": (a, a, c, 90, 90, 120),
        "cubic": (a, a, a, 90, 90, 90),
    }[PymatgenGroup.from_int_number(number).crystal_system]
    orbits = [(z, p.letter, np.where(p.free, rng.random(3), 0.0)) for z, p in zip((8, 22, 40), occupied, strict=False)]
    return WyckoffCrystal(
        Signature(number, tuple((z, letter) for z, letter, _ in orbits)),
        np.array(cell),
        np.array([x for *_, x in orbits]),
    )


def group_of(crystal: Crystal, symprec_ang: float = 1e-3) -> int:
    found = spglib.get_symmetry_dataset((crystal.lattice_ang, crystal.frac, crystal.atomic_numbers), symprec_ang)
    assert found is not None
    return int(found.number)


def as_structure(crystal: Crystal) -> Structure:
    return crystal.to_structure()


@pytest.mark.parametrize("first", range(1, 231, 23))
def test_a_crystal_of_any_group_has_that_group_and_comes_back(first: int) -> None:
    rng = np.random.default_rng(first)
    matcher = StructureMatcher(primitive_cell=True, scale=False)
    for number in range(first, min(first + 23, 231)):
        crystal = made(number, rng).crystal()
        assert group_of(crystal) == number
        again = WyckoffCrystal.of(crystal, 1e-3)
        assert again.signature.spacegroup == PARTNER.get(number, number)
        back = again.crystal()
        assert sorted(back.atomic_numbers) == sorted(crystal.atomic_numbers)
        if len(crystal.atomic_numbers) <= 24:  # pymatgen takes minutes for the general positions of cubic groups
            rms = matcher.get_rms_dist(as_structure(crystal), as_structure(back))
            assert rms is not None
            assert rms[0] < 1e-6


def test_every_coset_of_the_normalizer_moves_every_position_where_its_table_says() -> None:
    xyz = np.array([0.1371, 0.2933, 0.4197])
    for number in range(1, 231):
        group = space_group(number)
        for move, names in zip(group.normalizer, group.relabelled, strict=True):
            assert sorted(names) == sorted(names.values()) == sorted(group.positions)
            for letter, position in group.positions.items():
                atoms = position.orbit(np.where(position.free, xyz, 0.0))
                group.located(names[letter], atoms @ move[:, :3].T + move[:, 3])  # raises where it is not


def test_any_cell_and_origin_of_a_crystal_give_one_signature() -> None:
    rng = np.random.default_rng(7)
    for number in (19, 36, 62, 74, 88, 122, 141, 148, 166, 194, 216, 225, 227):
        crystal = made(number, rng).crystal()
        wanted = WyckoffCrystal.of(crystal, 1e-3).signature
        for _ in range(4):
            basis = np.eye(3, dtype=int)
            while np.array_equal(basis, np.eye(3)) or round(np.linalg.det(basis)) != 1:
                basis = rng.integers(-1, 2, (3, 3))
            frac = crystal.frac @ np.linalg.inv(basis) + rng.random(3)
            order = rng.permutation(len(frac))
            other = Crystal(basis @ crystal.lattice_ang, frac[order] % 1, crystal.atomic_numbers[order])
            assert WyckoffCrystal.of(other, 1e-3).signature == wanted, number


def test_the_origin_choices_of_rock_salt_are_one_signature_and_zinc_blende_is_another() -> None:
    sodium, chlorine = 11, 17
    rock_salt = {Signature.of(225, [(sodium, x), (chlorine, y)]) for x, y in ("ab", "ba")}
    assert len(rock_salt) == 1
    zinc_blende = {Signature.of(216, [(sodium, x), (chlorine, y)]) for x, y in ("ac", "ca", "bd", "ad", "cb")}
    assert len(zinc_blende) == 1
    assert rock_salt.pop().counts == zinc_blende.pop().counts == {11: 1, 17: 1}


def test_mirror_images_have_one_signature() -> None:
    rng = np.random.default_rng(3)
    for number, partner in PARTNER.items():
        crystal = made(number, rng).crystal()
        image = Crystal(crystal.lattice_ang, (-crystal.frac) % 1, crystal.atomic_numbers)
        assert group_of(image) == partner
        assert WyckoffCrystal.of(crystal, 1e-3).signature == WyckoffCrystal.of(image, 1e-3).signature


@pytest.mark.parametrize("symprec_ang", [0.01, 0.1])
def test_crystals_of_databases_come_back_as_they_were(symprec_ang: float) -> None:
    matcher = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5)
    for crystal in real_crystals("mp_20_val", 60, 20):
        described = WyckoffCrystal.of(crystal, symprec_ang)
        back = described.crystal()
        found = spglib.get_symmetry_dataset((crystal.lattice_ang, crystal.frac, crystal.atomic_numbers), symprec_ang)
        assert described.signature.spacegroup == PARTNER.get(found.number, found.number)
        assert group_of(back) in (found.number, PARTNER.get(found.number))
        rms = matcher.get_rms_dist(as_structure(crystal), as_structure(back))
        assert rms is not None
        assert rms[0] < symprec_ang / 2  # in units of the mean free length per atom, 2 to 3 A
        assert WyckoffCrystal.of(back, 1e-3).signature == described.signature


@pytest.mark.parametrize("raises", [False, True])
def test_what_is_no_crystal_is_refused_in_a_sentence(raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", not raises)
    flat = Crystal(np.zeros((3, 3)), np.zeros((1, 3)), np.array([11]))
    with pytest.raises(WyckoffError, match="finds no space group of 1 atoms"):
        WyckoffCrystal.of(flat)
    with pytest.raises(WyckoffError, match="no Wyckoff position z: expected letters of ab"):
        Signature.of(225, [(11, "z")])
    with pytest.raises(ValueError, match="231 is no space group"):
        space_group(231)
