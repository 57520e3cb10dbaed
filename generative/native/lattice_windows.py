"""Which lattices can be mapped onto a given one at all, found for many at once: the first test of fit_pair, in bulk.

fit_pair refuses a pair whose first lattice has no basis with lengths within ltol and angles within the angle tolerance
of the second's. Of a thousand crystals of one composition nine in ten pairs end there, so this test decides how the
time grows. Here the bases of the first lattice are listed once; each accepts the second lattices whose six parameters
lie in a box. Parameters are sorted into bins, and a table says for each bin which boxes reach into it, one bit per box:
six look-ups and their common bits name the boxes that may hold a lattice, and those are then compared.

A lattice is refused here only if fit_pair would refuse it: windows are wider by SLACK, all else is the same arithmetic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from generative.native.lattice import dot, lattice_points, parameters_of
from storage.native_code import compiled

MAX_POINTS = 100_000
"""Lattice points to search at most; fewer than fit_pair's."""

N_BINS = 64
"""Bins per parameter."""

SLACK = 1e-6
"""By which windows are wider than fit_pair's, relative for lengths, degrees for angles: a hundred times its EDGE."""

MAX_BOXES = 4096
"""Bases listed at most; beyond it nothing is refused."""

MAX_TRIPLES = 1e8
"""Triples of lattice vectors beyond which nothing is refused, for then fit_pair may leave a pair to pymatgen for their
number alone: its MAX_BASES. The cost bounds them much lower."""

TRIPLES_PER_PAIR = 10.0
"""Triples of lattice vectors looked at for each point and other lattice at most: beyond it fit_pair costs less."""


class Parameters(NamedTuple):
    """Lengths and angles of m lattices, and the bins they lie in.

    Attributes:
        values: three lengths in units of (V/N)^(1/3), three angles in degrees, (m, 6).
        bins: bin of each, (m, 6).
        low: least value of each parameter, (6,).
        high: largest, (6,).
    """

    values: np.ndarray
    bins: np.ndarray
    low: np.ndarray
    high: np.ndarray


@compiled
def _bin_of(value: float, low: float, high: float) -> int:
    """The bin of a value; it never falls as the value rises."""
    if not high > low:
        return 0
    position = (value - low) / (high - low) * N_BINS
    return int(min(max(position, 0.0), N_BINS - 1.0))


@compiled
def parameters_of_all(lattices: np.ndarray) -> Parameters:
    """The parameters of these lattices, rows, (m, 3, 3), m > 0."""
    m = len(lattices)
    values, bins = np.empty((m, 6)), np.empty((m, 6), np.int64)
    low, high = np.full(6, np.inf), np.full(6, -np.inf)
    for i in range(m):
        parameters_of(lattices[i], values[i, :3], values[i, 3:])
        for d in range(6):
            low[d] = min(low[d], values[i, d])
            high[d] = max(high[d], values[i, d])
    for i in range(m):
        for d in range(6):
            bins[i, d] = _bin_of(values[i, d], low[d], high[d])
    return Parameters(values, bins, low, high)


@compiled
def _angle_deg(a: np.ndarray, b: np.ndarray, la: float, lb: float) -> float:
    return math.degrees(math.acos(min(1.0, max(-1.0, dot(a, b) / la / lb))))


