"""All atoms of a cell from the listed ones: each with its images under the symmetry operations, every atom once.

Coordinates come rounded: (0.333, 0.667) for (1/3, 2/3) has images a few hundredths of an angstrom from itself, which
are the same atom. Images that near are one atom, put where the operations that bring it back leave it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generative.crystal.crystals import wrap_unit
from generative.datasets.checks import RecordError
from generative.datasets.cif.operations import Operations
from generative.datasets.cif.sites import Sites
from generative.datasets.limits import MIN_DISTANCE_ANG

MERGED_ANG = 0.05
"""Images of one site nearer than this are one atom: three decimals in a cell of up to 15 A."""

MERGED_IF_COUNTED_ANG = 0.25
"""The same where the stated number of atoms confirms it: two decimals. No two atoms of a crystal come as near."""

_SAME_ANG = 1e-2
"""Images of a settled site nearer than this are the same: what operations written with few decimals leave."""

_NOTED_ANG = 1e-3
"""Merging below this is the rounding of any file and not worth a word."""


class NearImagesError(RecordError):
    """A site lies so near a special position that its images cannot be told apart from itself."""


@dataclass(frozen=True)
class Atoms:
    """The atoms of a cell.

    Attributes:
        site: which listed site each comes from, (n,).
        frac: fractional coordinates, (n, 3), in [0, 1).
        multiplicities: atoms per listed site.
        merged: site -> largest distance of images taken as one, angstrom, where worth a note.
    """

    site: np.ndarray
    frac: np.ndarray
    multiplicities: np.ndarray
    merged: dict[str, float]


def _distances(frac: np.ndarray, point: np.ndarray, lattice_ang: np.ndarray) -> np.ndarray:
    """Distances to the nearest image of a point, angstrom; exact where below half the spacing of lattice planes."""
    delta = frac - point
    delta -= np.round(delta)
    return np.asarray(np.sqrt(((delta @ lattice_ang) ** 2).sum(axis=-1)))


def _settled(
    label: str, frac: np.ndarray, operations: Operations, lattice_ang: np.ndarray, near_ang: float
) -> tuple[np.ndarray, float, int]:
    """A site moved onto its special position; the largest distance merged, and how many operations keep it."""
    point, largest_ang, n_before = frac, 0.0, 0
    for _ in range(4):
        images = operations.rotations @ point + operations.translations
        distances_ang = _distances(images, point, lattice_ang)
        keeps = distances_ang < near_ang
        n_kept = int(keeps.sum())
        largest_ang = max(largest_ang, float(distances_ang[keeps].max()))
        if n_kept == n_before or n_kept == 1:
            break
        delta = images[keeps] - point
        point, n_before = point + (delta - np.round(delta)).mean(axis=0), n_kept
    if len(operations) % n_kept or largest_ang > 0 and _distances(point, frac, lattice_ang) > near_ang:
        raise _near(label, largest_ang)
    return point, largest_ang, n_kept


def _near(label: str, distance_ang: float) -> NearImagesError:
    return NearImagesError(
        f"site {label} has images {distance_ang:.3f} A from itself: expected one atom or atoms at least "
        f"{MIN_DISTANCE_ANG} A apart; write special positions with six digits (1/3 as 0.333333), or state "
        "_chemical_formula_sum and _cell_formula_units_Z"
    )


def _orbit(label: str, point: np.ndarray, operations: Operations, lattice_ang: np.ndarray, n_kept: int) -> np.ndarray:
    """The distinct images of a settled point, (n_operations / n_kept, 3)."""
    images = operations.rotations @ point + operations.translations
    # The operations are isometries: what is nearest to one image is as near to all.
    distances_ang = _distances(images, point, lattice_ang)
    apart = distances_ang[distances_ang > _SAME_ANG]
    if len(apart) and apart.min() < MIN_DISTANCE_ANG:
        raise _near(label, float(apart.min()))
    if n_kept == 1:
        return np.asarray(images)
    found: list[np.ndarray] = []
    left = np.ones(len(images), dtype=bool)
    while left.any():
        found.append(images[int(np.argmax(left))])
        left &= _distances(images, found[-1], lattice_ang) > _SAME_ANG
    if len(found) * n_kept != len(operations):
        raise _near(label, _SAME_ANG)
    return np.array(found)


def expanded(
    sites: Sites, operations: Operations, lattice_ang: np.ndarray, max_atoms: int, near_ang: float = MERGED_ANG
) -> Atoms:
    """All atoms of the cell.

    Args:
        sites: the listed ones.
        operations: the crystal's.
        lattice_ang: its cell, rows, (3, 3).
        max_atoms: refuse a cell of more.
        near_ang: images of one site nearer than this are one atom.

    Raises:
        NearImagesError: if images of a site come nearer than atoms can, but not that near.
        RecordError: if two listed sites give the same atom, or the cell holds too many.
    """
    if len(operations) == 1:
        ones = np.ones(len(sites.labels), dtype=int)
        return Atoms(np.arange(len(ones)), wrap_unit(sites.frac), ones, {})
    owner: list[int] = []
    frac = np.empty((0, 3))
    multiplicities, merged = [], {}
    for i, label in enumerate(sites.labels):
        point, largest_ang, n_kept = _settled(label, sites.frac[i], operations, lattice_ang, near_ang)
        orbit = _orbit(label, point, operations, lattice_ang, n_kept)
        if len(frac):
            distances_ang = _distances(frac, orbit[0], lattice_ang)
            nearest = int(np.argmin(distances_ang))
            if distances_ang[nearest] < MERGED_ANG:
                raise _same_place(sites, owner[nearest], i)
        frac = np.vstack([frac, wrap_unit(orbit)])
        owner += [i] * len(orbit)
        multiplicities.append(len(orbit))
        if largest_ang > _NOTED_ANG:
            merged[label] = largest_ang
        if len(frac) > max_atoms:
            raise _too_many(len(frac), max_atoms)
    return Atoms(np.array(owner), frac, np.array(multiplicities), merged)


def counted(sites: Sites, operations: Operations, lattice_ang: np.ndarray, max_atoms: int) -> Atoms:
    """The atoms as the operations give them, however near to each other: for their number, not to be kept as a crystal.

    Only images in one place are one atom; see `expanded`.

    Raises:
        RecordError: if they are more than max_atoms.
    """
    owner, points = [], []
    for i, site in enumerate(sites.frac):
        images = operations.rotations @ site + operations.translations
        left = np.ones(len(images), dtype=bool)
        while left.any():
            points.append(images[int(np.argmax(left))])
            owner.append(i)
            left &= _distances(images, points[-1], lattice_ang) > MERGED_ANG
        if len(points) > max_atoms:
            raise _too_many(len(points), max_atoms)
    return Atoms(np.array(owner), wrap_unit(np.array(points)), np.bincount(owner), {})


def _too_many(n_atoms: int, max_atoms: int) -> RecordError:
    return RecordError(f"the cell has {n_atoms} atoms or more: expected 1 to {max_atoms}")


def _same_place(sites: Sites, i: int, j: int) -> RecordError:
    if sites.symbols[i] == sites.symbols[j]:
        return RecordError(
            f"sites {sites.labels[i]} and {sites.labels[j]} are one atom under the symmetry operations: expected each "
            "atom once; list the asymmetric unit, or all atoms with the single operation 'x, y, z'"
        )
    return RecordError(
        f"sites {sites.labels[i]} ({sites.symbols[i]}) and {sites.labels[j]} ({sites.symbols[j]}) share one position, "
        "so the crystal is disordered: expected one element per site; order the structure first"
    )
