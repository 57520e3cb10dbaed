"""StructureMatcher.fit and get_rms_dist of reduced crystals in native code, with "ask pymatgen" as a third answer.

All lattice mappings and all translations that pymatgen tries are tried, in an order of their own for fit (which asks
only whether one is accepted) and in pymatgen's for get_rms_dist (which ends at the first displacement below 1e-5). A
mapping or translation that meets a tolerance to within rounding, or whose assignment has tied optima that disagree,
makes the pair UNSURE unless another decides.

Source: pymatgen's StructureMatcher (_strict_match, _get_supercells, _cart_dists) with primitive_cell, scale, no
supercells, no subsets: behaviour reproduced, lengths in units of (V/N)^(1/3).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from generative.native.alignment import Alignment, align, covers, distances, multiply, to_lll
from generative.native.assignment import FORBIDDEN, Assignment, solve_block, tied_range
from generative.native.lattice import EDGE, dot, invert, lattice_points, parameters_of
from generative.native.placement_bound import CAPACITY, Placement, candidates, may_place
from storage.native_code import compiled

REFUSED, ACCEPTED, UNSURE = 0, 1, 2
"""Verdicts on a pair."""

NO_LATTICE, NO_COVER, NO_PLACEMENT, SOLVED = 0, 1, 2, 3
"""How far a pair got: no lattice mapping, no translation that covers all atoms, refused by the bound, assigned."""

VALUE_EDGE = 1e-7
"""A displacement this close to stol is left to pymatgen."""

MAX_POINTS = 1_000_000
"""Lattice points to search at most; cells so thin as to need more are left to pymatgen."""

MAX_BASES = 1e8
"""Triples of lattice vectors to look at, a second's work; cells so flat as to need more are left to pymatgen."""

MAX_TIES = 5
"""Ties in the reduction of an average lattice whose outcomes are all tried."""

EXACT = 1e-5
"""A root mean square displacement below this ends pymatgen's search for a smaller one."""


class Workspace(NamedTuple):
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
def workspace_for(n: int) -> Workspace:
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
    return Workspace(alignment, pairs, placement, np.zeros(4), np.zeros(n, np.int64))


@compiled
def _displacements(
    space: Workspace, bounds: np.ndarray, ref: int, s: int, use_rms: bool, with_box: bool
) -> tuple[float, float]:
    """Least and largest displacement that rounding could give at one translation; infinite if none is allowed."""
    work, pairs = space.alignment, space.pairs
    unsure = distances(work, pairs, bounds, ref, s, with_box)
    space.state[3] += 1
    for block in range(len(bounds) - 1):
        if solve_block(pairs, bounds[block], bounds[block + 1]) >= FORBIDDEN / 2:
            return (0.0 if unsure else np.inf), np.inf
    low, high = tied_range(pairs, bounds, use_rms)
    return (0.0, np.inf) if unsure else (low, high)


@compiled
def _over_all_bases(
    space: Workspace, bounds: np.ndarray, ref: int, s: int, stol: float, use_rms: bool
) -> tuple[float, float]:
    """The same where ties leave the LLL basis open, and with it the box of allowed pairs.

    If the optimum over all pairs uses none longer than 2 stol, which no box forbids, it stands; else all bases are
    tried that rounding could have given.
    """
    work, pairs = space.alignment, space.pairs
    low, high = _displacements(space, bounds, ref, s, use_rms, False)
    longest = 0.0
    for i in range(len(pairs.column)):
        longest = max(longest, pairs.cost[i, pairs.column[i]])
    if longest < 4 * stol * stol * (1 - EDGE):
        return low, high
    low, high = np.inf, 0.0
    for choice in range(1 << MAX_TIES):
        to_lll(work, stol, choice)
        if work.facts[1] > MAX_TIES:
            low, high = 0.0, np.inf
            break
        if choice >> int(work.facts[1]) == 0:  # higher bits decide nothing: this basis was tried
            one, other = _displacements(space, bounds, ref, s, use_rms, True)
            low, high = min(low, one), max(high, other)
    to_lll(work, stol, 0)
    return low, high


