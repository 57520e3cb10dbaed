"""One lattice mapping of a pair of crystals: average lattice, coordinates, allowed pairs and distances, in native code.

As StructureMatcher lays crystals onto each other, in units in which the average lattice has volume 1 per atom.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from generative.native.assignment import FORBIDDEN, Assignment
from generative.native.lattice import EDGE, dot, invert, lll_reduce, reciprocal_lengths
from storage.native_code import compiled


class Alignment(NamedTuple):
    """Working arrays of one lattice mapping for n atoms.

    Attributes:
        first: fractional coordinates of the first crystal in the mapped lattice, (n, 3).
        second: of the second crystal, (n, 3).
        first_lll: the same in the LLL basis of the average lattice, (n, 3).
        second_lll: the same, (n, 3).
        average: average lattice, rows, volume 1 per atom, (3, 3).
        lll: its LLL basis, (3, 3).
        inverse: scratch, (3, 3).
        to_lll: integer matrix from average to LLL coordinates, (3, 3).
        box: allowed fractional difference per coordinate, (3,).
        box_lll: the same in the LLL basis, (3,).
        images: Cartesian vectors of the 27 nearest cells, (27, 3).
        facts: [square of half the shortest lattice vector, ties met in the reduction to the LLL basis].
    """

    first: np.ndarray
    second: np.ndarray
    first_lll: np.ndarray
    second_lll: np.ndarray
    average: np.ndarray
    lll: np.ndarray
    inverse: np.ndarray
    to_lll: np.ndarray
    box: np.ndarray
    box_lll: np.ndarray
    images: np.ndarray
    facts: np.ndarray


@compiled
def lattice_from(lengths: np.ndarray, angles_deg: np.ndarray, out: np.ndarray) -> None:
    """Rows of a lattice with these parameters, oriented as pymatgen's Lattice.from_parameters orients it."""
    alpha, beta, gamma = math.radians(angles_deg[0]), math.radians(angles_deg[1]), math.radians(angles_deg[2])
    cosine = (math.cos(alpha) * math.cos(beta) - math.cos(gamma)) / (math.sin(alpha) * math.sin(beta))
    gamma_star = math.acos(min(1.0, max(-1.0, cosine)))
    out[0, 0], out[0, 1], out[0, 2] = lengths[0] * math.sin(beta), 0.0, lengths[0] * math.cos(beta)
    out[1, 0] = -lengths[1] * math.sin(alpha) * math.cos(gamma_star)
    out[1, 1] = lengths[1] * math.sin(alpha) * math.sin(gamma_star)
    out[1, 2] = lengths[1] * math.cos(alpha)
    out[2, 0], out[2, 1], out[2, 2] = 0.0, 0.0, lengths[2]


