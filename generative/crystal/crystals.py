"""Crystals as tensors and as table columns; the only place where pymatgen structures become either.

Conventions: lattice vectors are rows, angstrom; fractional coordinates lie in [0, 1); N atoms of all crystals stand end
to end, B crystals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


def field_of(name: str, kind: pa.DataType, about: str) -> pa.Field:
    """A column of a table, which says in its metadata what it holds, unit included."""
    return pa.field(name, kind, metadata={"about": about})


STRUCTURE_FIELDS = (
    field_of("lattice_ang", pa.list_(pa.float64()), "3x3 lattice rows, flattened, angstrom"),
    field_of("frac_coords", pa.list_(pa.float64()), "n_atoms x 3, flattened, in [0, 1)"),
    field_of("atomic_numbers", pa.list_(pa.int16()), "one per atom"),
)
"""The three Parquet columns that hold one ordered crystal per row."""


def wrap_unit(frac: np.ndarray) -> np.ndarray:
    """Fractional coordinates wrapped into [0, 1); x - floor(x) alone can round up to exactly 1."""
    wrapped = frac - np.floor(frac)
    return np.where(wrapped >= 1.0, 0.0, wrapped)


@dataclass(frozen=True)
class Crystal:
    """One ordered crystal as plain arrays: what a table row holds.

    Attributes:
        lattice_ang: rows, (3, 3), angstrom.
        frac: fractional coordinates, (n, 3), in [0, 1).
        atomic_numbers: (n,).
    """

    lattice_ang: np.ndarray
    frac: np.ndarray
    atomic_numbers: np.ndarray

    @classmethod
    def from_structure(cls, structure: Structure) -> Crystal:
        """Raises: ValueError: if a site is disordered or partly occupied."""
        if not structure.is_ordered:
            raise ValueError(
                f"{structure.formula} is disordered: a site holds several species or a partial occupancy; "
                "expected one element per site, so order the structure first"
            )
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int16)
        return cls(
            np.array(structure.lattice.matrix, dtype=float),
            wrap_unit(np.array(structure.frac_coords, dtype=float).reshape(-1, 3)),
            numbers,
        )

    def to_structure(self) -> Structure:
        """The crystal as a pymatgen Structure, sites in stored order."""
        from pymatgen.core.lattice import Lattice  # here, so that a checkpoint or a table is read without it
        from pymatgen.core.periodic_table import Element
        from pymatgen.core.structure import Structure

        return Structure(Lattice(self.lattice_ang), [Element.from_Z(int(z)) for z in self.atomic_numbers], self.frac)

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers as stored: equal only for bit-equal crystals."""
        h = hashlib.sha256()
        for array, dtype in ((self.lattice_ang, "<f8"), (self.frac, "<f8"), (self.atomic_numbers, "<i2")):
            h.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
        return h.hexdigest()


def reduced(crystal: Crystal) -> Crystal:
    """The same crystal in its Niggli-reduced cell: one setting per lattice, which generators need.

    A cell that pymatgen's reduction cannot finish (nearly degenerate vectors) is kept as it is.
    """
    try:
        structure: Structure = crystal.to_structure().get_reduced_structure(reduction_algo="niggli")
    except ValueError:
        return crystal
    return Crystal.from_structure(structure)


def structure_columns(crystals: Sequence[Crystal | None], prefix: str = "") -> dict[str, pa.Array]:
    """The columns of STRUCTURE_FIELDS for these crystals, names led by `prefix`; None becomes null."""
    values: dict[str, list[object]] = {field.name: [] for field in STRUCTURE_FIELDS}
    for crystal in crystals:
        values["lattice_ang"].append(None if crystal is None else crystal.lattice_ang.ravel())
        values["frac_coords"].append(None if crystal is None else crystal.frac.ravel())
        values["atomic_numbers"].append(None if crystal is None else crystal.atomic_numbers)
    return {prefix + field.name: pa.array(values[field.name], type=field.type) for field in STRUCTURE_FIELDS}


def crystals_of(table: pa.Table, prefix: str = "") -> list[Crystal | None]:
    """The crystals of a table's rows, None where the columns are null. Inverse of structure_columns.

    Raises: KeyError: if the table lacks one of the columns.
    """
    columns = [_arrays_of(table.column(prefix + field.name)) for field in STRUCTURE_FIELDS]
    return [
        None
        if lattice is None
        else Crystal(np.array(lattice).reshape(3, 3), np.array(frac).reshape(-1, 3), np.array(numbers, dtype=np.int16))
        for lattice, frac, numbers in zip(*columns, strict=True)
    ]


def _arrays_of(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """The lists of a column as arrays, None for null.

    As views where the column allows it: a Python float for each coordinate would take ten times the memory and time.
    """
    arrays: list[np.ndarray | None] = []
    for chunk in column.chunks:
        if not pa.types.is_list(column.type) or chunk.flatten().null_count:
            arrays += [None if row is None else np.array(row) for row in chunk.to_pylist()]
            continue
        values, ends = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        present = chunk.is_valid().to_pylist()
        arrays += [values[ends[i] : ends[i + 1]] if is_there else None for i, is_there in enumerate(present)]
    return arrays
