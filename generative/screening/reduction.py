"""The primitive Niggli cell of a crystal as StructureMatcher makes it: pymatgen's steps in native code.

The output equals StructureMatcher._get_reduced_structure to rounding, order of atoms included, since fit depends on it.
Where a decision hangs on rounding the crystal goes to pymatgen itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.native import door as native

MATCHER_FAULTS = (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError, MemoryError)
"""What reduction and mapping raise on degenerate cells (numpy's LinAlgError is a ValueError)."""

MAX_IMAGES = 2e7
"""Images of a cell that pymatgen may search to reduce it, some 15 s; ordinary cells have 100 to 10,000."""

HEAVIEST = 118
"""Largest atomic number pymatgen has an element for."""


class ReducedCell(NamedTuple):
    """A crystal as the matcher compares it, or the reason why there is none.

    Attributes:
        crystal: its primitive Niggli cell; None if it has none. Coordinates need not be wrapped.
        fault: why there is none; empty otherwise.
        is_final: pymatgen is not to reduce the crystal once more, because it did so itself or because only this cell is
            kept. Its reduction is not idempotent: a second one may turn the basis.
    """

    crystal: Crystal | None
    fault: str
    is_final: bool = False

    @property
    def structure(self) -> Structure | None:
        """The reduced cell as a pymatgen Structure."""
        return None if self.crystal is None else self.crystal.to_structure()


def reduce_crystals(crystals: Sequence[Crystal], workers: int = 1) -> list[ReducedCell]:
    """The reduced cell of each crystal.

    Args:
        crystals: any; one that cannot be reduced gives a reason.
        workers: threads. The result does not depend on it.
    """
    if workers == 1 or len(crystals) < 64:
        return [reduce_crystal(crystal) for crystal in crystals]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(reduce_crystal, crystals, chunksize=64))


def reduce_crystal(crystal: Crystal) -> ReducedCell:
    """The primitive Niggli cell, or the reason why there is none."""
    fault = unfit_reason(crystal) or _flat_reason(np.array(crystal.lattice_ang, dtype=float))
    if fault:
        return ReducedCell(None, fault)
    if native.is_available():
        try:
            found = _reduce_native(crystal)
        except (*MATCHER_FAULTS, ZeroDivisionError):  # pymatgen words the refusal
            found = None
        if found is not None:
            return ReducedCell(found, "")
    return reduce_with_pymatgen(crystal)


def _flat_reason(lattice: np.ndarray) -> str:
    """Why pymatgen must not reduce a cell: its search for lattice points would take minutes or fill the memory."""
    if native.is_available():
        from generative.native.lattice import lll_reduce

        reduced = lattice.copy()
        lll_reduce(reduced, 0)
    else:
        reduced = np.asarray(Lattice(lattice).lll_matrix)
    # pymatgen searches all images of the cell as given, and below 1 A a sphere of 1 A.
    radius = max(1.0, float(np.linalg.norm(reduced, axis=1).max()))
    n_images = float(np.prod(2 * radius * np.linalg.norm(np.linalg.inv(lattice), axis=0) + 1))
    if n_images <= MAX_IMAGES:
        return ""
    return f"so small, flat or skewed a cell cannot be matched: reducing it would try {n_images:.0e} images"


def n_points_within(radius: float, cell_volume: float) -> float:
    """About how many lattice points lie in a sphere."""
    return 4 / 3 * math.pi * radius**3 / cell_volume


