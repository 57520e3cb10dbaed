"""Atoms that a potential cannot see: none of their neighbours lies within its cut-off.

Such an atom adds a constant to the energy and feels no force wherever it stands, so a crystal of them is "at rest" at
once and any comparison with its relaxed self is perfect. Neither says anything of the crystal.

What counts is one atom without any neighbour, its own images included. Groups of atoms that do not see each other, such
as the layers of a slab with vacuum or a molecule in a box, are left alone: each has forces of its own, and their energy
is that of the group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

MOST_NAMED = 3


def isolation_reason(
    symbols: Sequence[str], cart_ang: np.ndarray, cell_ang: np.ndarray, isolated: Sequence[int], cutoff_ang: float
) -> str:
    """One sentence that names the isolated atoms, their nearest neighbours' distance and the cut-off.

    Args:
        symbols: of all n atoms.
        cart_ang: their positions, (n, 3), angstrom; need not lie in the cell.
        cell_ang: lattice rows, (3, 3), angstrom.
        isolated: places of the isolated atoms, at least one.
        cutoff_ang: the potential's, angstrom.
    """
    named = [
        f"atom {i + 1} ({symbols[i]}, nearest neighbour at {nearest_ang(cart_ang, cell_ang, i, cutoff_ang):.2f} A)"
        for i in isolated[:MOST_NAMED]
    ]
    more = len(isolated) - len(named)
    named += [f"{more} more"] if more else []
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    have = "has" if len(isolated) == 1 else "have"
    return (
        f"{len(isolated)} of {len(symbols)} atoms {have} no neighbour within the potential's cut-off of "
        f"{cutoff_ang:g} A, so energy and forces mean nothing: {listed}"
    )


def nearest_ang(cart_ang: np.ndarray, cell_ang: np.ndarray, atom: int, start_ang: float) -> float:
    """Distance from an atom to the nearest other atom or image of itself, angstrom.

    Args:
        cart_ang: positions, (n, 3), angstrom.
        cell_ang: lattice rows, (3, 3), angstrom.
        atom: which one.
        start_ang: a first guess, above zero.
    """
    cart = np.ascontiguousarray(cart_ang, dtype=float)
    cell = np.ascontiguousarray(cell_ang, dtype=float)
    reach, periodic = start_ang, np.ones(3, dtype=np.int64)
    while True:  # ends: the shortest lattice vector leads to an image of the atom itself
        _, target, image, distance = find_points_in_spheres(
            cart, cart[atom : atom + 1], r=reach, pbc=periodic, lattice=cell, tol=1e-8
        )
        others = distance[(target != atom) | np.any(image != 0, axis=1)]
        if len(others):
            return float(others.min())
        reach *= 1.3
