"""Crystals as a space group, occupied Wyckoff positions, and the numbers that symmetry leaves free; exact both ways.

    1. spglib finds the group, its standard cell and which orbit each atom lies on.
    2. The setting is that of International Tables A as PyXtal tabulates it: unique axis b, cell choice 1, hexagonal
       axes of rhombohedral groups, origin choice 2.
    3. A group's normalizer moves its origin and exchanges its axes without changing the group: rock salt has Na on `a`
       and Cl on `b`, or the other way round. Of all descriptions that the normalizer makes of one crystal the smallest
       is taken, so equal crystals have equal signatures. Of a pair of enantiomorphic groups the lower number stands for
       both, since the mirror image has the same energy and the matcher calls it the same crystal.

A monoclinic or triclinic group has infinitely many further descriptions, by other cells of the same lattice; there the
cell is the one that spglib takes, and crystals near its limits may have two signatures.

Conventions: lattice vectors are rows, angstrom; fractional coordinates; angles in degrees; K is the number of orbits.
Source: Wyckoff positions and cosets of Euclidean normalizers from PyXtal (Fredericks et al., Comput. Phys. Commun. 261,
107810 (2021)), which has them from the Bilbao Crystallographic Server (WYCKSETS).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
import spglib
from pymatgen.core.lattice import Lattice
from pymatgen.core.operations import SymmOp
from pyxtal.symmetry import Group

from generative.crystal.crystals import Crystal, wrap_unit

PARTNER = {
    78: 76, 95: 91, 96: 92, 145: 144, 153: 151, 154: 152, 170: 169, 172: 171, 179: 178, 181: 180, 213: 212,
}  # fmt: skip
"""Enantiomorphic groups: number -> that of its mirror image, which stands for both."""

_PRIMITIVE = {
    "P": np.eye(3),
    "A": np.array([[1, 0, 0], [0, 0.5, 0.5], [0, -0.5, 0.5]]),
    "C": np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
"""Rows: a primitive cell in units of the conventional one, by the first letter of the group's symbol."""

ON_SITE = 1e-3
"""How far, in fractional coordinates, an atom of spglib's standardised cell may lie beside its Wyckoff position: spglib
symmetrises coordinates, so this covers rounding (thirds with seven digits) and is no tolerance of crystals."""


class WyckoffError(ValueError):
    """A crystal that cannot be described by Wyckoff positions, or a description that is none of a crystal."""


@dataclass(frozen=True)
class WyckoffPosition:
    """One Wyckoff position of a space group, without the copies that centring makes.

    Attributes:
        letter: as in International Tables; A for the 27th of group 47.
        operations: affine maps of (x, y, z) to each atom of the orbit in the primitive cell, (m, 3, 4).
        free: which of x, y, z can be chosen, (3,).
    """

    letter: str
    operations: np.ndarray
    free: np.ndarray

    @property
    def multiplicity(self) -> int:
        """Atoms in the PRIMITIVE cell."""
        return len(self.operations)

    def orbit(self, xyz: np.ndarray) -> np.ndarray:
        """All atoms of the position in the primitive cell, coordinates of the conventional cell, (m, 3)."""
        found: np.ndarray = self.operations[:, :, :3] @ xyz + self.operations[:, :, 3]
        return found


