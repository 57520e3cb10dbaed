"""Files that hold many crystals: benchmark CSVs, pymatgen JSON and Parquet, read as raw records, lazily where possible.

How the names in such a file become columns of the table:

| name in the file | column of the table | note |
|---|---|---|
| material_id, mat_id, entry_id, task_id, id, '' | source_id | the first given; '' is pandas' index; else row number |
| cif | the structure | |
| energy_per_atom | energy_ev_per_atom | Carbon-24: total energy, eV/atom |
| formation_energy_per_atom | formation_energy_ev_per_atom | MP-20, MPTS-52, WBM: from the elements, eV/atom |
| e_above_hull, energy_above_hull | e_above_hull_ev_per_atom | MP-20, MPTS-52, eV/atom |
| heat_all | e_above_hull_ev_per_atom | Perov-5: against the pool of reference phases, see below |
| band_gap, ind_gap | band_gap_ev | Perov-5's indirect gap is its smallest |
| spacegroup.number | spacegroup | kept as stated; where absent, found by spglib |
| origin, or theoretical (true, false) | origin | `theoretical: false` is reported |
| other numbers | extra | under their own names |
| elements, pretty_formula, formula | none | tells the chemical system before any CIF is parsed |

Perov-5's heat_all and heat_ref are heats against competing compounds, not against the elements (LaAlO3 stands at -0.1,
its formation energy from the elements lies below -3 eV/atom), so neither may enter formation_energy_ev_per_atom.
heat_all, against all phases of the pool, is what others call energy above hull (negative: below the pool). heat_ref
and dir_gap have no column; like every other number of a row they are kept in `extra`.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from generative.config import ELEMENTS
from generative.crystals import STRUCTURE_FIELDS, Crystal
from generative.datasets.origins import Origin, stated_origin
from generative.datasets.records import BATCH_SIZE, Form, RawRecord
from generative.datasets.sources import SourceError
from generative.datasets.table import batches_of

ID_NAMES = ("material_id", "mat_id", "entry_id", "task_id", "id", "")
PROPERTY_NAMES: Mapping[str, tuple[str, ...]] = {
    "energy_ev_per_atom": ("energy_ev_per_atom", "energy_per_atom"),
    "formation_energy_ev_per_atom": ("formation_energy_ev_per_atom", "formation_energy_per_atom"),
    "e_above_hull_ev_per_atom": ("e_above_hull_ev_per_atom", "e_above_hull", "energy_above_hull", "heat_all"),
    "band_gap_ev": ("band_gap_ev", "band_gap", "ind_gap"),
    "spacegroup": ("spacegroup.number", "spacegroup"),
}
"""Column of the table -> names under which files state it, the first present wins; see the module's head."""

ELEMENT_NAMES = ("elements", "pretty_formula", "formula")

_TAKEN_NAMES = frozenset(
    {"cif", "theoretical", *ID_NAMES, *ELEMENT_NAMES, *itertools.chain.from_iterable(PROPERTY_NAMES.values())}
)

_CELL_TEXT_MAX = 1 << 26  # csv's own limit, 128 kB, would end the run at the first CIF of a few thousand atoms
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_UNREADABLE = (OSError, EOFError, zlib.error)  # a gzip file cut off or of another kind


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb"))


def _refused(source_id: str, reason: str, content: Any) -> RawRecord:
    return RawRecord(source_id, Form.REFUSED, content, reason=reason)


def _stated_elements(fields: Mapping[str, Any]) -> frozenset[str] | None:
    """Elements by the columns ELEMENT_NAMES; None if they are absent or name anything that is no element."""
    for name in ELEMENT_NAMES:
        text = fields.get(name)
        if isinstance(text, str) and text:
            symbols = frozenset(_SYMBOL.findall(text))
            leftover = re.sub(r"[\s\d\[\]\(\)\{\}'\",.]", "", _SYMBOL.sub("", text))
            if symbols and not leftover and symbols <= frozenset(ELEMENTS):
                return symbols
    return None


