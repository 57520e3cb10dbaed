"""Uniqueness among candidates and novelty against known crystals, with the verdicts of pymatgen's StructureMatcher.

Two crystals are the same if StructureMatcher.fit says so at the given tolerances, all else at its defaults: primitive
and Niggli reduction, volumes scaled to be equal, no supercell attempts, elements compared (crystals here carry no
oxidation states). Where the tolerances say so, slabs are put into cells of one vacuum first. fit is neither symmetric
nor transitive, so "same" is defined as StructureMatcher.group_structures does: the earlier crystal is the first
argument, and a crystal belongs to the first group whose first member it fits.

The verdicts come from native code that follows pymatgen step by step (reduction, native.fit), spares what a proof
shows to be refused (native.placement_bound), and leaves to pymatgen itself every pair on which rounding could decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.screening.pair_fits import (
    ACCEPTED,
    FEW,
    REFUSED,
    CellStack,
    Judge,
    Kind,
    LatticeClasses,
    PairCounts,
    classes_of,
    kind_of,
    stack_cells,
)
from generative.screening.reduction import (
    MATCHER_FAULTS,
    ReducedCell,
    reduce_crystal,
    reduce_crystals,
)
from generative.screening.references import FormulaKey, ReferenceSet, Shelf, formula_key
from generative.screening.slabs import comparable
from generative.screening.tolerances import Tolerances

__all__ = [
    "MATCHER_FAULTS",
    "FormulaKey",
    "Grouping",
    "Judge",
    "KnownMatch",
    "KnownSearch",
    "PairCounts",
    "PairRms",
    "ReferenceSet",
    "ReferenceSet",
    "Tolerances",
    "counts_of",
    "find_known",
    "fit_reduced",
    "fit_rms",
    "formula_key",
    "group",
    "pairwise_rms",
    "reduce_crystal",
]

ROW_PER_WORKER = 48
"""Pairs of one first crystal below which threads cost more than they bring."""


@dataclass(frozen=True)
class Grouping:
    """Which crystals are copies of which.

    Attributes:
        first_members: for each crystal the index of its group's first member; its own index if it opens a group.
        failures: reason for each crystal (by index) that the matcher could not handle; such a crystal, or pair, counts
            as different.
        n_fits: pairs that needed an exact fit.
        tolerances: of the matcher.
        pairs: all pairs looked at, by what settled them.
    """

    first_members: list[int]
    failures: dict[int, str]
    n_fits: int
    tolerances: Tolerances
    pairs: PairCounts


@dataclass(frozen=True)
class KnownMatch:
    """The first known crystal, in reference order, that a candidate is the same as.

    Attributes:
        reference_id: of the known crystal.
        rms: StructureMatcher.get_rms_dist(known, candidate)[0], root mean square displacement of paired atoms in units
            of (V/N)^(1/3).
    """

    reference_id: str
    rms: float


@dataclass(frozen=True)
class KnownSearch:
    """Which crystals are already known.

    Attributes:
        matches: one per crystal; None means new.
        failures: reason for each crystal (by index) that the matcher could not handle; it counts as new.
        n_fits: pairs that needed an exact fit.
        tolerances: of the matcher.
        pairs: all pairs looked at, by what settled them.
    """

    matches: list[KnownMatch | None]
    failures: dict[int, str]
    n_fits: int
    tolerances: Tolerances
    pairs: PairCounts


@dataclass(frozen=True)
class PairRms:
    """Displacements of pairs of crystals.

    Attributes:
        rms: StructureMatcher.get_rms_dist(first, second)[0] per pair, (n,), units of (V/N)^(1/3); NaN where the pair
            does not match or could not be compared.
        failures: reason for each pair (by index) that could not be compared.
        tolerances: of the matcher.
        pairs: pairs of one composition and primitive atom count, by what settled them.
    """

    rms: np.ndarray
    failures: dict[int, str]
    tolerances: Tolerances
    pairs: PairCounts


def group(crystals: Sequence[Crystal], tolerances: Tolerances, workers: int = 1) -> Grouping:
    """Group crystals that are the same, as StructureMatcher.group_structures does; the first member is the earliest.

    Args:
        crystals: in the order that decides who opens a group.
        tolerances: of the matcher.
        workers: threads; the result does not depend on it.
    """
    judge = Judge(tolerances)
    crystals = [comparable(crystal, tolerances.dimensions) for crystal in crystals]
    cells = reduce_crystals(crystals, workers)
    failures = {index: cell.fault for index, cell in enumerate(cells) if cell.crystal is None}
    first_members = list(range(len(crystals)))
    buckets: dict[Kind, list[int]] = defaultdict(list)
    for index, cell in enumerate(cells):
        if cell.crystal is not None:
            buckets[kind_of(cell.crystal)].append(index)
    with _pool(workers) as pool:
        for members in buckets.values():
            stack = stack_cells([found for i in members if (found := cells[i].crystal) is not None])
            classes = classes_of(stack)
            left = np.arange(len(members))
            while len(left) > 1:
                opener, left = left[0], left[1:]
                verdicts = _row(judge, stack, classes, opener, left, pool, workers)
                for row in np.flatnonzero((verdicts != REFUSED) & (verdicts != ACCEPTED)):
                    earlier, index = members[opener], members[left[row]]
                    same, fault = judge.fit(crystals[earlier], cells[earlier], crystals[index], cells[index])
                    verdicts[row] = ACCEPTED if same else REFUSED
                    if fault:
                        failures.setdefault(index, f"compared with candidate {earlier}: {fault}")
                for row in left[verdicts == ACCEPTED]:
                    first_members[members[row]] = members[opener]
                left = left[verdicts != ACCEPTED]
    return Grouping(first_members, failures, judge.counts.n_fits, tolerances, judge.counts)


def _pool(workers: int) -> AbstractContextManager[Executor | None]:
    """Threads, which the native code lets run side by side; None for one worker."""
    if workers < 1:
        raise ValueError(f"{workers} workers: expected at least 1")
    return nullcontext(None) if workers == 1 else ThreadPoolExecutor(workers)


def _row(
    judge: Judge,
    stack: CellStack,
    classes: LatticeClasses | None,
    opener: int,
    others: np.ndarray,
    pool: Executor | None,
    workers: int,
) -> np.ndarray:
    """Verdicts of fit(opener, other), the others shared out among the threads."""
    if classes is not None and len(others) > FEW:
        kept = judge.mappable(classes, opener, others)
        verdicts = np.full(len(others), REFUSED, np.int8)
        if kept.any():
            verdicts[kept] = _row(judge, stack, None, opener, others[kept], pool, workers)
        return verdicts
    openers = np.full(len(others), opener)
    if pool is None or len(others) < workers * ROW_PER_WORKER:
        return judge.verdicts(stack, openers, stack, others)
    parts = [np.arange(k, len(others), workers) for k in range(workers)]
    jobs = [pool.submit(judge.verdicts, stack, openers[part], stack, others[part]) for part in parts]
    verdicts = np.empty(len(others), np.int8)
    for part, job in zip(parts, jobs, strict=True):
        verdicts[part] = job.result()
    return verdicts


def find_known(
    crystals: Sequence[Crystal], references: ReferenceSet, tolerances: Tolerances, workers: int = 1
) -> KnownSearch:
    """For each crystal the first reference, in reference order, that StructureMatcher.fit(reference, crystal) accepts.

    A reference is reduced when its formula is first asked for; one that cannot be reduced is passed over.

    Args:
        crystals: candidates.
        references: known crystals; a ReferenceSet, or an index opened from disk.
        tolerances: of the matcher.
        workers: threads; the result does not depend on it.
    """
    judge, rms_judge = Judge(tolerances), Judge(tolerances)
    references = references.comparable(tolerances.dimensions)
    crystals = [comparable(crystal, tolerances.dimensions) for crystal in crystals]
    keys = [formula_key(crystal) for crystal in crystals]
    compared = [index for index, key in enumerate(keys) if len(references.with_formula(key))]
    cells = dict(zip(compared, reduce_crystals([crystals[i] for i in compared], workers), strict=True))
    matches: list[KnownMatch | None] = [None] * len(crystals)
    failures = {index: cell.fault for index, cell in cells.items() if cell.crystal is None}

    def search(index: int) -> None:
        cell = cells[index].crystal
        shelf = references.shelves(keys[index]).get(kind_of(cell)) if cell is not None else None
        if cell is None or shelf is None:
            return
        stack = stack_cells([cell])
        row, fault = _first_hit(judge, references, shelf, crystals[index], cells[index], stack)
        if fault:
            failures[index] = fault
        if row is not None:
            rms = rms_judge.rms(shelf.cells, row, stack, 0)
            number = int(shelf.indices[row])
            if rms is None:
                rms, _ = rms_judge.rms_by_pymatgen(
                    references.crystal_of(number), references.reduced(number), crystals[index], cells[index]
                )
            matches[index] = KnownMatch(references.id_of(number), rms)

    with _pool(workers) as pool:
        for key in dict.fromkeys(keys[index] for index in compared):
            references.shelves(key, workers)
        list((map if pool is None else pool.map)(search, compared))
    return KnownSearch(matches, dict(sorted(failures.items())), judge.counts.n_fits, tolerances, judge.counts)


def _first_hit(
    judge: Judge, references: ReferenceSet, shelf: Shelf, crystal: Crystal, cell: ReducedCell, stack: CellStack
) -> tuple[int | None, str]:
    """Place on the shelf of the first reference that fits, and the first fault on the way."""
    start, first_fault = 0, ""
    while start < len(shelf.indices):
        rows = np.arange(start, len(shelf.indices))
        verdicts = judge.verdicts(shelf.cells, rows, stack, np.zeros_like(rows), stop_at_match=True)
        start += len(verdicts)
        if not len(verdicts) or verdicts[-1] == REFUSED:
            break
        if verdicts[-1] == ACCEPTED:
            return start - 1, first_fault
        number = int(shelf.indices[start - 1])
        same, fault = judge.fit(references.crystal_of(number), references.reduced(number), crystal, cell)
        first_fault = first_fault or (fault and f"compared with {references.id_of(number)}: {fault}")
        if same:
            return start - 1, first_fault
    return None, first_fault


def pairwise_rms(
    first: Sequence[Crystal], second: Sequence[Crystal], tolerances: Tolerances, workers: int = 1
) -> PairRms:
    """StructureMatcher.get_rms_dist(first[i], second[i])[0] for every i.

    Args:
        first: crystals, first arguments of the matcher; an object that occurs in several pairs is reduced once.
        second: as many crystals, second arguments.
        tolerances: of the matcher.
        workers: threads; the result does not depend on it.

    Raises: ValueError: if the lengths differ or there are no workers.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} first crystals beside {len(second)} second: expected pairs")
    judge = Judge(tolerances)
    if tolerances.dimensions != 3:
        as_compared = {id(crystal): comparable(crystal, tolerances.dimensions) for crystal in (*first, *second)}
        first, second = ([as_compared[id(crystal)] for crystal in side] for side in (first, second))
    distinct = {id(crystal): crystal for crystal in (*first, *second)}
    readied = dict(zip(distinct, _ready(list(distinct.values()), workers), strict=True))
    rms = np.full(len(first), np.nan)
    failures: dict[int, str] = {}

    def compare(index: int) -> None:
        pair = readied[id(first[index])], readied[id(second[index])]
        fault = pair[0].cell.fault or pair[1].cell.fault
        if pair[0].kind == pair[1].kind and pair[0].stack is not None and pair[1].stack is not None:
            found = judge.rms(pair[0].stack, 0, pair[1].stack, 0)
            if found is None:
                found, fault = judge.rms_by_pymatgen(first[index], pair[0].cell, second[index], pair[1].cell)
            rms[index] = found
        if fault:
            failures[index] = fault

    with _pool(workers) as pool:
        list(map(compare, range(len(first))) if pool is None else pool.map(compare, range(len(first))))
    return PairRms(rms, dict(sorted(failures.items())), tolerances, judge.counts)


