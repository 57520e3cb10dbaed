"""Rows of the embedded job store: a document as text, its checksum, and where a damaged one is put."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bson import json_util

from storage.databases import told_of


class JobStoreError(RuntimeError):
    """A job store cannot be opened or used. Its text never holds an address."""


def checksum_of(row_id: str, change: int, text: str | None) -> str:
    """SHA-256 of a row: which document, number of the change, and what it says; None for one that was removed."""
    content = f"{row_id}\0{change}\0{text is None}\0{text or ''}"
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def document_of(row_id: str, change: int, text: str | None, checksum: str | None) -> dict[str, Any] | None:
    """The document of a row; None if it was removed. Rows of earlier versions have no checksum.

    Raises: ValueError: if it is not what was written.
    """
    if checksum not in (None, checksum_of(row_id, change, text)):
        raise ValueError("the checksum does not fit")
    if text is None:
        return None
    text.encode()  # bytes that are no UTF-8 were let through until here
    document = json_util.loads(text)
    if not isinstance(document, dict) or "_id" not in document:
        raise ValueError("no document")
    return document


def set_aside(connection: sqlite3.Connection, collection: str, damaged: Sequence[tuple[Any, Any]]) -> str:
    """Move rows that cannot be read to a table of their own, whose name is returned: one must not cost the others."""
    aside = f'"{collection}_damaged"'
    connection.execute(f"create table if not exists {aside} (id text, doc blob)")
    for row_id, text in damaged:
        kept = tuple(str(value).encode("utf-8", "surrogateescape") for value in (row_id, text))
        connection.execute(f"insert into {aside} values (?, ?)", kept)
        connection.execute(f'delete from "{collection}" where id = cast(? as text)', kept[:1])
    return aside


def named(path: str) -> AbstractContextManager[None]:
    """Whatever SQLite says of a store's file, as a sentence.

    Raises:
        JobStoreError: for a file that is damaged, or cannot be used.
        DiskFullError: if there is no room.
    """
    remedy = (
        "expected a SQLite file made by this program, in a folder that exists and can be written to; move the file "
        "away and collect the jobs again, which writes it anew, or name another in `store.path`"
    )
    return told_of(Path(path), lambda error: JobStoreError(f"cannot use {path} as a job store ({error}): {remedy}"))
