"""Crystals with vacuum among others: which are slabs, and the one cell in which slabs are compared.

StructureMatcher scales two cells to one volume. With vacuum in it that is no measure of a crystal: one slab in cells
of different height is stretched in its plane until it fits itself no longer, and sites may lie apart by a share of a
length that is mostly vacuum. So slabs are first put into cells with the same vacuum, their third vector across the
plane.
"""

from __future__ import annotations

import numpy as np

from generative.crystal.crystals import Crystal, wrap_unit
from storage.vacuum import VACUUM_ANG, Slab, slab_of

STANDARD_VACUUM_ANG = 10.0
"""In which slabs are compared: wide enough that no gap between layers is taken for it, as small as that allows, since
the site tolerance grows with the volume."""

LAYER_GAP_ANG = 5.0
"""Neighbouring planes of atoms inside a slab are nearer than this: van der Waals gaps are 3 to 4 A, and layers further
apart bind by a few meV."""

LONGEST_ANG = 200.0
"""Longest cell vector that is searched for vacuum, angstrom; the number of planes rises with its third power."""
FLATTEST = 1e-3
"""Volume of a cell beside that of a box with its edges, below which it has no planes to look at."""


def slab(crystal: Crystal) -> Slab | None:
    """The slab that a crystal is; None if it is none, or its numbers are those of no crystal."""
    lattice, frac = np.asarray(crystal.lattice_ang, dtype=float), np.asarray(crystal.frac, dtype=float)
    if not (len(frac) and np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return None
    lengths = np.linalg.norm(lattice, axis=1)
    if lengths.max() > LONGEST_ANG or not abs(np.linalg.det(lattice)) > FLATTEST * float(lengths.prod()):
        return None
    return slab_of(lattice, frac)


def comparable(crystal: Crystal, dimensions: int) -> Crystal:
    """The crystal as it is compared with others.

    Args:
        crystal: any.
        dimensions: 3 leaves it as it is; at 2 a slab is put into a cell with STANDARD_VACUUM_ANG.
    """
    if dimensions == 3 or (found := slab(crystal)) is None:
        return crystal
    lattice, frac = found.with_vacuum(STANDARD_VACUUM_ANG)
    return Crystal(lattice, wrap_unit(frac), crystal.atomic_numbers)


def slab_fault(crystal: Crystal) -> str:
    """Why a crystal is no slab of layers that bind each other; empty if it is one."""
    found = slab(crystal)
    if found is None:
        return f"it is no slab: expected more than {VACUUM_ANG:g} A of vacuum in one direction and in no other"
    if found.widest_gap_ang > LAYER_GAP_ANG:
        return (
            f"its layers are {found.widest_gap_ang:.2f} A apart: expected at most {LAYER_GAP_ANG:g} A between "
            "neighbouring planes of atoms"
        )
    return ""
