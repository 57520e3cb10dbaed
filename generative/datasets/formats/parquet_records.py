"""Parquet files as raw records: our own table, or any table with a column `cif`.

A few bytes of Parquet can state any number of rows, of texts and of list items (run lengths, dictionaries, repeated
pages), so what a file states is held against its size before it is read, and what comes out of it while it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal
from generative.datasets.checks import RecordError, atomic_numbers_of, wrapped
from generative.datasets.formats.columns import ROW_NAME, plain_name, properties_of
from generative.datasets.formats.csv_records import cif_record, refuse_repeated
from generative.datasets.formats.opening import Expansion, ExpansionError, made, opened, refused
from generative.datasets.limits import FREE_BYTES, MAX_EXPANSION
from generative.datasets.origins import Origin, stated_origin
from generative.datasets.records import BATCH_SIZE, Form, RawRecord
from generative.datasets.sources import SourceError
from generative.datasets.texts import cut, listed
from storage.checksums import DamagedFileError, check

_UNREADABLE = (OSError, ValueError, pa.ArrowException, MemoryError)
_BYTES_PER_VALUE = 8


def read_parquet(path: Path) -> Iterator[RawRecord]:
    """Records of a Parquet file: our own table, or any table with a `cif` column; one batch in memory at a time.

    Rows of our own table keep their source, source_id and method. Rows that are damaged are one refused record, which
    says how many; those of the other row groups are read.

    Raises:
        SourceError: if the file is no Parquet file, states more than its size can hold, or holds neither our structure
            columns nor `cif`; or if Hullward wrote it and it is not as it was written.
    """
    names = parquet_columns(path)
    try:
        check(path, "copy it again, or make it again with the command that wrote it")
    except DamagedFileError as error:
        raise SourceError(str(error)) from None
    convert: Callable[[dict[str, Any], str], RawRecord]
    if is_own_table(names):
        convert = _own_record
    elif "cif" in map(plain_name, names):
        refuse_repeated(path, names)
        convert = cif_record
    else:
        raise SourceError(
            f"{path.name}: has the columns {listed(sorted(names))}, expected "
            f"{[c.name for c in STRUCTURE_FIELDS]} or 'cif'"
        )
    expansion = Expansion(path.stat().st_size)
    with _file(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            n_rows, done = file.metadata.row_group(group).num_rows, 0
            try:
                # One row group at a time: over several, pyarrow reads ahead of a slow consumer.
                for batch in file.iter_batches(BATCH_SIZE, row_groups=[group]):
                    for fields in _rows(batch, expansion):
                        name = f"{ROW_NAME}{first + done}"
                        done += 1
                        yield made(partial(convert, fields, name), name, fields)
            except _UNREADABLE as error:
                yield refused(f"{path.name} from row {first + done}", _unreadable(error, n_rows - done), "")
                if isinstance(error, ExpansionError):
                    return
            first += n_rows


def _unreadable(error: BaseException, n_rows: int) -> str:
    said = cut(" ".join(str(error).split()), 200)
    return f"{n_rows} rows are unreadable ({type(error).__name__}: {said}): expected a complete file"


def _rows(batch: pa.RecordBatch, expansion: Expansion) -> list[dict[str, Any]]:
    """The rows as dictionaries; a text that many rows share is in memory once."""
    columns: list[list[Any]] = []
    for column in batch.columns:
        if not pa.types.is_dictionary(column.type):
            expansion.add(column.nbytes)
            columns.append(column.to_pylist())
            continue
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        expansion.add(int(pc.sum(lengths).as_py() or 0))
        texts = column.dictionary.to_pylist()
        columns.append([None if i is None else texts[i] for i in column.indices.to_pylist()])
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _file(path: Path) -> pq.ParquetFile:
    with opened(path):  # a pipe or a device would be waited for
        pass
    plain = pq.read_schema(path)
    texts = [field.name for field in plain if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    return pq.ParquetFile(path, read_dictionary=texts)


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns.

    Raises:
        SourceError: if it is no Parquet file, or states more than a file of its size can hold.
    """
    try:
        with _file(path) as file:
            names, stated_bytes = list(file.schema_arrow.names), _stated_bytes(file.metadata)
    except _UNREADABLE as error:
        said = cut(" ".join(str(error).split()), 200)
        raise SourceError(f"{path.name}: not readable as Parquet ({said}): expected a complete file") from None
    n_bytes = path.stat().st_size
    if stated_bytes > (most := max(FREE_BYTES, MAX_EXPANSION * n_bytes)):
        raise SourceError(
            f"{path.name}: its {n_bytes} bytes state {stated_bytes} bytes of content: expected at most {most}, "
            f"{MAX_EXPANSION} times the file; write it again from the data if that is meant"
        )
    return names


def _stated_bytes(metadata: pq.FileMetaData) -> int:
    """What a file says it unpacks to: the larger of its pages and eight bytes a value."""
    n_bytes = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            n_bytes += max(column.total_uncompressed_size, _BYTES_PER_VALUE * column.num_values)
        n_bytes += group.num_rows
    return n_bytes


def is_own_table(names: Collection[str]) -> bool:
    """Whether these columns are those of a table that Hullward writes."""
    return set(names).issuperset(column.name for column in STRUCTURE_FIELDS)


def _own_record(fields: dict[str, Any], fallback_id: str) -> RawRecord:
    source_id = str(fields.get("source_id") or fields.get("id") or fallback_id)
    try:
        crystal = Crystal(
            np.array(fields["lattice_ang"], dtype=float).reshape(3, 3),
            np.array(fields["frac_coords"], dtype=float).reshape(-1, 3),
            atomic_numbers_of(fields["atomic_numbers"]),
        )
        wrapped(crystal.frac)  # for its refusal alone: what was written is read back bit for bit
        if len(crystal.frac) != len(crystal.atomic_numbers):
            raise ValueError(f"{len(crystal.frac)} coordinates beside {len(crystal.atomic_numbers)} atomic numbers")
    except RecordError as error:
        return refused(source_id, str(error), fields)
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
    except (ValueError, RecursionError):
        return {"extra": text}
    return found if isinstance(found, dict) else {"extra": found}