@dataclass(frozen=True)
class SpaceGroup:
    """A space group in its standard setting.

    Attributes:
        number: international number.
        hall_number: spglib's number of this setting.
        centring: translations of the conventional cell, (c, 3).
        primitive: rows of a primitive cell in units of the conventional one, (3, 3).
        positions: by letter, in the order of the alphabet: `a` first, the general one last.
        normalizer: (3, 4) affine maps, cosets of the Euclidean normalizer; the identity first.
        relabelled: for each of these, what every letter becomes.
    """

    number: int
    hall_number: int
    centring: np.ndarray
    primitive: np.ndarray
    positions: Mapping[str, WyckoffPosition]
    normalizer: tuple[np.ndarray, ...]
    relabelled: tuple[Mapping[str, str], ...]

    def located(self, letter: str, atoms: np.ndarray) -> np.ndarray:
        """x, y, z at which the position `letter` has an orbit of these atoms, (3,); those that are not free are 0.

        Args:
            letter: of the position.
            atoms: fractional coordinates of all atoms of the orbit, or of those in a primitive cell, (m, 3).

        Raises: WyckoffError: if none of them lies on the position's first representative.
        """
        position = self.positions[letter]
        first = position.operations[0]
        candidates = (atoms[:, None] + self.centring).reshape(-1, 3)
        off = candidates @ first[:, :3].T + first[:, 3] - candidates
        distance = np.abs(off - np.round(off)).max(axis=1)
        nearest = int(distance.argmin())
        if distance[nearest] > ON_SITE:
            raise WyckoffError(
                f"no atom of the orbit lies on {position.multiplicity}{letter} of space group {self.number}: the "
                f"nearest is {distance[nearest]:.3g} of a cell edge away"
            )
        # Of several atoms on it any would do; the one nearest the origin makes equal orbits have equal numbers.
        on = candidates[distance <= distance[nearest] + 1e-6]
        wrapped = wrap_unit(np.round(np.where(position.free, on, 0.0), 9))
        found: np.ndarray = wrapped[np.lexsort(wrapped.T[::-1].round(5))[0]]
        return found


def _matrix(text: str) -> np.ndarray:
    affine: np.ndarray = SymmOp.from_xyz_str(text).affine_matrix[:3]
    return affine


@lru_cache(maxsize=230)
def space_group(number: int) -> SpaceGroup:
    """The space group of this international number. Raises: ValueError: if it is none of 1 to 230."""
    if not 1 <= number <= 230:
        raise ValueError(f"{number} is no space group: international numbers run from 1 to 230")
    group = Group(number)
    general = np.array([op.affine_matrix[:3] for op in group[0].ops])
    is_translation = np.abs(general[:, :, :3] - np.eye(3)).max(axis=(1, 2)) < 1e-6
    centring = general[is_translation, :, 3] % 1
    positions = {
        w.letter: _position(w.letter, np.array([op.affine_matrix[:3] for op in w.ops]), centring) for w in group
    }
    letters = sorted(positions, key=lambda letter: (letter.isupper(), letter))
    cosets = group.get_alternatives()
    return SpaceGroup(
        number,
        int(group.hall_number),
        centring,
        _PRIMITIVE[group.symbol[0]],
        {letter: positions[letter] for letter in letters},
        tuple(_matrix(text) for text in cosets["Coset Representative"]),
        # PyXtal lists, in alphabetic order of what a position becomes, the letter that it was.
        tuple(dict(zip(text.split(), letters, strict=True)) for text in cosets["Transformed WP"]),
    )


def _position(letter: str, operations: np.ndarray, centring: np.ndarray) -> WyckoffPosition:
    """One operation out of every set that differs by centring alone."""
    kept: list[np.ndarray] = []
    for operation in operations:
        if kept:
            shift = operation - np.array(kept)
            alike = np.abs(shift[:, :, :3]).max(axis=(1, 2)) < 1e-6
            apart = shift[alike, None, :, 3] - centring
            if (np.abs(apart - np.round(apart)).max(axis=2) < 1e-6).any():
                continue
        kept.append(operation)
    free = np.abs(operations[0][:, :3]).sum(axis=0) > 0
    return WyckoffPosition(letter, np.array(kept), free)


@cache
def _mirrored(number: int) -> Mapping[str, str]:
    """Letters of an enantiomorphic group as its partner has them after inversion at the origin."""
    group, partner = space_group(number), space_group(PARTNER[number])
    xyz = np.array([0.1371, 0.2933, 0.4197])
    letters = {}
    for letter, position in group.positions.items():
        image = -position.orbit(xyz)
        same_size = [p for p in partner.positions.values() if p.multiplicity == position.multiplicity]
        for other in sorted(same_size, key=lambda p: int(p.free.sum())):
            try:
                partner.located(other.letter, image)
            except WyckoffError:
                continue
            letters[letter] = other.letter
            break
    return letters


