"""What the columns of people's files mean: names in a CSV, JSON, Parquet or extended XYZ to columns of the table.

Upper and lower case, spaces and a unit behind the name ('Energy Above Hull (eV/atom)') make no difference.

| name in the file | column of the table | note |
|---|---|---|
| material_id, mat_id, entry_id, task_id, id | source_id | the first given; else the row number, which is no id |
| cif | the structure | |
| energy_per_atom | energy_ev_per_atom | Carbon-24: total energy, eV/atom |
| formation_energy_per_atom | formation_energy_ev_per_atom | MP-20, MPTS-52, WBM: from the elements, eV/atom |
| e_above_hull, energy_above_hull | e_above_hull_ev_per_atom | MP-20, MPTS-52, eV/atom |
| heat_all | e_above_hull_ev_per_atom | Perov-5: against the pool of reference phases, see below |
| band_gap, ind_gap | band_gap_ev | Perov-5's indirect gap is its smallest |
| spacegroup.number, spacegroup, symmetry.number | spacegroup | kept as stated; where absent, found by spglib |
| run_type, energy_type, functional, thermo_type | run_type, method | generative/datasets/levels.py |
| origin, or theoretical (true, false) | origin | `theoretical: false` is reported |
| other numbers | extra | under their own names |
| elements, pretty_formula, formula | none | tells the chemical system before any CIF is parsed |
| '', index, Unnamed: 0 | none | row numbers, as pandas writes them |

Two names of one column are one value said twice: where they differ, the record is refused.

Perov-5's heat_all and heat_ref are heats against competing compounds, not against the elements (LaAlO3 stands at -0.1,
its formation energy from the elements lies below -3 eV/atom), so neither may enter formation_energy_ev_per_atom.
heat_all, against all phases of the pool, is what others call energy above hull (negative: below the pool). heat_ref
and dir_gap have no column; like every other number of a row they are kept in `extra`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from generative.config import ELEMENTS
from generative.datasets.checks import RecordError
from generative.datasets.levels import SCHEME_OF_THERMO_TYPE, contradiction, functional_of

ID_NAMES = ("material_id", "mat_id", "entry_id", "task_id", "id")
PROPERTY_NAMES: Mapping[str, tuple[str, ...]] = {
    "energy_ev_per_atom": ("energy_ev_per_atom", "energy_per_atom"),
    "formation_energy_ev_per_atom": ("formation_energy_ev_per_atom", "formation_energy_per_atom"),
    "e_above_hull_ev_per_atom": ("e_above_hull_ev_per_atom", "e_above_hull", "energy_above_hull", "heat_all"),
    "band_gap_ev": ("band_gap_ev", "band_gap", "ind_gap"),
    "spacegroup": ("spacegroup.number", "spacegroup", "symmetry.number"),
}
"""Column of the table -> names under which files state it; see the module's head."""

RUN_TYPE_NAMES = ("run_type", "energy_type", "functional")
ELEMENT_NAMES = ("elements", "pretty_formula", "formula")

_TAKEN_NAMES = frozenset(
    {"cif", "structure", "thermo_type", "theoretical", *ID_NAMES, *RUN_TYPE_NAMES, *ELEMENT_NAMES}
    | set(itertools.chain.from_iterable(PROPERTY_NAMES.values()))
)
_EMPTY = frozenset({"", "nan", "none", "null", "na", "n/a"})
_ROW_NUMBER = re.compile(r"(?:index|unnamed:_\d+|level_\d+)?")
_UNIT = re.compile(r"[\s_]*[(\[]\s*ev(?:\s*/\s*atom)?\s*[)\]]$")
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_TEXT_MAX = 200

ROW_NAME = "row-"
"""Records of a file that states no id are called so, with their place behind it, from 0."""


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A column's name without what people write differently: case, spaces, hyphens, the units eV and eV/atom."""
    return re.sub(r"[\s-]+", "_", _UNIT.sub("", name.strip().lower()))


def repeated_names(names: Iterable[str]) -> list[str]:
    """The names, as written, of the first column that comes more than once; empty if none does."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(plain_name(name), []).append(name)
    return next((same for plain, same in found.items() if plain and len(same) > 1), [])


def plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under their plain names."""
    return {plain_name(str(name)): value for name, value in fields.items()}


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, no text, NaN, or a word for it."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY)


