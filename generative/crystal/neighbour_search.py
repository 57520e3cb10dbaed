"""Which crystals a search for neighbours ends on, and what is raised where pymatgen has to place a site."""

from __future__ import annotations

import numpy as np

from generative.crystal.crystals import Crystal

SEARCH_ANG = 7.0
"""CrystalNN's search radius."""
MAX_IMAGES = 300_000
"""Real crystals need some hundreds to some ten thousand; a collapsed cell may need more than memory holds."""

FAULTS = (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError, AttributeError, MemoryError)
"""What pymatgen, matminer and Qhull raise on degenerate cells (QhullError is a RuntimeError)."""


def refuse_unsearchable(crystal: Crystal) -> None:
    """Nothing, for a crystal whose neighbours can be searched.

    Raises: ValueError: if the crystal holds numbers that are not finite, has no volume or no atoms, or a cell so flat
        or dense that the search would not end.
    """
    n = len(crystal.frac)
    finite = np.isfinite(crystal.lattice_ang).all() and np.isfinite(crystal.frac).all()
    volume_ang3 = abs(np.linalg.det(crystal.lattice_ang)) if finite else 0.0
    if not n or not volume_ang3 > 0:
        raise ValueError(
            f"a crystal of {n} atoms has a cell or positions that are not finite, or no volume: expected at least one "
            "atom in a cell with a volume, so drop it before"
        )
    heights_ang = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice_ang), axis=0)
    n_images = n * np.prod(2 * np.ceil(SEARCH_ANG / heights_ang) + 1)
    if n_images > MAX_IMAGES:
        raise ValueError(
            f"{n_images:.0f} images of atoms to search within {SEARCH_ANG:g} A: {n} atoms in {volume_ang3:.3g} A^3, "
            f"the cell {heights_ang.min():.2g} A high; expected at most {MAX_IMAGES}, so drop it before"
        )
