"""The atoms a CIF lists: their elements, and what says that the list is not a whole, ordered crystal.

A label is a name, not an element: 'HO1' may be holmium or the hydrogen of a hydroxide. The type symbol decides, else
the elements of the stated formula, else the spelling; where these leave two readings, the file is refused.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from pymatgen.core.composition import Composition

from generative.config import ELEMENTS
from generative.datasets.checks import RecordError
from generative.datasets.cif.text import CifBlock, plain_number
from generative.datasets.limits import MAX_FRACTIONAL, MAX_WORD_CHARACTERS

HYDROGEN = {"D": "H", "T": "H"}
"""Isotopes with symbols of their own; the table holds elements."""

_TYPE_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:[^A-Za-z,/\s][^A-Z,/\s]*|\(\w*\))?$")
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)(\d*\.?\d+|\d+\.)?(?![a-z])")
_WATER = frozenset({"OH", "OW", "OWA", "WA", "WAT", "HOH"})
_WITH_HYDROGEN = re.compile(r"(?:H\dO|[BCNPS]H)(?![a-z])", re.IGNORECASE)
_NO_ATOM = frozenset({"VA", "VAC", "DU", "DUM", "DUMMY"})
_GROUP_LABELS = re.compile(r"C[ADEFMOS]|H[EFGO]|N[ABDEOP]|OS|P[AO]")
"""Labels in capitals that are elements, but also CA the alpha carbon, HO the hydrogen of a hydroxyl, PO a phosphate's
phosphorus. Where a label is the only word on the element, 'Ca1' is calcium and 'CA1' is refused."""


@dataclass(frozen=True)
class Sites:
    """The listed atoms.

    Attributes:
        labels: as the file calls them, n.
        symbols: their elements, n.
        frac: fractional coordinates as listed, (n, 3); those within 1e-4 (relative) of 1/3 or 2/3 made exact.
        multiplicities: how many atoms of the cell each stands for, as stated, (n,); NaN where not stated.
    """

    labels: list[str]
    symbols: list[str]
    frac: np.ndarray
    multiplicities: np.ndarray


def snap_thirds(frac: np.ndarray) -> np.ndarray:
    """Coordinates within 1e-4 (relative) of 1/3 or 2/3 made exact, as pymatgen's CifParser takes them."""
    frac = frac.copy()
    for ideal in (1 / 3, 2 / 3):
        frac[np.abs(frac / ideal - 1.0) <= 1e-4] = ideal
    return frac


def stated_formula(block: CifBlock) -> tuple[str, str, dict[str, float]] | None:
    """(name, text, element -> count) of the formula a block states; None if there is none that can be read."""
    for name in ("_chemical_formula_sum", "_chemical_formula_structural", "_chemical_formula_iupac"):
        text = block.stated(name)
        if text is None:
            continue
        counts = formula_counts(text)
        if counts:
            return name, text, counts
    return None


def formula_counts(text: str) -> dict[str, float] | None:
    """Element -> count of a formula, deuterium counted as hydrogen; None if it is none of known elements."""
    counts: dict[str, float] = defaultdict(float)
    if len(text) > MAX_WORD_CHARACTERS:
        return None
    if not _FORMULA_PART.sub("", text).strip():
        for symbol, count in _FORMULA_PART.findall(text):
            counts[HYDROGEN.get(symbol, symbol)] += float(count or 1)
    else:
        try:
            for element, amount in Composition(text).items():
                counts[HYDROGEN.get(element.symbol, element.symbol)] += amount
        except (ValueError, OverflowError, RecursionError):
            return None
    return dict(counts) if counts and all(s in ELEMENTS for s in counts) and all(counts.values()) else None


