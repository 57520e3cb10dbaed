"""The source that a database on the network is: what is missing is downloaded, then its store is read like any file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from generative.datasets.config import NetworkSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Database
from generative.datasets.databases.download import CHANGES, Download
from generative.datasets.databases.errors import NetworkError
from generative.datasets.databases.store import Store, store_name
from generative.datasets.formats.opening import made
from generative.datasets.manifest import HarvestRecord
from generative.datasets.records import interpret
from generative.datasets.sources import SourceBatch, SourceError, Surroundings
from storage.progress import SourceProgress


@dataclass(frozen=True)
class NetworkContext:
    """What databases on the network need of their surroundings.

    Attributes:
        folder: where downloads are kept; runs that share it download each query once.
        secret: API key of a kind of database ('materials-project'), or None.
    """

    folder: Path
    secret: Callable[[str], SecretStr | None] = lambda kind: None


@dataclass(frozen=True)
class SourcePlan:
    """What a source would be asked, without asking for records.

    Attributes:
        name: of the source.
        kind: of the database.
        endpoint: its address.
        query: what is asked.
        expected: records that match now, as the database counts, at most the limit; None if it cannot say.
        stored: records that are downloaded already.
        complete: whether the download is finished.
        version: release of the database as it states it now.
        trouble: why it could not be asked, in one sentence; empty if it could.
    """

    name: str
    kind: str
    endpoint: str
    query: str
    expected: int | None
    stored: int
    complete: bool
    version: str | None
    trouble: str = ""


class Harvest:
    """A database and its store, as a `generative.datasets.sources.Source`."""

    def __init__(
        self,
        database: Database,
        access: Access,
        folder: Path,
        limit: int | None = None,
        page_size: int = 100,
        workers: int = 1,
        name: str | None = None,
    ) -> None:
        """Nothing is asked or opened yet.

        Args:
            database: provider and query.
            access: the way to it; its counters enter the manifest.
            folder: of the stores.
            limit: most records to download.
            page_size: records per page; a cursor of another size is not followed.
            workers: processes that read crystals out of records.
            name: column `source` of the rows; the database's own if None.
        """
        self.name, self.kind, self.method = name or database.name, database.kind, database.method
        self.query = database.query + (f" (first {limit} records)" if limit else "")
        self.endpoint = database.endpoint
        self._database, self._access = database, access
        self._limit, self._page_size, self._workers = limit, page_size, workers
        self._identity = {"kind": self.kind, "endpoint": self.endpoint, "query": self.query}
        # By the database's own name: the same query under another name is the same download.
        self.path = folder / store_name(database.name, self._identity)

    def download(self, refresh: bool = False, progress: SourceProgress | None = None) -> str:
        """Make the store complete. A complete one is left as it is and nothing is asked, unless `refresh`.

        Returns:
            Digest of the content.

        Raises:
            NetworkError: if the database cannot be asked; what has come is kept.
            StoreBusyError: if another process downloads the same query.
        """
        if not refresh and (done := self._digest_if_complete()) is not None:
            return done
        with Store.opened(self.path, self._identity) as store, closing(self._database):
            # Another process may have finished it while this one waited for the lock.
            if refresh or store.get("finished") is None:
                Download(
                    self._database, self._access, store, self._limit, self._page_size, progress, self.name
                ).complete()
            return store.get("digest") or ""

    @property
    def is_complete(self) -> bool:
        """Whether all has come; asks nobody."""
        return self._digest_if_complete() is not None

    def _digest_if_complete(self) -> str | None:
        if not self.path.is_file():
            return None
        with Store.opened(self.path, write=False) as store:
            return None if store.get("finished") is None else store.get("digest")

    def plan(self) -> SourcePlan:
        """What would be asked, the expected count, and what is here already. Nothing is stored.

        A database that cannot be asked is no error here: the plan says what the trouble is.
        """
        stored, complete = Store.progress(self.path)
        version = expected = None
        trouble = ""
        try:
            with closing(self._database):
                version, expected = self._database.version(), self._database.count()
        except NetworkError as error:
            trouble = str(error)
        if expected is not None and self._limit is not None:
            expected = min(expected, self._limit)
        return SourcePlan(self.name, self.kind, self.endpoint, self.query, expected, stored, complete, version, trouble)

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        """See Source.batches; downloads first if that is not done. Rows come in order of the database's ids."""
        self.download()
        with Store.opened(self.path, write=False) as store:
            read = self._database.raw_record
            records = (made(partial(read, record), record.id, dict(record.body)) for record in store.records())
            yield from interpret(records, self.name, self.method, elements, self._workers)

    def database_version(self) -> str | None:
        """Release of the database at the download, and the digest of what came."""
        with Store.opened(self.path, write=False) as store:
            version, digest = store.get("version"), store.get("digest")
        return f"{version or 'no release stated'}, sha256:{digest}"

    def record(self) -> HarvestRecord:
        """How the database was asked, for the manifest.

        Raises:
            SourceError: if the download is not complete.
        """
        with Store.opened(self.path, write=False) as store:
            if store.get("finished") is None:
                raise SourceError(f"{self.name}: the download is not complete: run the same command again")
            before, version = store.get("before"), store.get("version")
            return HarvestRecord(
                endpoint=self.endpoint,
                started=store.get("started") or "",
                finished=store.get("finished") or "",
                n_records=len(store),
                n_repeated=store.number("n_repeated"),
                n_requests=store.number("n_requests"),
                n_retries=store.number("n_retries"),
                limit=self._limit,
                version_before=before if before and before != version else None,
                warnings=tuple(json.loads(store.get("warnings") or "[]")),
                **{name: None if before is None else store.number(name) for name in CHANGES},
            )


def harvest_of(config: NetworkSource, database: Database, access: Access, around: Surroundings) -> Harvest:
    """The harvest of a database as its settings describe it; nothing is asked yet."""
    return Harvest(database, access, around.downloads.folder, config.limit, config.page_size, around.workers)
