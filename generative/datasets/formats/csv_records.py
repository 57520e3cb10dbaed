"""CSV files that hold many crystals, read as raw records one at a time; JSON and Parquet have their own modules.

What their columns mean: generative/datasets/formats/columns.py.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from generative.datasets.checks import RecordError
from generative.datasets.formats.columns import (
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
from generative.datasets.formats.opening import UNREADABLE, lines_of, made, opened, refused
from generative.datasets.limits import MAX_FILE_BYTES
from generative.datasets.origins import stated_origin
from generative.datasets.records import Form, RawRecord
from generative.datasets.sources import SourceError
from generative.datasets.texts import is_whole, listed, shown

_DELIMITERS = (",", ";", "\t", "|")


def cif_record(fields: Mapping[str, Any], fallback_id: str) -> RawRecord:
    """A record of CIF text under `cif` with its properties beside it, names as in the file."""
    plain = plain_fields(fields)
    source_id = source_id_of(plain, fallback_id)
    try:
        properties, (run_type, correction) = properties_of(plain), level_fields(plain)
    except RecordError as error:
        return refused(source_id, str(error), shown(dict(fields)))
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
    limit = csv.field_size_limit(MAX_FILE_BYTES)  # its own, 128 kB, ends at a CIF of a few thousand atoms
    row_number = 0
    try:
        with opened(path) as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            lines = lines_of(text, MAX_FILE_BYTES)
            first = next(lines, "")
            if not first:
                yield refused(path.name, "the file is empty: expected a CSV with a header and a column 'cif'", "")
                return
            if "\0" in first or not is_whole(first):
                reason = "the header is not UTF-8 text: expected a UTF-8 CSV, so convert the file's encoding"
                yield refused(path.name, reason, first)
                return
            rows = csv.reader(itertools.chain([first], lines), delimiter=_delimiter(first))
            header = _checked_header(path, next(rows, []))
            for row_number, row in enumerate(filter(None, rows)):  # a blank line is no record
                make = partial(_csv_record, header, row, row_number)
                yield made(make, f"{ROW_NAME}{row_number}", row)
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
        raise SourceError(
            f"{path.name}: has the columns {listed(header)}, expected one named 'cif' that holds CIF text"
        )
    return header


def refuse_repeated(path: Path, names: Sequence[str]) -> None:
    """Raises SourceError if a column comes twice: which of its values counts cannot be known."""
    if same := repeated_names(names):
        words = ", ".join(map(repr, listed(same)))
        raise SourceError(
            f"{path.name}: has the column {listed(same)[0]!r} {len(same)} times ({words}): expected each "
            "column once, so rename or remove the others"
        )


def _csv_record(header: list[str], row: list[str], row_number: int) -> RawRecord:
    fields = dict(zip(header, row, strict=False))
    fallback_id = f"{ROW_NAME}{row_number}"
    if len(row) != len(header):
        reason = f"the row has {len(row)} cells: expected {len(header)}, one per column of the header"
        return refused(source_id_of(plain_fields(fields), fallback_id), reason, ",".join(row))
    return cif_record(fields, fallback_id)
