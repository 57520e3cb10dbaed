"""A rigorous reason to refuse an alignment before any assignment is solved: the atoms cannot all be near at once.

Claim. Let one crystal be laid onto the other (one lattice mapping, average lattice, one atom `ref` of the second upon
atom s of the first) and let v(k, j) be any of the periodic vectors from atom k of the second to atom j of the first. If
StructureMatcher.fit accepts an assignment sigma under this lattice mapping, then at the translation that lays `ref`
upon s = sigma(ref) there is one vector per atom, w(k) = v(k, sigma(k)), with w(ref) = 0, distinct sigma(k), and

    (1) |w(k)| < 2 stol,
    (2) |w(k) - w(m)| < 2 stol,
    (3) sum over any subset of |w - mean of the subset|^2 < size of the subset * stol^2.

Proof. fit accepts if every |u(k) - t| < stol, where u(k) are the assigned vectors at its own translation and t their
mean. Shifting the second crystal by u(ref) turns each u(k) into w(k) = u(k) - u(ref), a periodic vector of the same
pair of atoms, and w(ref) = 0. All w(k) lie in the open ball of radius stol about t - u(ref): any two are closer than
its diameter, which with w(ref) = 0 gives (1) and (2); and the sum in (3) is least about the subset's own mean, so it is
at most the sum about the ball's centre. Hence: if at no translation such a choice exists, the lattice mapping is
refused as a whole; and fit can accept at translation s only if a choice exists there, or at an s' whose atom stands in
for `ref` (within the box of allowed pairs) in the assignment at s.

The search for a choice is depth first, the atom with the fewest vectors left first, and gives up after MAX_STEPS steps
with the answer "perhaps", so it errs only towards solving an assignment that was not needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from generative.native.lattice import dot
from storage.native_code import compiled

MAX_STEPS = 300
MAX_SPAN = 50.0
"""Cells so flat that more images are near than this along one direction are not listed."""

CAPACITY = 62
"""Vectors per atom, one bit each."""

SLACK = 1 + 1e-7


class Placement(NamedTuple):
    """Working arrays for n atoms.

    Attributes:
        vectors: candidates per atom, (n, CAPACITY, 3).
        partner: atom of the first crystal of each candidate, (n, CAPACITY).
        n_candidates: candidates per atom, (n,).
        alive: bit sets of the candidates left, per depth and atom, (n + 1, n).
        row: atom decided at each depth, (n + 1,).
        left: bit set of candidates still to try at each depth, (n + 1,).
        decided: (n,).
        sums: sum of chosen vectors and of their squares at each depth, (n + 2, 4).
    """

    vectors: np.ndarray
    partner: np.ndarray
    n_candidates: np.ndarray
    alive: np.ndarray
    row: np.ndarray
    left: np.ndarray
    decided: np.ndarray
    sums: np.ndarray


@compiled
def candidates(
    work: Placement,
    first: np.ndarray,
    second: np.ndarray,
    shift: np.ndarray,
    basis: np.ndarray,
    reach: np.ndarray,
    bounds: np.ndarray,
    stol: float,
) -> int:
    """List the vectors of property (1).

    Args:
        work: receives them.
        first: fractional coordinates in `basis`, (n, 3), atoms of one species together.
        second: of the other crystal.
        shift: added to the second's coordinates.
        basis: rows, units of (V/N)^(1/3).
        reach: largest fractional component of a vector no longer than 2 stol.
        bounds: first atom of each species, and n.
        stol: units of (V/N)^(1/3).

    Returns: 0 if an atom has none, 1 if all have, 2 if one has too many to list.
    """
    limit = 4 * stol * stol * SLACK
    r, vector, span = np.empty(3), np.empty(3), np.empty(3, np.int64)
    if not reach.max() < MAX_SPAN:
        return 2
    for x in range(3):
        span[x] = max(0, math.ceil(reach[x] * SLACK - 0.5))  # further images of a wrapped difference that may be near
    for block in range(len(bounds) - 1):
        for k in range(bounds[block], bounds[block + 1]):
            n = 0
            for j in range(bounds[block], bounds[block + 1]):
                is_near = True
                for x in range(3):
                    r[x] = first[j, x] - second[k, x] - shift[x]
                    r[x] -= np.rint(r[x])
                    is_near &= span[x] > 0 or abs(r[x]) <= reach[x] * SLACK
                if not is_near:
                    continue
                for a in range(-span[0], span[0] + 1):
                    for b in range(-span[1], span[1] + 1):
                        for c in range(-span[2], span[2] + 1):
                            for x in range(3):
                                vector[x] = (r[0] + a) * basis[0, x] + (r[1] + b) * basis[1, x]
                                vector[x] += (r[2] + c) * basis[2, x]
                            if dot(vector, vector) < limit:
                                if n == CAPACITY:
                                    return 2
                                for x in range(3):
                                    work.vectors[k, n, x] = vector[x]
                                work.partner[k, n] = j
                                n += 1
            if n == 0:
                return 0
            work.n_candidates[k] = n
    return 1


@compiled
def _survivors(work: Placement, depth: int, row: int, pick: int, stol: float) -> bool:
    """Write the candidates compatible with (row, pick) to the next depth; False if an atom is left without."""
    limit = 4 * stol * stol * SLACK
    for m in range(len(work.n_candidates)):
        if work.decided[m] or m == row:
            continue
        old, new = work.alive[depth, m], np.int64(0)
        for c in range(work.n_candidates[m]):
            if (old >> c) & 1 == 0 or work.partner[m, c] == work.partner[row, pick]:
                continue
            squared = 0.0
            for x in range(3):
                squared += (work.vectors[m, c, x] - work.vectors[row, pick, x]) ** 2
            if squared < limit:
                new |= np.int64(1) << c
        if new == 0:
            return False
        work.alive[depth + 1, m] = new
    return True


@compiled
def _scarcest(work: Placement, depth: int) -> int:
    """The undecided atom with the fewest candidates left; -1 if all are decided."""
    best, fewest = -1, 1000
    for m in range(len(work.n_candidates)):
        if work.decided[m]:
            continue
        n, bits = 0, work.alive[depth, m]
        while bits != 0:
            bits &= bits - 1
            n += 1
        if n < fewest:
            best, fewest = m, n
    return best


@compiled
def _spread_allows(work: Placement, depth: int, row: int, pick: int, stol: float) -> bool:
    """Property (3) for the chosen vectors with one more; the sums go to the next depth."""
    for x in range(3):
        work.sums[depth + 1, x] = work.sums[depth, x] + work.vectors[row, pick, x]
    work.sums[depth + 1, 3] = work.sums[depth, 3] + dot(work.vectors[row, pick], work.vectors[row, pick])
    n = depth + 1
    total = work.sums[depth + 1]
    spread: float = total[3] - (total[0] ** 2 + total[1] ** 2 + total[2] ** 2) / n
    return spread < n * stol * stol * SLACK


@compiled
def may_place(work: Placement, ref: int, partner: int, stol: float) -> bool:
    """Whether a choice with properties (1) to (3) may exist; candidates() comes first.

    Args:
        work: with candidates listed.
        ref: atom of the second crystal that lies upon its partner.
        partner: atom of the first crystal.
        stol: units of (V/N)^(1/3).
    """
    n = len(work.n_candidates)
    pick = -1
    for m in range(n):
        work.decided[m] = False
        work.alive[0, m] = (np.int64(1) << work.n_candidates[m]) - 1
    for c in range(work.n_candidates[ref]):
        if work.partner[ref, c] == partner and dot(work.vectors[ref, c], work.vectors[ref, c]) < 1e-12:
            pick = c
    if pick < 0:
        return True
    work.row[0] = ref
    work.left[0] = np.int64(1) << pick
    for x in range(4):
        work.sums[0, x] = 0.0
    depth = 0
    for _ in range(MAX_STEPS):
        if work.left[depth] == 0:
            if depth == 0:
                return False
            depth -= 1
            work.decided[work.row[depth]] = False
            continue
        pick = 0
        while (work.left[depth] >> pick) & 1 == 0:
            pick += 1
        work.left[depth] &= ~(np.int64(1) << pick)
        row = work.row[depth]
        if not _spread_allows(work, depth, row, pick, stol) or not _survivors(work, depth, row, pick, stol):
            continue
        work.decided[row] = True
        depth += 1
        following = _scarcest(work, depth)
        if following < 0:
            return True
        work.row[depth] = following
        work.left[depth] = work.alive[depth, following]
    return True
