"""The working arrays of the fit kernel, made once for many pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from generative.native.alignment import Alignment
from generative.native.assignment import Assignment
from generative.native.door import compiled
from generative.native.placement_bound import CAPACITY, Placement


class Bench(NamedTuple):
    """All working arrays for crystals of n atoms.

    Attributes:
        alignment: of one lattice mapping.
        pairs: of one assignment.
        placement: of the bound.
        state: [best displacement, least displacement an unsure candidate may have, farthest stage, assignments solved].
        stage: per atom of the first crystal: 0 not tried, 1 covers, 2 covers and may be placed, (n,).
    """

    alignment: Alignment
    pairs: Assignment
    placement: Placement
    state: np.ndarray
    stage: np.ndarray


@compiled
def bench_for(n: int) -> Bench:
    """Working arrays for n atoms."""
    alignment = Alignment(
        np.empty((n, 3)),
        np.empty((n, 3)),
        np.empty((n, 3)),
        np.empty((n, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty(3),
        np.empty(3),
        np.empty((27, 3)),
        np.zeros(2),
    )
    pairs = Assignment(
        np.empty((n, n)),
        np.zeros((n, n, 3)),
        np.zeros((n, n), np.bool_),
        np.empty(n),
        np.empty(n),
        np.zeros(n, np.int64),
        np.empty((4, n + 1)),
        np.zeros((3, n + 1), np.int64),
    )
    placement = Placement(
        np.empty((n, CAPACITY, 3)),
        np.empty((n, CAPACITY), np.int64),
        np.zeros(n, np.int64),
        np.zeros((n + 1, n), np.int64),
        np.zeros(n + 1, np.int64),
        np.zeros(n + 1, np.int64),
        np.zeros(n, np.bool_),
        np.zeros((n + 2, 4)),
    )
    return Bench(alignment, pairs, placement, np.zeros(4), np.zeros(n, np.int64))
