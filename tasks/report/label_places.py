"""Where the names of points go in a picture, so that they lie apart. Pixels, x to the right, y upward."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RINGS_EM = (1.15, 2.2, 3.5, 5.0, 6.8)
"""How far a name may stand from its point, in sizes of its letters; beyond the first a line leads to it."""

N_DIRECTIONS = 8
GAP_PX = 3.0
"""Kept free between a name and the points of others."""


def label_size_px(formula: str, letter_px: float) -> FloatArray:
    """Width and height of a formula with its counts as subscripts, (2,), as the usual sans-serif letters take."""
    n_digits = len(re.findall(r"\d", formula))
    return np.array([0.68 * (len(formula) - 0.3 * n_digits) + 0.3, 1.5]) * letter_px


def label_offsets(
    anchors: FloatArray, sizes: FloatArray, dots: FloatArray, letter_px: float, taken: Sequence[FloatArray] = ()
) -> FloatArray:
    """How far the middle of each name lies from its point, (n, 2).

    Each takes the freest place around its point, earlier ones first: on no other name where that can be had, then on
    few points, then near.

    Args:
        anchors: the named points, (n, 2).
        sizes: width and height of each name, (n, 2).
        dots: all points, (m, 2).
        letter_px: size of the letters.
        taken: boxes that stay free, each its lower left and upper right corner, (2, 2).
    """
    boxes = list(taken)
    offsets = np.zeros((len(anchors), 2))
    for index, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        best_cost, best_box = np.inf, np.zeros((2, 2))
        for ring, distance in enumerate(RINGS_EM):
            for turn in range(N_DIRECTIONS):
                angle = np.pi / 2 - turn * 2 * np.pi / N_DIRECTIONS
                direction = np.array([np.cos(angle), np.sin(angle)])
                middle = anchor + direction * (distance * letter_px + size / 2 * np.abs(direction) * 0.85)
                box = np.array([middle - size / 2, middle + size / 2])
                cost = 0.4 * ring + 0.01 * turn + sum(_overlap_cost(box, other) for other in boxes)
                cost += float(np.sum(np.all((dots > box[0] - GAP_PX) & (dots < box[1] + GAP_PX), axis=1)))
                if cost < best_cost:
                    best_cost, best_box = cost, box
                    offsets[index] = middle - anchor
        boxes.append(best_box)
    return offsets


def _overlap_cost(a: FloatArray, b: FloatArray) -> float:
    """None for boxes apart; more than any distance for those that share some of their area."""
    shared = np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0.0, None)
    share = float(np.prod(shared) / np.prod(a[1] - a[0]))
    return 20.0 + 20.0 * share if share > 0 else 0.0
