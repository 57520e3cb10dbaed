"""Where records of a database are kept while, and after, they are downloaded: one SQLite file per query.

A page is written in one transaction together with the cursor of the next, so a process killed at any moment leaves
whole pages and knows where to go on. Records are kept by id: a page that comes twice, or pages in another order, change
nothing. They are read in id order, so a table made from them does not depend on how they came.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from generative.datasets.databases.database import Record
from generative.datasets.records import json_text
from generative.datasets.sources import SourceError
from storage.databases import told_of
from storage.digests import text_digest

FORMAT = "1"
CACHE_KIB = 65_536
READ_BATCH = 512
WAIT_S = 600.0
"""How long a process waits for another that downloads the same query, s."""

# Rows are appended, and the ids have a small index: kept in the order of ids, records would be moved about on the disk
# with every page of a database whose ids are hashes.
_INSERT = """
INSERT INTO records (id, stamp, digest, body) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET stamp = excluded.stamp, digest = excluded.digest, body = excluded.body
"""

State = Mapping[str, str | int | None]
"""Values of a download's state; None removes one."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stamp TEXT, digest BLOB NOT NULL, body BLOB NOT NULL
);
"""


class Added(NamedTuple):
    """What adding records did: how many ids are new, are known with another content, are known with the same."""

    n_new: int
    n_changed: int
    n_same: int


class StoreBusyError(SourceError):
    """Another process is downloading into this store."""


def store_name(source: str, identity: Mapping[str, Any]) -> str:
    """File name of the store of one question, such as 'aflow-1f0c9a3be2d4.sqlite'.

    Args:
        source: name of the source.
        identity: all that makes another question: address, query, limit.
    """
    return f"{source}-{text_digest(json_text(dict(identity)))[:12]}.sqlite"


class Store:
    """The records of one query, and how far its download is; open it with `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def opened(
        cls, path: Path, identity: Mapping[str, Any] | None = None, write: bool = True, wait_s: float = WAIT_S
    ) -> Iterator[Self]:
        """The store at this path, locked against other processes; many may read, one may write.

        Args:
            path: of the SQLite file, made if it is not there; '<path>.lock' beside it is the lock, which a dead process
                does not hold.
            identity: kept in the store for people to read.
            write: whether records or state will change.
            wait_s: how long to wait for another process, s.

        Raises:
            StoreBusyError: if another process still has it then.
            SourceError: if the file is no store, of another form, or damaged; by what is done with the store, too.
            DiskFullError: if there is no room.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            _lock(lock.fileno(), path, write, wait_s)
            connection = _connected(path)
            try:
                with _named(path):
                    store = cls(connection)
                    store.check()
                    if identity is not None and store.get("identity") is None:
                        store.put(identity=json_text(dict(identity)))
                    yield store
            finally:
                connection.close()

    @classmethod
    def progress(cls, path: Path) -> tuple[int, bool]:
        """Records stored so far, and whether they are all; without waiting for a process that writes them."""
        if not path.is_file():
            return 0, False
        connection = _connected(path)
        try:
            with _named(path):
                store = cls(connection)
                return len(store), store.get("finished") is not None
        finally:
            connection.close()

    def get(self, key: str) -> str | None:
        """A value of the state; None if it was never put."""
        found = self._connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def number(self, key: str) -> int:
        """A value of the state as a whole number; 0 if it was never put."""
        try:
            return int(self.get(key) or 0)
        except ValueError as error:
            raise sqlite3.DatabaseError(f"{key}: {error}") from None

    def put(self, **values: str | int | None) -> None:
        """Set values of the state, all or none; None removes."""
        with self._connection:
            self._put(values)

    def _put(self, values: State) -> None:
        for key, value in values.items():
            if value is None:
                self._connection.execute("DELETE FROM state WHERE key = ?", (key,))
            else:
                self._connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, str(value)))

    def add(self, records: Iterable[Record], state: Callable[[Added], State] = lambda added: {}) -> Added:
        """Write records and the state that goes with them, all or nothing; of one id the last record is kept.

        Args:
            records: of one page.
            state: values to put, from what adding the records did.
        """
        rows = [_row(record) for record in records]
        seen = self._digests([row[0] for row in rows])
        n_new = n_changed = 0
        for name, _, digest, _ in rows:
            n_new += name not in seen
            n_changed += name in seen and seen[name] != digest
            seen[name] = digest
        added = Added(n_new, n_changed, len(rows) - n_new - n_changed)
        with self._connection:
            self._connection.executemany(_INSERT, rows)
            self._put({"n_stored": len(self) + n_new, **state(added)})
        return added

    def _digests(self, ids: Sequence[str]) -> dict[str, bytes]:
        return dict(self._selected("id, digest", ids))

    def _selected(self, columns: str, ids: Sequence[str]) -> Iterator[Any]:
        for start in range(0, len(ids), READ_BATCH):
            part = ids[start : start + READ_BATCH]
            marks = ",".join("?" * len(part))
            yield from self._connection.execute(f"SELECT {columns} FROM records WHERE id IN ({marks})", part)

    def remove(self, ids: Sequence[str], **state: str | int | None) -> None:
        """Take stored records away and set the state that goes with it, all or nothing."""
        with self._connection:
            self._connection.executemany("DELETE FROM records WHERE id = ?", ((name,) for name in ids))
            self._put({"n_stored": len(self) - len(ids), **state})

    def __len__(self) -> int:
        # Counted along: count(*) would walk through the whole file at every page.
        return self.number("n_stored")

    def known(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Stamps of those of these ids that are stored."""
        return dict(self._selected("id, stamp", ids))

    def ids(self) -> Iterator[str]:
        """All ids, in order."""
        for (name,) in self._connection.execute("SELECT id FROM records ORDER BY id"):
            yield name

    def records(self) -> Iterator[Record]:
        """All records in order of their ids, a few at a time in memory.

        Raises: SourceError: at a record that is not as it was written; after the last one, if records are missing,
            more, or under other names than when the download ended.
        """
        total, stated = hashlib.sha256(), self.get("digest") if self.get("finished") is not None else None
        cursor = self._connection.execute("SELECT id, stamp, digest, body FROM records ORDER BY id")
        while rows := cursor.fetchmany(READ_BATCH):
            for name, stamp, digest, body in rows:
                total.update(f"{name}\0{stamp}\0".encode() + digest)
                yield Record(name, stamp, json.loads(_body(name, digest, body)))
        if stated is not None and total.hexdigest() != stated:
            raise sqlite3.DatabaseError("its records are not those that came")

    def digest(self) -> str:
        """SHA-256 of the content: ids, stamps and bodies, in id order."""
        total = hashlib.sha256()
        for name, stamp, digest in self._connection.execute("SELECT id, stamp, digest FROM records ORDER BY id"):
            total.update(f"{name}\0{stamp}\0".encode() + digest)
        return total.hexdigest()

    def finish(self, when: str) -> None:
        """Say that the download is complete, with a digest of the records, and one of what is said of them."""
        self.put(digest=self.digest(), finished=when, refreshing=None, checksum=None)
        self.put(checksum=self._state_digest())

    def _state_digest(self) -> str:
        state = self._connection.execute("SELECT key, value FROM state WHERE key <> 'checksum' ORDER BY key").fetchall()
        return text_digest(json.dumps(state))

    def check(self) -> None:
        """Raises: sqlite3.DatabaseError: if the download is complete, and not what is said of it what was written."""
        stated = self.get("checksum")
        if self.get("finished") is not None and stated is not None and stated != self._state_digest():
            raise sqlite3.DatabaseError("what it says of the download is not what was written")


def _lock(descriptor: int, path: Path, write: bool, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreBusyError(
                    f"{path.name} is in use for more than {wait_s:g} s: another process downloads the same query; wait "
                    "for it, then run this again"
                ) from None
            time.sleep(0.2)


def _row(record: Record) -> tuple[str, str | None, bytes, bytes]:
    body = json_text(dict(record.body)).encode()
    return record.id, record.stamp, _digest(body), zlib.compress(body, 1)


def _body(name: str, digest: bytes, packed: bytes) -> bytes:
    """The JSON text of a record.

    Raises: sqlite3.DatabaseError: if it is not as it was written.
    """
    try:
        body = zlib.decompress(packed)
    except (zlib.error, TypeError):
        body = b""
    if _digest(body) != digest:
        raise sqlite3.DatabaseError(f"the record {name} is not as it came")
    return body


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _named(path: Path) -> AbstractContextManager[None]:
    """Whatever shows a store to be damaged, as a sentence; a full disk too."""
    remedy = "remove the file and run again, which downloads it again"
    return told_of(path, lambda error: SourceError(f"{path} is damaged ({error}): {remedy}"))


def _connected(path: Path) -> sqlite3.Connection:
    with _named(path), ExitStack() as stack:
        # Prefect's threads open, use and close a store each by themselves, one at a time.
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        stack.callback(connection.close)
        connection.execute("PRAGMA page_size = 16384")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        # A write-ahead log: a page costs one append; after a kill, what was committed is there.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        found = connection.execute("SELECT value FROM state WHERE key = 'format'").fetchone()
        if found is None:
            with connection:
                connection.execute("INSERT INTO state VALUES ('format', ?)", (FORMAT,))
        elif found[0] != FORMAT:
            raise SourceError(
                f"{path.name}: a download of form {found[0]!r}, expected {FORMAT!r}: remove the file and download again"
            )
        stack.pop_all()
    return connection
