"""Real crystals of the Materials Project, as loopback servers hand them out; the tests skip where they are absent."""

from __future__ import annotations

import ast
import csv
import gzip
import io
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import pytest
from pymatgen.core.structure import Structure

from configs.paths import AssetError, resolve
from tests.cifs import parse_cif

FILE = "assets:data/mp_20_biternary_test.csv.gz"


@dataclass(frozen=True)
class RealRecord:
    """One crystal of MP-20 with what the Materials Project states of it.

    Attributes:
        material_id: such as 'mp-1234'.
        structure: primitive cell.
        formation_energy_ev_per_atom, e_above_hull_ev_per_atom, band_gap_ev: as stated.
        spacegroup: international number, as stated.
        elements: in alphabetic order.
    """

    material_id: str
    structure: Structure
    formation_energy_ev_per_atom: float
    e_above_hull_ev_per_atom: float
    band_gap_ev: float
    spacegroup: int
    elements: tuple[str, ...]

    @property
    def chemsys(self) -> str:
        return "-".join(self.elements)


@lru_cache(maxsize=4)
def real_records(n: int = 1200) -> tuple[RealRecord, ...]:
    """The first n crystals of the file, ordered by id as the Materials Project's API orders them (as text)."""
    try:
        path = resolve(FILE)
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    with gzip.open(path, "rb") as raw:
        rows = list(islice(csv.DictReader(io.TextIOWrapper(raw, "utf-8")), n))
    records = [
        RealRecord(
            row["material_id"],
            parse_cif(row["cif"], 1000).to_structure(),
            float(row["formation_energy_per_atom"]),
            float(row["e_above_hull"]),
            float(row["band_gap"]),
            int(row["spacegroup.number"]),
            tuple(sorted(ast.literal_eval(row["elements"]))),
        )
        for row in rows
    ]
    return tuple(sorted(records, key=lambda record: record.material_id))
