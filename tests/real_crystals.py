"""Real crystals of the benchmark files, and small ones built by hand; the tests skip where the files are absent."""

from __future__ import annotations

import csv
import gzip
import io
from functools import lru_cache
from itertools import islice

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.paths import AssetError, resolve
from generative.crystal.crystals import Crystal
from tests.cifs import parse_cif


@lru_cache(maxsize=8)
def real_crystals(name: str, n: int, atoms_max: int) -> tuple[Crystal, ...]:
    """The first n crystals of a file with at most as many atoms."""
    try:
        path = resolve(f"assets:data/{name}.csv.gz")
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    with gzip.open(path, "rb") as raw:
        rows = csv.DictReader(io.TextIOWrapper(raw, "utf-8"))
        parsed = (Crystal.from_structure(parse_cif(row["cif"], 1000).to_structure()) for row in rows)
        return tuple(islice((c for c in parsed if len(c.frac) <= atoms_max), n))


def built(cell: Lattice, symbols: list[str], frac: list[list[float]]) -> Crystal:
    """The crystal of this cell."""
    return Crystal.from_structure(Structure(cell, symbols, frac))


def in_space_group(number: int, cell: Lattice, symbols: list[str], frac: list[list[float]]) -> Crystal:
    """The primitive cell of what a space group makes of these sites."""
    return Crystal.from_structure(Structure.from_spacegroup(number, cell, symbols, frac).get_primitive_structure())