Sites = tuple[tuple[int, str], ...]
"""(atomic number, Wyckoff letter), one per orbit, ascending."""


@dataclass(frozen=True, order=True)
class Signature:
    """A space group and which element sits on which Wyckoff positions: everything discrete about a crystal.

    Attributes:
        spacegroup: international number; of an enantiomorphic pair the lower one.
        sites: (atomic number, letter), one per orbit, ascending; letters as the normalizer makes them smallest.
    """

    spacegroup: int
    sites: Sites

    @classmethod
    def of(cls, spacegroup: int, sites: Iterable[tuple[int, str]]) -> Signature:
        """The signature of these occupied positions, however the cell was chosen.

        Raises: WyckoffError: if a letter is none of the group's.
        """
        return cls(*_smallest(spacegroup, tuple(sites))[:2])

    @cached_property
    def counts(self) -> dict[int, int]:
        """Atoms of each element in the primitive cell, by atomic number."""
        positions = space_group(self.spacegroup).positions
        counts: Counter[int] = Counter()
        for z, letter in self.sites:
            counts[z] += positions[letter].multiplicity
        return dict(sorted(counts.items()))

    @property
    def n_sites(self) -> dict[int, int]:
        """Occupied positions, inequivalent sites, of each element, by atomic number."""
        return dict(sorted(Counter(z for z, _ in self.sites).items()))

    def __str__(self) -> str:
        from pymatgen.core.periodic_table import Element

        sites = " ".join(
            f"{Element.from_Z(z).symbol}:{''.join(letter for other, letter in self.sites if other == z)}"
            for z in self.counts
        )
        return f"{self.spacegroup} {sites}"


def _smallest(spacegroup: int, sites: Sites) -> tuple[int, Sites, tuple[int, ...]]:
    """Group and sites as the normalizer makes them smallest, and by which of its cosets (all that give the same)."""
    if spacegroup in PARTNER:
        mirrored = _mirrored(spacegroup)
        sites, spacegroup = tuple((z, mirrored[letter]) for z, letter in sites), PARTNER[spacegroup]
    group = space_group(spacegroup)
    if unknown := {letter for _, letter in sites} - set(group.positions):
        raise WyckoffError(
            f"space group {spacegroup} has no Wyckoff position {', '.join(sorted(unknown))}: expected letters of "
            f"{''.join(group.positions)}"
        )
    made = [tuple(sorted((z, names[letter]) for z, letter in sites)) for names in group.relabelled]
    least = min(made)
    return spacegroup, least, tuple(i for i, one in enumerate(made) if one == least)


