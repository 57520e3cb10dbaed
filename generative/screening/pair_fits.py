"""Verdicts on pairs of reduced crystals: native code where it is sure, pymatgen where it is not or numba is missing.

Pairs are judged in stacks of crystals of one composition and one number of atoms; all other pairs differ, since no
supercell is attempted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.native import door as native
from generative.screening.reduction import (
    MATCHER_FAULTS,
    ReducedCell,
    fault_sentence,
    n_points_within,
    points_in_sphere,
    reduce_with_pymatgen,
)
from generative.screening.tolerances import Tolerances

if TYPE_CHECKING:
    from generative.native.lattice_windows import Parameters

Kind = tuple[tuple[int, int], ...]
"""Composition of a reduced cell: (atomic number, atoms), sorted. Crystals of unequal kind never fit."""

REFUSED, ACCEPTED, UNSURE = 0, 1, 2
"""Verdicts of the native code; equal to generative.native.fit's, which is imported only where numba is."""

MAX_PYMATGEN_POINTS = 20_000
"""Lattice points whose pairs pymatgen holds in memory at once: 3 GB at this many; ordinary cells have 10 to 1,000."""

FEW = 24
"""Pairs of one first crystal for which listing the bases of its lattice costs more than it spares."""

CLASS_RATIO = 1.5
"""Longest vectors of one class of lattices differ by this factor at most."""


@dataclass
class PairCounts:
    """How many pairs were settled by what; n_pairs is the sum of the others.

    Attributes:
        n_pairs: pairs of one composition and one primitive atom count that were looked at.
        n_no_lattice: refused because no basis of the first lattice is within ltol and the angle tolerance.
        n_no_cover: refused because no translation brings every atom into the box of one of its kind.
        n_no_placement: refused by the bound of placement_bound.
        n_solved: an assignment was solved.
        n_by_pymatgen: given to pymatgen, since rounding could decide or numba is missing.
    """

    n_pairs: int = 0
    n_no_lattice: int = 0
    n_no_cover: int = 0
    n_no_placement: int = 0
    n_solved: int = 0
    n_by_pymatgen: int = 0

    @property
    def n_fits(self) -> int:
        """Pairs that needed an exact fit: an assignment solved here, or pymatgen."""
        return self.n_solved + self.n_by_pymatgen

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {f.name: int(getattr(self, f.name)) for f in fields(self)}


class CellStack(NamedTuple):
    """m reduced crystals of one kind, n atoms each, as the native code reads them.

    Attributes:
        lattices: rows, volume 1 per atom, (m, 3, 3).
        longest: longest lattice vector of each, (m,).
        coordinates: fractional, atoms sorted by atomic number, (m, n, 3).
        refs: the atom laid upon those of the other crystal: the first, in the order of the reduced cell, of the rarest
            species, (m,).
        bounds: first atom of each species, and n.
    """

    lattices: np.ndarray
    longest: np.ndarray
    coordinates: np.ndarray
    refs: np.ndarray
    bounds: np.ndarray

    def take(self, indices: Sequence[int] | np.ndarray) -> CellStack:
        """The crystals of these indices."""
        kept = np.asarray(indices, dtype=np.int64)
        return CellStack(self.lattices[kept], self.longest[kept], self.coordinates[kept], self.refs[kept], self.bounds)


def kind_of(crystal: Crystal) -> Kind:
    """The composition of a reduced cell."""
    numbers, counts = np.unique(np.asarray(crystal.atomic_numbers), return_counts=True)
    return tuple(zip(numbers.tolist(), counts.tolist(), strict=True))


def stack_cells(cells: Sequence[Crystal]) -> CellStack:
    """Reduced crystals of one kind as a stack; cells may be empty only if nothing is asked of the stack."""
    m, n = len(cells), len(cells[0].atomic_numbers)
    lattices, coordinates, refs = np.empty((m, 3, 3)), np.empty((m, n, 3)), np.empty(m, np.int64)
    kinds, counts = np.unique(cells[0].atomic_numbers, return_counts=True)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    for i, cell in enumerate(cells):
        numbers = np.asarray(cell.atomic_numbers)
        lattices[i] = cell.lattice_ang * (n / abs(np.linalg.det(cell.lattice_ang))) ** (1 / 3)
        order = np.argsort(numbers, kind="stable")
        coordinates[i] = cell.frac[order]
        # pymatgen takes the row of its mask with most forbidden partners; argmax and argmin name the first.
        rarest = int(np.argmin(counts[np.searchsorted(kinds, numbers)]))
        refs[i] = np.flatnonzero(order == rarest)[0]
    return CellStack(lattices, np.sqrt((lattices**2).sum(axis=2)).max(axis=1), coordinates, refs, bounds)


