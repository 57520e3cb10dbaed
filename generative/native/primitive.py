"""A smaller cell of a crystal as pymatgen's Structure.get_primitive_structure finds it, in native code.

One level of the search: candidate cells are the Hermite normal forms of the divisors of the number of formula units, in
pymatgen's order; the first whose vectors map every atom onto one of its kind within the tolerance is taken, and the
atoms that fall together are averaged. Source: behaviour of pymatgen's method, whose tolerance of 0.25 A is kept.
"""

from __future__ import annotations

import math

import numpy as np

from generative.native.lattice import EDGE, dot
from storage.native_code import compiled

TOLERANCE_ANG = 0.25
"""pymatgen's default: per coordinate, along each lattice vector."""

PRIMITIVE, SMALLER, UNSURE = 0, 1, 2
"""Verdicts of find_smaller_cell."""


@compiled
def _box_distance(x: np.ndarray, y: np.ndarray, shift: np.ndarray, tol: np.ndarray) -> float:
    """Largest periodic component of x - y - shift in units of tol."""
    worst = 0.0
    for k in range(3):
        d = x[k] - y[k] - shift[k]
        worst = max(worst, abs(d - np.rint(d)) / tol[k])
    return worst


@compiled
def _approximate_periods(frac: np.ndarray, bounds: np.ndarray, tol: np.ndarray) -> tuple[np.ndarray, bool]:
    """Vectors from the first atom of the rarest species to its like that map every atom near one of its kind."""
    n_species = len(bounds) - 1
    rarest = 0
    for s in range(n_species):
        if bounds[s + 1] - bounds[s] < bounds[rarest + 1] - bounds[rarest]:
            rarest = s
    start = bounds[rarest]
    periods = np.empty((bounds[rarest + 1] - start, 3))
    unsure = False
    n = 0
    for p in range(start, bounds[rarest + 1]):
        shift = frac[p] - frac[start]
        kept = True
        for s in range(n_species):
            for i in range(bounds[s], bounds[s + 1]):
                nearest = 1e300
                for j in range(bounds[s], bounds[s + 1]):
                    nearest = min(nearest, _box_distance(frac[j], frac[i], shift, tol))
                    if nearest < 1 - EDGE:
                        break
                if abs(nearest - 1) < EDGE:
                    unsure = True
                if nearest >= 1:
                    kept = False
                    break
            if not kept:
                break
        if kept:
            periods[n] = shift
            n += 1
    return periods[:n].copy(), unsure


@compiled
def _is_period(row: np.ndarray, periods: np.ndarray, tol: np.ndarray, origin: np.ndarray) -> int:
    """1 if a cell vector is close to an approximate period, 0 if not, 2 if within rounding of the tolerance."""
    nearest = 1e300
    for p in range(len(periods)):
        nearest = min(nearest, _box_distance(row, periods[p], origin, tol))
    if abs(nearest - 1) < EDGE:
        return 2
    return 1 if nearest < 1 else 0


@compiled
def _merge(
    frac: np.ndarray,
    lo: int,
    hi: int,
    size: int,
    cell: np.ndarray,
    tol: np.ndarray,
    old_tol: np.ndarray,
    out: np.ndarray,
) -> int:
    """Merge the atoms lo..hi-1 of one species into the smaller cell; the number written to out, -1 or -2 (unsure)."""
    m = hi - lo
    origin = np.zeros(3)
    new = np.empty((m, 3))
    for i in range(m):
        for k in range(3):
            new[i, k] = frac[lo + i, 0] * cell[0, k] + frac[lo + i, 1] * cell[1, k] + frac[lo + i, 2] * cell[2, k]
    together = np.zeros((m, m), np.bool_)
    for i in range(m):
        n = 0
        for j in range(m):
            if i == j:
                together[i, j] = True
            else:
                close = _box_distance(new[i], new[j], origin, tol)
                apart = _box_distance(frac[lo + i], frac[lo + j], origin, old_tol) / 2
                if abs(close - 1) < EDGE or (close < 1 and abs(apart - 1) < EDGE):
                    return -2
                together[i, j] = close < 1 and apart > 1
            n += together[i, j]
        if n != size:
            return -1
    written = 0
    for i in range(m):
        first = True
        for j in range(m):
            if together[i, j]:
                first = first and j >= i
                for k in range(m):
                    if together[i, k] and not together[j, k]:
                        return -1
        if first:
            _average(new, together[i], out[written])
            written += 1
    return written


