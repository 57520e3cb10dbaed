"""Crystals of which all is known but the coordinates: space group, and the Wyckoff letter of every atom.

Some sets are published in this form. They teach which sites a composition takes, and nothing about where on a site its
atoms lie.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from generative.crystal.wyckoff import Signature, Sites, WyckoffError, space_group
from generative.datasets.filters import reduced_formulas
from generative.datasets.records import formula_of

COLUMNS = ("material_id", "atomic_numbers", "spacegroup", "wyckoff", "equivalent_atoms")
ENERGY = "formation_energy_per_atom"
"""Formation energy, eV/atom; the column may be missing."""


class SiteLabelsError(ValueError):
    """A file that holds no such crystals."""


@dataclass(frozen=True)
class SiteLabel:
    """One crystal without its coordinates.

    Attributes:
        id: of the crystal in its database.
        spacegroup: international number.
        sites: (atomic number, Wyckoff letter), one per orbit.
        formation_energy_ev_per_atom: None where the file states none.
    """

    id: str
    spacegroup: int
    sites: Sites
    formation_energy_ev_per_atom: float | None = None

    @property
    def counts(self) -> dict[int, int]:
        """Atoms of each element in the primitive cell, by atomic number."""
        return Signature(self.spacegroup, self.sites).counts


def read_site_labels(
    path: Path, exclude: Collection[str] = (), exclude_formulas: Sequence[str] = ()
) -> tuple[list[SiteLabel], dict[str, str]]:
    """The crystals of a Parquet file, one row each.

    Args:
        path: with the columns COLUMNS: `wyckoff` holds a letter per atom, and `equivalent_atoms` for each atom the
            first one of its orbit, both as spglib gives them.
        exclude: ids that are left out.
        exclude_formulas: formulas of which every crystal is left out.

    Returns: The crystals, and {id: reason} of rows that are none.

    Raises: SiteLabelsError: if the file is no Parquet file, or a column is missing.
    """
    try:
        there = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in (*COLUMNS, ENERGY) if name in there])
    except (OSError, ValueError) as error:
        raise SiteLabelsError(
            f"{path}: {' '.join(str(error).split())[:200]}: expected Parquet with {COLUMNS}"
        ) from None
    if missing := set(COLUMNS) - set(table.column_names):
        raise SiteLabelsError(f"{path} lacks the columns {sorted(missing)}: expected {COLUMNS}")
    hidden, hidden_formulas = set(exclude), set(reduced_formulas(exclude_formulas))
    labels: list[SiteLabel] = []
    refused: dict[str, str] = {}
    energies = table[ENERGY].to_pylist() if ENERGY in table.column_names else [None] * len(table)
    rows = zip(*(table[c].to_pylist() for c in COLUMNS), energies, strict=True)
    for name, numbers, group, letters, orbits, energy in rows:
        if name in hidden or (hidden_formulas and numbers and formula_of(numbers) in hidden_formulas):
            continue
        try:
            labels.append(_label(str(name), numbers, group, letters, orbits, energy))
        except (WyckoffError, ValueError) as error:
            refused[str(name)] = str(error)
    return labels, refused


def _label(
    name: str,
    numbers: list[int] | None,
    group: int | None,
    letters: list[str] | None,
    orbits: list[int] | None,
    energy: float | None,
) -> SiteLabel:
    if not numbers or not letters or not orbits or group is None:
        raise ValueError("a row without space group, letters or orbits")
    if not len(numbers) == len(letters) == len(orbits):
        raise ValueError(
            f"{len(numbers)} atoms, {len(letters)} letters and {len(orbits)} orbits: expected as many of each"
        )
    sites = tuple(sorted({orbit: (int(z), x) for z, x, orbit in zip(numbers, letters, orbits, strict=True)}.values()))
    positions = space_group(int(group)).positions
    # Letters of another setting, or a cell that is not primitive, would teach what no crystal has.
    n_atoms = sum(positions[x].multiplicity for _, x in sites if x in positions)
    if n_atoms != len(numbers):
        raise ValueError(f"positions {sites} of space group {group} hold {n_atoms} atoms: expected {len(numbers)}")
    signature = Signature.of(int(group), sites)
    return SiteLabel(name, signature.spacegroup, signature.sites, None if energy is None else float(energy))
