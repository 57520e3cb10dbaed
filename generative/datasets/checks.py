"""What a crystal must satisfy to enter the table, and how it is brought to one form: primitive, right-handed.

Conventions: lattice vectors are rows, angstrom; fractional coordinates lie in [0, 1). A left-handed cell is an honest
description of a crystal (its volume is |det|), so it is kept, its first two vectors swapped together with their
coordinates: no atom moves, and chirality stays as it was. A crystal is refused only for what no crystal can be.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import spglib
from scipy.spatial import cKDTree

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal, wrap_unit
from generative.datasets.limits import (
    MAX_FRACTIONAL,
    MAX_RECORD_ATOMS,
    MAX_VECTOR_ANG,
    MAX_VOLUME_PER_ATOM_ANG3,
    MIN_DISTANCE_ANG,
    MIN_PLANE_SPACING_ANG,
    MIN_VOLUME_PER_ATOM_ANG3,
)

SYMPREC_ANG = 0.01
"""Distance tolerance of spglib, both for the primitive cell and for the space group."""


PAIRWISE_ATOMS = 64
"""Largest cell whose pairs are all looked at; in larger ones a search by neighbourhood is faster."""

TOLD_APART_ATOMS = 256
"""Largest cell of which spglib gets the elements alone; its time rises with the third power of equal atoms: 1,000 of
copper with one displaced take it 15 s."""


class RecordError(ValueError):
    """A record that cannot become a crystal; the message is one sentence: the value, and what was expected."""


def wrapped(frac: np.ndarray) -> np.ndarray:
    """Fractional coordinates in [0, 1); those that are not finite stay, for `checked` to name.

    Raises:
        RecordError: if one is so large that its place in the cell is lost.
    """
    if frac.size and np.abs(frac).max() > MAX_FRACTIONAL:
        atom, axis = np.unravel_index(int(np.nanargmax(np.abs(frac))), frac.shape)
        value = frac[atom, axis]
        if math.isfinite(value):
            raise RecordError(
                f"atom {atom + 1} has the fractional coordinate {value:.4g}: expected at most {MAX_FRACTIONAL:g}; give "
                "it within the cell"
            )
    with np.errstate(invalid="ignore"):
        return wrap_unit(frac)


def atomic_numbers_of(values: Any) -> np.ndarray:
    """Atomic numbers as the table holds them, (n,).

    Raises:
        RecordError: if one is no whole number from 1 to 103; nothing is rounded.
    """
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array([math.nan])
    wrong = numbers[~((numbers >= 1) & (numbers <= len(ELEMENTS)) & (numbers == np.floor(numbers)))]
    if numbers.ndim != 1 or wrong.size:
        found = f"{wrong.ravel()[0]:g}" if wrong.size else f"an array of shape {numbers.shape}"
        raise RecordError(
            f"atomic number {found} is no element this table holds: expected whole numbers from 1 (H) to "
            f"{len(ELEMENTS)} (Lr)"
        )
    return numbers.astype(np.int16)


def checked(crystal: Crystal) -> Crystal:
    """The crystal, right-handed, if it can be one at all.

    Raises:
        RecordError: if it has no atom or more than MAX_RECORD_ATOMS, a number that is not finite, an element beyond
            Lr, a cell beyond the limits of generative.datasets.limits, or two atoms closer than MIN_DISTANCE_ANG.
    """
    n_atoms = len(crystal.atomic_numbers)
    if not 1 <= n_atoms <= MAX_RECORD_ATOMS:
        raise RecordError(f"the cell has {n_atoms} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    if not np.isfinite(crystal.lattice_ang).all():
        value = crystal.lattice_ang[~np.isfinite(crystal.lattice_ang)][0]
        raise RecordError(f"the lattice contains {value}: expected finite numbers in angstrom")
    if not np.isfinite(crystal.frac).all():
        atom = int(np.flatnonzero(~np.isfinite(crystal.frac).all(axis=1))[0])
        raise RecordError(f"atom {atom + 1} has coordinates {crystal.frac[atom].tolist()}: expected finite numbers")
    if crystal.atomic_numbers.min() < 1 or crystal.atomic_numbers.max() > len(ELEMENTS):
        z = int(next(z for z in crystal.atomic_numbers if not 1 <= z <= len(ELEMENTS)))
        raise RecordError(f"atomic number {z} is no element this table holds: expected 1 (H) to {len(ELEMENTS)} (Lr)")
    volume = _checked_volume(crystal.lattice_ang, n_atoms)
    _refuse_overlap(crystal)
    if volume < 0:
        return replace(crystal, lattice_ang=crystal.lattice_ang[[1, 0, 2]], frac=crystal.frac[:, [1, 0, 2]])
    return crystal


def _checked_volume(lattice_ang: np.ndarray, n_atoms: int) -> float:
    """The cell's signed volume, A^3, if the cell is one that can be searched."""
    longest_ang = math.sqrt(float((np.minimum(np.abs(lattice_ang), 1e100) ** 2).sum(axis=1).max()))
    if longest_ang > MAX_VECTOR_ANG:
        raise RecordError(
            f"a cell vector is {longest_ang:.4g} A long: expected at most {MAX_VECTOR_ANG:g} A; give the crystal in "
            "its reduced cell"
        )
    volume = float(np.linalg.det(lattice_ang))
    if not abs(volume) / n_atoms >= MIN_VOLUME_PER_ATOM_ANG3:
        raise RecordError(
            f"the cell's volume is {volume:.4g} A^3 for {n_atoms} atoms: expected at least "
            f"{MIN_VOLUME_PER_ATOM_ANG3} A^3 per atom"
        )
    if abs(volume) / n_atoms > MAX_VOLUME_PER_ATOM_ANG3:
        raise RecordError(
            f"the cell's volume is {volume:.4g} A^3 for {n_atoms} atoms: expected at most "
            f"{MAX_VOLUME_PER_ATOM_ANG3:g} A^3 per atom; take away the empty space"
        )
    spacing_ang = float(_plane_spacings_ang(lattice_ang).min())
    if spacing_ang < MIN_PLANE_SPACING_ANG:
        raise RecordError(
            f"opposite faces of the cell are {spacing_ang:.4g} A apart: expected at least {MIN_PLANE_SPACING_ANG} A; "
            "give the crystal in its reduced (Niggli) cell"
        )
    return volume


