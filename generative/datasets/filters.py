"""Which rows of a table are kept: chemical system, size, stability, symmetry."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pymatgen.core.composition import Composition

from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.config import FilterConfig
from generative.screening.slabs import slab
from storage.vacuum import find_vacuum


def chemical_system(table: pa.Table, elements: Sequence[str]) -> pa.Table:
    """Rows whose elements all lie within the system: the system itself and every system below it.

    Args:
        table: with column 'chemsys'.
        elements: symbols; order and repetition do not matter.
    """
    return table.filter(_within(table, elements))


def _within(table: pa.Table, elements: Sequence[str]) -> pa.Array:
    allowed = frozenset(elements)
    distinct = pc.unique(table.column("chemsys")).to_pylist()
    inside = [system for system in distinct if allowed.issuperset(system.split("-"))]
    return pc.is_in(table.column("chemsys"), value_set=pa.array(inside, type=pa.string()))


def apply_filters(table: pa.Table, filters: FilterConfig) -> pa.Table:
    """Rows that pass every filter.

    A row that does not state what a filter asks about (no energy above hull, no space group) cannot be shown to pass
    it, so it is left out.

    Args:
        table: in DATASET_SCHEMA.
        filters: bounds are inclusive.
    """
    keep = pc.and_(
        _between(table, "n_elements", filters.n_elements_min, filters.n_elements_max),
        _between(table, "n_atoms", filters.n_atoms_min, filters.n_atoms_max),
    )
    if filters.elements is not None:
        keep = pc.and_(keep, _within(table, filters.elements))
    if filters.e_above_hull_max_ev_per_atom is not None:
        stable = pc.less_equal(table.column("e_above_hull_ev_per_atom"), filters.e_above_hull_max_ev_per_atom)
        keep = pc.and_(keep, pc.fill_null(stable, False))
    if filters.formulas is not None:
        keep = pc.and_(keep, pc.is_in(table.column("formula"), value_set=pa.array(reduced_formulas(filters.formulas))))
    if filters.spacegroups is not None:
        wanted = pa.array(sorted(set(filters.spacegroups)), type=pa.int16())
        keep = pc.and_(keep, pc.is_in(table.column("spacegroup"), value_set=wanted))
    table = table.filter(keep)
    if filters.dimensions is None:
        return table
    kept = [_has_dimensions(crystal, filters.dimensions) for crystal in crystals_of(table)]
    return table.filter(pa.array(kept, type=pa.bool_()))


def _has_dimensions(crystal: Crystal | None, dimensions: int) -> bool:
    if crystal is None:
        return False
    return slab(crystal) is not None if dimensions == 2 else not find_vacuum(crystal.lattice_ang, crystal.frac)


def without_formulas(table: pa.Table, formulas: Sequence[str]) -> pa.Table:
    """Rows of all formulas but these, whichever way they are written."""
    if not formulas:
        return table
    return table.filter(pc.invert(pc.is_in(table.column("formula"), value_set=pa.array(reduced_formulas(formulas)))))


def reduced_formulas(formulas: Sequence[str]) -> list[str]:
    """Formulas in the table's form ('O4Ti2' -> 'TiO2'), sorted, each once."""
    return sorted({str(Composition(formula).reduced_formula) for formula in formulas})


def _between(table: pa.Table, column: str, low: int, high: int) -> pa.Array:
    values = table.column(column)
    return pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))
