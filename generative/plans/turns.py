"""Taking turns by weights, and sharing places out: every beginning of a sequence is fair."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np


def share_out(n: int, shares: Sequence[float]) -> list[list[int]]:
    """Places 0 to n - 1 shared out, such that every beginning is: after any number of places each has its share of
    them, rounded down or up.

    The quota method: a place goes to the one with the most share per place it would then have, of those that this does
    not lift above their share of the places so far, rounded up; to the first of several alike (M. L. Balinski,
    H. P. Young, Am. Math. Mon. 82, 701, 1975).

    Args:
        n: places.
        shares: above 0; their sum is the whole. Taken as they are written, so that 0.1 is a tenth.

    Returns: places of each, ascending; those of a smaller n are their beginnings.
    """
    parts = [Fraction(str(share)) for share in shares]
    scale = math.lcm(*(part.denominator for part in parts))
    weights = [int(part * scale) for part in parts]
    whole = sum(weights)
    places: list[list[int]] = [[] for _ in weights]
    for place in range(n):
        open_to = [i for i, w in enumerate(weights) if len(places[i]) * whole < w * (place + 1)]
        first = min(open_to, key=lambda i: Fraction(len(places[i]) + 1, weights[i]))
        places[first].append(place)
    return places


def turns(weights: Sequence[float], phases: np.ndarray) -> Iterator[int]:
    """Endless sequence of indices in which index i is due at times (k + phases[i]) / weights[i], k = 0, 1, ..."""
    due = [(float(phases[index]) / weight, index, 0) for index, weight in enumerate(weights)]
    heapq.heapify(due)
    while True:
        _, index, k = due[0]
        yield index
        # From k, not by adding up: the time of a turn must not depend on rounding in the turns before.
        heapq.heapreplace(due, ((k + 1 + float(phases[index])) / weights[index], index, k + 1))
