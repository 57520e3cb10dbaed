"""Atoms that a network with a cut-off cannot see: none of their neighbours lies within its reach.

In a graph such an atom has no edge, so nothing is said of it or to it: GemNet's vector for it is zero, whatever noise
is to be taken back.
"""

from __future__ import annotations

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

from generative.crystal.crystals import Crystal

REACH_ANG = 7.0
"""The shortest reach of the networks here: GemNet's and DimeNet's; CGCNN and the pair transformer see to 8 A. Of the
22,140 crystals of the validation files of MP-20 (up to ternaries), MPTS-52 and WBM none has an atom further than 6 A
from all others, and 5 have one further than 5 A."""


def isolated_atoms(crystal: Crystal, reach_ang: float = REACH_ANG) -> np.ndarray:
    """Places of the atoms without a neighbour, their own images included, within `reach_ang`; (k,), rising.

    Args:
        crystal: finite, of non-zero volume.
        reach_ang: longest distance at which an atom is seen, angstrom.
    """
    lattice = np.ascontiguousarray(crystal.lattice_ang, dtype=float)
    if np.linalg.norm(lattice, axis=1).min() <= reach_ang:  # every atom sees an image of itself
        return np.zeros(0, dtype=np.int64)
    cart = np.ascontiguousarray(crystal.frac @ lattice)
    source, target, image, _ = find_points_in_spheres(
        cart, cart, r=reach_ang, pbc=np.ones(3, dtype=np.int64), lattice=lattice, tol=1e-8
    )
    seen = source[(source != target) | np.any(image != 0, axis=1)]
    return np.flatnonzero(np.bincount(seen, minlength=len(cart)) == 0)


def isolation_reason(crystal: Crystal, reach_ang: float = REACH_ANG) -> str:
    """Why no network is trained on a crystal with such an atom, the same words for all of them; empty where all see."""
    if not len(isolated_atoms(crystal, reach_ang)):
        return ""
    return f"it has an atom without a neighbour within {reach_ang:g} A, the reach of the networks"