def _properties(fields: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    found = {}
    for column, names in PROPERTY_NAMES.items():
        for name in names:
            if name in fields:
                found[column] = (name, fields[name])
                break
    return found


def _source_id(fields: Mapping[str, Any], fallback: str) -> str:
    for name in ID_NAMES:
        value = fields.get(name)
        if isinstance(value, (str, int)) and str(value).strip():
            return str(value).strip()
    return fallback


def _cif_record(fields: Mapping[str, Any], fallback_id: str) -> RawRecord:
    return RawRecord(
        _source_id(fields, fallback_id),
        Form.CIF,
        fields["cif"],
        _properties(fields),
        _stated_elements(fields),
        extra=_other_numbers(fields),
        origin=stated_origin(fields),
    )


def _other_numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers under names that no column of the table takes; ids and the structure are not among them."""
    numbers = {}
    for name, value in fields.items():
        if name and name not in _TAKEN_NAMES and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                number = float(value)
                if math.isfinite(number):
                    numbers[name] = number
    return numbers


def read_csv(path: Path) -> Iterator[RawRecord]:
    """Records of a CSV or CSV.gz with a header and a `cif` column, one row in memory at a time.

    A row with too few or too many cells, or bytes that are not UTF-8, is one refused record; a file that ends inside a
    gzip block or has no readable text is one refused record for the part that cannot be read.

    Raises:
        SourceError: if the header has no column `cif`.
    """
    limit = csv.field_size_limit(_CELL_TEXT_MAX)
    row_number = 0
    try:
        with _opened(path) as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            rows = csv.reader(text)
            header = next(rows, None)
            if header is None:
                yield _refused(path.name, "the file is empty: expected a CSV with a header and a column 'cif'", "")
                return
            if any("\0" in name or _has_surrogate(name) for name in header):
                reason = "the header is not UTF-8 text: expected a UTF-8 CSV, so convert the file's encoding"
                yield _refused(path.name, reason, ",".join(header))
                return
            if "cif" not in header:
                raise SourceError(
                    f"{path.name}: has the columns {header[:12]}, expected one named 'cif' that holds CIF text"
                )
            for row_number, row in enumerate(filter(None, rows)):  # a blank line is no record
                yield _csv_record(header, row, row_number)
    except (csv.Error, *_UNREADABLE) as error:
        reason = f"unreadable after {row_number} rows ({type(error).__name__}: {error}): expected a complete CSV file"
        yield _refused(f"{path.name} after row {row_number}", reason, "")
    finally:
        csv.field_size_limit(limit)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _csv_record(header: list[str], row: list[str], row_number: int) -> RawRecord:
    fields = dict(zip(header, row, strict=False))
    source_id = _source_id(fields, f"row-{row_number}")
    if len(row) != len(header):
        reason = f"the row has {len(row)} cells: expected {len(header)}, one per column of the header"
        return _refused(source_id, reason, ",".join(row))
    return _cif_record(fields, source_id)


def read_json(path: Path) -> Iterator[RawRecord]:
    """Records of a JSON(.gz) file: a list or an id-keyed dictionary of pymatgen Structures or of entries.

    An entry is a dictionary with the Structure under `structure` (or CIF text under `cif`) and its properties beside
    it or under `data`; pymatgen's ComputedStructureEntry is one, its energy taken with its correction, per atom. Only
    plain data is read: no class named in the file is imported. The file is held in memory as a whole.

    Raises:
        SourceError: if the file is JSON, but neither a list nor a dictionary.
    """
    try:
        with _opened(path) as raw:
            content = raw.read()
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = content[error.start]
        reason = f"byte {byte:#04x} at position {error.start} is not UTF-8: expected UTF-8 JSON"
        yield _refused(path.name, reason, content[:4000])
        return
    except json.JSONDecodeError as error:
        what = "the file is empty" if not content.strip() else f"not JSON ({error})"
        yield _refused(path.name, f"{what}: expected a complete JSON list or dictionary of structures", content[:4000])
        return
    except _UNREADABLE as error:
        yield _refused(path.name, f"unreadable ({type(error).__name__}: {error}): expected a complete file", "")
        return
    yield from (_json_record(item, fallback) for fallback, item in _json_items(document, path))


def _json_items(document: Any, path: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict) and isinstance(document.get("entries"), (list, dict)):
        document = document["entries"]
    if isinstance(document, dict) and ({"lattice", "sites"} <= document.keys() or "structure" in document):
        document = [document]
    if isinstance(document, dict):
        yield from ((key, item) for key, item in document.items() if not key.startswith("@"))
    elif isinstance(document, list):
        yield from ((f"row-{i}", item) for i, item in enumerate(document))
    else:
        raise SourceError(f"{path.name}: holds a JSON {type(document).__name__}, expected a list or dictionary")


def _json_record(item: Any, fallback_id: str) -> RawRecord:
    if not isinstance(item, dict):
        reason = f"the entry is a {type(item).__name__}: expected a Structure dictionary or one with key 'structure'"
        return _refused(fallback_id, reason, item)
    if "lattice" in item and "sites" in item:
        return RawRecord(fallback_id, Form.STRUCTURE, item, elements=_site_elements(item))
    inner = item.get("data")
    fields = {**inner, **item} if isinstance(inner, dict) else dict(item)
    source_id = _source_id(fields, fallback_id)
    structure = fields.get("structure")
    if isinstance(structure, dict):
        if str(item.get("@class", "")).endswith("StructureEntry"):
            fields["energy_per_atom"] = _entry_energy_per_atom(item, structure)
        return RawRecord(
            source_id,
            Form.STRUCTURE,
            structure,
            _properties(fields),
            _site_elements(structure),
            origin=stated_origin(fields),
        )
    if isinstance(fields.get("cif"), str):
        return _cif_record(fields, source_id)
    reason = (
        f"the entry has the keys {sorted(map(str, fields))[:8]}: expected 'structure' (a Structure dictionary) or 'cif'"
    )
    return _refused(source_id, reason, item)


def _entry_energy_per_atom(entry: Mapping[str, Any], structure: Mapping[str, Any]) -> Any:
    """Corrected energy per atom of a ComputedStructureEntry; whatever cannot be computed is left for the refusal."""
    energy, sites = entry.get("energy"), structure.get("sites")
    if not isinstance(energy, (int, float)) or not isinstance(sites, list) or not sites:
        return energy
    return (energy + float(entry.get("correction") or 0.0)) / len(sites)


def _site_elements(structure: Mapping[str, Any]) -> frozenset[str] | None:
    try:
        symbols = frozenset(str(s["element"]) for site in structure["sites"] for s in site["species"])
    except (KeyError, TypeError):
        return None
    return symbols if symbols and symbols <= frozenset(ELEMENTS) else None


def read_parquet(path: Path) -> Iterator[RawRecord]:
    """Records of a Parquet file: our own table, or any table with a `cif` column; one batch in memory at a time.

    Rows of our own table keep their source, source_id and method.

    Raises:
        SourceError: if the file is no Parquet file, or holds neither our structure columns nor `cif`.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path.name}: not readable as Parquet ({error}): expected a complete file") from None
    names = set(file.schema_arrow.names)
    convert: Callable[[dict[str, Any], str], RawRecord]
    if names.issuperset(column.name for column in STRUCTURE_FIELDS):
        convert = _own_record
    elif "cif" in names:
        convert = _cif_record
    else:
        raise SourceError(
            f"{path.name}: has the columns {sorted(names)[:12]}, expected {[c.name for c in STRUCTURE_FIELDS]} or 'cif'"
        )
    row_number = 0
    with file:
        for batch in batches_of(file, BATCH_SIZE):
            for fields in batch.to_pylist():
                yield convert(fields, f"row-{row_number}")
                row_number += 1


