"""Vacuum in a cell: the widest empty slab, whatever cell the crystal is described in.

Torch-free. Equal planes (h k l) of a lattice have one distance d, and the atoms of a cell lie at fractions of it. The
widest empty stretch between them is the gap along the normal. All (h k l) with d above the threshold are looked at, so
a slab is found in a skewed or a multiplied cell as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pymatgen.core.structure import Structure

VACUUM_ANG = 8.0
"""Wider than any gap inside a crystal (van der Waals gaps have 3 to 4 A between atoms), narrower than that of slabs."""


@dataclass(frozen=True)
class Vacuum:
    """An empty slab of a periodic cell.

    Attributes:
        width_ang: distance between the planes of atoms on its two sides, A.
        normal: (h k l) of the planes.
    """

    width_ang: float
    normal: tuple[int, int, int]

    @property
    def axis(self) -> int | None:
        """The lattice vector that crosses it while the other two lie in its plane: 0, 1 or 2; None if there is none."""
        return self.normal.index(1) if sorted(self.normal) == [0, 0, 1] else None

    @property
    def where(self) -> str:
        """In words: 'along c', or 'normal to (1 0 1)'."""
        axis = self.axis
        return f"along {'abc'[axis]}" if axis is not None else f"normal to ({' '.join(map(str, self.normal))})"


def find_vacuum(structure: Structure, above_ang: float = VACUUM_ANG) -> tuple[Vacuum, ...]:
    """Empty slabs wider than a threshold, the widest first; of equal widths, those along lattice vectors first.

    Args:
        structure: at least one atom.
        above_ang: the threshold, A.
    """
    lattice_ang, frac = structure.lattice.matrix, structure.frac_coords
    reciprocal = np.linalg.inv(lattice_ang).T  # rows, per A, no 2 pi
    # |h| = |G . a| <= |a| / d bounds the indices of planes that are far enough apart.
    most = np.floor(np.array(structure.lattice.abc) / above_ang).astype(int)
    axes = [np.arange(-m, m + 1) for m in most]
    normals = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    with np.errstate(divide="ignore"):  # (0 0 0)
        distances_ang = 1.0 / np.linalg.norm(normals @ reciprocal, axis=1)
    # Of a normal and its opposite one is looked at, and of (2 0 0) and (1 0 0) the second, whose planes are the same.
    is_new = (np.gcd.reduce(normals, axis=1) == 1) & (normals @ [4 * most.max() ** 2 + 4, 2 * most.max() + 2, 1] > 0)
    found = []
    for normal in np.flatnonzero(is_new & (distances_ang > above_ang)):
        heights = np.sort((frac @ normals[normal]) % 1.0)
        width_ang = float(np.diff(heights, append=heights[0] + 1.0).max() * distances_ang[normal])
        if width_ang > above_ang:
            first, second, third = (int(index) for index in normals[normal])
            found.append(Vacuum(width_ang, (first, second, third)))
    return tuple(sorted(found, key=lambda one: (-round(one.width_ang, 6), sum(map(abs, one.normal)), one.normal)))


def has_vacuum(structure: Structure) -> bool:
    """Whether a cell has vacuum that a relaxation of the cell would have to do with."""
    return bool(find_vacuum(structure))