@compiled
def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a b for (n, 3) and (3, 3)."""
    for i in range(len(a)):
        for x in range(3):
            out[i, x] = a[i, 0] * b[0, x] + a[i, 1] * b[1, x] + a[i, 2] * b[2, x]


@compiled
def align(work: Alignment, lengths: np.ndarray, angles_deg: np.ndarray, stol: float) -> bool:
    """Average lattice and box of allowed fractional differences; False if the lattice is flat.

    Source: StructureMatcher._strict_match, frac_tol.
    """
    lattice_from(lengths, angles_deg, work.average)
    volume = abs(invert(work.average, work.inverse))
    if not volume > 1e-9:
        return False
    scale = (len(work.first) / volume) ** (1 / 3)
    for i in range(3):
        for x in range(3):
            work.average[i, x] *= scale
    reciprocal_lengths(work.inverse, work.box)
    for k in range(3):
        work.box[k] *= 2 * stol / scale
    return True


@compiled
def covers(work: Alignment, bounds: np.ndarray, ref: int, s: int, slack: float) -> bool:
    """Whether every atom of the second crystal has one of its kind within the box when `ref` lies upon s.

    Source: StructureMatcher._cmp_fstruct (is_coord_subset_pbc).
    """
    for block in range(len(bounds) - 1):
        for i in range(bounds[block], bounds[block + 1]):
            found = False
            for j in range(bounds[block], bounds[block + 1]):
                found = True
                for k in range(3):
                    d = work.second[i, k] + work.first[s, k] - work.second[ref, k] - work.first[j, k]
                    if abs(d - np.rint(d)) > work.box[k] + slack:
                        found = False
                        break
                if found:
                    break
            if not found:
                return False
    return True


@compiled
def to_lll(work: Alignment, stol: float, choice: int) -> None:
    """The LLL basis of the average lattice, its box, its nearest cells, and the coordinates in it.

    `choice` says how ties of the reduction are decided; see lll_reduce.
    """
    work.lll[:] = work.average
    work.facts[1] = lll_reduce(work.lll, choice)
    invert(work.lll, work.inverse)
    multiply(work.average, work.inverse, work.to_lll)
    for i in range(3):
        for k in range(3):
            work.to_lll[i, k] = np.rint(work.to_lll[i, k])
    multiply(work.first, work.to_lll, work.first_lll)
    multiply(work.second, work.to_lll, work.second_lll)
    reciprocal_lengths(work.inverse, work.box_lll)
    shortest, n = 1e300, 0
    for a in range(-1, 2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                for x in range(3):
                    work.images[n, x] = a * work.lll[0, x] + b * work.lll[1, x] + c * work.lll[2, x]
                if n != 13:
                    shortest = min(shortest, dot(work.images[n], work.images[n]))
                n += 1
    work.facts[0] = shortest / 4
    for k in range(3):
        work.box_lll[k] *= 2 * stol


@compiled
def _shortest(work: Alignment, pairs: Assignment, r: np.ndarray, i: int, j: int) -> bool:
    """The shortest image of the wrapped difference r; True if it lies beyond the next cell."""
    vector = pairs.vectors[i, j]
    for x in range(3):
        vector[x] = r[0] * work.lll[0, x] + r[1] * work.lll[1, x] + r[2] * work.lll[2, x]
    least = dot(vector, vector)
    best, is_split = 13, False
    if least > work.facts[0] * (1 - 1e-6):
        for m in range(27):
            if m == 13:
                continue
            squared = 0.0
            for x in range(3):
                squared += (vector[x] + work.images[m, x]) ** 2
            if abs(squared - least) < 1e-9:
                is_split = True
            elif squared < least:
                least, best, is_split = squared, m, False
        for x in range(3):
            vector[x] += work.images[best, x]
    pairs.cost[i, j] = least
    pairs.is_split[i, j] = is_split
    farthest: float = max(abs(r[0] + best // 9 - 1), abs(r[1] + best // 3 % 3 - 1), abs(r[2] + best % 3 - 1))
    return farthest > 1


@compiled
def distances(work: Alignment, pairs: Assignment, bounds: np.ndarray, ref: int, s: int, with_box: bool) -> bool:
    """Shortest vectors and squared distances between atoms of one kind when `ref` lies upon s.

    Pairs outside the box of the LLL basis are forbidden, as pbc_shortest_vectors does; `with_box` False allows all.

    Returns: True if rounding or reach decides a distance: a pair at the edge of the box, or one whose shortest image is
        beyond the cells that pymatgen looks into. Two images equally near leave the distance as it is: pairs.is_split.
    """
    n = len(work.first)
    unsure = False
    r = np.empty(3)
    for i in range(n):
        for j in range(n):
            pairs.cost[i, j] = FORBIDDEN
    for block in range(len(bounds) - 1):
        for i in range(bounds[block], bounds[block + 1]):
            for j in range(bounds[block], bounds[block + 1]):
                inside = True
                for k in range(3):
                    r[k] = work.first_lll[j, k] - work.second_lll[i, k] - work.first_lll[s, k] + work.second_lll[ref, k]
                    r[k] -= np.rint(r[k])
                    if with_box and abs(abs(r[k]) - work.box_lll[k]) < EDGE:
                        unsure = True
                    inside &= abs(r[k]) <= work.box_lll[k]
                if inside or not with_box:
                    unsure |= _shortest(work, pairs, r, i, j)
    return unsure