@compiled
def _judge(space: Workspace, bounds: np.ndarray, ref: int, s: int, stol: float, use_rms: bool, at_edge: bool) -> None:
    """Solve the assignment at one translation and enter its displacement, sure or not, into the workspace's state."""
    state = space.state
    if space.alignment.facts[1] == 0.0:
        low, high = _displacements(space, bounds, ref, s, use_rms, True)
    else:
        low, high = _over_all_bases(space, bounds, ref, s, stol, use_rms)
    is_close = abs(low - stol) < VALUE_EDGE or abs(high - stol) < VALUE_EDGE
    agree = (low < stol) == (high < stol)
    if use_rms and low < stol:
        agree = high - low < 1e-9
    if at_edge or is_close or not agree:
        state[1] = min(state[1], low)
    else:
        state[0] = min(state[0], low)


@compiled
def _try_mapping(space: Workspace, bounds: np.ndarray, ref: int, stol: float, use_rms: bool, at_edge: bool) -> None:
    """All translations of one lattice mapping, whose alignment is in place."""
    work, state = space.alignment, space.state
    enough = min(stol, EXACT) if use_rms else stol
    block = 0
    while bounds[block + 1] <= ref:
        block += 1
    lo, hi = bounds[block], bounds[block + 1]
    is_ready = False
    n_placed = 0
    shift = np.empty(3)
    for s in range(lo, hi):
        space.stage[s] = 0
        if not covers(work, bounds, ref, s, EDGE):
            continue
        if not is_ready:
            to_lll(work, stol, 0)
            is_ready = True
        state[2] = max(state[2], 2.0)
        space.stage[s] = 1
        if not use_rms:
            for x in range(3):
                shift[x] = work.first_lll[s, x] - work.second_lll[ref, x]
            listed = candidates(
                space.placement, work.first_lll, work.second_lll, shift, work.lll, work.box_lll, bounds, stol
            )
            if listed == 0 or (listed == 1 and not may_place(space.placement, ref, s, stol)):
                continue
        state[2] = 3.0
        space.stage[s] = 2
        n_placed += 1
        _judge(space, bounds, ref, s, stol, use_rms, at_edge or not covers(work, bounds, ref, s, -EDGE))
        if state[0] < enough:
            return
    if n_placed == 0 or n_placed == hi - lo:
        return
    for s in range(lo, hi):
        if space.stage[s] == 1 and _may_stand_in(work, space.stage, ref, s, lo, hi):
            _judge(space, bounds, ref, s, stol, use_rms, at_edge or not covers(work, bounds, ref, s, -EDGE))
            if state[0] < stol:
                return


@compiled
def _may_stand_in(work: Alignment, stage: np.ndarray, ref: int, s: int, lo: int, hi: int) -> bool:
    """Whether with `ref` upon s some placeable atom of the first crystal may be assigned to `ref`; see the bound."""
    if work.facts[1] != 0.0:
        return True
    for j in range(lo, hi):
        inside = stage[j] == 2
        for k in range(3):
            d = work.first_lll[j, k] - work.first_lll[s, k]
            inside &= abs(d - np.rint(d)) <= work.box_lll[k] + EDGE
        if inside:
            return True
    return False


@compiled
def _length_fit(ratio: float, ltol: float) -> int:
    """0 outside the length window, 1 inside, 2 at its edge."""
    if abs(ratio - 1 - ltol) < EDGE or abs(ratio - 1 / (1 + ltol)) < EDGE:
        return 2
    return 1 if 1 / (1 + ltol) < ratio < 1 + ltol else 0


@compiled
def _angle_between(a: np.ndarray, b: np.ndarray, la: float, lb: float) -> float:
    """Degrees."""
    return math.degrees(math.acos(min(1.0, max(-1.0, dot(a, b) / la / lb))))