def _plane_spacings_ang(lattice_ang: np.ndarray) -> np.ndarray:
    """Distances of the cell's opposite faces, (3,)."""
    return np.asarray(1 / np.sqrt((np.linalg.inv(lattice_ang) ** 2).sum(axis=0)))


def _is_clearly_apart(crystal: Crystal) -> bool:
    """Whether no two atoms come near MIN_DISTANCE_ANG; False also where that takes a search among images.

    If the cell's planes lie more than twice that distance apart, a vector shorter than it has fractional components
    below one half: of all images of a pair only the one with components rounded off can be so near, and an atom's own
    images are too far away.
    """
    if len(crystal.atomic_numbers) > PAIRWISE_ATOMS:
        return False
    if MIN_DISTANCE_ANG / _plane_spacings_ang(crystal.lattice_ang).min() > 0.499:
        return False
    delta = crystal.frac[:, None, :] - crystal.frac[None, :, :]
    delta -= np.round(delta)
    squared_ang2 = ((delta @ crystal.lattice_ang) ** 2).sum(axis=-1)
    np.fill_diagonal(squared_ang2, np.inf)
    # The margin leaves to the search below what rounding could tip to either side.
    return bool(squared_ang2.min() > (MIN_DISTANCE_ANG + 1e-6) ** 2)


def with_images(crystal: Crystal, margin_ang: float) -> tuple[np.ndarray, np.ndarray]:
    """The atoms of the cell and all images that come as near to it, with the atom each is of.

    Args:
        crystal: in a cell whose faces lie MIN_PLANE_SPACING_ANG apart or more, which bounds the number of images.
        margin_ang: how far outside the cell images matter.

    Returns: Cartesian positions, angstrom, (m, 3), the n atoms themselves first; places of the atoms, (m,).
    """
    margin = margin_ang / _plane_spacings_ang(crystal.lattice_ang)
    most = np.ceil(margin).astype(int)
    within = wrap_unit(crystal.frac)
    frac, atom = [within], [np.arange(len(within))]
    for shift in itertools.product(*(range(-n, n + 1) for n in most)):
        if any(shift):
            moved = within + np.array(shift)
            near = ((moved >= -margin) & (moved < 1 + margin)).all(axis=1)
            frac.append(moved[near])
            atom.append(np.flatnonzero(near))
    return np.concatenate(frac) @ crystal.lattice_ang, np.concatenate(atom)


def _refuse_overlap(crystal: Crystal) -> None:
    if _is_clearly_apart(crystal):
        return
    points_ang, atom = with_images(crystal, MIN_DISTANCE_ANG * (1 + 1e-6))
    if len(points_ang) < 2:
        return
    n_atoms = len(crystal.atomic_numbers)
    distances_ang, nearest = cKDTree(points_ang).query(
        points_ang[:n_atoms], k=2, distance_upper_bound=MIN_DISTANCE_ANG * (1 + 1e-6)
    )
    # Of points in one place the atom itself may come second.
    is_own = nearest == np.arange(n_atoms)[:, None]
    second = np.where(is_own[:, 1], 0, 1)
    apart_ang = distances_ang[np.arange(n_atoms), second]
    first = int(np.argmin(apart_ang))
    if not apart_ang[first] <= MIN_DISTANCE_ANG:
        return
    i, j = sorted((first, int(atom[nearest[first, second[first]]])))
    symbols = [ELEMENTS[z - 1] for z in crystal.atomic_numbers[[i, j]]]
    raise RecordError(
        f"atoms {i + 1} ({symbols[0]}) and {j + 1} ({symbols[1]}) are {apart_ang[first]:.4f} A apart: "
        f"expected at least {MIN_DISTANCE_ANG} A"
    )


