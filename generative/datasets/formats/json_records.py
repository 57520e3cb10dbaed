"""JSON files that hold many crystals, read as raw records: pymatgen Structures, entries, documents of a database.

Only plain data is read: no class that a file names is imported. A file is held in memory as a whole but for JSON lines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from generative.config import ELEMENTS
from generative.datasets.checks import RecordError
from generative.datasets.config import DEFAULT_JSON_MB
from generative.datasets.formats.columns import (
    ID_NAMES,
    ROW_NAME,
    is_empty,
    level_fields,
    other_values,
    plain_fields,
    plain_name,
    properties_of,
    repeated_names,
    source_id_of,
)
from generative.datasets.formats.csv_records import cif_record
from generative.datasets.formats.json_documents import (
    BadLine,
    RepeatedKeyError,
    decoded_json,
    document_of,
    items_of,
    line_of,
)
from generative.datasets.formats.opening import UNREADABLE, bounded_lines, made, opened, refused
from generative.datasets.formats.tolerant_json import too_many_values
from generative.datasets.levels import MP2020, functional_of, needs_no_mp2020, scheme_of
from generative.datasets.limits import MAX_FILE_BYTES
from generative.datasets.origins import stated_origin
from generative.datasets.records import Form, RawRecord
from generative.datasets.texts import is_whole

NO_CRYSTAL = "the entry"
"""So begins the reason of what holds no crystal at all."""

_RECORD_TEXT = 4000

MP2020_WORD = b"MP2020"
"""Stands in every line whose entry the scheme of 2020 has corrected."""


def read_json(path: Path, max_mb: float = DEFAULT_JSON_MB) -> Iterator[RawRecord]:
    """Records of a JSON(.gz) file, or of one with a JSON text per line (.jsonl, .ndjson).

    A list, a dictionary by id, or a pandas 'split' table, of pymatgen Structures or of dictionaries with the Structure
    under `structure` (or CIF text under `cif`) and properties beside it or under `data`. The energy of pymatgen's
    ComputedStructureEntry is taken with its correction, per atom; its run type and its corrections decide `method`.

    Args:
        path: of the file. Of JSON lines one is in memory at a time.
        max_mb: most megabytes of a file that is no JSON lines, unpacked; it is in memory as a whole.

    Raises:
        SourceError: if the file is JSON, but neither a list nor a dictionary, or a table with a column twice.
    """
    try:
        if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            yield from _of_lines(path)
        else:
            yield from _of_document(path, int(max_mb * 1e6))
    except UNREADABLE as error:
        yield refused(path.name, f"unreadable ({type(error).__name__}: {error}): expected a complete file", "")


def _of_document(path: Path, n_bytes_max: int) -> Iterator[RawRecord]:
    with opened(path) as raw:
        content = raw.read(n_bytes_max + 1)
    remedy = "write one JSON text per line to a .jsonl file, or raise json_mb_max of the source"
    if len(content) > n_bytes_max:
        reason = f"the file has more than {n_bytes_max / 1e6:g} MB: expected at most that of JSON, so {remedy}"
        yield refused(path.name, reason, content[:_RECORD_TEXT])
        return
    if reason := too_many_values(content, n_bytes_max):
        yield refused(path.name, f"the file {reason}, so {remedy}", content[:_RECORD_TEXT])
        return
    text, bad_byte = decoded_json(content)
    try:
        document = document_of(text)
    except RepeatedKeyError as error:
        yield refused(path.name, str(error), content[:_RECORD_TEXT])
        return
    except json.JSONDecodeError as error:
        what = "the file is empty" if not content.strip() else f"not JSON ({error})"
        reason = bad_byte or f"{what}: expected a complete JSON list or dictionary of structures"
        yield refused(path.name, reason, content[:_RECORD_TEXT])
        return
    del text
    items = list(items_of(document, path))
    is_corrected = any(_scheme_or_none(item) == MP2020 for _, item in items)
    for fallback, item in items:
        yield made(partial(_record, item, fallback, is_corrected, bad_byte), fallback, item)


def _of_lines(path: Path) -> Iterator[RawRecord]:
    """One record per line that is not blank; of the others it depends on the scheme of corrections alone."""
    with opened(path) as raw:
        named = (line for line in bounded_lines(raw, MAX_FILE_BYTES) if MP2020_WORD in line)
        is_corrected = any(_scheme_or_none(line_of(line)) == MP2020 for line in named)
    n_lines = 0
    with opened(path) as raw:
        for line in bounded_lines(raw, MAX_FILE_BYTES):
            if line.strip():
                name = f"{ROW_NAME}{n_lines}"
                n_lines += 1
                yield made(partial(_record_of_line, line, name, is_corrected), name, line[:_RECORD_TEXT])
    if not n_lines:
        reason = "the file is empty: expected a complete JSON text on each line"
        yield refused(path.name, reason, "")


def _record_of_line(line: bytes, fallback_id: str, is_corrected: bool) -> RawRecord:
    _, bad_byte = decoded_json(line)
    return _record(line_of(line), fallback_id, is_corrected, bad_byte)


def _scheme_or_none(item: Any) -> str | None:
    """As `_scheme`, of an item that may hold anything."""
    try:
        return _scheme(item)
    except Exception:  # the item's own record will be refused for it
        return None


def _record(item: Any, fallback_id: str, is_corrected: bool, bad_byte: str = "") -> RawRecord:
    """The record of an item.

    Args:
        item: a Structure, or a dictionary with one.
        fallback_id: its id if it states none.
        is_corrected: whether the file has entries that the Materials Project's scheme of 2020 has corrected.
        bad_byte: what is wrong with the bytes that the item, among others, came from; empty if nothing is.
    """
    if isinstance(item, BadLine):
        return refused(fallback_id, str(item), "")
    if bad_byte and not is_whole(json.dumps(item, ensure_ascii=False, default=str)):
        return refused(fallback_id, bad_byte, item)
    if not isinstance(item, dict):
        reason = f"{NO_CRYSTAL} is a {type(item).__name__}: expected a Structure dictionary or one with key 'structure'"
        return refused(fallback_id, reason, item)
    if "lattice" in item and "sites" in item:
        return RawRecord(fallback_id, Form.STRUCTURE, item, elements=_site_elements(item))
    fields = _fields(item)
    if same := repeated_names(fields):
        return refused(fallback_id, f"{' and '.join(same)} are one name: expected each once", item)
    plain = plain_fields(fields)
    is_entry = _is_entry(item)
    source_id = source_id_of(plain, fallback_id, ("entry_id", *ID_NAMES) if is_entry else ID_NAMES)
    structure = plain.get("structure")
    if not isinstance(structure, dict):
        if isinstance(plain.get("cif"), str):
            return cif_record(fields, fallback_id)
        return refused(source_id, _lacking(fields), item)
    try:
        if is_entry:
            plain["energy_per_atom"] = _entry_energy_per_atom(item, structure)
        run_type, correction = _level(item, plain, structure, is_corrected)
        properties = properties_of(plain)
    except RecordError as error:
        return refused(source_id, str(error), item)
    return RawRecord(
        source_id,
        Form.STRUCTURE,
        structure,
        properties,
        _site_elements(structure),
        run_type=run_type,
        correction=correction,
        extra=other_values(fields, texts=True),
        origin=stated_origin(plain),
    )


def _lacking(fields: Mapping[str, Any]) -> str:
    expected = "'structure' (a Structure dictionary) or 'cif'"
    if "energy" in fields and "composition" in fields:
        return f"{NO_CRYSTAL} has an energy but no crystal: expected {expected}, as in a ComputedStructureEntry"
    return f"{NO_CRYSTAL} has the keys {sorted(map(str, fields))[:8]}: expected {expected}"


def _fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item's values with those under `data`, and the number of a nested space group; its own win."""
    inner = item.get("data")
    fields = {**inner, **item} if isinstance(inner, dict) else dict(item)
    for name in ("symmetry", "spacegroup"):
        if isinstance(fields.get(name), dict):
            nested = fields.pop(name)
            fields.setdefault(f"{name}.number", nested.get("number"))
    return fields