@dataclass(frozen=True)
class _Ready:
    """A crystal readied for comparison: its reduced cell, its kind and a stack of one."""

    cell: ReducedCell
    kind: Kind
    stack: CellStack | None


def _ready(crystals: Sequence[Crystal], workers: int) -> list[_Ready]:
    """Each crystal reduced."""
    readied = []
    for cell in reduce_crystals(crystals, workers):
        stack = None if cell.crystal is None else stack_cells([cell.crystal])
        readied.append(_Ready(cell, () if cell.crystal is None else kind_of(cell.crystal), stack))
    return readied


def fit_rms(first: Crystal, second: Crystal, tolerances: Tolerances) -> float | None:
    """StructureMatcher.get_rms_dist(first, second)[0]; None if they do not match.

    Raises: ValueError: with the reason, if the pair could not be compared.
    """
    found = pairwise_rms([first], [second], tolerances)
    if found.failures:
        raise ValueError(found.failures[0])
    return None if np.isnan(found.rms[0]) else float(found.rms[0])


def fit_reduced(
    judge: Judge, first: Crystal, first_cell: ReducedCell, second: Crystal, second_cell: ReducedCell
) -> tuple[bool, str]:
    """(same, fault) of one pair, each crystal as given and reduced (reduce_crystal); a fault counts as different."""
    if first_cell.crystal is None or second_cell.crystal is None:
        return False, first_cell.fault or second_cell.fault
    if kind_of(first_cell.crystal) != kind_of(second_cell.crystal):
        return False, ""
    only = np.zeros(1, np.int64)
    verdict = judge.verdicts(stack_cells([first_cell.crystal]), only, stack_cells([second_cell.crystal]), only)[0]
    if verdict in (ACCEPTED, REFUSED):
        return bool(verdict == ACCEPTED), ""
    return judge.fit(first, first_cell, second, second_cell)


def counts_of(crystal: Crystal) -> Mapping[str, int]:
    """Atoms of the cell per element symbol, by atomic number; what the composition check takes.

    Raises: ValueError: if an atomic number is not an element from H to Lr.
    """
    numbers, counts = np.unique(np.asarray(crystal.atomic_numbers), return_counts=True)
    unknown = [int(z) for z in numbers if not 1 <= z <= len(ELEMENTS)]
    if unknown:
        raise ValueError(f"atomic number {unknown[0]} is not an element: expected 1 to {len(ELEMENTS)}")
    return {ELEMENTS[int(z) - 1]: int(n) for z, n in zip(numbers, counts, strict=True)}
