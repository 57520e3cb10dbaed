"""Where job documents live: an embedded store that survives a kill, or MongoDB.

The embedded default is maggma's MemoryStore, which answers every query (mongomock), with each change written through to
one SQLite file before `update` returns. maggma's own JSONStore rewrites its whole file at every update: a kill in the
middle loses every document. Several processes on one machine may share the file: each takes in what the others wrote
before it reads or writes. All documents are held in memory, so beyond some 10,000 relaxations use MongoDB.

The address of a MongoDB server holds a password. It is read from an environment variable at the moment of connecting
and kept nowhere else: not in the store's name, its serialised form, or an error.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bson import json_util
from jobflow.core.store import JobStore
from maggma.core import Store
from maggma.stores import MemoryStore, MongoStore
from monty.json import jsanitize
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from dft.config import StoreConfig
from dft.store_rows import JobStoreError, checksum_of, document_of, named, set_aside

FORMAT_VERSION = 2
"""Written as SQLite's user_version; a file of a later version is refused, one of the first is given a column more."""

BUSY_TIMEOUT_S = 60.0
"""How long a writer waits for another process's transaction, seconds."""

SERVER_SELECTION_TIMEOUT_MS = 5000
"""How long to look for a MongoDB server before saying that there is none (pymongo's own default is 30 s)."""