@compiled
def fit_pair(
    space: Workspace,
    points: np.ndarray,
    first_lattice: np.ndarray,
    first_frac: np.ndarray,
    second_lattice: np.ndarray,
    second_frac: np.ndarray,
    bounds: np.ndarray,
    ref: int,
    tolerances: np.ndarray,
    use_rms: bool,
) -> int:
    """Verdict of fit(first, second), or of get_rms_dist if use_rms (its value is then space.state[0]).

    Args:
        space: working arrays for this number of atoms.
        points: lattice points of the first crystal, (k, 3), in the order to try, at least all within the longest
            vector of the second times 1 + ltol.
        first_lattice: rows, volume 1 per atom.
        first_frac: (n, 3), sorted by species.
        second_lattice: rows, volume 1 per atom.
        second_frac: (n, 3), sorted by species.
        bounds: first atom of each species, and n.
        ref: the atom of the second crystal that is laid upon atoms of the first.
        tolerances: ltol, stol, angle tolerance in degrees.
        use_rms: ask for the least root mean square displacement instead of any placement.
    """
    ltol, stol, atol = tolerances[0], tolerances[1], tolerances[2]
    work, state = space.alignment, space.state
    state[0] = state[1] = np.inf
    state[2] = state[3] = 0.0
    enough = min(stol, EXACT) if use_rms else stol
    lengths, angles = np.empty(3), np.empty(3)
    parameters_of(second_lattice, lengths, angles)
    n = len(points)
    vectors, norms = np.empty((n, 3)), np.empty(n)
    fits = np.empty((3, n), np.int64)
    chosen, n_chosen = np.empty((3, n), np.int64), np.zeros(3, np.int64)
    for p in range(n):
        for x in range(3):
            vectors[p, x] = points[p, 0] * first_lattice[0, x] + points[p, 1] * first_lattice[1, x]
            vectors[p, x] += points[p, 2] * first_lattice[2, x]
        norms[p] = math.sqrt(dot(vectors[p], vectors[p]))
        for k in range(3):
            fits[k, p] = _length_fit(norms[p] / lengths[k], ltol)
            if fits[k, p] > 0:
                chosen[k, n_chosen[k]] = p
                n_chosen[k] += 1
    if n_chosen.min() == 0:
        return 0
    if float(n_chosen[0]) * n_chosen[1] * n_chosen[2] > MAX_BASES:
        return 2
    work.second[:] = second_frac
    scale, inverse = np.empty((3, 3)), np.empty((3, 3))
    mean_lengths, mean_angles = np.empty(3), np.empty(3)
    for ia in range(n_chosen[0]):
        a = chosen[0, ia]
        for ib in range(n_chosen[1]):
            b = chosen[1, ib]
            gamma = _angle_between(vectors[a], vectors[b], norms[a], norms[b])
            if abs(gamma - angles[2]) > atol + EDGE:
                continue
            for ic in range(n_chosen[2]):
                c = chosen[2, ic]
                beta = _angle_between(vectors[a], vectors[c], norms[a], norms[c])
                if abs(beta - angles[1]) > atol + EDGE:
                    continue
                alpha = _angle_between(vectors[b], vectors[c], norms[b], norms[c])
                if abs(alpha - angles[0]) > atol + EDGE:
                    continue
                for x in range(3):
                    scale[0, x], scale[1, x], scale[2, x] = points[a, x], points[b, x], points[c, x]
                if abs(abs(invert(scale, inverse)) - 1) > 0.1:
                    continue
                worst = max(abs(gamma - angles[2]), abs(beta - angles[1]), abs(alpha - angles[0]))
                at_edge = worst > atol - EDGE or fits[0, a] == 2 or fits[1, b] == 2 or fits[2, c] == 2
                state[2] = max(state[2], 1.0)
                mean_lengths[0], mean_lengths[1], mean_lengths[2] = norms[a], norms[b], norms[c]
                mean_angles[0], mean_angles[1], mean_angles[2] = alpha, beta, gamma
                for k in range(3):
                    mean_lengths[k] = (mean_lengths[k] + lengths[k]) / 2
                    mean_angles[k] = (mean_angles[k] + angles[k]) / 2
                if not align(work, mean_lengths, mean_angles, stol):
                    state[1] = 0.0
                    continue
                multiply(first_frac, inverse, work.first)
                _try_mapping(space, bounds, ref, stol, use_rms, at_edge)
                if state[0] < enough:
                    if use_rms and (state[1] < state[0] + 1e-9 or abs(state[0] - enough) < 1e-9):
                        return 2
                    return 1
    if state[1] < min(stol + VALUE_EDGE, state[0] + 1e-9 if use_rms else np.inf):
        return 2
    return 1 if state[0] < stol else 0