@dataclass(frozen=True)
class WyckoffCrystal:
    """A crystal by its signature and what symmetry leaves free.

    Attributes:
        signature: group and occupied positions.
        cell: a, b, c in angstrom and alpha, beta, gamma in degrees of the conventional cell, (6,).
        xyz: fractional coordinates of the first representative of each orbit, in the order of signature.sites, (K, 3);
            those that are not free are 0.
    """

    signature: Signature
    cell: np.ndarray
    xyz: np.ndarray

    @classmethod
    def of(cls, crystal: Crystal, symprec_ang: float = 0.01) -> WyckoffCrystal:
        """The crystal in its group by spglib, symmetrised.

        Args:
            crystal: any cell of it.
            symprec_ang: how far an atom may lie beside its symmetric position, angstrom.

        Raises: WyckoffError: if spglib finds no symmetry, or states positions that are none of its own group's.
        """
        cell = crystal.lattice_ang.tolist(), crystal.frac.tolist(), crystal.atomic_numbers.tolist()
        try:  # spglib raises, or gives None, as whoever imported it first has chosen
            found = spglib.get_symmetry_dataset(cell, symprec_ang)
            if found is not None and found.hall_number != (hall := space_group(found.number).hall_number):
                found = spglib.get_symmetry_dataset(cell, symprec_ang, hall_number=hall)
        except spglib.SpglibError:
            found = None
        if found is None:
            raise WyckoffError(
                f"spglib finds no space group of {len(crystal.atomic_numbers)} atoms at {symprec_ang:g} A: expected a "
                "cell of finite volume whose atoms lie apart"
            )
        orbit_of_primitive = dict(zip(found.mapping_to_primitive, found.crystallographic_orbits, strict=True))
        orbit_of = np.array([orbit_of_primitive[i] for i in found.std_mapping_to_primitive])
        orbits = [
            (int(crystal.atomic_numbers[orbit]), found.wyckoffs[orbit], found.std_positions[orbit_of == orbit])
            for orbit in np.unique(orbit_of)
        ]
        return _canonical(int(found.number), np.array(Lattice(found.std_lattice).parameters), orbits)

    def descriptions(self) -> list[WyckoffCrystal]:
        """All descriptions of the crystal that the cosets of the normalizer make with its smallest signature."""
        positions = space_group(self.signature.spacegroup).positions
        orbits = [
            (z, letter, positions[letter].orbit(xyz))
            for (z, letter), xyz in zip(self.signature.sites, self.xyz, strict=True)
        ]
        return _descriptions(self.signature.spacegroup, self.cell, orbits)

    def crystal(self) -> Crystal:
        """The crystal in a primitive cell; atoms of one element stand together, ascending by atomic number."""
        group = space_group(self.signature.spacegroup)
        conventional = Lattice.from_parameters(*self.cell).matrix
        atoms = [
            group.positions[letter].orbit(xyz) for (_, letter), xyz in zip(self.signature.sites, self.xyz, strict=True)
        ]
        numbers = np.repeat([z for z, _ in self.signature.sites], [len(orbit) for orbit in atoms])
        frac = np.concatenate(atoms) @ np.linalg.inv(group.primitive)
        return Crystal(group.primitive @ conventional, wrap_unit(np.round(frac, 12)), numbers.astype(np.int16))


def _canonical(number: int, cell: np.ndarray, orbits: list[tuple[int, str, np.ndarray]]) -> WyckoffCrystal:
    """The smallest description of a crystal: of those with the smallest signature, that of the smallest coordinates."""
    if number in PARTNER:
        mirrored = _mirrored(number)
        orbits = [(z, mirrored[letter], -atoms) for z, letter, atoms in orbits]
        number = PARTNER[number]
    return _descriptions(number, cell, orbits)[0]


def _descriptions(number: int, cell: np.ndarray, orbits: list[tuple[int, str, np.ndarray]]) -> list[WyckoffCrystal]:
    """All descriptions with the smallest signature that the cosets of the normalizer make, smallest first."""
    group = space_group(number)
    number, sites, cosets = _smallest(number, tuple((z, letter) for z, letter, _ in orbits))
    described = []
    for coset in cosets:
        move, names = group.normalizer[coset], group.relabelled[coset]
        there = []
        for z, letter, atoms in orbits:
            image = wrap_unit(atoms @ move[:, :3].T + move[:, 3])
            there.append((z, names[letter], tuple(group.located(names[letter], image))))
        there.sort(key=lambda one: (one[0], one[1], tuple(np.round(one[2], 4))))
        described.append((tuple(tuple(np.round(xyz, 4)) for *_, xyz in there), coset, there))
    found = []
    for _, coset, there in sorted(described, key=lambda one: one[:2]):
        inverse = np.linalg.inv(group.normalizer[coset][:, :3])
        moved = inverse.T @ Lattice.from_parameters(*cell).matrix
        found.append(
            WyckoffCrystal(
                Signature(number, sites),
                cell if np.allclose(inverse, np.eye(3)) else np.array(Lattice(moved).parameters),
                np.array([xyz for *_, xyz in there]).reshape(-1, 3),
            )
        )
    return found