class LatticeClasses:
    """The lattices of a stack, sorted into classes of like length.

    What is listed of a first lattice reaches as far as the longest vector of the others, so a few thin cells would make
    it long for all.

    Attributes:
        stack: the crystals.
        number: class of each, (m,).
        row: its row among the parameters of its class, (m,).
        longest: longest vector of each class.
        parameters: of each class.
    """

    def __init__(self, stack: CellStack) -> None:
        from generative.native.lattice_windows import parameters_of_all

        self.stack = stack
        steps = np.log(stack.longest / stack.longest.min()) / np.log(CLASS_RATIO)
        _, self.number = np.unique(steps.astype(np.int64), return_inverse=True)
        self.row = np.empty(len(steps), np.int64)
        self.longest: list[float] = []
        self.parameters: list[Parameters] = []
        for number in range(self.number.max() + 1):
            members = np.flatnonzero(self.number == number)
            self.row[members] = np.arange(len(members))
            self.longest.append(float(stack.longest[members].max()))
            self.parameters.append(parameters_of_all(np.ascontiguousarray(stack.lattices[members])))


def classes_of(stack: CellStack) -> LatticeClasses | None:
    """The classes of a stack; None where so few pairs, or no native code, make them worth nothing."""
    return LatticeClasses(stack) if len(stack.refs) > FEW and native.is_available() else None