def read_sites(block: CifBlock, max_atoms: int) -> Sites:
    """The sites of a block.

    Raises:
        RecordError: if columns differ in length, an element cannot be told, a coordinate is no number, or the list is
            disordered, lacks hydrogens or holds dummies.
    """
    axes = [block.column(f"_atom_site_fract_{axis}") or [] for axis in "xyz"]
    labels = block.column("_atom_site_label") or block.column("_atom_site_type_symbol") or []
    lengths = [len(values) for values in (*axes, labels)]
    if len(set(lengths)) != 1:
        raise RecordError(
            f"the atom list has columns of {lengths} values: expected equal lengths; the file may be cut off"
        )
    if not 1 <= len(labels) <= max_atoms:
        raise RecordError(f"the CIF lists {len(labels)} atoms: expected 1 to {max_atoms}")
    frac = np.array([[plain_number(axis[i]) for axis in axes] for i in range(len(labels))])
    for i in np.flatnonzero(~(np.abs(frac) <= MAX_FRACTIONAL).all(axis=1)):
        values = ", ".join(axis[i] for axis in axes)
        expected = f"at most {MAX_FRACTIONAL:g}" if np.isfinite(frac[i]).all() else "finite numbers"
        raise RecordError(f"site {labels[i]} has coordinates ({values}): expected {expected}")
    symbols = _elements(block, labels)
    _refuse_disorder(block, labels)
    _refuse_missing_hydrogen(block, labels, symbols)
    stated = block.column("_atom_site_symmetry_multiplicity") or block.column("_atom_site_site_symmetry_multiplicity")
    multiplicities = np.array([plain_number(value) for value in stated or ["?"] * len(labels)])
    return Sites(labels, symbols, snap_thirds(frac), multiplicities)


def _elements(block: CifBlock, labels: list[str]) -> list[str]:
    types = _aligned(block, "_atom_site_type_symbol", labels)
    formula = stated_formula(block)
    allowed = None if formula is None else frozenset(formula[2])
    symbols = []
    for label, kind in zip(labels, types, strict=True):
        # Some programs repeat the label in the column of types: 'CA1' beside 'CA1' says no more than once.
        says_nothing = kind in ("", "?", ".") or (kind == label and not kind.isalpha())
        symbols.append(_of_label(label, allowed) if says_nothing else _of_type(label, kind, allowed))
    return symbols


def _of_type(label: str, kind: str, allowed: frozenset[str] | None) -> str:
    """The element of a type symbol such as 'Fe3+'; 'HO' and 'NO' in capitals, and 'T', need the formula."""
    found = _TYPE_SYMBOL.match(kind)
    letters = found[1] if found else ""
    symbol = HYDROGEN.get(letters.capitalize(), letters.capitalize())
    if symbol not in ELEMENTS:
        raise RecordError(f"site {label} is of element {kind!r}: expected a symbol from H to Lr")
    if letters in ("HO", "NO", "T") and symbol not in (allowed or ()):
        if allowed is None or letters[0] not in allowed:
            raise _ambiguous(label, kind, [symbol, "a tetrahedral site" if letters == "T" else letters[0]])
        return letters[0]
    return symbol


def _readings(letters: str) -> list[str]:
    """The elements a label's letters may mean, the likelier first. T, X, M, A, R and L name sites of any kind."""
    two, one = letters[:2].capitalize(), letters[:1].upper()
    if one == "D" and len(letters) == 1:
        return ["H"]
    return [symbol for symbol in dict.fromkeys((two, one)) if symbol in ELEMENTS]


def _of_label(label: str, allowed: frozenset[str] | None) -> str:
    """The element of a label such as 'Fe1A', by the formula's elements where these are stated."""
    found = re.match(r"[A-Za-z]+", label)
    letters = found[0] if found else ""
    readings = [] if letters.upper() in _NO_ATOM else _readings(letters)
    if not readings:
        raise RecordError(f"site {label} is of element {label!r}: expected a symbol from H to Lr")
    is_spelled_as_symbol = letters[0].isupper() and letters[1:2].islower()
    if allowed is not None:
        fitting = [symbol for symbol in readings if symbol in allowed]
        if not fitting:
            raise RecordError(
                f"the label {label} names none of the stated formula's elements ({', '.join(sorted(allowed))}): "
                "expected one of them; add _atom_site_type_symbol"
            )
        if len(fitting) == 1 or is_spelled_as_symbol:
            return fitting[0]
        raise _ambiguous(label, label, fitting)
    if letters.upper() in _WATER and "W" in readings:
        raise _ambiguous(label, label, ["W", "the oxygen of water"])
    if _WITH_HYDROGEN.match(label):
        raise _ambiguous(label, label, [*readings, "a group with hydrogen"])
    if _GROUP_LABELS.match(letters.upper()) and not is_spelled_as_symbol:
        raise _ambiguous(label, label, readings)
    return readings[0]