@compiled
def _nearest_first(lattice: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lattice points by their distance from the origin, (k, 3), and these distances, (k,)."""
    lengths = np.empty(len(points))
    for p in range(len(points)):
        squared = 0.0
        for x in range(3):
            squared += (points[p, 0] * lattice[0, x] + points[p, 1] * lattice[1, x] + points[p, 2] * lattice[2, x]) ** 2
        lengths[p] = math.sqrt(squared)
    order = np.argsort(lengths)
    return points[order], lengths[order]


@compiled
def fit_pairs(
    lattices: np.ndarray,
    longest: np.ndarray,
    coordinates: np.ndarray,
    refs: np.ndarray,
    bounds: np.ndarray,
    firsts: np.ndarray,
    other_lattices: np.ndarray,
    other_longest: np.ndarray,
    other_coordinates: np.ndarray,
    other_refs: np.ndarray,
    seconds: np.ndarray,
    tolerances: np.ndarray,
    ordered_points: np.ndarray,
    stop_at_match: bool,
    verdicts: np.ndarray,
    stages: np.ndarray,
    rms: np.ndarray,
) -> int:
    """Verdicts of fit, or of get_rms_dist, for pairs of crystals of one kind.

    One entry for both, since compiling is what takes long. Runs of one first crystal share its lattice points.

    Args:
        lattices: of the first crystals, volume 1 per atom; with longest, coordinates and refs as in CellStack.
        longest: longest lattice vector of each.
        coordinates: fractional, (m, n, 3).
        refs: not used of the first crystals.
        bounds: first atom of each species, and n.
        firsts: index of the first crystal of each pair.
        other_lattices: of the second crystals, and so on.
        other_longest: as above.
        other_coordinates: as above.
        other_refs: reference atom of each second crystal.
        seconds: index of the second crystal of each pair.
        tolerances: ltol, stol, angle tolerance in degrees.
        ordered_points: lattice points of the first crystal in pymatgen's order, (k, 3), if get_rms_dist is asked for;
            none for fit.
        stop_at_match: end at the first pair that is not refused.
        verdicts: receives one verdict per pair.
        stages: receives how far each pair got.
        rms: receives the displacement of each pair that get_rms_dist matches.

    Returns: The number of pairs judged.
    """
    space = workspace_for(bounds[-1])
    points, lengths = ordered_points, np.empty(0)
    use_rms = len(ordered_points) > 0
    for i in range(len(firsts)):
        a, b = firsts[i], seconds[i]
        if not use_rms and (i == 0 or a != firsts[i - 1]):
            radius, k = 0.0, i
            while k < len(firsts) and firsts[k] == a:
                radius = max(radius, other_longest[seconds[k]])
                k += 1
            points = lattice_points(lattices[a], radius * (1 + tolerances[0]) * (1 + 1e-6), MAX_POINTS)
            lengths = np.empty(0)
            if k > i + 1:  # one thin cell among the others would make the list long for all
                points, lengths = _nearest_first(lattices[a], points)
        if len(points) == 0:
            verdicts[i], stages[i] = 2, 0
        else:
            n_points = len(points)
            if len(lengths) > 0:
                n_points = np.searchsorted(lengths, other_longest[b] * (1 + tolerances[0]) * (1 + 1e-6), side="right")
            verdicts[i] = fit_pair(
                space,
                points[:n_points],
                lattices[a],
                coordinates[a],
                other_lattices[b],
                other_coordinates[b],
                bounds,
                other_refs[b],
                tolerances,
                use_rms,
            )
            stages[i] = int(space.state[2])
            rms[i] = space.state[0]
        if stop_at_match and verdicts[i] != 0:
            return i + 1
    return len(firsts)