def has_pure_translation(crystal: Crystal) -> bool:
    """Whether a translation shorter than the lattice's maps the crystal onto itself within SYMPREC_ANG.

    Every such translation maps each species onto itself, so its order divides every species' count: a cell whose
    counts have no common divisor is primitive without looking further.
    """
    counts = Counter(crystal.atomic_numbers.tolist())
    if math.gcd(*counts.values()) == 1:
        return False
    rarest = min(counts, key=lambda z: (counts[z], z))
    sites = crystal.frac[crystal.atomic_numbers == rarest]
    same_species = crystal.atomic_numbers[:, None] == crystal.atomic_numbers[None, :]
    maps = _Mapping(crystal) if len(crystal.frac) > PAIRWISE_ATOMS else None
    for shift in sites[1:] - sites[0]:
        if maps is not None and not maps.may_be(shift):
            continue
        delta = (crystal.frac + shift)[:, None, :] - crystal.frac[None, :, :]
        delta -= np.round(delta)
        near = (((delta @ crystal.lattice_ang) ** 2).sum(axis=-1) < SYMPREC_ANG**2) & same_species
        if near.any(axis=1).all():
            return True
    return False


class _Mapping:
    """Tells of most translations at once that they do not map a large crystal onto itself."""

    def __init__(self, crystal: Crystal) -> None:
        self._crystal = crystal
        points_ang, atom = with_images(crystal, 2 * SYMPREC_ANG)
        # Species far apart in a fourth direction: an atom is near those of its own alone.
        species = crystal.atomic_numbers.astype(float)[:, None]
        self._tree = cKDTree(np.hstack([points_ang, species[atom]]))
        self._species = species
        self._last_missing = 0

    def may_be(self, shift: np.ndarray) -> bool:
        """Whether every atom, moved, lies near one of its species; what failed last is tried first."""
        return self._near(shift, slice(self._last_missing, self._last_missing + 1)) and self._near(shift, slice(None))

    def _near(self, shift: np.ndarray, atoms: slice) -> bool:
        moved_ang = wrap_unit(self._crystal.frac[atoms] + shift) @ self._crystal.lattice_ang
        distances_ang, _ = self._tree.query(
            np.hstack([moved_ang, self._species[atoms]]), distance_upper_bound=SYMPREC_ANG * (1 + 1e-6)
        )
        missing = ~np.isfinite(distances_ang)
        if missing.any() and atoms == slice(None):
            self._last_missing = int(np.argmax(missing))
        return not missing.any()


def _cell(crystal: Crystal) -> Any:  # spglib takes arrays, its type hints only nested sequences
    return crystal.lattice_ang, crystal.frac, crystal.atomic_numbers


def primitive(crystal: Crystal) -> Crystal:
    """The crystal in its primitive cell at SYMPREC_ANG; unchanged, bit for bit, if it already is.

    Orientation is kept. If spglib finds no smaller cell, the crystal stays as it was.
    """
    if not has_pure_translation(crystal):
        return crystal
    try:
        found = spglib.standardize_cell(_cell(crystal), to_primitive=True, no_idealize=True, symprec=SYMPREC_ANG)
    except spglib.SpglibError:
        return crystal
    if found is None or len(found[2]) >= len(crystal.atomic_numbers):
        return crystal
    return Crystal(np.array(found[0]), wrap_unit(np.array(found[1])), np.array(found[2], dtype=np.int16))


def _told_apart(crystal: Crystal) -> np.ndarray:
    """A number for each atom, equal wherever symmetry may map one to the other: spglib's costs rise with the rarest.

    Under an operation that fits within SYMPREC_ANG the sorted distances of an atom to its neighbours change by less
    than four times that, so atoms are told apart only at gaps beyond six times.
    """
    numbers, n_atoms = crystal.atomic_numbers, len(crystal.atomic_numbers)
    reach_ang = 2 * (abs(float(np.linalg.det(crystal.lattice_ang))) / n_atoms) ** (1 / 3)
    if n_atoms <= TOLD_APART_ATOMS or _plane_spacings_ang(crystal.lattice_ang).min() < reach_ang:
        return numbers
    points_ang, _ = with_images(crystal, reach_ang)
    distances_ang, _ = cKDTree(points_ang).query(points_ang[:n_atoms], k=13, distance_upper_bound=reach_ang)
    labels = [numbers.astype(int)]
    for column in np.minimum(distances_ang, reach_ang).T:
        order = np.argsort(column, kind="stable")
        label = np.empty(n_atoms, dtype=int)
        label[order] = np.concatenate([[0], np.cumsum(np.diff(column[order]) > 6 * SYMPREC_ANG)])
        labels.append(label)
    _, kinds = np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)
    return np.asarray(kinds.ravel() + 1)


def spacegroup_of(crystal: Crystal) -> int | None:
    """International space-group number by spglib at SYMPREC_ANG; None if spglib finds none."""
    try:
        cell: Any = (crystal.lattice_ang, crystal.frac, _told_apart(crystal))
        found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC_ANG)
    except spglib.SpglibError:
        return None
    return None if found is None else int(found.number)
