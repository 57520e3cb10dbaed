"""A dataset on disk: dataset.parquet, rejected.parquet and manifest.json in one folder, each with a checksum.

The fingerprint is a SHA-256 of the table's content: the names and types of the columns, and every value, in row order.
It depends neither on time, nor on how Parquet or Arrow split the rows into chunks, nor on compression. How: each column
keeps three running hashes, of the validity of its rows (one byte each), of the lengths of its strings or lists (8-byte
little-endian integers), and of its values (UTF-8 text, in a list each behind its length; integers as 8-byte
little-endian; floats as IEEE 754 double, little-endian). The fingerprint is the hash of the columns' names, types and
three digests, in column order.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from generative.datasets.config import FilterConfig
from generative.datasets.table import DATASET_SCHEMA, REJECTED_SCHEMA, batches_of
from storage.atomic import staging
from storage.checksums import Checksum, DamagedFileError, check
from storage.documents import read_document, write_document
from storage.tables import TableWriter, reading

logger = logging.getLogger(__name__)

SCHEMA_VERSION = "3"
DATASET_FILE = "dataset.parquet"
REJECTED_FILE = "rejected.parquet"
MANIFEST_FILE = "manifest.json"
FILES_SHOWN = 5
"""Files not read that a warning names; the manifest names more."""

ROW_GROUP = 8192
"""Rows written at once: small row groups cost readers a header each and compress badly."""


class DatasetError(ValueError):
    """A dataset folder that is incomplete, or whose content is not what its manifest says."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HarvestRecord(_Frozen):
    """How a database on the network was asked. Times and counts are of the last time it was."""

    endpoint: str = Field(description="address that was asked; no key")
    started: str = Field(description="when the first page was asked for, ISO 8601, UTC")
    finished: str = Field(description="when the last page had come, ISO 8601, UTC")
    n_records: int = Field(ge=0, description="distinct records that came and are kept in the store")
    n_repeated: int = Field(ge=0, description="records that came more than once, as when a database shifts its pages")
    n_requests: int = Field(ge=0, description="requests sent, retries included, over all resumed attempts")
    n_retries: int = Field(ge=0, description="requests sent again")
    limit: int | None = Field(default=None, description="most records that were wanted; null all")
    version_before: str | None = Field(
        default=None, description="release of the database at the last complete download, if it has moved since"
    )
    n_added: int | None = Field(default=None, description="on a refresh: records new since the last download")
    n_changed: int | None = Field(default=None, description="on a refresh: records that had changed")
    n_removed: int | None = Field(default=None, description="on a refresh: records the database no longer has")
    warnings: tuple[str, ...] = Field(default=(), description="what a user should know, one sentence each")


