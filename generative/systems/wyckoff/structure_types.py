"""Structure types: crystals of one kind whose numbers agree, and the mean of their cells and coordinates.

Crystals of one space group with the same occupied positions may still be unlike: pyrite and CO2 are. Members of a type
are those whose cells and coordinates agree once they are described alike: of all descriptions that the normalizer
makes, with any atom of an orbit standing for it, and the origin shifted where the group leaves it free, that nearest to
the type's first member is taken. So a type is what crystallographers call isoconfigurational; its mean is a structure
that no single crystal has, and as near to a new member as its nearest neighbour is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from pymatgen.core.lattice import Lattice
from scipy.optimize import linear_sum_assignment

from generative.crystal.wyckoff import ON_SITE, SpaceGroup, WyckoffCrystal, space_group

SAME_XYZ = 0.1
"""How far the atoms of a member may lie from those of the first, root mean square in units of (V/N)^(1/3)."""

SURE_XYZ = 0.03
"""A type that is as near as that is taken without looking for a nearer one."""

SAME_EDGES, SAME_ANGLES_DEG = 0.12, 5.0
"""How far its edges, as a logarithm, and its angles may."""

SHIFTS_MAX = 64
"""Origins tried along a polar axis. Only crystals with dozens of orbits of one element have more."""


@dataclass
class StructureType:
    """Crystals with one kind of signature whose numbers agree.

    Attributes:
        first: the member that the others are described like; its edges are in units of any length.
        members: places among the crystals that were given.
        cells: theirs, as described like the first.
        xyz: theirs.
    """

    first: WyckoffCrystal
    members: list[int]
    cells: list[np.ndarray] = field(default_factory=list)
    xyz: list[np.ndarray] = field(default_factory=list)

    @property
    def mean(self) -> WyckoffCrystal:
        """Mean of the members."""
        return WyckoffCrystal(self.first.signature, np.mean(self.cells, axis=0), np.mean(self.xyz, axis=0))

    @cached_property
    def metric(self) -> np.ndarray:
        """Rows of the cell in units of (V/N)^(1/3)."""
        group = space_group(self.first.signature.spacegroup)
        cell = Lattice.from_parameters(*self.first.cell).matrix
        scaled: np.ndarray = cell / (abs(np.linalg.det(cell)) / len(group.centring) / self.size.sum()) ** (1 / 3)
        return scaled

    @cached_property
    def size(self) -> np.ndarray:
        """Atoms of each orbit in the primitive cell, (K,)."""
        positions = space_group(self.first.signature.spacegroup).positions
        return np.array([positions[letter].multiplicity for _, letter in self.first.signature.sites])

    @cached_property
    def alike_sites(self) -> list[tuple[list[int], np.ndarray]]:
        """Orbits of the same element on the same position, and which of its coordinates are free."""
        positions, sites = space_group(self.first.signature.spacegroup).positions, self.first.signature.sites
        return [
            ([i for i, one in enumerate(sites) if one == site], positions[site[1]].free)
            for site in dict.fromkeys(sites)
        ]


class Description:
    """A crystal in one of its descriptions, with what comparing it costs."""

    def __init__(self, crystal: WyckoffCrystal) -> None:
        self.crystal = crystal

    @cached_property
    def images(self) -> list[np.ndarray]:
        """Coordinates by which each orbit may be named."""
        group = space_group(self.crystal.signature.spacegroup)
        return [
            _images(group, letter, xyz)
            for (_, letter), xyz in zip(self.crystal.signature.sites, self.crystal.xyz, strict=True)
        ]


def structure_types(crystals: Sequence[WyckoffCrystal], begun: Sequence[WyckoffCrystal] = ()) -> list[StructureType]:
    """Crystals of one signature by type; each belongs to the nearest type that there is, or begins one.

    Args:
        crystals: to be sorted.
        begun: types that there are already, which come first whether or not a crystal belongs to them.
    """
    types = [StructureType(one, []) for one in begun]
    for place, crystal in enumerate(crystals):
        descriptions = [Description(one) for one in crystal.descriptions()]
        nearest: tuple[float, StructureType, np.ndarray, np.ndarray] | None = None
        for one, described in ((one, described) for one in types for described in descriptions):
            found = alike(one, described)
            if found is not None and (nearest is None or found[0] < nearest[0]):
                nearest = found[0], one, described.crystal.cell, found[1]
                if nearest[0] < SURE_XYZ:
                    break
        if nearest is None:
            first = descriptions[0].crystal
            types.append(StructureType(first, [place], [first.cell], [first.xyz]))
        else:
            _, one, cell, xyz = nearest
            one.members.append(place)
            one.cells.append(cell)
            one.xyz.append(xyz)
    return types


def alike(one: StructureType, other: Description) -> tuple[float, np.ndarray] | None:
    """How far a crystal of the same signature is from a type's first member.

    Returns: Root mean square distance in units of (V/N)^(1/3), and the crystal's coordinates as near the first's as its
        description allows, (K, 3), not wrapped into the cell; None where cells or coordinates do not agree.
    """
    first, crystal = one.first, other.crystal
    if np.abs(np.log(crystal.cell[:3] / first.cell[:3])).max() > SAME_EDGES:
        return None
    if np.abs(crystal.cell[3:] - first.cell[3:]).max() > SAME_ANGLES_DEG:
        return None
    if not any(free.any() for _, free in one.alike_sites):
        return 0.0, crystal.xyz
    polar = _polar(first.signature.spacegroup)
    shifts = [np.zeros(3)]
    if polar is not None:
        anchors = one.alike_sites[0][0]
        shifts = [polar @ (first.xyz[0] - image) for i in anchors for image in other.images[i]][:SHIFTS_MAX]
    least, nearest = SAME_XYZ**2 * float(one.size.sum()), None
    for shift in shifts:
        found = _paired(one, other, shift, least)
        if found is not None:
            least, nearest = found
    return None if nearest is None else (float(np.sqrt(least / one.size.sum())), nearest)


def _paired(one: StructureType, other: Description, shift: np.ndarray, limit: float) -> tuple[float, np.ndarray] | None:
    """Orbits of a crystal, each by whichever of its atoms is nearest, paired with those of the first member; the sum of
    squares over all atoms, and the coordinates. None where the sum reaches the limit.
    """
    total, xyz = 0.0, np.empty_like(one.first.xyz)
    for rows, free in one.alike_sites:
        cost, nearest = np.empty((len(rows), len(rows))), np.empty((len(rows), len(rows), 3))
        for b, j in enumerate(rows):
            images = other.images[j] + shift
            for a, i in enumerate(rows):
                apart = (images - one.first.xyz[i]) * free
                apart -= np.rint(apart)
                real = apart @ one.metric
                squared = np.einsum("ij,ij->i", real, real)
                best = squared.argmin()
                cost[a, b], nearest[a, b] = squared[best], one.first.xyz[i] + apart[best]
        pairs = zip(*linear_sum_assignment(cost), strict=True) if len(rows) > 1 else [(0, 0)]
        for a, b in pairs:
            xyz[rows[a]] = nearest[a, b]
            total += cost[a, b] * one.size[rows[a]]
        if total >= limit:
            return None
    return total, xyz


def _images(group: SpaceGroup, letter: str, xyz: np.ndarray) -> np.ndarray:
    """Coordinates by which the same orbit may be named, (m, 3)."""
    position = group.positions[letter]
    atoms = (position.orbit(xyz)[:, None] + group.centring).reshape(-1, 3)
    first = position.operations[0]
    off = atoms @ first[:, :3].T + first[:, 3] - atoms
    return np.where(position.free, atoms[np.abs(off - np.round(off)).max(axis=1) < ON_SITE], 0.0)


@lru_cache(maxsize=230)
def _polar(number: int) -> np.ndarray | None:
    """Projection on the directions that no operation of the group changes, along which its origin is free, (3, 3);
    None where there is none.
    """
    rotations = list(space_group(number).positions.values())[-1].operations[:, :, :3]
    _, values, vectors = np.linalg.svd((rotations - np.eye(3)).reshape(-1, 3))
    free = vectors[values < 1e-8]
    return free.T @ free if len(free) else None