def _is_entry(item: Mapping[str, Any]) -> bool:
    """Whether an item is a ComputedStructureEntry, whose `energy` is that of the whole cell, uncorrected."""
    named = str(item.get("@class", ""))
    return named.endswith("StructureEntry") or (
        not named and "energy" in item and ("correction" in item or "energy_adjustments" in item)
    )


def _adjustments(item: Mapping[str, Any]) -> list[Any]:
    listed = item.get("energy_adjustments")
    return listed if isinstance(listed, list) else []


def _scheme(item: Any) -> str | None:
    return scheme_of(_adjustments(item), 0.0) if isinstance(item, dict) and _is_entry(item) else None


def _correction_ev(item: Mapping[str, Any]) -> float:
    """Correction of an entry, eV per cell: as it states it, else the sum of its adjustments.

    Raises:
        RecordError: if the two differ, or one is no number.
    """
    summed: float | None = 0.0
    for one in _adjustments(item):
        value = one.get("value") if isinstance(one, dict) else None
        if value is None and isinstance(one, dict):
            per_atom, n_atoms = one.get("adj_per_atom"), one.get("n_atoms")
            value = per_atom * n_atoms if _is_number(per_atom) and _is_number(n_atoms) else None
        summed = summed + value if summed is not None and _is_number(value) else None
    stated = item.get("correction")
    if is_empty(stated):
        if summed is None:
            raise RecordError("the correction cannot be told from energy_adjustments: expected numbers in eV")
        return summed
    if not _is_number(stated):
        raise RecordError(f"correction is {str(stated)[:80]!r}: expected a number in eV")
    if _adjustments(item) and summed is not None and abs(summed - stated) > 1e-3:
        raise RecordError(
            f"correction is {stated:g} eV and the energy_adjustments sum to {summed:g} eV: expected one value"
        )
    return float(stated)


