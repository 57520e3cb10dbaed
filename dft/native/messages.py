"""Sums over the neighbours of atoms, a product per edge and path, without a row in memory for each edge.

A path turns the features x of an edge's target, d1 components of 32 channels, into d3 components, by a matrix m that
the edge makes of its direction and by weights w, one per channel, that it makes of its length. Its source is told the
sum over its edges of

    t[k, u] = w[u] * sum_a m[k, a] * x[a, u].

A row of `paths` is (first feature, d1, first element of the matrix, first weight, first number told, d3), d1 and d3 of
1, 3, 5 and 7. Edges are sorted by source, and none leaves the atoms `first` to `last`, so that several threads may each
take a part of the atoms. float32 throughout. d1 and 32 are constants to the compiler, which makes vectors of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from storage.native_code import compiled_reordering

Kernel = Callable[..., Any]


def _telling(d1: int) -> Kernel:
    @compiled_reordering
    def tell(told: np.ndarray, w: np.ndarray, m: np.ndarray, x: np.ndarray, d3: int) -> None:
        for k in range(d3):
            row, here = m[k * d1 : k * d1 + d1], told[32 * k : 32 * k + 32]
            for u in range(32):
                total = row[0] * x[u]
                for a in range(1, d1):
                    total += row[a] * x[32 * a + u]
                here[u] += w[u] * total

    return tell


# The slopes by weights and matrix in one pass. Written out for each d1, and not made as the two others are: the d1 sums
# over channels must be variables of their own, for what is in an array is written back at every channel.
@compiled_reordering
def _edge_1(
    of_w: np.ndarray, of_m: np.ndarray, slope: np.ndarray, w: np.ndarray, m: np.ndarray, x: np.ndarray, d3: int
) -> None:
    for k in range(d3):
        of_row, here = of_m[1 * k : 1 * k + 1], slope[32 * k : 32 * k + 32]
        c0 = m[k]
        s0 = np.float32(0.0)
        for u in range(32):
            of_w[u] += here[u] * (c0 * x[u])
            y = w[u] * here[u]
            s0 += y * x[u]
        of_row[0] += s0


@compiled_reordering
def _edge_3(
    of_w: np.ndarray, of_m: np.ndarray, slope: np.ndarray, w: np.ndarray, m: np.ndarray, x: np.ndarray, d3: int
) -> None:
    for k in range(d3):
        of_row, here = of_m[3 * k : 3 * k + 3], slope[32 * k : 32 * k + 32]
        c0 = m[3 * k + 0]
        c1 = m[3 * k + 1]
        c2 = m[3 * k + 2]
        s0 = np.float32(0.0)
        s1 = np.float32(0.0)
        s2 = np.float32(0.0)
        for u in range(32):
            of_w[u] += here[u] * (c0 * x[u] + c1 * x[32 + u] + c2 * x[64 + u])
            y = w[u] * here[u]
            s0 += y * x[u]
            s1 += y * x[32 + u]
            s2 += y * x[64 + u]
        of_row[0] += s0
        of_row[1] += s1
        of_row[2] += s2


@compiled_reordering
def _edge_5(
    of_w: np.ndarray, of_m: np.ndarray, slope: np.ndarray, w: np.ndarray, m: np.ndarray, x: np.ndarray, d3: int
) -> None:
    for k in range(d3):
        of_row, here = of_m[5 * k : 5 * k + 5], slope[32 * k : 32 * k + 32]
        c0 = m[5 * k + 0]
        c1 = m[5 * k + 1]
        c2 = m[5 * k + 2]
        c3 = m[5 * k + 3]
        c4 = m[5 * k + 4]
        s0 = np.float32(0.0)
        s1 = np.float32(0.0)
        s2 = np.float32(0.0)
        s3 = np.float32(0.0)
        s4 = np.float32(0.0)
        for u in range(32):
            of_w[u] += here[u] * (c0 * x[u] + c1 * x[32 + u] + c2 * x[64 + u] + c3 * x[96 + u] + c4 * x[128 + u])
            y = w[u] * here[u]
            s0 += y * x[u]
            s1 += y * x[32 + u]
            s2 += y * x[64 + u]
            s3 += y * x[96 + u]
            s4 += y * x[128 + u]
        of_row[0] += s0
        of_row[1] += s1
        of_row[2] += s2
        of_row[3] += s3
        of_row[4] += s4


@compiled_reordering
def _edge_7(
    of_w: np.ndarray, of_m: np.ndarray, slope: np.ndarray, w: np.ndarray, m: np.ndarray, x: np.ndarray, d3: int
) -> None:
    for k in range(d3):
        of_row, here = of_m[7 * k : 7 * k + 7], slope[32 * k : 32 * k + 32]
        c0 = m[7 * k + 0]
        c1 = m[7 * k + 1]
        c2 = m[7 * k + 2]
        c3 = m[7 * k + 3]
        c4 = m[7 * k + 4]
        c5 = m[7 * k + 5]
        c6 = m[7 * k + 6]
        s0 = np.float32(0.0)
        s1 = np.float32(0.0)
        s2 = np.float32(0.0)
        s3 = np.float32(0.0)
        s4 = np.float32(0.0)
        s5 = np.float32(0.0)
        s6 = np.float32(0.0)
        for u in range(32):
            of_w[u] += here[u] * (
                c0 * x[u]
                + c1 * x[32 + u]
                + c2 * x[64 + u]
                + c3 * x[96 + u]
                + c4 * x[128 + u]
                + c5 * x[160 + u]
                + c6 * x[192 + u]
            )
            y = w[u] * here[u]
            s0 += y * x[u]
            s1 += y * x[32 + u]
            s2 += y * x[64 + u]
            s3 += y * x[96 + u]
            s4 += y * x[128 + u]
            s5 += y * x[160 + u]
            s6 += y * x[192 + u]
        of_row[0] += s0
        of_row[1] += s1
        of_row[2] += s2
        of_row[3] += s3
        of_row[4] += s4
        of_row[5] += s5
        of_row[6] += s6


def _slopes_of_features(d3: int) -> Kernel:
    @compiled_reordering
    def slopes_of_features(
        of_x: np.ndarray, slope: np.ndarray, w: np.ndarray, m: np.ndarray, d1: int, column: np.ndarray
    ) -> None:
        for a in range(d1):
            here = of_x[32 * a : 32 * a + 32]
            for k in range(d3):
                column[k] = m[k * d1 + a]
            for u in range(32):
                total = column[0] * slope[u]
                for k in range(1, d3):
                    total += column[k] * slope[32 * k + u]
                here[u] += w[u] * total

    return slopes_of_features


_tell_1, _tell_3, _tell_5, _tell_7 = (_telling(d1) for d1 in (1, 3, 5, 7))
_features_1, _features_3, _features_5, _features_7 = (_slopes_of_features(d3) for d3 in (1, 3, 5, 7))


@compiled_reordering
def told(
    paths: np.ndarray,
    starts: np.ndarray,
    target: np.ndarray,
    bond: np.ndarray,
    features: np.ndarray,
    matrices: np.ndarray,
    weights: np.ndarray,
    first: int,
    last: int,
    out: np.ndarray,
) -> None:
    """What atoms `first` to `last` are told: added to out, (N, numbers told).

    Args:
        paths: (P, 6), as above.
        starts: first edge of each atom, and the number of edges, (N + 1,).
        target: atom at the other end of each edge, (E,).
        bond: row of weights of each edge, (E,).
        features: (N, features).
        matrices: (E, elements).
        weights: (B, weights).
        first: atom.
        last: atom, not included.
        out: zeros.
    """
    for atom in range(first, last):
        for edge in range(starts[atom], starts[atom + 1]):
            t, b = target[edge], bond[edge]
            for p in range(len(paths)):
                at, d1, m, w, o, d3 = paths[p]
                here, weight = out[atom, o : o + 32 * d3], weights[b, w : w + 32]
                matrix, x = matrices[edge, m : m + d1 * d3], features[t, at : at + 32 * d1]
                if d1 == 1:
                    _tell_1(here, weight, matrix, x, d3)
                elif d1 == 3:
                    _tell_3(here, weight, matrix, x, d3)
                elif d1 == 5:
                    _tell_5(here, weight, matrix, x, d3)
                else:
                    _tell_7(here, weight, matrix, x, d3)


@compiled_reordering
def slopes(
    paths: np.ndarray,
    starts: np.ndarray,
    target: np.ndarray,
    bond: np.ndarray,
    features: np.ndarray,
    matrices: np.ndarray,
    weights: np.ndarray,
    first: int,
    last: int,
    slope: np.ndarray,
    of_features: np.ndarray,
    of_matrices: np.ndarray,
    of_weights: np.ndarray,
) -> None:
    """From the slopes by what is told, (N, numbers told), those by features, matrices and weights.

    The first nine arguments are those of `told`; the last three are zeros, of the shapes of features, matrices and
    weights.
    """
    column = np.zeros(7, dtype=np.float32)
    for atom in range(first, last):
        for edge in range(starts[atom], starts[atom + 1]):
            t, b = target[edge], bond[edge]
            for p in range(len(paths)):
                at, d1, m, w, o, d3 = paths[p]
                here, weight, of_weight = (
                    slope[atom, o : o + 32 * d3],
                    weights[b, w : w + 32],
                    of_weights[b, w : w + 32],
                )
                matrix, of_matrix = matrices[edge, m : m + d1 * d3], of_matrices[edge, m : m + d1 * d3]
                x, of_x = features[t, at : at + 32 * d1], of_features[t, at : at + 32 * d1]
                if d1 == 1:
                    _edge_1(of_weight, of_matrix, here, weight, matrix, x, d3)
                elif d1 == 3:
                    _edge_3(of_weight, of_matrix, here, weight, matrix, x, d3)
                elif d1 == 5:
                    _edge_5(of_weight, of_matrix, here, weight, matrix, x, d3)
                else:
                    _edge_7(of_weight, of_matrix, here, weight, matrix, x, d3)
                if d3 == 1:
                    _features_1(of_x, here, weight, matrix, d1, column)
                elif d3 == 3:
                    _features_3(of_x, here, weight, matrix, d1, column)
                elif d3 == 5:
                    _features_5(of_x, here, weight, matrix, d1, column)
                else:
                    _features_7(of_x, here, weight, matrix, d1, column)
