"""Crystals that a program hands over, as the table that the stages work on: pymatgen's, ASE's, or a table itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal
from generative.datasets.checks import RecordError, checked
from generative.datasets.formats.frames import crystal_of_atoms
from generative.datasets.records import row_of, table_of
from tasks.discover.own_files import OwnFileError, ReadFiles

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import Structure

SOURCE, METHOD = "python", "unknown"
"""What the table says of crystals that a program hands over; their energies are not looked at."""


def table_of_crystals(given: Mapping[str, Structure | Atoms]) -> ReadFiles:
    """Crystals by their ids, held to the same limits as those of files. Cells stay as they are given.

    Args:
        given: pymatgen Structures or ASE Atoms by id.

    Returns: Their table, and why those that are no crystals were refused.

    Raises: OwnFileError: if there is none, or not one of them is a crystal.
    """
    rows, refused = [], []
    for name, one in given.items():
        try:
            crystal = checked(crystal_of(one))
        except ValueError as error:  # RecordError, and what pymatgen raises
            refused.append((name, str(error)))
            continue
        row = row_of(crystal, SOURCE, name, METHOD, {})
        rows.append({**row, "id": name, "crystal": crystal, "n_atoms": len(crystal.atomic_numbers)})
    if not rows:
        said = f" ({refused[0][0]}: {refused[0][1]})" if refused else ""
        raise OwnFileError(f"no crystal among the {len(given)} given{said}: expected at least one")
    return ReadFiles(table_of(rows), tuple(refused))


def crystal_of(given: Structure | Atoms) -> Crystal:
    """The crystal as it is given. Raises: ValueError: if it is none: disordered, not periodic, another type."""
    from ase import Atoms
    from pymatgen.core.structure import Structure

    if isinstance(given, Structure):
        return Crystal.from_structure(given)
    if isinstance(given, Atoms):
        return crystal_of_atoms(given)
    raise RecordError(f"{type(given).__name__} is no crystal: expected a pymatgen Structure or ASE Atoms")


def given_table(table: pa.Table) -> ReadFiles:
    """A table that holds crystals, checked for what makes it one.

    Raises: OwnFileError: if it has no ids and structure columns, or an id twice.
    """
    needed = ["id", *(field.name for field in STRUCTURE_FIELDS)]
    if missing := [name for name in needed if name not in table.column_names]:
        raise OwnFileError(f"the table has no column {missing[0]}: expected {', '.join(needed)}, as in Hullward's own")
    twice = [name for name, n in Counter(table.column("id").to_pylist()).items() if n > 1]
    if twice:
        raise OwnFileError(f"the table holds {twice[0]!r} more than once: expected unique ids")
    return ReadFiles(table)