class SourceRecord(_Frozen):
    """What one source gave: n_read = n_kept + n_filtered + n_rejected + n_merged."""

    source: str = Field(description="name of the source, column 'source' of its rows")
    kind: str = Field(description="files, prototypes, or the name of a network database")
    query: str = Field(description="path or query as the user gave it; of an absolute path only the last part")
    database_version: str | None = Field(default=None, description="release of the database, or digest of the file")
    method: str = Field(description="level of theory of the energies")
    n_read: int = Field(ge=0, description="records read")
    n_kept: int = Field(ge=0, description="rows in the table")
    n_filtered: int = Field(ge=0, description="records outside the chemical system or the filters")
    n_rejected: int = Field(ge=0, description="records in the quarantine")
    n_merged: int = Field(default=0, ge=0, description="crystals another source holds too; kept there, with their ids")
    n_files_not_read: int = Field(default=0, ge=0, description="files of a folder that were not read")
    files_not_read: tuple[str, ...] = Field(default=(), description="their names with the reason, the first 100")
    harvest: HarvestRecord | None = Field(default=None, description="how the network was asked; null: it was not")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know, one sentence each, without a full stop."""
        said = () if self.harvest is None else self.harvest.warnings
        if not self.n_files_not_read:
            return said
        rest = self.n_files_not_read - len(self.files_not_read[:FILES_SHOWN])
        listed = "; ".join(self.files_not_read[:FILES_SHOWN]) + (f"; and {rest} more" if rest else "")
        return (*said, f"{self.n_files_not_read} files of the folder were not read: {listed}")


class Manifest(_Frozen):
    """Where a dataset came from, and the fingerprint by which others refer to it."""

    schema_version: str = Field(default=SCHEMA_VERSION, description="version of DATASET_SCHEMA")
    sources: tuple[SourceRecord, ...] = Field(description="in the order in which their rows stand in the table")
    elements: tuple[str, ...] | None = Field(
        default=None, description="chemical system the table is restricted to; null: none"
    )
    filters: FilterConfig = Field(description="filters that were applied")
    created: str = Field(description="time of writing, ISO 8601, UTC")
    n_rows: int = Field(ge=0, description="rows of dataset.parquet")
    methods: dict[str, int] = Field(
        default={}, description="level of theory -> rows with it; energies of different ones share no hull"
    )
    fingerprint_sha256: str = Field(description="of the table's content; see generative/datasets/manifest.py")


class Dataset(NamedTuple):
    """A dataset as read: the table (DATASET_SCHEMA), the quarantine (REJECTED_SCHEMA), and the manifest."""

    table: pa.Table
    rejected: pa.Table
    manifest: Manifest


def utc_now() -> str:
    """The time now, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Fingerprint:
    """Running fingerprint of a table that arrives in pieces; equal for any split into pieces. See the module's head."""

    def __init__(self, schema: pa.Schema = DATASET_SCHEMA) -> None:
        self._schema = schema
        self._hashes = [[hashlib.sha256() for _ in range(3)] for _ in schema]

    def update(self, table: pa.Table) -> Self:
        """Add the rows of a table with this schema."""
        for column, hashes in zip(self._schema, self._hashes, strict=True):
            for chunk in table.column(column.name).cast(column.type).chunks:
                _feed(hashes, chunk)
        return self

    def hexdigest(self) -> str:
        """The fingerprint of the rows so far."""
        total = hashlib.sha256()
        for column, hashes in zip(self._schema, self._hashes, strict=True):
            total.update(f"{column.name}\0{_type_name(column.type)}\0".encode())
            for running in hashes:
                total.update(running.digest())
        return total.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _feed(hashes: list[Any], array: pa.Array) -> None:
    validity, lengths, values = hashes
    validity.update(array.is_valid().to_numpy(zero_copy_only=False).astype("u1").tobytes())
    if pa.types.is_list(array.type):
        sizes = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        lengths.update(sizes.astype("<i8").tobytes())
        inner = array.flatten()
        if pa.types.is_string(inner.type):
            # Each text behind its own length, so that the digest does not depend on how rows are split into pieces.
            texts = [text.encode() for text in inner.to_pylist()]
            values.update(b"".join(len(text).to_bytes(8, "little") + text for text in texts))
        else:
            values.update(_number_bytes(inner))
    elif pa.types.is_string(array.type):
        texts = [text.encode() for text in array.fill_null("").to_pylist()]
        lengths.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
        values.update(b"".join(texts))
    else:
        values.update(_number_bytes(array.fill_null(0)))


def _number_bytes(array: pa.Array) -> bytes:
    dtype = "<f8" if pa.types.is_floating(array.type) else "<i8"
    return bytes(array.to_numpy(zero_copy_only=False).astype(dtype).tobytes())


def fingerprint_of(table: pa.Table) -> str:
    """SHA-256 fingerprint of a table in DATASET_SCHEMA; see the module's head for what it covers."""
    return Fingerprint().update(table).hexdigest()