class SQLiteStore(MemoryStore):  # storage name: never move
    """A maggma store: queries in memory, every change written through to a table of one SQLite file.

    A row holds one document as MongoDB extended JSON, under the document's `_id`, with the number of the change that
    wrote it and a SHA-256 checksum; a removed document leaves an empty row. So another process finds what is new by its
    number alone, and a document that is not what was written is set aside.
    """

    _coll: Any

    def __init__(self, path: str | Path, collection_name: str = "jobs", **kwargs: Any) -> None:
        """Name the file; it is opened, and made if it is not there, by connect().

        Args:
            path: the SQLite file; its folder must exist.
            collection_name: the table, letters, digits and underscores.
            kwargs: passed to maggma's Store, such as `key`.

        Raises:
            ValueError: if the collection name is not a plain identifier.
        """
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", collection_name):
            raise ValueError(
                f"collection name {collection_name!r} is not plain: expected letters, digits and underscores, since it "
                "names a table"
            )
        self.path = str(path)
        self._table = f'"{collection_name}"'
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._owner_pid = 0
        self._last_change = 0
        self._data_version = -1
        self._is_writing = False
        self._ids: dict[tuple[str, ...], dict[str, Any]] = {}
        self._lock = threading.RLock()
        super().__init__(collection_name=collection_name, **kwargs)

    @property
    def name(self) -> str:
        """Name of the store: its file and table."""
        return f"sqlite://{self.path}/{self.collection_name}"

    def connect(self, force_reset: bool = False) -> None:
        """Open the file and read its documents.

        Raises:
            JobStoreError: if the folder is missing, the file is no store, or it was written by a later version.
        """
        with self._lock:
            if self._coll is not None and not force_reset and self._owner_pid == os.getpid():
                return
            self._drop_connection()
            with named(self.path):
                self._connection = self._open()
            self._owner_pid = os.getpid()
            with named(self.path):
                self._reload()

    def close(self) -> None:
        """Close the file; connect() reads it again."""
        with self._lock:
            self._drop_connection()
            self._coll = None

    def update(self, docs: list[dict[str, Any]] | dict[str, Any], key: list[str] | str | None = None) -> None:
        """Insert or replace documents; on disk when this returns.

        Args:
            docs: one document or several.
            key: field or fields that tell whether a document is already there; the store's own key by default.
        """
        listed = docs if isinstance(docs, list) else [docs]
        fields = tuple([key] if isinstance(key, str) else key or [self.key])
        with self._transaction() as connection:
            ids, written = self._ids_by(fields), dict[str, str]()
            for doc in listed:
                plain = dict(jsanitize(doc, allow_bson=True, recursive_msonable=True))
                if self.validator and not self.validator.is_valid(plain):
                    raise ValueError(self.validator.validation_errors(plain))
                known_by = json_util.dumps([plain[field] for field in fields])
                if known_by in ids:
                    plain["_id"] = ids[known_by]
                    self._coll.replace_one({"_id": plain["_id"]}, plain)
                else:
                    ids[known_by] = self._coll.insert_one(plain).inserted_id  # which also goes into `plain`
                written[json_util.dumps(plain["_id"])] = json_util.dumps(plain)
            self._write_rows(connection, written)

    def remove_docs(self, criteria: dict[str, Any]) -> None:
        """Remove the documents that match a query; gone from disk when this returns."""
        with self._transaction() as connection:
            ids = [json_util.dumps(doc["_id"]) for doc in self._coll.find(criteria, {"_id": 1})]
            super().remove_docs(criteria)
            self._ids = {}
            self._write_rows(connection, dict.fromkeys(ids))

    def _ids_by(self, fields: tuple[str, ...]) -> dict[str, Any]:
        """Which `_id` a document has, by the values of these fields: mongomock looks at every document to find one."""
        if fields not in self._ids:
            shown = {field: 1 for field in fields}
            docs = reversed(list(self._coll.find({}, shown)))  # of several the first is the one that is replaced
            found = {
                json_util.dumps([doc[f] for f in fields]): doc["_id"] for doc in docs if all(f in doc for f in fields)
            }
            self._ids = {fields: found}
        return self._ids[fields]

    @property
    def _collection(self) -> Any:
        """The collection in memory, with what other processes have written since taken in first."""
        with self._lock:
            if self._coll is None:
                raise JobStoreError(f"{self.name} is not connected: call connect() first")
            if not self._is_writing:
                with named(self.path):
                    self._take_in_changes()
            return self._coll

    def __hash__(self) -> int:
        return hash((self.path, self.collection_name))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SQLiteStore):
            return NotImplemented
        return (self.path, self.collection_name) == (other.path, other.collection_name)

    def _open(self) -> sqlite3.Connection:
        if os.path.exists(self.path) and not os.path.getsize(self.path):
            self.logger.warning(f"{self.path} is empty: what it held is lost; collect the jobs again")
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # see document_of
        try:
            connection.execute("pragma journal_mode=WAL")
            # A document stands for hours of computing and is written once a job: FULL syncs each commit, so that it
            # survives a power cut too. NORMAL would keep it only through the death of the process.
            connection.execute("pragma synchronous=FULL")
            # Rows that a damaged tree no longer leads to would be missing without a word. Reading all documents, as is
            # done next, takes longer.
            (said,) = connection.execute("pragma quick_check(1)").fetchone()
            if said != "ok":
                raise sqlite3.DatabaseError(said)
            (version,) = connection.execute("pragma user_version").fetchone()
            if version > FORMAT_VERSION:
                raise JobStoreError(
                    f"{self.path} has format version {version}, but this program knows versions up to "
                    f"{FORMAT_VERSION}: use the program that wrote it, or name another file in `store.path`"
                )
            connection.execute(
                f"create table if not exists {self._table} "
                "(id text primary key, change integer not null, doc text, sha256 text)"
            )
            columns = [name for _, name, *_ in connection.execute(f"pragma table_info({self._table})")]
            if "sha256" not in columns:  # of version 1; what it holds has no checksum
                with suppress(sqlite3.OperationalError):  # another process was faster
                    connection.execute(f"alter table {self._table} add column sha256 text")
            connection.execute(f'create index if not exists "{self.collection_name}_change" on {self._table} (change)')
            if version < FORMAT_VERSION:
                connection.execute(f"pragma user_version={FORMAT_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop_connection(self) -> None:
        if self._connection is not None and self._owner_pid == os.getpid():
            self._connection.close()
        elif self._connection is not None:
            # Opened before a fork: it is the parent's, and SQLite forbids even closing it here, so it is kept unused.
            self._inherited = self._connection
        self._connection = None

    def _reload(self) -> None:
        """Memory made anew from the file."""
        super().connect(force_reset=True)
        self._ids = {}
        self._last_change = 0
        self._data_version = -1
        self._take_in_changes()

    def _live_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._owner_pid != os.getpid():
            self.connect(force_reset=True)
        assert self._connection is not None
        return self._connection

    def _take_in_changes(self) -> None:
        """Bring memory up to date with the rows that other connections have written."""
        connection = self._live_connection()
        (data_version,) = connection.execute("pragma data_version").fetchone()
        if data_version == self._data_version:
            return
        query = f"select id, change, doc, sha256 from {self._table} where change > ? order by rowid"
        rows = connection.execute(query, (self._last_change,)).fetchall()
        is_empty = self._last_change == 0
        loaded, damaged = [], []
        for row_id, change, text, checksum in rows:
            try:
                document = document_of(row_id, change, text, checksum)
                self._last_change = max(self._last_change, change)
                if not is_empty:
                    self._coll.delete_one({"_id": json_util.loads(row_id)})
            except (ValueError, TypeError):
                damaged.append((row_id, text))
                continue
            loaded += [] if document is None else [document]
        if loaded:
            self._coll.insert_many(loaded)
        self._ids = {} if rows else self._ids
        self._data_version = data_version
        if damaged:
            aside = set_aside(connection, self.collection_name, damaged)
            self.logger.warning(
                f"{self.path}: {len(damaged)} entries are damaged and are kept in its table {aside}; collect the jobs "
                "again to write them anew"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One change, in memory and on disk together: both or neither."""
        with self._lock:
            if self._coll is None:
                raise JobStoreError(f"{self.name} is not connected: call connect() first")
            connection = self._live_connection()
            with named(self.path):
                connection.execute("begin immediate")  # from here on no other process writes
                self._is_writing = True
                try:
                    self._take_in_changes()
                    yield connection
                    connection.execute("commit")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("rollback")
                    self._reload()  # memory may be ahead of the file
                    raise
                finally:
                    self._is_writing = False

    def _write_rows(self, connection: sqlite3.Connection, text_of_id: Mapping[str, str | None]) -> None:
        change = self._last_change + 1
        connection.executemany(
            f"insert into {self._table} values (?, ?, ?, ?) "
            "on conflict (id) do update set change = excluded.change, doc = excluded.doc, sha256 = excluded.sha256",
            [(row_id, change, text, checksum_of(row_id, change, text)) for row_id, text in text_of_id.items()],
        )
        if text_of_id:
            self._last_change = change


class EnvironmentMongoStore(MongoStore):  # storage name: never move
    """A MongoDB collection whose address stays in an environment variable.

    The variable's name is all that is kept, printed or serialised: a worker that unpickles the store reads the
    address from its own environment.
    """

    _coll: Any

    def __init__(self, variable: str, database: str, collection_name: str, **kwargs: Any) -> None:
        """Name the variable; it is read by connect().

        Args:
            variable: name of the environment variable that holds the address, 'mongodb://...' or 'mongodb+srv://...'.
            database: name of the database.
            collection_name: name of the collection.
            kwargs: passed to maggma's Store, such as `key`.
        """
        super().__init__(database=database, collection_name=collection_name, **kwargs)
        self.variable = variable

    @property
    def name(self) -> str:
        """Name of the store, without the address."""
        return f"mongodb://${self.variable}/{self.database}/{self.collection_name}"

    def __repr__(self) -> str:
        return f"EnvironmentMongoStore({self.name!r})"

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EnvironmentMongoStore):
            return NotImplemented
        return self.name == other.name

    def connect(self, force_reset: bool = False) -> None:
        """Connect, and ask the server for a sign of life.

        Raises:
            JobStoreError: if the variable is not set, the address is malformed, or no server answers. The address is in
                none of these errors.
        """
        if self._coll is not None and not force_reset:
            return
        address = os.environ.get(self.variable, "")
        if not address:
            raise JobStoreError(
                f"environment variable {self.variable} is not set: expected the address of a MongoDB server, such as "
                "mongodb://host:27017; set it, or use the embedded store with `store.kind: sqlite`"
            )
        options: dict[str, Any] = {}
        if "serverselectiontimeoutms" not in address.lower():
            options["serverSelectionTimeoutMS"] = SERVER_SELECTION_TIMEOUT_MS
        failure = ""
        try:
            client: MongoClient[Any] = MongoClient(address, **options)
            client.admin.command("ping")
        except (PyMongoError, ValueError, TypeError) as error:
            # pymongo quotes pieces of a malformed address, password included, so only the kind of error goes on.
            failure = type(error).__name__
        if failure:  # raised outside the handler: nothing of the original error hangs on to it
            raise JobStoreError(
                f"no MongoDB server answers at the address in {self.variable} ({failure}): expected "
                "mongodb://user:password@host:port with special characters percent-encoded, and a server that is up"
            )
        self._coll = client[self.database][self.collection_name]


def open_job_store(config: StoreConfig, folder: Path) -> JobStore:
    """The job store of a run, connected.

    Args:
        config: kind of store and where it is.
        folder: the run folder, which a relative `path` of the embedded store starts from; made if it is not there.

    Returns: A jobflow JobStore; large outputs go to its additional store 'data', kept beside the documents.

    Raises:
        JobStoreError: if the store cannot be opened.
        ValueError: if the kind is unknown.
    """
    tables = (config.collection, f"{config.collection}_data")
    stores: list[Store]
    if config.kind == "sqlite":
        path = Path(folder) / config.path
        path.parent.mkdir(parents=True, exist_ok=True)
        stores = [SQLiteStore(path, table) for table in tables]
    elif config.kind == "mongodb":
        stores = [EnvironmentMongoStore(config.mongodb_uri_variable, config.database, table) for table in tables]
    else:
        raise ValueError(f"store kind {config.kind!r} is unknown: expected 'sqlite' or 'mongodb'")
    store = JobStore(stores[0], additional_stores={"data": stores[1]})
    store.connect()
    return store
