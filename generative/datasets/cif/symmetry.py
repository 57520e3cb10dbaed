"""Which symmetry operations a CIF means: those it lists, else those of the setting it names.

A space group has up to 18 settings: choices of origin, of axes, of cell. spglib tabulates 530 of them, each with its
full and short Hermann-Mauguin symbol and its Hall symbol. A name that fits several is never guessed at: the cell's
metric may single one out here, the stated contents in generative.datasets.cif.reading, else the file is refused.
Source: spglib's tables (Hall numbers 1 to 530); International Tables for Crystallography A for names of old.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import spglib

from generative.datasets.checks import RecordError
from generative.datasets.cif.operations import IDENTITY, METRIC_TOLERANCE, Operations, listed_operations
from generative.datasets.cif.text import CifBlock
from generative.datasets.limits import MAX_WORD_CHARACTERS

N_SETTINGS = 530
REMEDY = "list the symmetry operations (_space_group_symop_operation_xyz)"

_OPERATION_NAMES = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz_",
    "_symmetry_equiv_pos_as_xyz_",
)
_SYMBOL_NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m",
    "_symmetry_space_group_name_h_m",
)
_HALL_NAMES = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBER_NAMES = ("_space_group_it_number", "_symmetry_int_tables_number")
_CODE_NAME = "_space_group_it_coordinate_system_code"

_METRIC_STEPS = (1e-4, 2e-3, METRIC_TOLERANCE)
"""A cell that obeys one setting to rounding (90 degrees written as 90) and another only roughly is of the first."""

_AXES = ("", "ba-c", "cab", "-cba", "bca", "a-cb")
_BEFORE_1992 = {  # symbols with 'e' as written before 1992, in the order of _AXES
    39: ("Abm2", "Bma2", "B2cm", "C2mb", "Cm2a", "Ac2m"),
    41: ("Aba2", "Bba2", "B2cb", "C2cb", "Cc2a", "Ac2a"),
    64: ("Cmca", "Ccmb", "Abma", "Acam", "Bbcm", "Bmab"),
    67: ("Cmma", "Cmmb", "Abmm", "Acmm", "Bmcm", "Bmam"),
    68: ("Ccca", "Cccb", "Abaa", "Acaa", "Bbcb", "Bbab"),
}
_CHOICE_WORDS = {"s": "1", "z": "2", "o1": "1", "o2": "2", "abc": "", "1abc": "1", "2abc": "2"}
"""Codes that spglib writes otherwise. ICSD: S and Z for origin 1 and 2."""


@dataclass(frozen=True)
class Setting:
    """Operations a file may mean, and how to call them: 'F d -3 m :2', or 'the listed operations'."""

    name: str
    operations: Operations


@dataclass(frozen=True)
class _Statement:
    """One thing a file says of its symmetry: its words, and the Hall numbers that fit; None if in no table."""

    words: str
    halls: frozenset[int] | None
    is_exact: bool = False


@cache
def tabulated(hall: int) -> Operations:
    """The operations of a setting by its Hall number, 1 to 530."""
    found = spglib.get_symmetry_from_database(hall)
    assert found is not None
    return Operations(np.array(found["rotations"], dtype=int), np.array(found["translations"]) % 1.0)


@cache
def _number(hall: int) -> int:
    return int(_type(hall).number)


@cache
def _type(hall: int) -> spglib.SpaceGroupType:
    found = spglib.get_spacegroup_type(hall)
    assert found is not None
    return found


def setting_name(hall: int) -> str:
    """Such as 'F d -3 m :2' or 'P 1 21/c 1'; the full symbol of monoclinic groups, the short one of all others."""
    found = _type(hall)
    symbol = found.international_full if 3 <= found.number <= 15 else found.international.split(" = ")[0]
    return symbol.replace("_", "") + (f" :{found.choice}" if found.choice and found.number > 15 else "")


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_~()'\"]", "", symbol).lower()


def _names(hall: int) -> set[str]:
    """Symbols of a setting without its code: short and full, as of today and as written in older files."""
    found = _type(hall)
    full, number = found.international_full, found.number
    names = {full, *found.international.split(" = ")}
    if 3 <= number <= 15:
        # The first of spglib's names is the group's, 'P 21/c' for all nine settings; without its '1's, the full symbol
        # is the short one of the setting itself: 'P 21/n', 'P 21/a'.
        names = {full, " ".join(word for word in full.split() if word != "1")}
    else:
        names.add(found.international_short)
    if number in _BEFORE_1992:
        names.add(_BEFORE_1992[number][_AXES.index(found.choice.lstrip("12") if number == 68 else found.choice)])
    names = {_plain(name) for name in names}
    if 200 <= number <= 206 or number >= 221:
        names |= {name.replace("-3", "3") for name in names}  # F m 3 m, as before 1983
    return names


@cache
def _by_symbol() -> dict[str, frozenset[int]]:
    """Symbol without blanks, in lower case -> Hall numbers of the settings it names."""
    found: dict[str, set[int]] = defaultdict(set)
    for hall in range(1, N_SETTINGS + 1):
        for name in _names(hall):
            found[name].add(hall)
    return {name: frozenset(halls) for name, halls in found.items()}


@cache
def _by_type_symbol() -> dict[str, frozenset[int]]:
    """Symbol of a space-group type -> all its settings: with a code ('P n m a :cab'), the symbol may be the type's."""
    found: dict[str, set[int]] = defaultdict(set)
    for hall in range(1, N_SETTINGS + 1):
        found[_plain(_type(hall).international.split(" = ")[0])].add(hall)
    numbers = {name: {_number(hall) for hall in halls} for name, halls in found.items()}
    return {name: frozenset(_of_number(min(numbers[name]))) for name in found}