def _ambiguous(label: str, text: str, readings: list[str]) -> RecordError:
    return RecordError(
        f"site {label} may be {' or '.join(readings)}, going by {text!r}: expected one reading; add "
        "_atom_site_type_symbol or _chemical_formula_sum"
    )


def _refuse_disorder(block: CifBlock, labels: list[str]) -> None:
    """Refuses part-occupied sites, alternatives, and sites whose occupancy is unknown beside a disorder group."""
    occupancies = _aligned(block, "_atom_site_occupancy", labels)
    groups = _aligned(block, "_atom_site_disorder_group", labels)
    assemblies = _aligned(block, "_atom_site_disorder_assembly", labels)
    alternatives: dict[str, set[str]] = defaultdict(set)
    for label, occupancy, group, assembly in zip(labels, occupancies, groups, assemblies, strict=True):
        value = plain_number(occupancy)
        if math.isfinite(value) and abs(value - 1.0) > 1e-3:
            raise RecordError(
                f"site {label} is disordered: its occupancy is {occupancy}, expected 1; order the structure first"
            )
        is_grouped = group not in ("", ".", "?", "0")
        if is_grouped or assembly not in ("", ".", "?"):
            alternatives[assembly].add(group)
            if not math.isfinite(value) or len(alternatives[assembly]) > 1 or group.startswith("-"):
                where = f"disorder group {group}" if is_grouped else f"disorder assembly {assembly}"
                raise RecordError(
                    f"site {label} is disordered: it is in {where} with occupancy {occupancy!r}, expected no "
                    "alternatives; order the structure first"
                )
    for label, flag in zip(labels, _aligned(block, "_atom_site_calc_flag", labels), strict=True):
        if flag.lower() == "dum":
            raise RecordError(f"site {label} is a dummy (calc_flag 'dum'): expected atoms only; remove it")


def _refuse_missing_hydrogen(block: CifBlock, labels: list[str], symbols: list[str]) -> None:
    """Refuses hydrogens that are counted or named, but have no site of their own.

    By its definition `_atom_site_attached_hydrogens` counts only those without coordinates. Programs that count all
    are let pass if the listed hydrogens complete the stated formula, which is checked later.
    """
    formula = stated_formula(block)
    has_listed = "H" in symbols
    is_checked = has_listed and formula is not None and "H" in formula[2]
    for label, count in zip(labels, _aligned(block, "_atom_site_attached_hydrogens", labels), strict=True):
        value = plain_number(count)
        if math.isfinite(value) and value > 0 and not is_checked:
            raise RecordError(
                f"site {label} has {value:g} attached hydrogens that are not listed: expected every atom in the list; "
                "add the hydrogens' sites"
            )
    for label, symbol in zip(labels, symbols, strict=True):
        letters = re.match(r"[A-Za-z]*", label)
        if letters and letters[0].upper() in _WATER and symbol == "O" and not has_listed and formula is None:
            raise RecordError(
                f"site {label} is called a hydroxide's or water's oxygen, but no hydrogen is listed: expected every "
                "atom in the list; add the hydrogens, or state _chemical_formula_sum if there are none"
            )


def _aligned(block: CifBlock, name: str, labels: list[str]) -> list[str]:
    """A column of the atom list; '?' for each site where the file has none.

    Raises:
        RecordError: if it does not have one value per site.
    """
    values = block.column(name)
    if values is None:
        return ["?"] * len(labels)
    if len(values) != len(labels):
        raise RecordError(f"{name} has {len(values)} values for {len(labels)} sites: expected one each")
    return values
