"""Parquet tables with a checksum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import naming_full_disk, writing
from storage.checksums import DamagedFileError, Inspected, add_checksum, check


def write_table(
    table: pa.Table, path: Path, metadata: Mapping[bytes, bytes] | None = None, rows_per_group: int | None = None
) -> Inspected:
    """Write a Parquet file that appears whole or not at all, with a checksum.

    Args:
        table: to be written.
        path: the file; its folder is made if it is not there.
        metadata: added to that of the table.
        rows_per_group: rows that stand together, and can be read without the others; None: Parquet's own default.

    Returns: Digest and size of the file.

    Raises: DiskFullError: if there is no room.
    """
    described = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    with writing(path) as temporary:
        pq.write_table(described, temporary, row_group_size=rows_per_group)
        return add_checksum(temporary)


def read_table(path: Path, remedy: str) -> pa.Table:
    """The table in a file.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, as the end of a sentence.

    Raises: DamagedFileError: if it is not there, is no Parquet file, or does not hold what was written.
    """
    with reading(path, remedy):
        return pq.read_table(path)


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Reads the file through, before the work on its table begins, and puts every failure to read it into a sentence.

    Raises: DamagedFileError: as read_table.
    """
    try:
        check(path, remedy)
        yield
    except FileNotFoundError:
        raise DamagedFileError(f"{path} is not there: {remedy}") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException, MemoryError) as error:
        said = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{path} is not readable as Parquet ({said}): {remedy}") from None


class TableWriter:
    """A Parquet file written piece by piece, with a checksum once it is closed; under whatever name it is given.

    Args:
        path: of the file, a temporary name.
        schema: of all pieces.
        named: the file that it will be, for errors.
    """

    def __init__(self, path: Path, schema: pa.Schema, named: Path) -> None:
        self._path, self._named = path, named
        with naming_full_disk(named):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        """Raises: DiskFullError: if there is no room."""
        with naming_full_disk(self._named):
            self._writer.write_table(table)

    def finish(self) -> Inspected:
        """Close the file and put the checksum into it.

        Raises: DiskFullError: if there is no room.
        """
        with naming_full_disk(self._named):
            self._writer.close()
            return add_checksum(self._path)

    def abandon(self) -> None:
        """Close the file as it is, whatever that says; nothing is done if it is closed."""
        with suppress(OSError, pa.ArrowException):  # a full disk has been told already
            self._writer.close()


def stated_in(path: Path, name: bytes) -> Any:
    """A value in a file's Parquet metadata; None if there is none, or the file cannot be read."""
    try:
        return (pq.read_schema(path).metadata or {}).get(name)
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return None
