"""A crystal as one site of every orbit, in the conventional cell of its space group; exact both ways.

The setting is that of generative/crystal/wyckoff.py, whose tables (PyXtal's) give operations, centring and the
primitive cell alike, A-centred groups included. A site that lies near a position of higher symmetry is put on it, and
the images that fall together there are one atom: so how many atoms a site stands for is found, not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pymatgen.core.lattice import Lattice

from generative.crystal.crystals import Crystal, wrap_unit
from generative.crystal.wyckoff import WyckoffCrystal, WyckoffError, space_group

ROUNDS = 100
"""Of putting a site on a position of higher symmetry; each halves what is left, or more."""


@lru_cache(maxsize=230)
def general_operations(number: int) -> np.ndarray:
    """Affine maps (R, t) of a group's general position without centring, the identity first, (m, 3, 4)."""
    *_, general = space_group(number).positions.values()
    return general.operations


@dataclass(frozen=True)
class SiteCrystal:
    """A space group, the cell and one site of every orbit.

    Attributes:
        spacegroup: international number.
        cell: a, b, c in angstrom and alpha, beta, gamma in degrees of the conventional cell, (6,).
        frac: of the n sites in the conventional cell, (n, 3).
        atomic_numbers: (n,).
    """

    spacegroup: int
    cell: np.ndarray
    frac: np.ndarray
    atomic_numbers: np.ndarray

    @classmethod
    def of(cls, crystal: WyckoffCrystal) -> SiteCrystal:
        """Of a described crystal: the first atom of every orbit."""
        group = space_group(crystal.signature.spacegroup)
        sites = crystal.signature.sites
        first = [group.positions[letter].operations[0] for _, letter in sites]
        frac = [map_[:, :3] @ xyz + map_[:, 3] for map_, xyz in zip(first, crystal.xyz, strict=True)]
        numbers = np.array([z for z, _ in sites], dtype=np.int16)
        return cls(group.number, crystal.cell, wrap_unit(np.array(frac).reshape(-1, 3)), numbers)

    def crystal(self, merge_ang: float = 0.3) -> Crystal:
        """The crystal in a primitive cell; atoms of one element stand together, ascending by atomic number.

        Args:
            merge_ang: images of one site nearer than this are one atom, angstrom.

        Raises: WyckoffError: if images of a site are so near, but no point near them has the symmetry to join them.
        """
        group = space_group(self.spacegroup)
        lattice = Lattice.from_parameters(*self.cell).matrix
        orbits = [orbit(self.spacegroup, site, lattice, merge_ang) for site in self.frac]
        order = np.argsort(self.atomic_numbers, kind="stable")
        numbers = np.repeat(self.atomic_numbers[order], [len(orbits[i]) for i in order])
        frac = np.concatenate([orbits[i] for i in order]) @ np.linalg.inv(group.primitive)
        return Crystal(group.primitive @ lattice, wrap_unit(np.round(frac, 12)), numbers.astype(np.int16))


def orbit(spacegroup: int, site: np.ndarray, lattice_ang: np.ndarray, merge_ang: float) -> np.ndarray:
    """Atoms of the primitive cell that a site stands for, conventional coordinates, the (moved) site first, (m, 3).

    Args:
        spacegroup: international number.
        site: fractional coordinates in the conventional cell, (3,).
        lattice_ang: rows of the conventional cell, (3, 3).
        merge_ang: images nearer than this to the site are brought together with it, at their mean.

    Raises: WyckoffError: if they cannot be.
    """
    maps, centring = general_operations(spacegroup), space_group(spacegroup).centring
    for _ in range(ROUNDS):
        images = maps[:, :, :3] @ site + maps[:, :, 3]
        away = images[:, None] - site + centring  # (m, c, 3)
        away -= np.rint(away)
        distance = np.linalg.norm(away @ lattice_ang, axis=2)
        nearest = distance.argmin(1)
        here = np.take_along_axis(distance, nearest[:, None], 1)[:, 0] < merge_ang
        moves = away[np.arange(len(maps)), nearest][here]
        if np.abs(moves).max() < 1e-10:
            return _cosets(images, centring)
        site = site + moves.mean(0)
    raise WyckoffError(
        f"{here.sum()} images of a site of space group {spacegroup} lie within {merge_ang:g} A of it, but no position "
        "near by joins them: expected fewer, or a shorter merging distance"
    )


def _cosets(images: np.ndarray, centring: np.ndarray) -> np.ndarray:
    """Of images that coincide, up to translations of the lattice, the first."""
    kept: list[np.ndarray] = []
    for image in images:
        away = image - np.array(kept).reshape(-1, 1, 3) - centring
        if not (np.abs(away - np.rint(away)).max(2) < 1e-6).any():
            kept.append(image)
    return np.array(kept)
