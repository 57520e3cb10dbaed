"""How far points lie above the lower convex hull of all of them, over compositions.

The hull at x is the lowest energy of any mixture of the points with that composition: a linear program, whose dual is a
plane that lies under all points and touches those of the mixture. One program is solved per facet that is hit: its
plane settles every point whose composition lies within the touching ones. Points enter a program only when a plane has
been found to lie above them, so programs stay small (hundreds of columns of 20,000).

Nothing is added to the points, elements neither: compositions that only lie on the rim of the others are met exactly,
and points that span no volume (one composition, a tie line) need no case of their own. qhull was tried and given up: on
18,000 points over six elements the facets on the rim, where most points are coplanar, ended it in a merge error, and
with artificial corners outside the rim heights were off by up to 3e-5 eV/atom.

The worst table is one of random energies, where nearly every point lies over a facet of its own: 20,000 such points
take 0.2 s over four elements, 1 s over five, 8 s over six, 43 s over seven (one core); 1,875 rows of MP-20 over twenty
elements 5 s, and a chemical system of it less than 1 s.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

FLOAT_NOISE_EV = 1e-8
"""A plane this little above a point lies under it still, eV/atom: the solver's own tolerance is 1e-10."""

SAME_PLACE = 1e-9
"""Weights and fractions equal within this; fractions of cells of up to 1,000 atoms differ by 1e-6 or more."""

ENTERING = 8
"""Points that enter the program at once; more make programs larger, fewer make more of them."""

FEW = 100
"""So many points at most are all in the program from the start."""


def heights_above_lower_hull(fractions: np.ndarray, energy_ev_per_atom: np.ndarray) -> np.ndarray:
    """Energy of every point above the hull of all points, (n,), eV/atom; zero on it, never negative.

    Args:
        fractions: composition in fractions of atoms, (n, k); rows sum to one.
        energy_ev_per_atom: (n,), finite.
    """
    if not len(fractions):
        return np.zeros(0)
    points, point_of = np.unique(np.round(fractions, 12), axis=0, return_inverse=True)
    point_of = point_of.ravel()  # numpy 2.0 gave it a second axis
    lowest = np.full(len(points), np.inf)
    np.minimum.at(lowest, point_of, energy_ev_per_atom)
    # A hull keeps its shape when a linear function of composition is taken off; what is left is small in every unit.
    lowest -= points @ np.linalg.lstsq(points, lowest, rcond=None)[0]
    below = lowest - _hull(points, lowest)
    first = np.full(len(points), np.inf)
    np.minimum.at(first, point_of, energy_ev_per_atom)
    heights: np.ndarray = np.maximum(0.0, below[point_of] + energy_ev_per_atom - first[point_of])
    return heights


def _hull(points: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """The hull at each of these compositions (all different), (n,): the highest of the planes under all points."""
    is_open = (points > 0).sum(axis=1) > 1
    hull = np.where(is_open, -np.inf, energy)  # nothing mixes to an element but itself
    entered = np.full(len(points), len(points) <= FEW)
    entered[points.argmax(axis=0)] = True
    # Compositions of many elements first: the planes that touch there settle those of fewer.
    for point in np.lexsort((energy, -(points > 0).sum(axis=1))):
        if not is_open[point]:
            continue
        plane, touching = _plane_under(point, points, energy, entered)
        if plane is None:  # the solver gave up: as if on the hull, so that nothing rests on a number it does not have
            hull[point], is_open[point] = energy[point], False
            continue
        hull = np.maximum(hull, points @ plane)
        settled = _within(points[touching], points[is_open])
        is_open[np.flatnonzero(is_open)[settled]] = False
        is_open[point] = False
    bounded: np.ndarray = np.minimum(hull, energy)
    return bounded


def _plane_under(
    point: int, points: np.ndarray, energy: np.ndarray, entered: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """The plane under all points that is highest at `point`, (k,), and the points whose mixture it touches.

    `entered` says which points have entered the programs so far, and is added to.
    """
    while True:
        # With the point itself there is always a mixture; for good it enters only where it is part of the lowest.
        columns = np.union1d(np.flatnonzero(entered), [point])
        solved = linprog(
            energy[columns],
            A_eq=points[columns].T,
            b_eq=points[point],
            method="highs-ds",
            options={"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if solved.status != 0:
            return None, columns[:0]
        plane = solved.eqlin.marginals
        above = points @ plane - energy
        above[columns] = -np.inf
        lying_below = np.flatnonzero(above > FLOAT_NOISE_EV)
        if not len(lying_below):
            touching = columns[solved.x > SAME_PLACE]
            entered[touching] = True
            return plane, touching
        entered[lying_below[np.argsort(-above[lying_below], kind="stable")[:ENTERING]]] = True


def _within(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which compositions are mixtures of these (linearly independent) corners, (n,)."""
    weights = np.linalg.lstsq(corners.T, points.T, rcond=None)[0]
    met = np.abs(corners.T @ weights - points.T).max(axis=0) < SAME_PLACE
    return np.asarray(met & (weights > -SAME_PLACE).all(axis=0))
