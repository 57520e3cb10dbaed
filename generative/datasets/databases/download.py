"""Downloading a query into a store, to its end: page by page, resumed after any kill, refreshed on request.

| what may happen | what is done |
|---|---|
| a process dies at any page | the next one goes on at the page after the last one written |
| a page comes twice, pages come in another order | records are kept by id; repeats are counted |
| records slip between pages while a database changes | it counts more than came: all ids are listed, the rest fetched |
| a database gives more or fewer than it counts | the same; where that does not settle it, a warning has both numbers |
| the database moves to another release half-way | all ids are listed; what changed is fetched, what is gone removed |
| a refresh is asked for | the same, with counts of added, changed and removed records |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Database, Page, Record
from generative.datasets.databases.errors import BrokenReplyError
from generative.datasets.databases.store import Store
from generative.datasets.manifest import utc_now
from storage.progress import SourceProgress

CIRCLES_MAX = 3
"""Pages in a row without a single new record after which a database is held to go round in a circle."""

CHANGES = ("n_added", "n_changed", "n_removed")
"""Counts that a refresh leaves in the store's state."""


class Download:
    """One database, one store, and the way between them."""

    def __init__(
        self,
        database: Database,
        access: Access,
        store: Store,
        limit: int | None,
        page_size: int,
        progress: SourceProgress | None,
        name: str,
    ) -> None:
        self._database, self._access, self._store, self._name = database, access, store, name
        self._limit, self._page_size, self._progress = limit, page_size, progress

    def complete(self) -> None:
        """Bring the store to its end; one that is at its end is compared with the database and brought up to date.

        Raises:
            NetworkError: if the database cannot be asked; what has come is kept.
        """
        store = self._store
        if store.get("finished") is not None:
            # From here on it is unfinished: a kill in the middle of a refresh must not pass for a complete download.
            counts = dict.fromkeys(("n_repeated", "n_requests", "n_retries", *CHANGES), 0)
            before = store.get("version") or ""
            store.put(finished=None, refreshing="yes", before=before, warnings=None, started=utc_now(), **counts)
        sent, again = self._access.n_requests, self._access.n_retries
        try:
            self._ask()
        finally:
            store.put(
                n_requests=store.number("n_requests") + self._access.n_requests - sent,
                n_retries=store.number("n_retries") + self._access.n_retries - again,
            )
        store.finish(utc_now())

    def _ask(self) -> None:
        store = self._store
        if store.get("started") is None:
            store.put(started=utc_now(), version=self._database.version() or "")
        if store.get("pages") != "all":
            self._pages()
        version = self._database.version() or ""
        moved = store.get("version") != version
        expected = self._expected()
        if store.get("refreshing") is not None:
            self._reconcile(lambda before, now: now is None or before != now)
        elif moved:
            # Records without stamps came minutes ago: only a refresh asks for all of them once more.
            self._reconcile(lambda before, now: before != now)
        elif expected is not None and len(store) != expected:
            self._reconcile(lambda before, now: False)
            if len(store) != expected:
                store.put(total=expected)  # so that nobody reads "64 of 64" where the database counts 300
                self._warn(f"the database counts {expected} records, but gives {len(store)} when all are asked for")
        if moved:
            self._warn(
                f"the database moved from release {store.get('version') or 'unknown'} to {version or 'unknown'} since "
                "the download began or was last complete: records were compared one by one and fetched anew where "
                "they differ"
            )
        store.put(version=version)

    def _pages(self) -> None:
        store = self._store
        cursor, circles_max = store.get("cursor"), CIRCLES_MAX
        if store.get("page_size") != str(self._page_size):
            # Cursors may count pages, so they mean something else now; what is stored is found again by its id.
            cursor = None
            circles_max += len(store) // self._page_size + 1
            store.put(page_size=self._page_size, cursor=None)
        n_circles = 0
        while self._limit is None or len(store) < self._limit:
            page = self._database.page(cursor)
            if page.cursor is not None and page.cursor == cursor:
                raise BrokenReplyError(
                    f"{self._name}: the page after {cursor!r} is said to be itself: expected another, so "
                    "report it to the database's maintainers, or narrow the query"
                )
            n_new = self._keep(page)
            n_circles = 0 if n_new or not page.records else n_circles + 1
            self._tell(self._expected())
            if page.cursor is None:
                break
            if n_circles >= circles_max:
                raise BrokenReplyError(
                    f"{self._name}: {n_circles} pages in a row brought nothing new, after {len(store)} "
                    "records: the database goes round in a circle, so report it to its maintainers, or narrow the query"
                )
            cursor = page.cursor
        store.put(pages="all", cursor=None)

    def _keep(self, page: Page) -> int:
        """Write a page together with where to go on; the number of new records."""
        store = self._store
        records = page.records if self._limit is None else self._within_limit(page.records, self._limit)
        state: dict[str, str | int | None] = {"cursor": page.cursor}
        if page.total is not None:
            state["total"] = page.total
        if page.cursor is None:
            state["pages"] = "all"
        n_repeated = store.number("n_repeated")
        added = store.add(records, lambda a: {**state, "n_repeated": n_repeated + a.n_changed + a.n_same})
        return added.n_new

    def _within_limit(self, records: Sequence[Record], limit: int) -> list[Record]:
        known = self._store.known([record.id for record in records])
        kept: list[Record] = []
        fresh: set[str] = set()
        for record in records:
            if record.id in known or record.id in fresh:
                kept.append(record)
            elif len(self._store) + len(fresh) < limit:
                fresh.add(record.id)
                kept.append(record)
        return kept

    def _expected(self) -> int | None:
        total = self._store.get("total")
        if total is None:
            return None
        return int(total) if self._limit is None else min(int(total), self._limit)

    def _reconcile(self, differs: Callable[[str | None, str | None], bool]) -> None:
        """Bring the store to what the database lists now: fetch what is missing, remove what is gone.

        Args:
            differs: whether a record with this stamp in the store, and that one in the listing, is fetched anew.
        """
        store = self._store
        listed: set[str] = set()
        wanted: list[str] = []
        for part in self._database.stamps():
            names = [name for name in part if name not in listed]
            if self._limit is not None:
                names = names[: self._limit - len(listed)]
            listed.update(names)
            known = store.known(names)
            for name in names:
                if name not in known or differs(known[name], part[name]):
                    wanted.append(name)
            if self._limit is not None and len(listed) >= self._limit:
                break
        gone = [name for name in store.ids() if name not in listed]
        store.remove(gone, n_removed=store.number("n_removed") + len(gone))
        lost: list[str] = []
        for start in range(0, len(wanted), self._database.fetch_size):
            lost += self._fetch(wanted[start : start + self._database.fetch_size])
            self._tell(len(listed))
        if lost:
            self._warn(
                f"{len(lost)} of {len(listed)} records that the database lists, such as {lost[0]!r}, did not come when "
                "asked for by id: refresh the download later"
            )
        if self._limit is None:
            store.put(total=len(listed))

    def _fetch(self, names: list[str]) -> list[str]:
        """Bring these records; the names of those that did not come."""
        store, records = self._store, self._database.fetch(names)
        n_added, n_changed = store.number("n_added"), store.number("n_changed")
        store.add(
            records,
            lambda added: {"n_added": n_added + added.n_new, "n_changed": n_changed + added.n_changed},
        )
        came = {record.id for record in records}
        return [name for name in names if name not in came]

    def _tell(self, expected: int | None) -> None:
        if self._progress is not None:
            self._progress(self._name, len(self._store), expected)

    def _warn(self, sentence: str) -> None:
        warnings = [*json.loads(self._store.get("warnings") or "[]"), sentence]
        self._store.put(warnings=json.dumps(warnings))
