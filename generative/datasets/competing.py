"""Which known phases compete on a hull when there are more of them than may be relaxed.

The choice is made from the energies that the sources state, before any is relaxed. What they state is of several kinds
and levels of theory, which never share an order:

- **Groups.** Rows are grouped by level of theory (levels.py; where no method is stated, by source) and by quantity.
  Formation energies of a level span one hull. Total energies of a level span another, without the elements if these
  have none; they are asked at levels where a row states no formation energy. A hull keeps its shape when a linear
  function of composition is added to all energies, so whatever lies above the hull of its own group lies above the hull
  of all rows at any level that differs by elemental references alone: only rows on the hulls of their groups may touch
  the hull of the table.
- **Distance.** Each row has one distance, eV/atom: above the hull of formation energies if it states one, or its
  database's `e_above_hull` if that is smaller; without a formation energy the smaller of `e_above_hull` and the
  distance above the hull of total energies; else none. An `e_above_hull` becomes a formation energy where the
  database's hull at that composition is known: zero at an element, and where another row of the level states both.
- **Elements.** A formation energy is counted from the elements. An element none of whose rows is in the group stands
  there at the lowest height that any of its rows states, at zero if the table has no row of it, and not at all if it
  has only rows without a height: a corner that the table may not have would hide what lies on its hull.

The order is

1. all rows on the hull of their group and the lowest row of every element, even if these are more than asked for;
2. rows within REORDERED_WITHIN_EV_PER_ATOM of it, nearest first: the potential may put them on its hull;
3. rows without any stated energy, elements first, then formula by formula in rounds: they may lie on the hull;
4. the other rows, nearest first.

Distances of unlike groups are merged by their number in 2 and 4. That orders no energies of unlike kinds: each is what
the row would have to gain to reach the hull of its own kind, and the potential's error, which decides whether it does,
is the same for all.

What is left out is told by a Cut (cut.py), with a bound.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from pymatgen.core.composition import Composition

from generative.config import ELEMENTS
from generative.datasets.cut import REORDERED_WITHIN_EV_PER_ATOM, Cut
from generative.datasets.levels import level_of
from generative.datasets.lower_hull import heights_above_lower_hull

ON_HULL_EV_PER_ATOM = 1e-6
"""So near the hull a row lies on it: sources state energies to some 1e-6 eV/atom at best."""

LARGEST_EV_PER_ATOM = 1e7
"""Beyond this a number is no energy of an atom: all electrons of the heaviest bind with some 1e6 eV."""

FORMATION, ABOVE, TOTAL = "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom", "energy_ev_per_atom"

Formula = tuple[tuple[int, int], ...]
"""Atomic numbers and atoms of a reduced formula, by atomic number."""


@dataclass(frozen=True)
class Choice:
    """The competing phases of a table.

    Attributes:
        rows: of the table, most important first; in table order where nothing had to be left out.
        cut: what was left out.
    """

    rows: tuple[int, ...]
    cut: Cut


def choose(table: pa.Table, most: int) -> Choice:
    """The competing phases of a table as one chemical system: at most `most`, and all that lie on the hull.

    Args:
        table: rows with an id and a crystal (or a formula), and with what DATASET_SCHEMA says of energies; any of these
            columns may be missing. A row without a crystal is no phase.
        most: phases at most.
    """
    phases = _Phases(table)
    return _choose(phases, [[row for row, formula in enumerate(phases.formulas) if formula]], most)


def choose_for_systems(table: pa.Table, systems: Sequence[Sequence[str]], most: int) -> Choice:
    """The competing phases of several chemical systems, at most `most` for each (see choose), each phase once.

    Args:
        table: see choose.
        systems: element symbols of each.
        most: phases at most per system.

    Returns: Rows in table order; a cut that counts a phase as kept if any system keeps it.
    """
    phases = _Phases(table)
    by_elements: dict[frozenset[int], list[int]] = defaultdict(list)
    for row, formula in enumerate(phases.formulas):
        if formula:
            by_elements[frozenset(number for number, _ in formula)].append(row)
    inside = []
    for system in systems:
        numbers = frozenset(ELEMENTS.index(symbol) + 1 for symbol in system)
        inside.append(sorted(row for part in _parts(numbers, by_elements) for row in by_elements[part]))
    choice = _choose(phases, inside, most)
    return replace(choice, rows=tuple(sorted(choice.rows)))


def _parts(system: frozenset[int], known: Iterable[frozenset[int]]) -> list[frozenset[int]]:
    """The chemical systems among those known that lie within this one."""
    if len(system) > 8:
        return [part for part in known if part <= system]
    known = set(known)
    every = (frozenset(part) for n in range(1, len(system) + 1) for part in combinations(sorted(system), n))
    return [part for part in every if part in known]


def _choose(phases: _Phases, systems: Sequence[Sequence[int]], most: int) -> Choice:
    """Of each system (its rows, in table order) what competes."""
    crowded = sorted({row for rows in systems if len(rows) > most for row in rows})
    phases.measure(crowded)
    chosen: dict[int, None] = {}
    most_kept = 0
    for rows in systems:
        kept = rows if len(rows) <= most else phases.first(rows, most)
        most_kept = max(most_kept, len(kept))
        chosen |= dict.fromkeys(kept)
    everything = {row for rows in systems for row in rows}
    left_out = sorted(everything - set(chosen))
    stated = [d for row in left_out if (d := phases.distance[row]) is not None]
    cut = Cut(
        most=most,
        n_systems=len(systems),
        n_phases=len(everything),
        n_kept=len(chosen),
        most_kept=most_kept,
        n_unstated=len(left_out) - len(stated),
        n_unbound=sum(row in phases.unbound for row in left_out),
        nearest_ev_per_atom=min(stated, default=None),
        n_near=sum(d < REORDERED_WITHIN_EV_PER_ATOM for d in stated),
    )
    return Choice(tuple(chosen), cut)


class _Phases:
    """The rows of a table as compositions with stated energies; distances once they are measured.

    Attributes:
        formulas: of each row; empty where there is no crystal.
        distance: of each measured row, eV/atom; None if nothing is stated.
        unbound: measured rows whose distance bounds nothing.
    """

    def __init__(self, table: pa.Table) -> None:
        names = set(table.column_names)
        n = len(table)
        self.formulas = _formulas(table)
        self._ids = table.column("id").to_pylist() if "id" in names else [f"{row:012d}" for row in range(n)]
        self._formation, self._above, self._total = (_energies(table, name) for name in (FORMATION, ABOVE, TOTAL))
        self._levels = _levels(table)
        self.distance: dict[int, float | None] = {}
        self.unbound: set[int] = set()
        self._required: set[int] = set()

    def measure(self, rows: Sequence[int]) -> None:
        """Find the distances of these rows, which hold every row of the chemical systems they belong to."""
        self._complete_formation(rows)
        heights = {kind: self._heights(rows, kind) for kind in (FORMATION, TOTAL)}
        lowest_above: dict[tuple[str, Formula], float] = {}
        for row in rows:
            key = self._levels[row], self.formulas[row]
            lowest_above[key] = min(lowest_above.get(key, math.inf), _or_infinite(self._above[row]))
        for row in rows:
            stated = [heights[FORMATION].get(row), self._above[row]]
            if row not in heights[FORMATION]:
                stated.append(heights[TOTAL].get(row))
            known = [max(0.0, float(d)) for d in stated if d is not None and math.isfinite(d)]
            self.distance[row] = min(known, default=None)
            bound = row in heights[FORMATION] or row in heights[TOTAL]
            if known and not bound and self._above[row] <= lowest_above[self._levels[row], self.formulas[row]]:
                self.unbound.add(row)
        on_hull = [row for kind in heights for row, height in heights[kind].items() if height <= ON_HULL_EV_PER_ATOM]
        at_zero = [row for row in rows if (d := self.distance[row]) is not None and d <= ON_HULL_EV_PER_ATOM]
        self._required = {*on_hull, *at_zero}
        self._require_elements(rows)

    def first(self, rows: Sequence[int], most: int) -> list[int]:
        """The first of these rows in the order of the module's docstring: `most`, or all that must be kept."""
        n_required = sum(row in self._required for row in rows)
        rounds = self._rounds(row for row in rows if self.distance[row] is None)

        def order(row: int) -> tuple[Any, ...]:
            distance, named = self.distance[row], (self.formulas[row], self._ids[row], row)
            if row in self._required:
                return (1, 0.0 if distance is None else distance, len(self.formulas[row]), *named)
            if distance is None:
                return (3, 0.0, len(self.formulas[row]) > 1, rounds[row], *named)
            return (2 if distance < REORDERED_WITHIN_EV_PER_ATOM else 4, round(distance, 9), 0, *named)

        return sorted(rows, key=order)[: max(most, n_required)]

    def _complete_formation(self, rows: Sequence[int]) -> None:
        """Formation energies from distances above the database's hull where its energy there is known."""
        hull: dict[tuple[str, Formula], float] = {}
        for row in rows:
            key, at = (self._levels[row], self.formulas[row]), self._formation[row] - self._above[row]
            if math.isfinite(at):
                hull[key] = min(hull.get(key, math.inf), float(at))
        for row in rows:
            if not math.isfinite(self._formation[row]):
                default = 0.0 if len(self.formulas[row]) == 1 else math.nan
                self._formation[row] = self._above[row] + hull.get((self._levels[row], self.formulas[row]), default)

    def _heights(self, rows: Sequence[int], kind: str) -> dict[int, float]:
        """Height of every row that states this quantity above the hull of its group.

        Total energies are asked at those levels alone at which a row states no formation energy.
        """
        energy = self._formation if kind == FORMATION else self._total
        groups: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            if math.isfinite(energy[row]):
                groups[self._levels[row]].append(row)
        if kind == TOTAL:
            groups = {
                level: members for level, members in groups.items() if not np.isfinite(self._formation[members]).all()
            }
        found: dict[int, float] = {}
        for members in groups.values():
            corners = self._implied(rows, members) if kind == FORMATION else {}
            for system in _largest({self._elements(row) for row in members}):
                inside = [row for row in members if self._elements(row) <= system]
                if all(row in found for row in inside):
                    continue
                axes = sorted(system)
                at = {axes.index(number): height for number, height in corners.items() if number in system}
                points = np.vstack([self._fractions(inside, axes), np.eye(len(axes))[list(at)]])
                values = np.concatenate([energy[inside], np.array(list(at.values()), dtype=float)])
                heights = heights_above_lower_hull(points, values)
                found |= {row: float(height) for row, height in zip(inside, heights[: len(inside)], strict=True)}
        return found

    def _implied(self, rows: Sequence[int], members: Sequence[int]) -> dict[int, float]:
        """Heights at which elements stand in a group of formation energies that holds no row of them."""
        own = {next(iter(elements)) for row in members if len(elements := self._elements(row)) == 1}
        stated: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if len(elements := self._elements(row)) == 1:
                stated[next(iter(elements))].append(_or_infinite(self._formation[row]))
        wanted = {number for row in members for number in self._elements(row)} - own
        heights = {number: max(0.0, min(stated.get(number, [0.0]))) for number in wanted}
        return {number: height for number, height in sorted(heights.items()) if math.isfinite(height)}

    def _require_elements(self, rows: Sequence[int]) -> None:
        """Of every element one row must stay, stated or not: without it no compound has a place on the hull."""
        elemental = [row for row in rows if len(self.formulas[row]) == 1]
        covered = {self.formulas[row] for row in elemental if row in self._required}
        for row in sorted(elemental, key=lambda row: (_or_infinite(self.distance[row]), self._ids[row], row)):
            if self.formulas[row] not in covered:
                covered.add(self.formulas[row])
                self._required.add(row)

    def _rounds(self, rows: Iterable[int]) -> dict[int, int]:
        """The how-manieth of its formula each row is, by id."""
        taken: Counter[Formula] = Counter()
        found = {}
        for row in sorted(rows, key=lambda row: (self._ids[row], row)):
            found[row] = taken[self.formulas[row]]
            taken[self.formulas[row]] += 1
        return found

    def _elements(self, row: int) -> frozenset[int]:
        return frozenset(number for number, _ in self.formulas[row])

    def _fractions(self, rows: Sequence[int], axes: Sequence[int]) -> np.ndarray:
        counts = np.zeros((len(rows), len(axes)))
        column = {number: index for index, number in enumerate(axes)}
        for index, row in enumerate(rows):
            for number, n in self.formulas[row]:
                counts[index, column[number]] = n
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _largest(systems: set[frozenset[int]]) -> list[frozenset[int]]:
    """The systems that lie within no other, largest first; a row's height depends on the rows within its own alone."""
    kept: list[frozenset[int]] = []
    for system in sorted(systems, key=lambda s: (-len(s), sorted(s))):
        if not any(system <= other for other in kept):
            kept.append(system)
    return kept


