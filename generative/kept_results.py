"""What is computed once per crystal: by several processes, and kept on disk by the crystal's digest."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import NamedTuple, TypeVar

from storage.databases import told_of

logger = logging.getLogger(__name__)


Given = TypeVar("Given")
Made = TypeVar("Made")

_CHUNK = 64
CHECKSUM = hashlib.sha256().digest_size


def in_processes(function: Callable[[Given], Made], crystals: Sequence[Given], workers: int) -> Iterator[Made]:
    """The function of each crystal, or of each group of crystals, in order.

    Args:
        function: of a module's top level, so that it can be sent to another process.
        crystals: in any number.
        workers: processes; above 1 they are spawned, so the caller's main module must be importable.
    """
    if workers == 1 or len(crystals) < 2:
        yield from map(function, crystals)
        return
    yield function(crystals[0])  # compiles for all workers where the compiled code can be kept on disk
    # Spawned, not forked: a fork of a process whose torch threads hold locks may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, crystals[1:], chunksize=max(1, min(_CHUNK, len(crystals) // (4 * workers))))


class Kept(NamedTuple):
    """What is kept of one crystal: the result's bytes, or None and the reason why there is none."""

    payload: bytes | None
    reason: str


class KeptResults:
    """Results by digest in one SQLite file; without a file it keeps nothing.

    A result that is not as it was written, which its checksum tells, is as good as none.

    Args:
        path: of the file; its folder is made where it is missing.
        what: the results' name in the plural, also of the file's table: a word.
        recipe: names the computation and all versions it depends on; results of another recipe are not found.
    """

    def __init__(self, path: Path | None, what: str, recipe: str) -> None:
        self._path, self._what, self._recipe = path, what, f"{recipe}, with checksums"
        self._rows: list[tuple[str, str, bytes | None, str]] = []

    def __enter__(self) -> KeptResults:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def read(self, digests: Sequence[str]) -> dict[str, Kept]:
        """What is on disk of these digests.

        Raises: ValueError: if the file is none of these, or damaged.
        """
        if self._path is None:
            return {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        found, n_damaged = {}, 0
        with self._named(self._path), closing(self._open(self._path)) as connection:
            for begin in range(0, len(digests), 500):
                part = digests[begin : begin + 500]
                marks = ",".join("?" * len(part))
                query = f"SELECT digest, vector, reason FROM {self._what} WHERE recipe = ? AND digest IN ({marks})"
                for digest, content, reason in connection.execute(query, (self._recipe, *part)):
                    if (kept := self._opened(digest, content, reason)) is None:
                        n_damaged += 1
                    else:
                        found[digest] = kept
        if n_damaged:
            logger.warning("%s: %d of the %s are damaged and are computed again", self._path, n_damaged, self._what)
        return found

    def write(self, digest: str, payload: bytes | None, reason: str) -> None:
        """Keeps one result, on disk with the next thousand or at the end."""
        if self._path is None:
            return
        content = b"" if payload is None else b"\1" + payload
        self._rows.append((self._recipe, digest, self._checksum(digest, content, reason) + content, reason))
        if len(self._rows) >= 1000:  # few transactions, and little lost if the process is killed
            self._flush()

    def _flush(self) -> None:
        if self._rows and self._path is not None:
            with self._named(self._path), closing(self._open(self._path)) as connection, connection:
                connection.executemany(f"INSERT OR REPLACE INTO {self._what} VALUES (?, ?, ?, ?)", self._rows)
            self._rows.clear()

    def _checksum(self, digest: str, content: bytes, reason: str) -> bytes:
        return hashlib.sha256("\0".join((self._recipe, digest, reason, "")).encode() + content).digest()

    def _opened(self, digest: str, content: bytes, reason: str) -> Kept | None:
        """What is kept in a row; None if it is not what was written."""
        try:
            checksum, rest = content[:CHECKSUM], content[CHECKSUM:]
            is_whole = checksum == self._checksum(digest, rest, reason)
        except (TypeError, ValueError):  # of another type, or text that is none
            is_whole = False
        return Kept(rest[1:] if rest else None, reason) if is_whole else None

    def _named(self, path: Path) -> AbstractContextManager[None]:
        """Whatever SQLite says of this file, as a sentence."""
        remedy = "delete it, for it holds nothing that cannot be computed again"
        return told_of(path, lambda error: ValueError(f"{path} is damaged ({error}): {remedy}"))

    def _open(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # its checksum tells what it is
        try:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._what} (recipe TEXT, digest TEXT, vector BLOB, reason TEXT, "
                "PRIMARY KEY (recipe, digest)) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ValueError(
                f"{path} is not a cache of {self._what} ({error}): expected an SQLite file written here, so delete it "
                "or name another folder"
            ) from error
        return connection
