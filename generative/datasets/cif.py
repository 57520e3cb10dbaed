"""CIF text to a crystal: a fast reader of the P1 files pymatgen writes, and pymatgen's own for everything else.

The benchmark CSVs hold tens of thousands of CIFs in one fixed layout (pymatgen's CifWriter without symmetry). Reading
that layout needs one regular expression; `fast_p1` does it some thirty times faster than CifParser and gives the same
numbers bit for bit, site order included, or declines. Every refusal is worded in one place, the slow path.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.io.cif import CifBlock, CifFile, CifParser

from generative.config import ELEMENTS
from generative.crystals import Crystal, wrap_unit
from generative.datasets.checks import RecordError
from generative.datasets.parsing import one_line

_NUMBER = r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
_P1_HEAD = re.compile(
    r"(?:#[^\n]*\n)?data_[^\n]*\n"
    r"_symmetry_space_group_name_H-M +'P 1'\n"
    rf"_cell_length_a +{_NUMBER}\n_cell_length_b +{_NUMBER}\n_cell_length_c +{_NUMBER}\n"
    rf"_cell_angle_alpha +{_NUMBER}\n_cell_angle_beta +{_NUMBER}\n_cell_angle_gamma +{_NUMBER}\n"
    r"_symmetry_Int_Tables_number +1\n"
    r"_chemical_formula_structural +[^\n]*\n"
    r"_chemical_formula_sum +([^\n]*)\n"
    r"_cell_volume +[^\n]*\n_cell_formula_units_Z +[^\n]*\n"
    r"loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n  1  'x, y, z'\n"
    r"loop_\n _atom_site_type_symbol\n _atom_site_label\n _atom_site_symmetry_multiplicity\n"
    r" _atom_site_fract_x\n _atom_site_fract_y\n _atom_site_fract_z\n _atom_site_occupancy\n"
)
_SITE = re.compile(rf" +([A-Z][a-z]?) +(\S+) +1 +{_NUMBER} +{_NUMBER} +{_NUMBER} +1(?:\.0*)?$")
_FORMULA_SUM = re.compile(r"^[ \t]*_chemical_formula_sum[ \t]+(?:'([^'\n]*)'|\"([^\"\n]*)\"|([^'\"\s]+))[ \t]*$", re.M)
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")
_ROUNDING = 1e-4  # CifParser's frac_tolerance: coordinates within 1e-4 (relative) of 1/3 or 2/3 are taken as exact


@lru_cache(maxsize=256)
def _site_rank(symbol: str) -> tuple[float, str] | None:
    """Key of pymatgen's site order, (electronegativity, symbol); None where pymatgen has no electronegativity."""
    if symbol not in ELEMENTS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = float(Element(symbol).X)
    return (x, symbol) if math.isfinite(x) else None


def fast_p1(text: str) -> Crystal | None:
    """The crystal of a P1 CIF as pymatgen writes it, equal to CifParser's bit for bit; None for any other text.

    Declines, rather than reports, whatever is unusual: another layout, an unknown element, an occupancy that is not 1,
    a formula sum that disagrees with the sites (a truncated file), an element without electronegativity (whose place
    in pymatgen's site order is not defined).
    """
    head = _P1_HEAD.match(text)
    if head is None:
        return None
    a, b, c, alpha, beta, gamma = (float(group) for group in head.groups()[:6])
    if min(a, b, c) <= 0 or not all(0 < angle < 180 for angle in (alpha, beta, gamma)):
        return None
    sites: list[tuple[str, tuple[float, float, float]]] = []
    for line in text[head.end() :].rstrip("\n").split("\n"):
        site = _SITE.match(line)
        if site is None or _site_rank(site[1]) is None:
            return None
        sites.append((site[1], (float(site[3]), float(site[4]), float(site[5]))))
    if _counts(head[7].strip().strip("'\"")) != Counter(symbol for symbol, _ in sites):
        return None
    sites.sort(key=lambda site: _site_rank(site[0]) or (0.0, ""))
    frac = np.array([coords for _, coords in sites], dtype=float)
    for ideal in (1 / 3, 2 / 3):
        frac[np.abs(frac / ideal - 1.0) <= _ROUNDING] = ideal
    numbers = np.array([ELEMENTS.index(symbol) + 1 for symbol, _ in sites], dtype=np.int16)
    lattice = Lattice.from_parameters(a, b, c, alpha, beta, gamma)
    return Crystal(np.array(lattice.matrix, dtype=float), wrap_unit(frac), numbers)


def _counts(formula_sum: str) -> dict[str, int]:
    return {symbol: int(float(count or 1)) for symbol, count in _FORMULA_PART.findall(formula_sum)}


def elements_of_cif(text: str) -> frozenset[str] | None:
    """Elements named by the formula sum of the first data block; None if there is none, or it names a non-element."""
    found = _FORMULA_SUM.search(text)
    if found is None:
        return None
    formula_sum = next((group for group in found.groups() if group), "")
    symbols = frozenset(symbol for symbol, _ in _FORMULA_PART.findall(formula_sum))
    leftover = _FORMULA_PART.sub("", formula_sum).strip()
    return symbols if symbols and not leftover and symbols <= frozenset(ELEMENTS) else None


def parse_cif(text: str, max_atoms: int) -> Crystal:
    """The crystal of a CIF with one data block.

    Args:
        text: the file.
        max_atoms: refuse lists of more sites before the costly steps.

    Returns:
        The cell as the file gives it, sites in pymatgen's order.

    Raises:
        RecordError: if it is empty, cut off, disordered, or holds a value no crystal has.
    """
    crystal = fast_p1(text)
    return crystal if crystal is not None else _parse_by_pymatgen(text, max_atoms)