def reduce_with_pymatgen(crystal: Crystal) -> ReducedCell:
    """The primitive Niggli cell by pymatgen alone."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    try:
        # The one private call: reducing by its public methods would be a second copy of their order.
        structure = StructureMatcher._get_reduced_structure(crystal.to_structure())
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int16)
        return ReducedCell(Crystal(np.array(structure.lattice.matrix), structure.frac_coords, numbers), "", True)
    except MATCHER_FAULTS as error:
        return ReducedCell(None, fault_sentence("reduction to the primitive cell", error), True)


def unfit_reason(crystal: Crystal) -> str:
    """Why a crystal must not reach pymatgen, whose Niggli reduction may loop on such numbers; empty if it may."""
    if not (np.isfinite(crystal.lattice_ang).all() and np.isfinite(crystal.frac).all()):
        return "the crystal holds a value that is not finite: it cannot be matched"
    if not abs(np.linalg.det(crystal.lattice_ang)) > 0 or len(crystal.atomic_numbers) == 0:
        return "the cell has no volume or no atoms: it cannot be matched"
    unknown = [int(z) for z in crystal.atomic_numbers if not 1 <= z <= HEAVIEST]
    if unknown:
        return f"atomic number {unknown[0]} is not one from 1 to {HEAVIEST}: the crystal cannot be matched"
    return ""


def fault_sentence(where: str, error: BaseException) -> str:
    """What failed, as one line."""
    return f"{where} failed with {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


@lru_cache(maxsize=1)
def _alphabetic_ranks() -> np.ndarray:
    """Rank of each atomic number by symbol; 0 for numbers that are no element."""
    ranks = np.zeros(1024, dtype=np.int64)
    for rank, symbol in enumerate(sorted(ELEMENTS)):
        ranks[ELEMENTS.index(symbol) + 1] = rank + 1
    return ranks


def _reduce_native(crystal: Crystal) -> Crystal | None:
    """The reduced cell; None where pymatgen must be asked."""
    from generative.native.primitive import PRIMITIVE, SMALLER, find_smaller_cell

    numbers = np.asarray(crystal.atomic_numbers)
    if numbers.max() > len(ELEMENTS):
        return None
    cell = _niggli(np.ascontiguousarray(crystal.lattice_ang, float), np.asarray(crystal.frac, float))
    depth = 0
    while cell is not None:
        lattice, frac = cell
        ranks = _alphabetic_ranks()[numbers]
        order = np.argsort(ranks, kind="stable")
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(ranks[order])) + 1, [len(order)]]).astype(np.int64)
        smaller, merged = np.empty((3, 3)), np.empty((len(order), 3))
        verdict, size = find_smaller_cell(lattice, np.ascontiguousarray(frac[order]), bounds, smaller, merged)
        if verdict == PRIMITIVE:
            break
        if verdict != SMALLER:
            return None
        # After merging, every size-th atom of a species stands for itself and its images.
        numbers = np.repeat(numbers[order][bounds[:-1]], np.diff(bounds) // size)
        cell = smaller, merged[: len(numbers)]
        depth += 1
    for _ in range(depth):
        cell = _niggli(*cell) if cell is not None else None
    return None if cell is None else Crystal(cell[0], cell[1], numbers)


def _niggli(lattice: np.ndarray, frac: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Structure.get_reduced_structure of a cell: lattice and coordinates; None where rounding decides."""
    from generative.native.lattice import NIGGLI_TOL, first_mapping, lll_reduce, niggli_parameters

    tol_ang = NIGGLI_TOL * abs(np.dot(np.cross(lattice[0], lattice[1]), lattice[2])) ** (1 / 3)
    reduced = lattice.copy()
    if lll_reduce(reduced, 0):
        # A coefficient of one half: hexagonal and cubic cells. Its sign is rounding's, so take pymatgen's.
        reduced = np.ascontiguousarray(Lattice(lattice).lll_matrix)
    lengths, angles, unsure = niggli_parameters(reduced, tol_ang)
    if unsure or not (np.isfinite(lengths).all() and np.isfinite(angles).all()):
        return None
    points = points_in_sphere(lattice, lengths.max() * (1 + tol_ang))
    basis = np.zeros((3, 3), dtype=np.int64)
    if first_mapping(lattice, points, lengths, angles, tol_ang, basis) != 1:
        return None
    new = basis @ lattice
    if np.linalg.det(new) <= 0:
        new = -new
    if np.allclose(new, lattice):
        return lattice, frac
    return new, np.mod((frac @ lattice) @ np.linalg.inv(new), 1)


def points_in_sphere(lattice: np.ndarray, radius: float) -> np.ndarray:
    """Integer coordinates, (k, 3), of the lattice points within `radius` in pymatgen's order, which decides ties."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    origin: Any = np.zeros((1, 3))
    images = find_points_in_spheres(
        all_coords=origin,
        center_coords=origin,
        r=float(radius),
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(lattice, dtype=float),
        tol=1e-8,
    )[2]
    return np.ascontiguousarray(images, dtype=np.int64)