def properties_of(fields: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Column of the table -> (the name in the file, the value as it came), of plain fields.

    Raises:
        RecordError: if two names of one column state two values.
    """
    found: dict[str, tuple[str, Any]] = {}
    for column, names in PROPERTY_NAMES.items():
        stated = [(name, fields[name]) for name in names if name in fields]
        if column == "spacegroup":  # a symbol is no number, and names no setting
            stated = [(name, value) for name, value in stated if is_empty(value) or _as_number(value) is not None]
        given = [(name, value) for name, value in stated if not is_empty(value)]
        for name, value in given[1:]:
            if not _agree(given[0][1], value):
                raise RecordError(
                    f"{given[0][0]} is {given[0][1]!s:.40} and {name} is {value!s:.40}: both mean {column}, so one "
                    "value is expected; leave one of the columns out"
                )
        if given or stated:
            found[column] = (given or stated)[0]
    return found


def _as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _agree(first: Any, second: Any) -> bool:
    a, b = _as_number(first), _as_number(second)
    if a is None or b is None:
        return a is b and str(first).strip() == str(second).strip()
    return a == b or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


def level_fields(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Run type as stated, and the scheme that corrected the energies, of plain fields; None where nothing is said.

    Raises:
        RecordError: if the run type is stated in two ways, or is none of the scheme's.
    """
    stated = [(name, str(fields[name]).strip()) for name in RUN_TYPE_NAMES if not is_empty(fields.get(name))]
    for name, value in stated[1:]:
        if functional_of(value) != functional_of(stated[0][1]):
            raise RecordError(
                f"{stated[0][0]} is {stated[0][1]!r} and {name} is {value!r}: expected one, since energies of "
                "different functionals share no hull"
            )
    run_type = stated[0][1] if stated else _only_run_type(fields)
    thermo_type = fields.get("thermo_type")
    if is_empty(thermo_type):
        return run_type, None
    named = str(thermo_type).strip()
    if run_type is not None and (reason := contradiction(named, run_type)):
        raise RecordError(reason)
    return run_type, SCHEME_OF_THERMO_TYPE.get(named.upper(), f"thermo_type {named}")


def _only_run_type(fields: Mapping[str, Any]) -> str | None:
    """The functional of a Materials Project document that lists its calculations, if all are of one."""
    for name in ("run_types", "calc_types"):
        listed = fields.get(name)
        if isinstance(listed, Mapping) and listed:
            words = {str(value).split()[0] if str(value).split() else "" for value in listed.values()}
            if len(words) == 1:
                return words.pop() or None
    return None


def source_id_of(fields: Mapping[str, Any], fallback: str, names: tuple[str, ...] = ID_NAMES) -> str:
    """The id that plain fields state under the first of these names, else the fallback."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return fallback


def is_row_number(source_id: str) -> bool:
    """Whether an id is only a place in a file, which says nothing of any other file."""
    return bool(re.fullmatch(rf"(?:.*:)?{ROW_NAME}\d+", source_id))


def elements_of_fields(fields: Mapping[str, Any]) -> frozenset[str] | None:
    """Elements by the columns ELEMENT_NAMES; None if they are absent or name anything that is no element."""
    for name in ELEMENT_NAMES:
        text = fields.get(name)
        if isinstance(text, str) and text:
            symbols = frozenset(_SYMBOL.findall(text))
            leftover = re.sub(r"[\s\d\[\]\(\)\{\}'\",.]", "", _SYMBOL.sub("", text))
            if symbols and not leftover and symbols <= frozenset(ELEMENTS):
                return symbols
    return None


def other_values(fields: Mapping[str, Any], texts: bool = False) -> dict[str, Any]:
    """Finite numbers, and whether a crystal is theoretical, under names that no column of the table takes.

    Args:
        fields: under the names of the file.
        texts: short texts and truth values too.
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        plain = plain_name(name)
        if not plain or plain.startswith("@") or _ROW_NUMBER.fullmatch(plain):
            continue
        if plain == "theoretical" and str(value).strip().lower() in ("true", "false"):
            found[name] = str(value).strip().lower() == "true"
        elif plain in _TAKEN_NAMES and not (plain == "spacegroup" and isinstance(value, str) and not value.isdigit()):
            continue
        elif isinstance(value, bool):
            found |= {name: value} if texts else {}
        elif isinstance(value, (str, int, float)):
            with contextlib.suppress(ValueError, OverflowError):
                if math.isfinite(number := float(value)):
                    found[name] = number
                continue
            if texts and isinstance(value, str) and 0 < len(value) <= _TEXT_MAX:
                found[name] = value
    return found