def _formulas(table: pa.Table) -> list[Formula]:
    """Reduced formula of every row, from its crystal, or from the column `formula` of a table without crystals."""
    if "atomic_numbers" in table.column_names:
        counted = [Counter(numbers or ()) for numbers in table.column("atomic_numbers").to_pylist()]
    else:
        counted = [
            Counter({element.Z: round(n) for element, n in Composition(formula).element_composition.items()})
            for formula in (name or "" for name in table.column("formula").to_pylist())
        ]
    found = []
    for counts in counted:
        divisor = reduce(math.gcd, counts.values(), 0)
        found.append(tuple((number, n // divisor) for number, n in sorted(counts.items())))
    return found


def _energies(table: pa.Table, name: str) -> np.ndarray:
    """A column of energies, (n,), eV/atom; NaN where none is stated."""
    if name not in table.column_names or not _is_number(table.schema.field(name).type):
        return np.full(len(table), math.nan)
    values = np.array(table.column(name).cast(pa.float64()).to_pylist(), dtype=float)
    return np.asarray(np.where(np.abs(values) < LARGEST_EV_PER_ATOM, values, math.nan))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _levels(table: pa.Table) -> list[str]:
    """Level of theory of every row; where no method is stated, that of its source alone."""

    def column(*names: str) -> list[str | None]:
        name = next((name for name in names if name in table.column_names), None)
        return [None] * len(table) if name is None else table.column(name).to_pylist()

    stated = zip(column("method", "energy_method"), column("run_type"), column("source"), strict=True)
    return [
        level_of(method if method and method != "unknown" else f"unknown, {source or ''}", run_type)
        for method, run_type, source in stated
    ]


def _or_infinite(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.inf
