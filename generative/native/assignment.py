"""Assignment of equal atoms at the least sum of squared distances, in native code, and every optimum that ties with it.

scipy.optimize.linear_sum_assignment, which pymatgen calls, returns one optimum; where several cost the same, which one
is rounding's choice, and the displacement left after removing the mean differs between them. So all of them are looked
at: if they agree on the verdict it is pymatgen's, and if not the pair is handed to pymatgen.

Source: shortest augmenting paths with potentials, Jonker and Volgenant (1987), doi:10.1007/BF02278710.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from storage.native_code import compiled

FORBIDDEN = 1e20
"""Cost of a pair that must not be assigned."""

TIE = 1e-9
"""Costs closer than this tie, units of (V/N)^(2/3)."""

MAX_TIE_STEPS = 4000
"""Steps spent on listing tied optima before giving up."""


class Assignment(NamedTuple):
    """Working arrays of one problem of n atoms.

    Attributes:
        cost: squared distances, (n, n); FORBIDDEN where the pair must not be assigned.
        vectors: from an atom of the second crystal (row) to one of the first (column), (n, n, 3).
        is_split: whether two periodic images are equally near, so that the vector is rounding's choice, (n, n).
        row_price, column_price: potentials, (n,).
        column: column of each row, (n,).
        scratch: (4, n + 1).
        links: (3, n + 1) integers.
    """

    cost: np.ndarray
    vectors: np.ndarray
    is_split: np.ndarray
    row_price: np.ndarray
    column_price: np.ndarray
    column: np.ndarray
    scratch: np.ndarray
    links: np.ndarray


@compiled
def solve_block(work: Assignment, lo: int, hi: int) -> float:
    """Assign rows lo..hi-1 to columns lo..hi-1 at the least cost, which is returned; prices and columns are kept."""
    m = hi - lo
    u, v, least, used = work.scratch[0], work.scratch[1], work.scratch[2], work.scratch[3]
    owner, way = work.links[0], work.links[1]
    for j in range(m + 1):
        u[j] = v[j] = 0.0
        owner[j] = 0
    for i in range(1, m + 1):
        owner[0] = i
        j0 = 0
        for j in range(m + 1):
            least[j] = 1e300
            used[j] = 0.0
        while True:
            used[j0] = 1.0
            row, delta, j1 = owner[j0], 1e300, 0
            for j in range(1, m + 1):
                if used[j] == 0.0:
                    slack = work.cost[lo + row - 1, lo + j - 1] - u[row] - v[j]
                    if slack < least[j]:
                        least[j] = slack
                        way[j] = j0
                    if least[j] < delta:
                        delta = least[j]
                        j1 = j
            for j in range(m + 1):
                if used[j] != 0.0:
                    u[owner[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            j0 = j1
            if owner[j0] == 0:
                break
        while j0 != 0:
            j1 = way[j0]
            owner[j0] = owner[j1]
            j0 = j1
    total = 0.0
    for j in range(1, m + 1):
        row = lo + owner[j] - 1
        work.column[row] = lo + j - 1
        work.row_price[row] = u[owner[j]]
        work.column_price[lo + j - 1] = v[j]
        total += work.cost[row, lo + j - 1]
    return total


@compiled
def displacement(work: Assignment, columns: np.ndarray, use_rms: bool) -> float:
    """Largest (or root mean square) length of the assigned vectors after their mean is taken off."""
    n = len(columns)
    mean = np.zeros(3)
    for i in range(n):
        for x in range(3):
            mean[x] += work.vectors[i, columns[i], x] / n
    largest = total = 0.0
    for i in range(n):
        squared = 0.0
        for x in range(3):
            squared += (work.vectors[i, columns[i], x] - mean[x]) ** 2
        total += squared
        largest = max(largest, squared)
    return math.sqrt(total / n) if use_rms else math.sqrt(largest)


@compiled
def _is_tight(work: Assignment, bounds: np.ndarray, block: int, i: int, j: int) -> bool:
    """Whether an optimum may assign row i to column j."""
    if j < bounds[block] or j >= bounds[block + 1] or work.cost[i, j] >= FORBIDDEN:
        return False
    slack: float = work.cost[i, j] - work.row_price[i] - work.column_price[j]
    return slack < TIE


@compiled
def tied_range(work: Assignment, bounds: np.ndarray, use_rms: bool) -> tuple[float, float]:
    """Least and largest displacement over all optima of the solved problem.

    (0, inf) if they are too many to list, or one has a vector that is rounding's choice.
    """
    n = len(work.column)
    value = displacement(work, work.column, use_rms)
    tight = np.zeros((n, n), np.bool_)
    is_unique = True
    for block in range(len(bounds) - 1):
        for i in range(bounds[block], bounds[block + 1]):
            for j in range(bounds[block], bounds[block + 1]):
                tight[i, j] = _is_tight(work, bounds, block, i, j)
                if tight[i, j] and work.is_split[i, j]:
                    return 0.0, np.inf
                if tight[i, j] and j != work.column[i]:
                    is_unique = False
    if is_unique:
        return value, value
    low, high = value, value
    chosen = np.full(n, -1, np.int64)
    taken = np.zeros(n, np.bool_)
    i = 0
    for _ in range(MAX_TIE_STEPS):
        if i < 0:
            return low, high
        if chosen[i] >= 0:
            taken[chosen[i]] = False
        j = chosen[i] + 1
        while j < n and (not tight[i, j] or taken[j]):
            j += 1
        if j == n:
            chosen[i] = -1
            i -= 1
            continue
        chosen[i] = j
        taken[j] = True
        if i == n - 1:
            value = displacement(work, chosen, use_rms)
            low, high = min(low, value), max(high, value)
        else:
            i += 1
    return 0.0, np.inf