@dataclass
class Judge:
    """Judges pairs at given tolerances and counts what it took.

    Attributes:
        tolerances: of the matcher.
        counts: so far; threads may share a judge.
    """

    tolerances: Tolerances
    counts: PairCounts = field(default_factory=PairCounts)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def verdicts(
        self, first: CellStack, firsts: np.ndarray, second: CellStack, seconds: np.ndarray, stop_at_match: bool = False
    ) -> np.ndarray:
        """Native verdicts on fit(first[firsts[i]], second[seconds[i]]), up to the first that is not REFUSED if asked.

        UNSURE pairs are for `fit`; without numba all pairs are.
        """
        if not native.is_available():
            return np.full(1 if stop_at_match and len(firsts) else len(firsts), UNSURE, np.int8)
        from generative.native.fit import fit_pairs

        verdicts, stages, rms = np.zeros(len(firsts), np.int8), np.zeros(len(firsts), np.int8), np.zeros(len(firsts))
        asked = self._numbers(), np.zeros((0, 3), np.int64), stop_at_match
        n = fit_pairs(*first, firsts, *second[:-1], seconds, *asked, verdicts, stages, rms)
        self._count(verdicts[:n], stages[:n])
        return verdicts[:n]

    def mappable(self, classes: LatticeClasses, first: int, seconds: np.ndarray) -> np.ndarray:
        """Of which of `seconds` the lattice may be mapped on by that of `first`; the others are refused and counted."""
        from generative.native.lattice_windows import may_be_mapped

        kept = np.ones(len(seconds), np.bool_)
        numbers = self._numbers()
        for number, one in enumerate(classes.parameters):
            rows = np.flatnonzero(classes.number[seconds] == number)
            if len(rows) > FEW:
                found = np.empty(len(rows), np.bool_)
                others = classes.row[seconds[rows]]
                may_be_mapped(classes.stack.lattices[first], classes.longest[number], others, one, numbers, found)
                kept[rows] = found
        n_refused = len(seconds) - int(np.count_nonzero(kept))
        with self._lock:
            self.counts.n_pairs += n_refused
            self.counts.n_no_lattice += n_refused
        return kept

    def fit(
        self, first: Crystal, first_cell: ReducedCell, second: Crystal, second_cell: ReducedCell
    ) -> tuple[bool, str]:
        """(same, fault) by pymatgen alone, its own reduction included; a fault counts as different."""
        with self._lock:
            self.counts.n_pairs += 1
            self.counts.n_by_pymatgen += 1
        pair, fault = self._reduced_by_pymatgen((first, first_cell), (second, second_cell))
        if fault:
            return False, fault
        try:
            return bool(self.tolerances.matcher().fit(*pair, skip_structure_reduction=True)), ""
        except MATCHER_FAULTS as error:
            return False, fault_sentence("the matcher", error)

    def rms(self, first: CellStack, i: int, second: CellStack, j: int) -> float | None:
        """get_rms_dist of a pair, NaN if it does not match, None if pymatgen must be asked."""
        if not native.is_available():
            return None
        from generative.native.fit import MAX_POINTS, fit_pairs

        radius = float(second.longest[j]) * (1 + self.tolerances.ltol)
        if not n_points_within(radius, float(second.bounds[-1])) < MAX_POINTS:
            return None
        # Threefold, for pymatgen orders the points of spheres below 1 A in another way.
        points = points_in_sphere(3 * first.lattices[i], 3 * radius)
        if not 0 < len(points) < MAX_POINTS:
            return None
        verdicts, stages, rms = np.zeros(1, np.int8), np.zeros(1, np.int8), np.full(1, np.nan)
        pair = np.array([i]), np.array([j])
        fit_pairs(*first, pair[0], *second[:-1], pair[1], self._numbers(), points, False, verdicts, stages, rms)
        self._count(verdicts, stages)
        if verdicts[0] == UNSURE:
            return None
        return float(rms[0]) if verdicts[0] == ACCEPTED else float("nan")

    def rms_by_pymatgen(
        self, first: Crystal, first_cell: ReducedCell, second: Crystal, second_cell: ReducedCell
    ) -> tuple[float, str]:
        """(get_rms_dist or NaN, fault) by pymatgen alone, its own reduction included."""
        with self._lock:
            self.counts.n_pairs += 1
            self.counts.n_by_pymatgen += 1
        pair, fault = self._reduced_by_pymatgen((first, first_cell), (second, second_cell))
        if fault:
            return float("nan"), fault
        try:
            # get_rms_dist without its reduction, which it cannot be asked to skip.
            matcher = self.tolerances.matcher()
            found = matcher._match(*matcher._preprocess(*pair, skip_structure_reduction=True), use_rms=True)
        except MATCHER_FAULTS as error:
            return float("nan"), fault_sentence("the matcher", error)
        return (float("nan") if found is None else float(found[0])), ""

    def _numbers(self) -> np.ndarray:
        return np.array([self.tolerances.ltol, self.tolerances.stol, self.tolerances.angle_tol_deg])

    def _count(self, verdicts: np.ndarray, stages: np.ndarray) -> None:
        """Enter pairs that are settled; UNSURE ones are entered by whoever asks pymatgen."""
        reached = np.bincount(stages[verdicts != UNSURE], minlength=4)
        with self._lock:
            self.counts.n_pairs += int(reached.sum())
            self.counts.n_no_lattice += int(reached[0])
            self.counts.n_no_cover += int(reached[1])
            self.counts.n_no_placement += int(reached[2])
            self.counts.n_solved += int(reached[3])

    def _reduced_by_pymatgen(self, *pair: tuple[Crystal, ReducedCell]) -> tuple[list[Structure], str]:
        """Both crystals as pymatgen reduces them, or the fault."""
        structures = []
        for crystal, cell in pair:
            reduced = cell if cell.is_final else reduce_with_pymatgen(crystal)
            if reduced.crystal is None:
                return [], reduced.fault
            structures.append(reduced.crystal.to_structure())
        longest = max(structures[1].lattice.abc) * (1 + self.tolerances.ltol) / structures[1].volume ** (1 / 3)
        n_points = n_points_within(longest, 1.0)
        if n_points > MAX_PYMATGEN_POINTS:
            return [], f"the cells are so flat that pymatgen would try all pairs of {n_points:.0e} lattice points"
        return structures, ""