@compiled
def _average(new: np.ndarray, members: np.ndarray, out: np.ndarray) -> None:
    """Running mean of the members about the first, as pymatgen takes it."""
    n = 0
    for j in range(len(new)):
        if not members[j]:
            continue
        n += 1
        for k in range(3):
            x = new[j, k] - math.floor(new[j, k])
            if n == 1:
                out[k] = x
            else:
                offset = x - out[k]
                out[k] += (offset - np.rint(offset)) / n


@compiled
def _hermite(a: int, b: int, c: int, e: int, f: int, g: int, cell: np.ndarray, inverse: np.ndarray) -> None:
    """[[a, b, c], [0, e, f], [0, 0, g]] and its inverse."""
    cell[0, 0], cell[0, 1], cell[0, 2], cell[1, 1], cell[1, 2], cell[2, 2] = a, b, c, e, f, g
    inverse[0, 0], inverse[1, 1], inverse[2, 2] = 1 / a, 1 / e, 1 / g
    inverse[0, 1] = -b / (a * e)
    inverse[1, 2] = -f / (e * g)
    inverse[0, 2] = (b * f - c * e) / (a * e * g)


@compiled
def _try_cell(
    lattice: np.ndarray,
    frac: np.ndarray,
    bounds: np.ndarray,
    periods: np.ndarray,
    tol: np.ndarray,
    size: int,
    cell: np.ndarray,
    inverse: np.ndarray,
    new_lattice: np.ndarray,
    new_frac: np.ndarray,
) -> int:
    """Verdict on one candidate cell; PRIMITIVE means that it is none."""
    origin = np.zeros(3)
    for k in range(3):
        near = _is_period(inverse[k], periods, tol, origin)
        if near != 1:
            return near
    new_tol = np.empty(3)
    for i in range(3):
        for x in range(3):
            new_lattice[i, x] = (
                inverse[i, 0] * lattice[0, x] + inverse[i, 1] * lattice[1, x] + inverse[i, 2] * lattice[2, x]
            )
        new_tol[i] = TOLERANCE_ANG / math.sqrt(dot(new_lattice[i], new_lattice[i]))
    written = 0
    for s in range(len(bounds) - 1):
        n = _merge(frac, bounds[s], bounds[s + 1], size, cell, new_tol, tol, new_frac[written:])
        if n < 0:
            return 0 if n == -1 else 2
        written += n
    return 1


@compiled
def find_smaller_cell(
    lattice: np.ndarray, frac: np.ndarray, bounds: np.ndarray, new_lattice: np.ndarray, new_frac: np.ndarray
) -> tuple[int, int]:
    """The first smaller cell.

    Args:
        lattice: rows, angstrom.
        frac: (n, 3), atoms of one species together, species in alphabetic order of their symbols.
        bounds: first atom of each species, and n at the end.
        new_lattice: receives the smaller cell, angstrom.
        new_frac: receives its atoms, in the same order of species; as long as frac.

    Returns: PRIMITIVE, SMALLER or UNSURE (rounding decides: ask pymatgen), and by which factor it is smaller.
    """
    units = 0
    for s in range(len(bounds) - 1):
        units = math.gcd(units, bounds[s + 1] - bounds[s])
    if units == 1:
        return 0, 1
    tol, twice = np.empty(3), np.empty(3)
    for k in range(3):
        tol[k] = TOLERANCE_ANG / math.sqrt(dot(lattice[k], lattice[k]))
        twice[k] = 2 * tol[k]
    periods, unsure = _approximate_periods(frac, bounds, twice)
    if unsure:
        return 2, 1
    cell, inverse = np.zeros((3, 3)), np.zeros((3, 3))
    for size in range(2, units + 1):
        if units % size != 0:
            continue
        for a in range(1, size + 1):
            for e in range(1, size + 1):
                if size % a != 0 or (size // a) % e != 0:
                    continue
                for b in range(a):
                    for c in range(a):
                        for f in range(e):
                            _hermite(a, b, c, e, f, size // a // e, cell, inverse)
                            verdict = _try_cell(
                                lattice, frac, bounds, periods, tol, size, cell, inverse, new_lattice, new_frac
                            )
                            if verdict != 0:
                                return verdict, size
    return 0, 1
