"""CSV and Parquet files that hold many crystals, read as raw records, lazily where possible; JSON has its own module.

What their columns mean: generative/datasets/columns.py.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from generative.crystals import STRUCTURE_FIELDS, Crystal
from generative.datasets.checks import RecordError
from generative.datasets.columns import (
    ROW_NAME,
    elements_of_fields,
    level_fields,
    other_values,
    plain_fields,
    plain_name,
    properties_of,
    repeated_names,
    source_id_of,
)
from generative.datasets.opening import UNREADABLE, opened, refused
from generative.datasets.origins import Origin, stated_origin
from generative.datasets.records import BATCH_SIZE, Form, RawRecord
from generative.datasets.sources import SourceError
from generative.datasets.table import batches_of
from storage.checksums import DamagedFileError, check

_CELL_TEXT_MAX = 1 << 26  # csv's own limit, 128 kB, would end the run at the first CIF of a few thousand atoms
_DELIMITERS = (",", ";", "\t", "|")


def cif_record(fields: Mapping[str, Any], fallback_id: str) -> RawRecord:
    """A record of CIF text under `cif` with its properties beside it, names as in the file."""
    plain = plain_fields(fields)
    source_id = source_id_of(plain, fallback_id)
    try:
        properties, (run_type, correction) = properties_of(plain), level_fields(plain)
    except RecordError as error:
        return refused(source_id, str(error), json.dumps(dict(fields), default=str))
    return RawRecord(
        source_id,
        Form.CIF,
        plain["cif"],
        properties,
        elements_of_fields(plain),
        run_type=run_type,
        correction=correction,
        extra=other_values(fields),
        origin=stated_origin(plain),
    )


def read_csv(path: Path) -> Iterator[RawRecord]:
    """Records of a CSV or CSV.gz with a header and a `cif` column, one row in memory at a time.

    Cells may be divided by commas, semicolons, tabs or bars: whichever makes a column `cif` of the header. A row with
    too few or too many cells, or bytes that are not UTF-8, is one refused record; a file that ends inside a gzip block
    or has no readable text is one refused record for the part that cannot be read.

    Raises:
        SourceError: if the header has no column `cif`, or one of its columns twice.
    """
    limit = csv.field_size_limit(_CELL_TEXT_MAX)
    row_number = 0
    try:
        with opened(path) as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            first = text.readline()
            if not first:
                yield refused(path.name, "the file is empty: expected a CSV with a header and a column 'cif'", "")
                return
            if "\0" in first or _has_surrogate(first):
                reason = "the header is not UTF-8 text: expected a UTF-8 CSV, so convert the file's encoding"
                yield refused(path.name, reason, first)
                return
            rows = csv.reader(itertools.chain([first], text), delimiter=_delimiter(first))
            header = _checked_header(path, next(rows, []))
            for row_number, row in enumerate(filter(None, rows)):  # a blank line is no record
                yield _csv_record(header, row, row_number)
    except (csv.Error, *UNREADABLE) as error:
        reason = f"unreadable after {row_number} rows ({type(error).__name__}: {error}): expected a complete CSV file"
        yield refused(f"{path.name} after row {row_number}", reason, "")
    finally:
        csv.field_size_limit(limit)


def _delimiter(header: str) -> str:
    """What divides the cells: the first that makes a column `cif` of the header's line, else a comma."""
    names = {d: next(csv.reader([header], delimiter=d), []) for d in _DELIMITERS}
    return next((d for d in _DELIMITERS if "cif" in map(plain_name, names[d])), _DELIMITERS[0])


def _checked_header(path: Path, header: list[str]) -> list[str]:
    refuse_repeated(path, header)
    if "cif" not in map(plain_name, header):
        raise SourceError(f"{path.name}: has the columns {header[:12]}, expected one named 'cif' that holds CIF text")
    return header


def refuse_repeated(path: Path, names: Sequence[str]) -> None:
    """Raises SourceError if a column comes twice: which of its values counts cannot be known."""
    if same := repeated_names(names):
        raise SourceError(
            f"{path.name}: has the column {same[0]!r} {len(same)} times ({', '.join(map(repr, same))}): expected each "
            "column once, so rename or remove the others"
        )


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _csv_record(header: list[str], row: list[str], row_number: int) -> RawRecord:
    fields = dict(zip(header, row, strict=False))
    fallback_id = f"{ROW_NAME}{row_number}"
    if len(row) != len(header):
        reason = f"the row has {len(row)} cells: expected {len(header)}, one per column of the header"
        return refused(source_id_of(plain_fields(fields), fallback_id), reason, ",".join(row))
    return cif_record(fields, fallback_id)


def read_parquet(path: Path) -> Iterator[RawRecord]:
    """Records of a Parquet file: our own table, or any table with a `cif` column; one batch in memory at a time.

    Rows of our own table keep their source, source_id and method.

    Raises:
        SourceError: if the file is no Parquet file, holds neither our structure columns nor `cif`, or is not as it was
            written.
    """
    names = parquet_columns(path)
    try:
        check(path, "copy it again, or make it again with the command that wrote it")
    except DamagedFileError as error:
        raise SourceError(str(error)) from None
    file = pq.ParquetFile(path)
    convert: Callable[[dict[str, Any], str], RawRecord]
    if is_own_table(names):
        convert = _own_record
    elif "cif" in map(plain_name, names):
        refuse_repeated(path, names)
        convert = cif_record
    else:
        raise SourceError(
            f"{path.name}: has the columns {sorted(names)[:12]}, expected {[c.name for c in STRUCTURE_FIELDS]} or 'cif'"
        )
    row_number = 0
    with file:
        for batch in batches_of(file, BATCH_SIZE):
            for fields in batch.to_pylist():
                yield convert(fields, f"{ROW_NAME}{row_number}")
                row_number += 1


def parquet_columns(path: Path) -> list[str]:
    """Raises SourceError if it is no Parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            return list(file.schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise SourceError(f"{path.name}: not readable as Parquet ({said}): expected a complete file") from None


def is_own_table(names: Collection[str]) -> bool:
    """Whether these columns are those of a table that Hullward writes."""
    return set(names).issuperset(column.name for column in STRUCTURE_FIELDS)


def _own_record(fields: dict[str, Any], fallback_id: str) -> RawRecord:
    source_id = str(fields.get("source_id") or fields.get("id") or fallback_id)
    try:
        crystal = Crystal(
            np.array(fields["lattice_ang"], dtype=float).reshape(3, 3),
            np.array(fields["frac_coords"], dtype=float).reshape(-1, 3),
            np.array(fields["atomic_numbers"], dtype=np.int16),
        )
        if len(crystal.frac) != len(crystal.atomic_numbers):
            raise ValueError(f"{len(crystal.frac)} coordinates beside {len(crystal.atomic_numbers)} atomic numbers")
    except (TypeError, ValueError, OverflowError) as error:
        return refused(source_id, f"the structure columns do not fit together ({error}): expected 9, 3n and n", fields)
    return RawRecord(
        source_id,
        Form.CRYSTAL,
        crystal,
        # A table of relaxed crystals states their energies beside the crystals they were made of.
        {} if "relaxed_lattice_ang" in fields else properties_of(fields),
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