def _own_record(fields: dict[str, Any], fallback_id: str) -> RawRecord:
    source_id = str(fields.get("source_id") or fallback_id)
    try:
        crystal = Crystal(
            np.array(fields["lattice_ang"], dtype=float).reshape(3, 3),
            np.array(fields["frac_coords"], dtype=float).reshape(-1, 3),
            np.array(fields["atomic_numbers"], dtype=np.int16),
        )
        if len(crystal.frac) != len(crystal.atomic_numbers):
            raise ValueError(f"{len(crystal.frac)} coordinates beside {len(crystal.atomic_numbers)} atomic numbers")
    except (TypeError, ValueError, OverflowError) as error:
        return _refused(source_id, f"the structure columns do not fit together ({error}): expected 9, 3n and n", fields)
    return RawRecord(
        source_id,
        Form.CRYSTAL,
        crystal,
        _properties(fields),
        source=fields.get("source"),
        method=fields.get("method"),
        run_type=fields.get("run_type"),
        last_modified=fields.get("last_modified"),
        extra=_extra(fields.get("extra")),
        other_ids=tuple(fields.get("other_ids") or ()),
        other_energies=fields.get("other_energies"),
        origin=stated_origin(fields) or (Origin.PROTOTYPE if fields.get("source") == "prototypes" else None),
    )


def _extra(text: Any) -> dict[str, Any]:
    """Further fields of a row of our own table; what is no JSON object is kept as text."""
    if not isinstance(text, str) or not text:
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {"extra": text}
    return found if isinstance(found, dict) else {"extra": found}
