"""Magnetic CIFs (.mcif): the nuclear crystal, read by pymatgen; the moments are kept as the file states them.

A magnetic cell may hold several nuclear ones, which are alike without the moments: the table then holds one of them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.io.cif import CifFile, CifParser

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError
from generative.datasets.cif.text import SITE_X, crystal_blocks
from generative.datasets.formats.opening import UNREADABLE, opened, refused
from generative.datasets.formats.parsing import decoded, one_line
from generative.datasets.limits import MAX_FILE_BYTES, MAX_MAGNETIC_IMAGES, MAX_RECORD_ATOMS
from generative.datasets.records import Form, RawRecord

_OPERATIONS = ("_space_group_symop_magn_operation.xyz", "_space_group_symop.magn_operation_xyz")
_OPERATION_KEYS = tuple(f"_space_group_symop_magn_{kind}_xyz" for kind in ("operation", "centering"))
_MOMENTS = tuple(f"_atom_site_moment.crystalaxis_{axis}" for axis in "xyz")
_VOLUME_TOLERANCE = 0.01


def read_mcif(path: Path) -> Iterator[RawRecord]:
    """The one record of a magnetic CIF; `extra` has its magnetic group and, by site, its moments along a, b, c."""
    content = b""
    try:
        with opened(path) as raw:
            content = raw.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise RecordError(f"the file has more than {MAX_FILE_BYTES} bytes: expected at most that of one crystal")
        crystal, extra = parse_mcif(decoded(content))
    except RecordError as error:
        yield refused(path.name, str(error), content[:4000])
    except UNREADABLE as error:
        yield refused(path.name, f"unreadable ({type(error).__name__}: {error}): expected a complete file", "")
    else:
        yield RawRecord(path.name, Form.CRYSTAL, crystal, extra=extra)


def parse_mcif(text: str) -> tuple[Crystal, dict[str, Any]]:
    """The nuclear crystal of a magnetic CIF with one crystal, in its magnetic cell, and what is magnetic about it.

    Raises:
        RecordError: if it has no crystal or several, is disordered or incommensurate, or lacks its operations.
    """
    if not text.strip():
        raise RecordError("the text is empty: expected a magnetic CIF")
    if (n_lists := len(re.findall(r"^\s*_atom_site_fract_x\b", text, re.MULTILINE))) != 1:
        raise RecordError(f"the file lists the atoms of {n_lists} crystals: expected one, each in a file of its own")
    _refuse_large(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            blocks = [block.data for block in CifFile.from_str(text).data.values()]
            block = next(data for data in blocks if "_atom_site_fract_x" in data)
            expected = _symbols(block)
            structure = CifParser.from_str(text, check_cif=False).parse_structures(primitive=False, on_error="raise")[0]
            crystal = Crystal.from_structure(structure)
        except RecordError:
            raise
        except Exception as error:  # a foreign parser on foreign text: it raises whatever its next operation raises
            raise RecordError(
                f"not readable as a magnetic CIF ({type(error).__name__}: {one_line(error)}): expected a complete, "
                "commensurate one"
            ) from None
    if len(crystal.atomic_numbers) > MAX_RECORD_ATOMS:
        raise RecordError(f"the cell has {len(crystal.atomic_numbers)} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    _check(block, crystal, expected)
    names = {"_space_group_magn.number_BNS": "magnetic_group_bns", "_parent_space_group.IT_number": "parent_group"}
    extra: dict[str, Any] = {said: block[name] for name, said in names.items() if name in block}
    if all(name in block for name in ("_atom_site_moment.label", *_MOMENTS)):
        rows = zip(block["_atom_site_moment.label"], *(block[name] for name in _MOMENTS), strict=False)
        extra["magnetic_moments_bohr"] = {label: list(moments) for label, *moments in rows}
    return crystal, extra


def _refuse_large(text: str) -> None:
    """Refuses lists on which pymatgen, which compares all images of all sites, takes minutes."""
    for block in crystal_blocks(text):
        n_sites = len(block.column(SITE_X) or [])
        columns = [block.column(name) for name in _OPERATION_KEYS]
        n_operations = math.prod(len(column) for column in columns if column)
        if n_sites * n_operations > MAX_MAGNETIC_IMAGES:
            raise RecordError(
                f"{n_sites} sites and {n_operations} magnetic operations give up to {n_sites * n_operations} images: "
                f"expected at most {MAX_MAGNETIC_IMAGES}; list all atoms with fewer operations"
            )


def _symbols(block: Mapping[str, Any]) -> set[str]:
    """Elements that the list of sites names.

    Raises:
        RecordError: if the operations are missing, a site is partly occupied, or a name may mean two elements.
    """
    if not any(name in block for name in _OPERATIONS):
        raise RecordError(f"{_OPERATIONS[0]} is missing: expected the operations of the magnetic group, in full")
    labels = block.get("_atom_site_label") or block.get("_atom_site_type_symbol") or []
    for label, occupancy in zip(labels, block.get("_atom_site_occupancy", []), strict=False):
        if not re.fullmatch(r"1(\.0*)?(\(\d+\))?", str(occupancy)):
            raise RecordError(f"site {label} is disordered: its occupancy is {occupancy}, expected 1")
    found = set()
    for name in block.get("_atom_site_type_symbol") or labels:
        symbol = re.match(r"([A-Z][a-z]?)(?![A-Za-z])", str(name))
        if symbol is None or symbol[1] not in ELEMENTS:
            raise RecordError(f"a site is of element {name!r}: expected a symbol from H to Lr, such as 'Mn' or 'Mn1'")
        found.add(symbol[1])
    return found


def _check(block: Mapping[str, Any], crystal: Crystal, expected: set[str]) -> None:
    """Refuses a crystal that is not the one the file describes otherwise."""
    counts = Counter(ELEMENTS[z - 1] for z in crystal.atomic_numbers)
    if set(counts) != expected:
        raise RecordError(f"the sites are of {sorted(expected)} and were read as {sorted(counts)}: expected the same")
    try:
        formula = Composition(str(block.get("_chemical_formula_sum", "")).replace("?", ""))
    except ValueError:
        formula = Composition()
    read = Composition(dict(counts))
    if formula and not formula.fractional_composition.almost_equals(read.fractional_composition, rtol=0.01, atol=0.01):
        raise RecordError(f"the sites amount to {read.formula!r}, _chemical_formula_sum is {formula.formula!r}")
    stated = re.match(r"[\d.]+", str(block.get("_cell_volume", "")))
    volume_ang3 = abs(float(np.linalg.det(crystal.lattice_ang)))
    if stated and not abs(float(stated[0]) - volume_ang3) <= _VOLUME_TOLERANCE * volume_ang3:
        raise RecordError(f"_cell_volume is {stated[0]} A^3 and the cell's {volume_ang3:.6g} A^3: expected one value")
