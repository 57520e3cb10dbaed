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
from functools import lru_cache

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


def structure_types(crystals: Sequence[WyckoffCrystal]) -> list[StructureType]:
    """Crystals of one signature by type; each belongs to the nearest type that there is, or begins one."""
    types: list[StructureType] = []
    for place, crystal in enumerate(crystals):
        descriptions = crystal.descriptions()
        nearest: tuple[float, StructureType, WyckoffCrystal] | None = None
        for one, described in ((one, described) for one in types for described in descriptions):
            if nearest is None or nearest[0] > SURE_XYZ:
                found = alike(one.first, described)
                if found is not None and (nearest is None or found[0] < nearest[0]):
                    nearest = found[0], one, WyckoffCrystal(described.signature, described.cell, found[1])
        if nearest is None:
            types.append(StructureType(descriptions[0], [place], [descriptions[0].cell], [descriptions[0].xyz]))
        else:
            _, one, described = nearest
            one.members.append(place)
            one.cells.append(described.cell)
            one.xyz.append(described.xyz)
    return types


def alike(first: WyckoffCrystal, other: WyckoffCrystal) -> tuple[float, np.ndarray] | None:
    """How far two crystals of one signature are apart, and the coordinates of the second nearest those of the first.

    Returns: Root mean square distance in units of (V/N)^(1/3), and coordinates (K, 3), not wrapped into the cell; None
        where cells or coordinates do not agree.
    """
    if np.abs(np.log(other.cell[:3] / first.cell[:3])).max() > SAME_EDGES:
        return None
    if np.abs(other.cell[3:] - first.cell[3:]).max() > SAME_ANGLES_DEG:
        return None
    group, sites = space_group(first.signature.spacegroup), first.signature.sites
    size = np.array([group.positions[letter].multiplicity for _, letter in sites])
    if not any(group.positions[letter].free.any() for _, letter in sites):
        return 0.0, other.xyz
    metric = Lattice.from_parameters(*first.cell).matrix
    metric = metric / (abs(np.linalg.det(metric)) / len(group.centring) / size.sum()) ** (1 / 3)
    images = [_images(group, letter, xyz) for (_, letter), xyz in zip(sites, other.xyz, strict=True)]
    polar = _polar(first.signature.spacegroup)
    shifts = [np.zeros(3)]
    if polar is not None:
        anchors = [i for i, site in enumerate(sites) if site == sites[0]]
        shifts = [polar @ (first.xyz[0] - image) for i in anchors for image in images[i]][:SHIFTS_MAX]
    best, nearest = np.inf, other.xyz
    for shift in shifts:
        squared, xyz = _paired(first, [image + shift for image in images], metric, size)
        if squared < best:
            best, nearest = squared, xyz
    rms = float(np.sqrt(best / size.sum()))
    return (rms, nearest) if rms < SAME_XYZ else None


def _paired(
    first: WyckoffCrystal, images: list[np.ndarray], metric: np.ndarray, size: np.ndarray
) -> tuple[float, np.ndarray]:
    """Orbits of the second crystal, each by whichever of its atoms is nearest, paired with those of the first."""
    sites, total = first.signature.sites, 0.0
    positions = space_group(first.signature.spacegroup).positions
    xyz = np.empty_like(first.xyz)
    for site in dict.fromkeys(sites):
        rows = [i for i, one in enumerate(sites) if one == site]
        cost, nearest = np.empty((len(rows), len(rows))), np.empty((len(rows), len(rows), 3))
        for a, i in enumerate(rows):
            for b, j in enumerate(rows):
                apart = (images[j] - first.xyz[i]) * positions[site[1]].free
                apart -= np.round(apart)
                squared = ((apart @ metric) ** 2).sum(axis=1)
                least = squared.argmin()
                cost[a, b], nearest[a, b] = squared[least], first.xyz[i] + apart[least]
        for a, b in zip(*linear_sum_assignment(cost), strict=True):
            xyz[rows[a]] = nearest[a, b]
            total += cost[a, b] * size[rows[a]]
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