def _of_number(number: int) -> frozenset[int]:
    return frozenset(hall for hall in range(1, N_SETTINGS + 1) if _number(hall) == number)


@cache
def _by_hall_symbol() -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for hall in range(1, N_SETTINGS + 1):
        words = _type(hall).hall_symbol.lower()
        found[words].add(hall)
        found[re.sub(r"\s", "", words)].add(hall)  # 'P 3 2' and 'P 32' then fall together, and stay ambiguous
    return {name: frozenset(halls) for name, halls in found.items()}


def _of_choice(halls: Iterable[int], code: str) -> frozenset[int]:
    wanted = _CHOICE_WORDS.get(code.lower(), code.lower())
    return frozenset(hall for hall in halls if _type(hall).choice.lower() == wanted)


def _settings_of_symbol(symbol: str) -> tuple[frozenset[int] | None, bool]:
    """Hall numbers a Hermann-Mauguin symbol fits (None if it is in no table), and whether it names its setting."""
    if len(symbol) > MAX_WORD_CHARACTERS:
        return None, False
    base, colon, code = symbol.partition(":")
    if colon:
        named = _by_symbol().get(_plain(base), frozenset())
        chosen = _of_choice(named, _plain(code)) or _of_choice(_by_type_symbol().get(_plain(base), ()), _plain(code))
        # A code says nothing where there is nothing to choose: 'P m -3 m :1'.
        return (chosen, True) if chosen else (named if len(named) == 1 else None, False)
    settings = _by_symbol().get(_plain(symbol))
    if settings:
        return settings, False
    for split in (r"(.*\S)\s+(S|Z|H|R|[12])", r"(.*[a-z0-9])(S|Z|H|R)"):  # 'F d -3 m Z', 'R -3 m H', 'Fd-3mS'
        found = re.fullmatch(split, symbol.strip())
        if found and (split_off := _of_choice(_by_symbol().get(_plain(found[1]), ()), found[2])):
            return split_off, True
    return None, False


def _statements(block: CifBlock) -> list[_Statement]:
    found = []
    for name in _SYMBOL_NAMES:
        symbol = block.stated(name)
        if symbol is not None and _plain(symbol):
            found.append(_Statement(f"the symbol {symbol!r}", *_settings_of_symbol(symbol)))
    for name in _HALL_NAMES:
        symbol = block.stated(name)
        if symbol is not None:
            words = re.sub(r"[\s_]+", " ", symbol).strip().lower()
            found.append(_Statement(f"the Hall symbol {symbol!r}", _by_hall_symbol().get(words), True))
    for name in _NUMBER_NAMES:
        text = block.stated(name)
        if text is not None:
            number = block.number(name)
            if not (math.isfinite(number) and number == int(number) and 1 <= number <= 230):
                raise RecordError(f"{name} is {text!r}: expected an international space-group number from 1 to 230")
            found.append(_Statement(f"the number {int(number)}", _of_number(int(number))))
    reference = block.stated("_space_group_name_h-m_ref")
    if reference is not None and _plain(reference) in _by_type_symbol():
        found.append(_Statement(f"the reference symbol {reference!r}", _by_type_symbol()[_plain(reference)]))
    code = block.stated(_CODE_NAME)
    if code is not None and found:
        chosen = _of_choice(frozenset().union(*(said.halls or frozenset() for said in found)), code)
        found.append(_Statement(f"the coordinate system {code!r}", chosen or None, bool(chosen)))
    return found