def _is_number(value: Any) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that is no double
        return False


def _entry_energy_per_atom(entry: Mapping[str, Any], structure: Mapping[str, Any]) -> Any:
    """Corrected energy per atom of a ComputedStructureEntry; whatever is no number is left for the refusal.

    Raises:
        RecordError: if the entry's composition is not that of its crystal, or its correction cannot be told.
    """
    energy, sites = entry.get("energy"), structure.get("sites")
    if not _is_number(energy) or not isinstance(sites, list) or not sites:
        return energy
    return (energy + _correction_ev(entry)) / _n_atoms(entry.get("composition"), structure, len(sites))


def _n_atoms(composition: Any, structure: Mapping[str, Any], n_sites: int) -> float:
    """Atoms that the energy of an entry is of: those of its composition, which `normalize` changes without the cell."""
    if not isinstance(composition, dict) or not composition:
        return n_sites
    counts = {str(element): value for element, value in composition.items() if _is_number(value) and value > 0}
    total = sum(counts.values())
    elements = _site_elements(structure)
    if len(counts) < len(composition) or (elements is not None and elements != {_bare(name) for name in counts}):
        raise RecordError(
            f"composition is {str(composition)[:80]}: expected the elements of the crystal ("
            f"{', '.join(sorted(elements or ()))}) with their numbers"
        )
    return float(total)


def _bare(species: str) -> str:
    """'Fe' of 'Fe3+'."""
    return species.rstrip("+-0123456789.")


def _level(
    item: Mapping[str, Any], plain: Mapping[str, Any], structure: Mapping[str, Any], is_corrected: bool
) -> tuple[str | None, str | None]:
    """Run type as stated, and by what the energies were corrected.

    Raises:
        RecordError: if the run type is stated in two ways.
    """
    parameters = item.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    inner = item.get("data")
    levels = [level_fields(plain_fields(part)) for part in (parameters, inner, item) if isinstance(part, dict)]
    run_types = {functional_of(run_type): run_type for run_type, _ in levels if run_type is not None}
    if len(run_types) > 1:
        raise RecordError(
            f"run_type is stated as {' and '.join(map(repr, run_types.values()))}: expected one, since energies of "
            "different functionals share no hull"
        )
    run_type = next(iter(run_types.values()), None)
    hubbards = parameters.get("hubbards")
    if isinstance(hubbards, dict) and any(hubbards.values()) and not str(functional_of(run_type)).endswith("+U"):
        run_type = (run_type or "unknown") + "+U"
    scheme = next((scheme for _, scheme in levels if scheme is not None), None)
    if scheme is None and _is_entry(item):
        scheme = scheme_of(_adjustments(item), _correction_ev(item))
        elements = sorted(_site_elements(structure) or ())
        if scheme is None and is_corrected and needs_no_mp2020(elements, run_type, plain.get(_OXIDATION)):
            scheme = MP2020
    return run_type, scheme


_OXIDATION = plain_name("oxidation_states")


def _site_elements(structure: Mapping[str, Any]) -> frozenset[str] | None:
    try:
        symbols = frozenset(str(s["element"]) for site in structure["sites"] for s in site["species"])
    except (KeyError, TypeError):
        return None
    return symbols if symbols and symbols <= frozenset(ELEMENTS) else None