class DatasetWriter:
    """Writes a dataset piece by piece, so that no more than one piece is in memory.

    The three files appear under their names only at `finish`, the manifest last; leaving the `with` block without it
    (an exception, a kill) leaves whatever was in the folder before. Each has a checksum.

    Raises: DiskFullError: from any method, if there is no room.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.fingerprint = Fingerprint()
        self.n_rows = 0
        self.methods: Counter[str] = Counter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._staging = stack.enter_context(staging(self._folder / DATASET_FILE))
            self._rows, self._rejected = (
                TableWriter(self._staging / name, schema, self._folder / name)
                for name, schema in ((DATASET_FILE, DATASET_SCHEMA), (REJECTED_FILE, REJECTED_SCHEMA))
            )
            stack.callback(self._rows.abandon)
            stack.callback(self._rejected.abandon)
            self._open = stack.pop_all()
        self._waiting: list[pa.Table] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, rows: pa.Table, rejected: pa.Table) -> None:
        """Append rows of the table and of the quarantine."""
        if len(rows):
            rows = rows.select(DATASET_SCHEMA.names).cast(DATASET_SCHEMA)
            self.fingerprint.update(rows)
            self.n_rows += len(rows)
            for counted in pc.value_counts(rows.column("method")).to_pylist():
                self.methods[counted["values"]] += counted["counts"]
            self._waiting.append(rows)
            if sum(map(len, self._waiting)) >= ROW_GROUP:
                self._write()
        if len(rejected):
            self._rejected.write(rejected.select(REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA))

    def _write(self) -> None:
        if self._waiting:
            self._rows.write(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting.clear()

    def finish(self, manifest: Manifest) -> None:
        """Put the three files in place.

        Raises:
            DatasetError: if the manifest does not describe the rows that were written.
        """
        _agree(manifest, self.n_rows, self.fingerprint.hexdigest(), self._folder)
        self._write()
        self._rows.finish()
        self._rejected.finish()
        # Without a manifest a folder is no dataset, so a kill between the renames cannot pass for a finished one.
        (self._folder / MANIFEST_FILE).unlink(missing_ok=True)
        for name in (DATASET_FILE, REJECTED_FILE):
            os.replace(self._staging / name, self._folder / name)
        write_document(self._folder / MANIFEST_FILE, manifest.model_dump(mode="json"))


def _agree(manifest: Manifest, n_rows: int, fingerprint: str, folder: Path) -> None:
    if manifest.n_rows != n_rows:
        raise DatasetError(
            f"{folder}: the table has {n_rows} rows, its manifest says {manifest.n_rows}: ingest it again"
        )
    if manifest.fingerprint_sha256 != fingerprint:
        raise DatasetError(
            f"{folder}: the table's fingerprint is {fingerprint}, its manifest says {manifest.fingerprint_sha256}: the "
            "files were changed or come from different runs, so ingest the dataset again"
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder.

    Raises:
        DatasetError: if it is missing, unreadable, or of another schema version.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate(read_document(path, "ingest the dataset again"))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{folder}: has no {MANIFEST_FILE}, expected a finished dataset: ingest it first") from None
    except DamagedFileError as error:
        raise DatasetError(str(error)) from None
    except (OSError, ValidationError) as error:
        raise DatasetError(f"{path}: not a dataset manifest ({str(error).splitlines()[0]}): ingest again") from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path}: schema_version is {manifest.schema_version!r}, expected {SCHEMA_VERSION!r}: ingest again"
        )
    return manifest


def read_dataset(folder: Path) -> Dataset:
    """Read a dataset and check it against its manifest.

    Raises:
        DatasetError: if a file is missing or unreadable, or the table's content is not what the manifest says.
    """
    manifest = read_manifest(folder)
    tables = []
    for name, schema in ((DATASET_FILE, DATASET_SCHEMA), (REJECTED_FILE, REJECTED_SCHEMA)):
        with _reading(folder / name):
            tables.append(pq.read_table(folder / name).select(schema.names).cast(schema))
    table, rejected = tables
    _agree(manifest, len(table), fingerprint_of(table), folder)
    return Dataset(table, rejected, manifest)


def check_dataset(folder: Path) -> Manifest:
    """The manifest of a dataset folder whose table was read through once and found to be what the manifest says.

    Holds one batch of rows in memory at a time.

    Raises:
        DatasetError: as read_dataset.
    """
    manifest = read_manifest(folder)
    fingerprint, n_rows = Fingerprint(), 0
    with _reading(folder / DATASET_FILE), pq.ParquetFile(folder / DATASET_FILE) as file:
        for batch in batches_of(file, ROW_GROUP):
            rows = pa.Table.from_batches([batch]).select(DATASET_SCHEMA.names).cast(DATASET_SCHEMA)
            fingerprint.update(rows)
            n_rows += len(rows)
    _agree(manifest, n_rows, fingerprint.hexdigest(), folder)
    return manifest


def is_whole(folder: Path) -> bool:
    """Whether a finished dataset lies there with the content that was written; said where one is damaged.

    Its checksums tell, which costs a reading of the bytes. One of an earlier version, which has none, is compared with
    its fingerprint.
    """
    if not (folder / MANIFEST_FILE).exists():
        return False
    try:
        read_manifest(folder)
        for name in (DATASET_FILE, REJECTED_FILE):
            if check(folder / name, "ingest the dataset again").checksum is Checksum.NONE:
                read_dataset(folder)
    except (DatasetError, DamagedFileError, OSError) as error:
        logger.warning("the dataset is made again: %s", error)
        return False
    return True


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises: DatasetError: for all that shows a table to be damaged."""
    again = "ingest the dataset again"
    try:
        with reading(path, again):
            yield
    except (KeyError, DamagedFileError) as error:
        said = f"{path} lacks the column {error}: {again}" if isinstance(error, KeyError) else str(error)
        raise DatasetError(said) from None