def _parse_by_pymatgen(text: str, max_atoms: int) -> Crystal:
    if not text.strip():
        raise RecordError("the text is empty: expected a CIF")
    block = _one_block(text)
    _check_cell(block)
    symbols = _check_sites(block, max_atoms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser = CifParser.from_str(text, check_cif=False)
            structure = parser.parse_structures(primitive=False, on_error="raise")[0]
        except Exception as error:  # a foreign parser on foreign text: it raises whatever its next operation raises
            # A label without symbol, or overlapping partly occupied sites, surface only here.
            raise RecordError(
                f"not readable as a CIF ({type(error).__name__}: {one_line(error)}): "
                f"expected a complete CIF with one element per site (sites: {', '.join(symbols[:6])})"
            ) from None
    try:
        crystal = Crystal.from_structure(structure)
    except ValueError as error:
        raise RecordError(str(error)) from None
    _check_formula(block, crystal)
    return crystal


def _one_block(text: str) -> Mapping[str, Any]:
    try:
        blocks: list[CifBlock] = list(CifFile.from_str(text).data.values())
    except Exception as error:  # see above
        raise RecordError(
            f"not readable as a CIF ({type(error).__name__}: {one_line(error)}): the "
            "file may be cut off in the middle of a line"
        ) from None
    with_sites = [block.data for block in blocks if "_atom_site_fract_x" in block.data]
    if not with_sites:
        raise RecordError(
            "the CIF lists no atom (_atom_site_fract_x is missing): expected at least one; the file may be cut off"
        )
    if len(with_sites) > 1:
        raise RecordError(f"the CIF holds {len(with_sites)} crystals: expected one, so write each to a file of its own")
    data: Mapping[str, Any] = with_sites[0]
    return data


def _plain_number(text: Any) -> float:
    """A CIF number without its bracketed uncertainty; NaN for '?', '.' and anything else that is no number."""
    try:
        return float(re.sub(r"\(.*\)?$", "", str(text)))
    except ValueError:
        return math.nan


def _check_cell(block: Mapping[str, Any]) -> None:
    for key, unit, top in (("length", "angstrom", math.inf), ("angle", "degrees", 180.0)):
        for axis in ("a", "b", "c") if key == "length" else ("alpha", "beta", "gamma"):
            name = f"_cell_{key}_{axis}"
            if name not in block:
                continue  # pymatgen may complete it from the crystal system
            if not 0 < _plain_number(block[name]) < top:
                expected = "a positive number" if key == "length" else "a number between 0 and 180"
                raise RecordError(f"{name} is {str(block[name])!r}: expected {expected} ({unit})")


def _check_sites(block: Mapping[str, Any], max_atoms: int) -> list[str]:
    axes = [block.get(f"_atom_site_fract_{axis}", []) for axis in "xyz"]
    labels = block.get("_atom_site_label") or block.get("_atom_site_type_symbol") or []
    if len({len(values) for values in (*axes, labels)}) != 1:
        raise RecordError(
            f"the atom list has columns of {[len(values) for values in (*axes, labels)]} values: expected equal "
            "lengths; the file may be cut off"
        )
    if len(labels) > max_atoms:
        raise RecordError(f"the CIF lists {len(labels)} atoms: expected 1 to {max_atoms}")
    symbols = [str(symbol) for symbol in block.get("_atom_site_type_symbol", labels)]
    for symbol, label in zip(symbols, labels, strict=True):
        letters = re.match(r"[A-Za-z]+", symbol)
        name = letters[0] if letters else symbol
        known = (name, name[:2].capitalize(), name[:1].upper()) if symbol == label else (name.capitalize(),)
        if not any(candidate in ELEMENTS or candidate in ("D", "T") for candidate in known):
            raise RecordError(f"site {label} is of element {symbol!r}: expected a symbol from H to Lr")
    for i, label in enumerate(labels):
        values = [str(axis[i]) for axis in axes]
        if not all(math.isfinite(_plain_number(value)) for value in values):
            raise RecordError(f"site {label} has coordinates ({', '.join(values)}): expected finite numbers")
    for label, occupancy in zip(labels, block.get("_atom_site_occupancy", []), strict=False):
        value = _plain_number(occupancy)
        if math.isfinite(value) and abs(value - 1.0) > 1e-3:
            raise RecordError(
                f"site {label} is disordered: its occupancy is {occupancy}, expected 1; order the structure first"
            )
    return symbols


def _check_formula(block: Mapping[str, Any], crystal: Crystal) -> None:
    """Refuses a list of sites that disagrees with the file's own formula: the mark of a file cut off between lines."""
    stated = str(block.get("_chemical_formula_sum", ""))
    try:
        expected = Composition(stated.replace("?", ""))
    except ValueError:
        return
    found = Composition(dict(Counter(ELEMENTS[z - 1] for z in crystal.atomic_numbers)))
    if not expected or any(element.symbol not in ELEMENTS for element in expected):
        return
    agrees = expected.fractional_composition.almost_equals(found.fractional_composition, rtol=0.01, atol=0.01)
    operations = block.get("_symmetry_equiv_pos_as_xyz") or block.get("_space_group_symop_operation_xyz") or []
    units = _plain_number(block.get("_cell_formula_units_Z", "?"))
    if agrees and len(operations) == 1 and math.isfinite(units):
        # Without symmetry every atom is listed, so the total counts too: pymatgen writes the whole cell as the sum,
        # others write one formula unit, of which the cell holds Z.
        totals = (expected.num_atoms, units * expected.num_atoms)
        agrees = any(abs(len(crystal.atomic_numbers) - total) < 0.5 for total in totals)
    if not agrees:
        raise RecordError(
            f"the sites amount to {found.formula!r}, but _chemical_formula_sum is {stated!r}: expected them to agree; "
            "the file may be cut off"
        )
