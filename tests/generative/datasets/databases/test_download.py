"""Downloading to the end: the store holds what the database has, whatever happens on the way."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.datasets.databases.database import Page, Record
from generative.datasets.databases.errors import BrokenReplyError, ServerFaultError
from generative.datasets.databases.harvest import Harvest
from generative.datasets.databases.store import Store, StoreBusyError
from generative.datasets.records import Form, RawRecord
from generative.datasets.sources import SourceError


class Counters:
    """What `Download` reads of an Access."""

    n_requests = 0
    n_retries = 0


@dataclass
class Memory:
    """A database in memory, with the faults of a real one at will.

    Attributes:
        content: id -> (stamp, value); a dictionary keeps the order of the database.
        page_size: records per page.
        fails_at: requests, counted from 0, that end in a server fault.
        repeats: share of pages that bring the page before once more in front of their own records.
        states_total: whether pages say how many records match.
    """

    content: dict[str, tuple[str | None, Any]]
    page_size: int = 7
    fails_at: set[int] = field(default_factory=set)
    repeats: bool = False
    states_total: bool = True
    release: str | None = "2026-11"
    name: str = "memory"
    kind: str = "memory"
    endpoint: str = "http://127.0.0.1/"
    query: str = "all"
    method: str = "PBE"
    fetch_size: int = 5
    counters: Counters = field(default_factory=Counters)
    fetched: list[str] = field(default_factory=list)
    pages_asked: list[str | None] = field(default_factory=list)

    def _request(self) -> None:
        number = self.counters.n_requests
        self.counters.n_requests += 1
        if number in self.fails_at:
            raise ServerFaultError(f"request {number} failed")

    def _record(self, name: str) -> Record:
        stamp, value = self.content[name]
        return Record(name, stamp, {"id": name, "value": value})

    def version(self) -> str | None:
        return self.release

    def count(self) -> int | None:
        return len(self.content)

    def page(self, cursor: str | None) -> Page:
        self._request()
        self.pages_asked.append(cursor)
        start = int(cursor or 0)
        names = list(self.content)
        stop = start + self.page_size
        shown = names[max(0, start - self.page_size) if self.repeats else start : stop]
        following = str(stop) if stop < len(names) else None
        total = len(names) if self.states_total else None
        return Page(tuple(self._record(name) for name in shown), following, total)

    def stamps(self) -> Iterator[Mapping[str, str | None]]:
        names = list(self.content)
        for start in range(0, len(names), 10):
            self._request()
            yield {name: self.content[name][0] for name in names[start : start + 10]}

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        self._request()
        assert len(ids) <= self.fetch_size
        self.fetched.extend(ids)
        return [self._record(name) for name in reversed(ids) if name in self.content]

    def raw_record(self, record: Record) -> RawRecord:
        a_ang = 3.0 + float(record.body["value"]) / 1000
        crystal = Crystal(a_ang * np.eye(3), np.zeros((1, 3)), np.array([13], dtype=np.int16))
        return RawRecord(record.id, Form.CRYSTAL, crystal, last_modified=record.stamp)

    def close(self) -> None:
        pass


def some_content(n: int, seed: int = 0) -> dict[str, tuple[str | None, Any]]:
    names = [f"id-{i:04d}" for i in range(n)]
    random.Random(seed).shuffle(names)
    return {name: ("1", i) for i, name in enumerate(names)}


def harvest(database: Memory, folder: Path, limit: int | None = None) -> Harvest:
    return Harvest(database, database.counters, folder, limit, database.page_size)  # type: ignore[arg-type]


def stored(h: Harvest) -> dict[str, Any]:
    with Store.opened(h.path, write=False) as store:
        return {record.id: (record.stamp, record.body["value"]) for record in store.records()}


def test_everything_comes_and_stands_in_order_of_ids(tmp_path: Path) -> None:
    database = Memory(some_content(40))
    h = harvest(database, tmp_path)
    h.download()
    found = stored(h)
    assert found == database.content
    assert list(found) == sorted(database.content)
    assert h.record().n_records == 40
    assert h.record().n_repeated == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_download_that_fails_anywhere_goes_on_with_the_page_it_missed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fails_at = set(rng.sample(range(12), rng.randint(1, 5)))
    database = Memory(some_content(50, seed), fails_at=fails_at, repeats=bool(seed % 2))
    for _ in range(len(fails_at) + 1):
        h = harvest(database, tmp_path)
        try:
            h.download()
        except ServerFaultError:
            continue
        break
    untroubled = Memory(some_content(50, seed))
    h_untroubled = harvest(untroubled, tmp_path / "other")
    assert h.download() == h_untroubled.download()
    assert stored(h) == database.content
    reached = [cursor for cursor in database.pages_asked]
    assert len(reached) == len(set(reached)), "a page that was written must not be asked for again"
    assert h.record().n_requests == database.counters.n_requests


def test_a_complete_download_asks_nothing(tmp_path: Path) -> None:
    database = Memory(some_content(20))
    harvest(database, tmp_path).download()
    n_requests = database.counters.n_requests
    again = harvest(database, tmp_path)
    again.download()
    assert database.counters.n_requests == n_requests
    assert again.record().n_records == 20


def test_pages_that_come_twice_are_kept_once_and_counted(tmp_path: Path) -> None:
    database = Memory(some_content(35), repeats=True)
    h = harvest(database, tmp_path)
    h.download()
    assert stored(h) == database.content
    assert h.record().n_repeated == 28


def test_records_that_slipped_between_pages_are_fetched_by_their_ids(tmp_path: Path) -> None:
    content = some_content(30)
    names = list(content)

    class Shifting(Memory):
        """Removes its first record after the second page and puts it at the end: one record slips through."""

        def page(self, cursor: str | None) -> Page:
            page = super().page(cursor)
            if len(self.pages_asked) == 2:
                self.content[names[0]] = self.content.pop(names[0])
            return page

    database = Shifting(content)
    h = harvest(database, tmp_path)
    h.download()
    assert stored(h) == content
    assert database.fetched == [names[14]]
    assert h.record().n_added is None, "no refresh was asked for"


def test_a_count_that_the_database_does_not_keep_to_is_said(tmp_path: Path) -> None:
    class Boasting(Memory):
        def page(self, cursor: str | None) -> Page:
            page = super().page(cursor)
            return Page(page.records, page.cursor, 99)

    h = harvest(Boasting(some_content(12)), tmp_path)
    h.download()
    assert len(stored(h)) == 12
    assert "counts 99" in h.record().warnings[0]


@pytest.mark.parametrize("limit", [1, 7, 10, 33, 100])
def test_a_limit_takes_the_first_records_exactly_also_over_a_failure(tmp_path: Path, limit: int) -> None:
    database = Memory(some_content(33), fails_at={1}, repeats=True)
    for _ in range(2):
        h = harvest(database, tmp_path, limit)
        try:
            h.download()
        except ServerFaultError:
            continue
    first = dict(list(database.content.items())[:limit])
    assert stored(h) == first
    assert f"first {limit} records" in h.query
    assert h.path != harvest(database, tmp_path).path


def test_a_refresh_fetches_what_is_new_or_changed_and_removes_what_is_gone(tmp_path: Path) -> None:
    database = Memory(some_content(40))
    h = harvest(database, tmp_path)
    h.download()
    names = list(database.content)
    database.content[names[3]] = ("2", 1003)
    database.content[names[30]] = ("2", 1030)
    database.content["new"] = ("1", 77)
    del database.content[names[5]]
    database.release = "2026-12"
    asked = len(database.pages_asked)
    h = harvest(database, tmp_path)
    h.download(refresh=True)
    assert stored(h) == database.content
    assert sorted(database.fetched) == sorted([names[3], names[30], "new"])
    assert len(database.pages_asked) == asked, "a refresh lists, it does not page through everything"
    record = h.record()
    assert (record.n_added, record.n_changed, record.n_removed) == (1, 2, 1)
    assert record.version_before == "2026-11"
    assert "moved from release 2026-11 to 2026-12" in record.warnings[0]
    fresh = harvest(database, tmp_path / "fresh")
    assert fresh.download() == h.download(), "a refreshed download is the same as a new one"


def test_a_refresh_without_changes_fetches_nothing_and_warns_of_nothing(tmp_path: Path) -> None:
    database = Memory(some_content(25))
    h = harvest(database, tmp_path)
    before = h.download()
    assert h.download(refresh=True) == before
    assert database.fetched == []
    record = h.record()
    assert (record.n_added, record.n_changed, record.n_removed, record.warnings) == (0, 0, 0, ())


def test_records_without_stamps_are_compared_by_their_content(tmp_path: Path) -> None:
    database = Memory({name: (None, value) for name, (_, value) in some_content(12).items()})
    h = harvest(database, tmp_path)
    h.download()
    name = next(iter(database.content))
    database.content[name] = (None, 500)
    h.download(refresh=True)
    assert stored(h) == database.content
    assert h.record().n_changed == 1


def test_a_refresh_that_fails_half_way_is_not_taken_for_complete_and_goes_on(tmp_path: Path) -> None:
    database = Memory(some_content(40))
    h = harvest(database, tmp_path)
    h.download()
    for name in list(database.content)[:20]:
        database.content[name] = ("2", 2000)
    database.fails_at = {database.counters.n_requests + 6}
    with pytest.raises(ServerFaultError):
        h.download(refresh=True)
    with pytest.raises(SourceError, match="not complete"):
        h.record()
    h = harvest(database, tmp_path)
    h.download()
    assert stored(h) == database.content
    assert h.record().n_changed == 20
    assert len(database.fetched) == 20, "what was fetched before the failure is not fetched again"


def test_a_release_that_moves_during_a_download_is_noticed_and_made_good(tmp_path: Path) -> None:
    database = Memory(some_content(40), fails_at={3})
    h = harvest(database, tmp_path)
    with pytest.raises(ServerFaultError):
        h.download()
    first = next(iter(database.content))
    database.content[first] = ("2", 4000)
    database.release = "2026-12"
    h = harvest(database, tmp_path)
    h.download()
    assert stored(h) == database.content
    assert database.fetched == [first]
    assert "moved from release 2026-11 to 2026-12" in h.record().warnings[0]


def test_another_page_size_starts_over_with_the_pages_and_loses_nothing(tmp_path: Path) -> None:
    database = Memory(some_content(60), page_size=6, fails_at={6}, states_total=False)
    with pytest.raises(ServerFaultError):
        harvest(database, tmp_path).download()
    database.page_size = 4
    h = harvest(database, tmp_path)
    h.download()
    assert stored(h) == database.content


def test_a_database_that_goes_round_in_a_circle_is_left(tmp_path: Path) -> None:
    class Circle(Memory):
        def page(self, cursor: str | None) -> Page:
            start = int(cursor or 0)
            page = super().page(str(start % 14))
            return Page(page.records, str(start + 7), None)

    with pytest.raises(BrokenReplyError, match="nothing new, after 14 records"):
        harvest(Circle(some_content(40)), tmp_path).download()


def test_a_page_whose_next_page_is_itself_is_refused(tmp_path: Path) -> None:
    class Loop(Memory):
        def page(self, cursor: str | None) -> Page:
            return Page(super().page(cursor).records, "7", None)

    with pytest.raises(BrokenReplyError, match="said to be itself"):
        harvest(Loop(some_content(40)), tmp_path).download()


def test_the_plan_counts_without_storing(tmp_path: Path) -> None:
    database = Memory(some_content(30), fails_at={2})
    plan = harvest(database, tmp_path).plan()
    assert (plan.expected, plan.stored, plan.complete, plan.version) == (30, 0, False, "2026-11")
    assert not list(tmp_path.iterdir())
    assert harvest(database, tmp_path, limit=12).plan().expected == 12
    with pytest.raises(ServerFaultError):
        harvest(database, tmp_path).download()
    plan = harvest(database, tmp_path).plan()
    assert (plan.stored, plan.complete) == (14, False)


def test_rows_read_from_a_download_stand_in_order_of_ids(tmp_path: Path) -> None:
    h = harvest(Memory(some_content(30)), tmp_path)
    rows = [row for batch in h.batches(None) for row in batch.rows.select(["id", "last_modified"]).to_pylist()]
    assert [row["id"] for row in rows] == [f"memory:id-{i:04d}" for i in range(30)]
    assert {row["last_modified"] for row in rows} == {"1"}


def test_a_store_is_not_written_by_two_at_once_but_read_by_many(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with (
        Store.opened(path) as store,
        pytest.raises(StoreBusyError, match="in use"),
        Store.opened(path, wait_s=0.0),
    ):
        pass
    with Store.opened(path, write=False) as one, Store.opened(path, write=False, wait_s=0.0) as two:
        assert one.get("format") == two.get("format") == "1"
    assert store is not None


def test_a_file_that_is_no_download_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(SourceError, match="remove the file"), Store.opened(path):
        pass


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    bad = Record("b", None, {"value": {1: object()}})

    with Store.opened(path) as store:
        store.add([Record("a", None, {"value": 1})], lambda added: {"cursor": "1"})
        with pytest.raises(sqlite3.Error):
            store.add([bad, Record(None, None, {})], lambda added: {"cursor": "2"})  # type: ignore[arg-type]
        assert store.get("cursor") == "1"
        assert [record.id for record in store.records()] == ["a"]
        assert len(store) == 1


def test_a_plan_says_why_a_database_cannot_be_asked_and_what_is_here_all_the_same(tmp_path: Path) -> None:
    class Away(Memory):
        def count(self) -> int | None:
            raise ServerFaultError("the database is away")

    database = Away(some_content(20))
    harvest(database, tmp_path).download()
    plan = harvest(database, tmp_path).plan()
    assert (plan.expected, plan.stored, plan.complete, plan.trouble) == (None, 20, True, "the database is away")


def test_a_plan_is_told_while_another_process_downloads(tmp_path: Path) -> None:
    database = Memory(some_content(20))
    h = harvest(database, tmp_path)
    h.download()
    with Store.opened(h.path):
        assert h.plan().stored == 20