def _lists(block: CifBlock) -> list[list[str]]:
    columns = (block.column(name) or [] for name in _OPERATION_NAMES)
    stated = ([text for text in column if text.strip() not in ("", "?", ".")] for column in columns)
    return [texts for texts in stated if texts]


def lists_operations(block: CifBlock) -> bool:
    """Whether a block lists symmetry operations at all."""
    return bool(_lists(block))


def _listed(block: CifBlock) -> Operations | None:
    """The operations the file lists; of two lists, both must be the same."""
    lists = [listed_operations(texts) for texts in _lists(block)]
    if len(lists) > 1 and not all(lists[0].same_as(other) for other in lists[1:]):
        raise RecordError("the file lists its symmetry operations twice, and differently: expected one list")
    return lists[0] if lists else None


def _common(statements: list[_Statement]) -> frozenset[int] | None:
    """Settings that fit all that is said; None if nothing that is said is in a table.

    Raises:
        RecordError: if what is said contradicts itself.
    """
    known = [said for said in statements if said.halls is not None]
    if not known:
        return None
    common = frozenset.intersection(*(said.halls for said in known if said.halls is not None))
    if not common:
        raise RecordError(
            f"{' and '.join(said.words for said in known)} contradict each other: expected one space group in one "
            "setting; correct one of them"
        )
    return common


def settings_of(block: CifBlock, lattice_ang: np.ndarray) -> list[Setting]:
    """The settings a file may mean, at least one; only one where it lists its operations.

    Args:
        block: the crystal's data block.
        lattice_ang: its cell, rows, (3, 3).

    Raises:
        RecordError: if what it says contradicts itself, is in no table, or does not fit its cell.
    """
    statements = _statements(block)
    listed = _listed(block)
    if listed is not None:
        _check_listed(listed, statements, lattice_ang)
        return [Setting("the listed operations", listed)]
    common = _common(statements)
    if not statements:
        return [Setting("P 1, as no symmetry is stated", IDENTITY)]
    unknown = [said.words for said in statements if said.halls is None]
    named_exactly = any(said.is_exact and said.halls for said in statements)
    if common is None or (unknown and not named_exactly):
        raise RecordError(f"{unknown[0]} is in no table of space-group settings: {REMEDY}")
    return _fitting(common, " and ".join(said.words for said in statements), lattice_ang)


def _fitting(halls: frozenset[int], words: str, lattice_ang: np.ndarray) -> list[Setting]:
    """Those of the settings that fit the cell best, each set of operations once."""
    misfit = {hall: tabulated(hall).metric_misfit(lattice_ang) for hall in sorted(halls)}
    step = next((step for step in _METRIC_STEPS if min(misfit.values()) < step), None)
    if step is None:
        names = ", ".join(setting_name(hall) for hall in sorted(halls)[:4])
        raise RecordError(
            f"the cell does not have the symmetry of {words} ({names}): its metric is off by {min(misfit.values()):.2g}"
            f", expected at most {METRIC_TOLERANCE}; correct the cell or {REMEDY}"
        )
    found: list[Setting] = []
    for hall in (hall for hall, value in misfit.items() if value < step):
        if not any(tabulated(hall).same_as(setting.operations) for setting in found):
            found.append(Setting(setting_name(hall), tabulated(hall)))
    return found


def _check_listed(listed: Operations, statements: list[_Statement], lattice_ang: np.ndarray) -> None:
    """Refuses listed operations that fit neither the cell nor what else the file says of its symmetry."""
    misfit = listed.metric_misfit(lattice_ang)
    if misfit > METRIC_TOLERANCE:
        raise RecordError(
            f"the cell does not have the symmetry of the {len(listed)} listed operations: its metric is off by "
            f"{misfit:.2g}, expected at most {METRIC_TOLERANCE}; correct the cell or the operations"
        )
    common = _common(statements)
    if common is None:
        return
    found = spglib.get_spacegroup_type_from_symmetry(listed.rotations, listed.translations, lattice_ang)
    number = None if found is None else int(found.number)
    if number is not None and number not in {_number(hall) for hall in common}:
        words = " and ".join(said.words for said in statements if said.halls is not None)
        raise RecordError(
            f"the {len(listed)} listed operations are of space group {number}, but {words} of "
            f"{_number(min(common))}: expected them to agree; correct one of them"
        )
    exact = [said for said in statements if said.is_exact and said.halls is not None]
    listed_as = {hall for hall in _of_number(number or 0) if tabulated(hall).same_as(listed)} if exact else set()
    for said in exact if listed_as else ():
        if not (said.halls or frozenset()) & listed_as:
            raise RecordError(
                f"the listed operations are those of {setting_name(min(listed_as))}, but {said.words} names another "
                "setting: expected them to agree; correct one of them"
            )