@compiled
def _list_boxes(
    lattice: np.ndarray,
    points: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    tolerances: np.ndarray,
    most: float,
    out: np.ndarray,
) -> int:
    """For each basis of the lattice the least and largest parameters that accept it, (k, 6, 2) into `out`.

    Only bases that some parameters between low and high accept; of a basis and its inverse, whose parameters are equal,
    one. Returns: their number; -1 if `out` is too short or more than `most` triples of vectors would be looked at.
    """
    n = len(points)
    shrink, stretch = 1 / (1 + tolerances[0]) * (1 - SLACK), (1 + tolerances[0]) * (1 + SLACK)
    reach_deg = tolerances[2] + SLACK
    vectors, norms = np.empty((n, 3)), np.empty(n)
    chosen, n_chosen = np.empty((3, n), np.int64), np.zeros(3, np.int64)
    for p in range(n):
        for x in range(3):
            vectors[p, x] = points[p, 0] * lattice[0, x] + points[p, 1] * lattice[1, x] + points[p, 2] * lattice[2, x]
        norms[p] = math.sqrt(dot(vectors[p], vectors[p]))
        for k in range(3):
            if low[k] * shrink <= norms[p] <= high[k] * stretch:
                chosen[k, n_chosen[k]] = p
                n_chosen[k] += 1
    if not float(n_chosen[0]) * n_chosen[1] * n_chosen[2] <= most:
        return -1
    found = 0
    for ia in range(n_chosen[0]):
        a = chosen[0, ia]
        i, j, k = points[a, 0], points[a, 1], points[a, 2]
        if i < 0 or (i == 0 and (j < 0 or (j == 0 and k < 0))):
            continue
        for ib in range(n_chosen[1]):
            b = chosen[1, ib]
            gamma = _angle_deg(vectors[a], vectors[b], norms[a], norms[b])
            if gamma < low[5] - reach_deg or gamma > high[5] + reach_deg:
                continue
            u = j * points[b, 2] - k * points[b, 1]
            v = k * points[b, 0] - i * points[b, 2]
            w = i * points[b, 1] - j * points[b, 0]
            for ic in range(n_chosen[2]):
                c = chosen[2, ic]
                if abs(u * points[c, 0] + v * points[c, 1] + w * points[c, 2]) != 1:
                    continue
                beta = _angle_deg(vectors[a], vectors[c], norms[a], norms[c])
                alpha = _angle_deg(vectors[b], vectors[c], norms[b], norms[c])
                if beta < low[4] - reach_deg or beta > high[4] + reach_deg:
                    continue
                if alpha < low[3] - reach_deg or alpha > high[3] + reach_deg:
                    continue
                if found == len(out):
                    return -1
                box = out[found]
                box[0, 0], box[0, 1] = norms[a] / stretch, norms[a] / shrink
                box[1, 0], box[1, 1] = norms[b] / stretch, norms[b] / shrink
                box[2, 0], box[2, 1] = norms[c] / stretch, norms[c] / shrink
                box[3, 0], box[3, 1] = alpha - reach_deg, alpha + reach_deg
                box[4, 0], box[4, 1] = beta - reach_deg, beta + reach_deg
                box[5, 0], box[5, 1] = gamma - reach_deg, gamma + reach_deg
                found += 1
    return found


@compiled
def _holds(box: np.ndarray, values: np.ndarray) -> bool:
    inside = True
    for d in range(6):
        inside &= box[d, 0] <= values[d] <= box[d, 1]
    return inside


@compiled
def may_be_mapped(
    lattice: np.ndarray,
    longest: float,
    others: np.ndarray,
    parameters: Parameters,
    tolerances: np.ndarray,
    kept: np.ndarray,
) -> bool:
    """Which of the other lattices have the parameters of some basis of this one.

    Args:
        lattice: rows, volume 1 per atom.
        longest: at least the longest vector of the others.
        others: rows of `parameters` to look at.
        parameters: of the other lattices.
        tolerances: ltol, stol, angle tolerance in degrees.
        kept: receives False where fit_pair would find no mapping, (len(others),).

    Returns: whether anything was looked at; if not, all are kept.
    """
    kept[:] = True
    points = lattice_points(lattice, longest * (1 + tolerances[0]) * (1 + SLACK), MAX_POINTS)
    if len(points) == 0:
        return False
    boxes = np.empty((MAX_BOXES, 6, 2))
    most = min(MAX_TRIPLES, TRIPLES_PER_PAIR * len(points) * len(others))
    n = _list_boxes(lattice, points, parameters.low, parameters.high, tolerances, most, boxes)
    if n < 0:
        return False
    n_words = (n + 63) >> 6
    table = np.zeros((6, N_BINS, n_words), np.uint64)
    for i in range(n):
        bit = np.uint64(1) << np.uint64(i & 63)
        for d in range(6):
            lo, hi = parameters.low[d], parameters.high[d]
            for index in range(_bin_of(boxes[i, d, 0], lo, hi), _bin_of(boxes[i, d, 1], lo, hi) + 1):
                table[d, index, i >> 6] |= bit
    for k in range(len(others)):
        other = others[k]
        bins = parameters.bins[other]
        kept[k] = False
        for word in range(n_words):
            common = table[0, bins[0], word] & table[1, bins[1], word] & table[2, bins[2], word]
            common &= table[3, bins[3], word] & table[4, bins[4], word] & table[5, bins[5], word]
            index = word << 6
            while common != np.uint64(0):
                if common & np.uint64(1) and _holds(boxes[index], parameters.values[other]):
                    kept[k] = True
                    break
                common >>= np.uint64(1)
                index += 1
            if kept[k]:
                break
    return True
