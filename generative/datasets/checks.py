"""What a crystal must satisfy to enter the table, and how it is brought to one form: primitive, right-handed.

Conventions: lattice vectors are rows, angstrom; fractional coordinates lie in [0, 1). A left-handed cell is an honest
description of a crystal (its volume is |det|), so it is kept, its first two vectors swapped together with their
coordinates: no atom moves, and chirality stays as it was. A crystal is refused only for what no crystal can be.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import spglib
from pymatgen.optimization.neighbors import find_points_in_spheres

from generative.config import ELEMENTS
from generative.crystals import Crystal, wrap_unit

MAX_RECORD_ATOMS = 1000
"""Most atoms a record may have. Far above any generator's cell (64) and any structure of the Materials Project
(444); a larger cell is a simulation box or a mistake, and one alone could exhaust the memory of a worker."""

MIN_DISTANCE_ANG = 0.5
"""Shortest distance between two atoms, self-images included: the validity rule of the CDVAE benchmark. The shortest
real bond, H-H, is 0.74 A."""

MIN_VOLUME_PER_ATOM_ANG3 = 0.5
"""Smallest volume per atom. Diamond has 5.6, hydrogen at 500 GPa about 1."""

SYMPREC_ANG = 0.01
"""Distance tolerance of spglib, both for the primitive cell and for the space group."""


PAIRWISE_ATOMS = 64
"""Largest cell whose pairs are all looked at; in larger ones a search by neighbourhood is faster."""


class RecordError(ValueError):
    """A record that cannot become a crystal; the message is one sentence: the value, and what was expected."""


def checked(crystal: Crystal) -> Crystal:
    """The crystal, right-handed, if it can be one at all.

    Raises:
        RecordError: if it has no atom or more than MAX_RECORD_ATOMS, a number that is not finite, an element beyond
            Lr, less than MIN_VOLUME_PER_ATOM_ANG3 per atom, or two atoms closer than MIN_DISTANCE_ANG.
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
    volume = float(np.linalg.det(crystal.lattice_ang))
    if not abs(volume) / n_atoms >= MIN_VOLUME_PER_ATOM_ANG3:
        raise RecordError(
            f"the cell's volume is {volume:.4g} A^3 for {n_atoms} atoms: expected at least "
            f"{MIN_VOLUME_PER_ATOM_ANG3} A^3 per atom"
        )
    _refuse_overlap(crystal)
    if volume < 0:
        return replace(crystal, lattice_ang=crystal.lattice_ang[[1, 0, 2]], frac=crystal.frac[:, [1, 0, 2]])
    return crystal


def _is_clearly_apart(crystal: Crystal) -> bool:
    """Whether no two atoms come near MIN_DISTANCE_ANG; False also where that takes a search among images.

    If the cell's planes lie more than twice that distance apart, a vector shorter than it has fractional components
    below one half: of all images of a pair only the one with components rounded off can be so near, and an atom's own
    images are too far away.
    """
    if len(crystal.atomic_numbers) > PAIRWISE_ATOMS:
        return False
    planes_per_ang = np.sqrt((np.linalg.inv(crystal.lattice_ang) ** 2).sum(axis=0).max())
    if planes_per_ang * MIN_DISTANCE_ANG > 0.499:
        return False
    delta = crystal.frac[:, None, :] - crystal.frac[None, :, :]
    delta -= np.round(delta)
    squared_ang2 = ((delta @ crystal.lattice_ang) ** 2).sum(axis=-1)
    np.fill_diagonal(squared_ang2, np.inf)
    # The margin leaves to the search below what rounding could tip to either side.
    return bool(squared_ang2.min() > (MIN_DISTANCE_ANG + 1e-6) ** 2)


def _refuse_overlap(crystal: Crystal) -> None:
    if _is_clearly_apart(crystal):
        return
    cart_ang = np.ascontiguousarray(crystal.frac @ crystal.lattice_ang)
    first, second, images, distances_ang = find_points_in_spheres(
        cart_ang, cart_ang, MIN_DISTANCE_ANG, np.ones(3, dtype=np.int64), np.ascontiguousarray(crystal.lattice_ang)
    )
    pair = (first != second) | images.any(axis=1)
    if not pair.any():
        return
    closest = int(np.flatnonzero(pair)[np.argmin(distances_ang[pair])])
    i, j = sorted((int(first[closest]), int(second[closest])))
    symbols = [ELEMENTS[z - 1] for z in crystal.atomic_numbers[[i, j]]]
    raise RecordError(
        f"atoms {i + 1} ({symbols[0]}) and {j + 1} ({symbols[1]}) are {distances_ang[closest]:.4f} A apart: "
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
    for shift in sites[1:] - sites[0]:
        delta = (crystal.frac + shift)[:, None, :] - crystal.frac[None, :, :]
        delta -= np.round(delta)
        near = (((delta @ crystal.lattice_ang) ** 2).sum(axis=-1) < SYMPREC_ANG**2) & same_species
        if near.any(axis=1).all():
            return True
    return False


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


def spacegroup_of(crystal: Crystal) -> int | None:
    """International space-group number by spglib at SYMPREC_ANG; None if spglib finds none."""
    try:
        found = spglib.get_symmetry_dataset(_cell(crystal), symprec=SYMPREC_ANG)
    except spglib.SpglibError:
        return None
    return None if found is None else int(found.number)
