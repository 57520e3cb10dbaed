"""Known crystals to search: bucketed by reduced formula, each reduced to its primitive Niggli cell once."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from generative.crystal.crystals import Crystal, crystals_of
from generative.screening.pair_fits import CellStack, Kind, kind_of, stack_cells
from generative.screening.reduction import ReducedCell, reduce_crystal, reduce_crystals
from generative.screening.slabs import comparable

if TYPE_CHECKING:
    import pyarrow as pa

FormulaKey = tuple[tuple[int, int], ...]
"""A reduced formula as (atomic number, count), sorted: equal exactly where pymatgen's fractional compositions are."""


class Shelf(NamedTuple):
    """ReferenceSet of one kind (composition of the reduced cell).

    Attributes:
        indices: their places in the reference set, ascending.
        cells: reduced, in the same order.
    """

    indices: np.ndarray
    cells: CellStack


class ReferenceSet:
    """Known crystals in memory, bucketed by reduced formula; each is reduced when first compared, and once.

    Args:
        ids: unique names, in the order in which references are tried.
        crystals: one per id.

    Raises: ValueError: if the lengths differ.
    """

    def __init__(self, ids: Sequence[str], crystals: Sequence[Crystal]) -> None:
        if len(ids) != len(crystals):
            raise ValueError(f"{len(ids)} ids beside {len(crystals)} crystals: expected one id per crystal")
        self._ids = list(ids)
        self._crystals = list(crystals)
        self._reduced: dict[int, ReducedCell] = {}
        self._shelves: dict[FormulaKey, dict[Kind, Shelf]] = {}
        self._comparable: dict[int, ReferenceSet] = {}
        self._lock = threading.Lock()
        self._buckets: dict[FormulaKey, list[int]] = defaultdict(list)
        for index, crystal in enumerate(self._crystals):
            self._buckets[formula_key(crystal)].append(index)

    @classmethod
    def from_table(cls, table: pa.Table) -> ReferenceSet:
        """The crystals of a dataset table (generative.datasets.table), in row order; rows without one are left out."""
        crystals = crystals_of(table)
        named = zip(table.column("id").to_pylist(), crystals, strict=True)
        pairs = [(name, crystal) for name, crystal in named if crystal is not None]
        return cls([name for name, _ in pairs], [crystal for _, crystal in pairs])

    def comparable(self, dimensions: int) -> ReferenceSet:
        """The same crystals as they are compared (generative.screening.slabs); itself where that changes none."""
        if dimensions == 3:
            return self
        with self._lock:
            if dimensions not in self._comparable:
                crystals = [comparable(crystal, dimensions) for crystal in self._crystals]
                self._comparable[dimensions] = ReferenceSet(self._ids, crystals)
            return self._comparable[dimensions]

    def __getstate__(self) -> dict[str, object]:
        """All but the lock, which no process can hand to another."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ids)

    def with_formula(self, key: FormulaKey) -> Sequence[int]:
        """Indices of the references of this reduced formula, in order."""
        return self._buckets.get(key, ())

    def id_of(self, index: int) -> str:
        """The reference's name."""
        return self._ids[index]

    def crystal_of(self, index: int) -> Crystal:
        """The reference as given."""
        return self._crystals[index]

    def reduced(self, index: int) -> ReducedCell:
        """The reference's primitive Niggli cell, computed at the first call."""
        if index not in self._reduced:
            self._reduced[index] = reduce_crystal(self._crystals[index])
        return self._reduced[index]

    def shelves(self, key: FormulaKey, workers: int = 1) -> dict[Kind, Shelf]:
        """The references of a formula by kind, reduced at the first call; one that cannot be reduced is left out."""
        with self._lock:
            if key not in self._shelves:
                waiting = [index for index in self.with_formula(key) if index not in self._reduced]
                cells = reduce_crystals([self._crystals[index] for index in waiting], workers)
                self._reduced.update(zip(waiting, cells, strict=True))
                self._shelves[key] = self._shelve(key)
            return self._shelves[key]

    def _shelve(self, key: FormulaKey) -> dict[Kind, Shelf]:
        by_kind: dict[Kind, list[int]] = defaultdict(list)
        found: dict[int, Crystal] = {}
        for index in self.with_formula(key):
            cell = self._reduced[index].crystal
            if cell is not None:
                found[index] = cell
                by_kind[kind_of(cell)].append(index)
        return {
            kind: Shelf(np.array(indices, dtype=np.int64), stack_cells([found[index] for index in indices]))
            for kind, indices in by_kind.items()
        }


def formula_key(crystal: Crystal) -> FormulaKey:
    """The crystal's reduced formula as sorted (atomic number, count) pairs; empty for a crystal without atoms."""
    numbers, counts = np.unique(np.asarray(crystal.atomic_numbers), return_counts=True)
    divisor = math.gcd(*counts.tolist()) or 1
    return tuple((int(z), int(n) // divisor) for z, n in zip(numbers, counts, strict=True))
