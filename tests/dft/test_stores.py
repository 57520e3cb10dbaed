"""The embedded job store: kills, several processes, jobflow itself; and the MongoDB one without a leaked address."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

import mongomock_ng
import pytest
from jobflow.core.flow import Flow
from jobflow.core.job import job
from jobflow.core.store import JobStore
from jobflow.managers.local import run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

import dft.stores
from dft.config import StoreConfig
from dft.stores import EnvironmentMongoStore, JobStoreError, SQLiteStore, open_job_store
from storage.atomic import DiskFullError

SECRET = "sw0rdf1sh"


@job
def add(a: float, b: float) -> float:
    return a + b


@job(data="trajectory")
def relax_like(n_steps: int) -> dict[str, Any]:
    return {"energy": -1.5, "trajectory": [float(step) for step in range(n_steps)]}


def opened(path: Path, table: str = "jobs") -> SQLiteStore:
    store = SQLiteStore(path, table, key="uuid")
    store.connect()
    return store


def strip(docs: Any) -> list[dict[str, Any]]:
    return sorted(
        ({k: v for k, v in doc.items() if k != "_id"} for doc in docs), key=lambda doc: json.dumps(doc, default=str)
    )


def test_jobflow_runs_into_the_store_and_outputs_are_there_after_reopening(tmp_path: Path) -> None:
    store = open_job_store(StoreConfig(), tmp_path / "run")
    first = add(1, 2)
    second = add(first.output, 10)
    heavy = relax_like(5)
    run_locally(Flow([first, second, heavy]), store=store, log=False, raise_immediately=True, ensure_success=True)
    store.close()
    again = open_job_store(StoreConfig(), tmp_path / "run")
    assert again.count() == 3
    assert again.get_output(second.uuid) == 13
    assert again.get_output(heavy.uuid, load=True)["trajectory"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert set(again.get_output(heavy.uuid)["trajectory"]) >= {"blob_uuid", "store"}
    again.remove_docs({"uuid": heavy.uuid})
    assert again.additional_stores["data"].count() == 0
    again.close()
    assert open_job_store(StoreConfig(), tmp_path / "run").count() == 2


def test_random_changes_leave_the_same_documents_as_in_a_memory_store(tmp_path: Path) -> None:
    rng = random.Random(0)
    ours, truth = opened(tmp_path / "s.sqlite"), MemoryStore(key="uuid")
    truth.connect()
    for round_number in range(120):
        kind = rng.random()
        docs = [
            {"uuid": f"u{rng.randrange(12)}", "index": rng.randrange(1, 3), "value": rng.random(), "none": None}
            for _ in range(rng.randrange(1, 4))
        ]
        for store in (ours, truth):
            if kind < 0.6:
                store.update(docs, key=["uuid", "index"])
            elif kind < 0.8:
                store.update(docs[0], key="uuid")
            else:
                store.remove_docs({"uuid": docs[0]["uuid"], "value": {"$gt": 0.3}})
        if round_number % 20 == 19:
            ours.close()
            ours.connect()
        assert strip(ours.query()) == strip(truth.query())
    assert truth.count() > 3


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    doc = {
        "uuid": "u",
        "index": 1,
        "time": datetime(2026, 1, 2, 3, 4, 5, 678000),
        "nested": {"list": [1, 2.5, True, None, "Å"], "big": 2**53 + 1, "infinite": float("inf"), "one": 1.0},
    }
    store = opened(tmp_path / "s.sqlite")
    store.update(doc)
    store.close()
    store.connect()
    (back,) = strip(store.query())
    assert back == doc
    assert isinstance(back["nested"]["one"], float)


def test_changing_what_is_being_iterated_over_is_safe(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.sqlite")
    store.update([{"uuid": f"u{i}", "index": 1, "seen": False} for i in range(10)])
    for doc in store.query({"seen": False}):
        store.update({**doc, "seen": True})
    assert store.count({"seen": True}) == store.count() == 10


def test_a_failed_update_leaves_memory_and_file_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "s.sqlite")
    store.update({"uuid": "a", "index": 1, "value": 1})

    def full_disk(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_rows", full_disk)
        with pytest.raises(DiskFullError, match=r"s\.sqlite cannot be written .*make room there"):
            store.update([{"uuid": "a", "index": 1, "value": 2}, {"uuid": "b", "index": 1, "value": 2}])
    with pytest.raises(KeyError):
        store.update([{"uuid": "c", "index": 1}, {"index": 1}])
    assert strip(store.query()) == [{"uuid": "a", "index": 1, "value": 1}]
    store.update({"uuid": "b", "index": 1, "value": 3})
    store.close()
    store.connect()
    assert store.count() == 2


WRITER = """
import sys
from storage.atomic import DiskFullError
from dft.stores import SQLiteStore
store = SQLiteStore(sys.argv[1], "jobs", key="uuid")
store.connect()
for i in range(100_000):
    name = f"u{i % 500}"
    store.update({"uuid": name, "index": 1, "value": i, "ballast": "x" * 3000}, key=["uuid", "index"])
    print(name, i, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_every_acknowledged_document_is_found_after_kill_9(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "s.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(dft.stores.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline()]
        time.sleep(random.Random(seed).uniform(0.05, 0.6))
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += writer.stdout.readlines()
    if not acknowledged[-1].endswith("\n"):
        acknowledged.pop()  # cut in the middle of its own line
    last_value = {line.split()[0]: int(line.split()[1]) for line in acknowledged}
    assert len(acknowledged) > 5
    store = opened(path)
    found = {doc["uuid"]: doc["value"] for doc in store.query()}
    assert all(found[name] >= value for name, value in last_value.items())
    # At most the one document in flight is there without its acknowledgement.
    assert max(found.values()) <= max(last_value.values()) + 1
    assert store._live_connection().execute("pragma integrity_check").fetchone() == ("ok",)
    store.update({"uuid": "after", "index": 1})
    assert store.count({"uuid": "after"}) == 1


def _write_many(path: str, writer: int, n_docs: int) -> None:
    store = opened(Path(path))
    for i in range(n_docs):
        store.update({"uuid": f"own-{writer}-{i}", "index": 1}, key=["uuid", "index"])
        store.update({"uuid": f"shared-{i}", "index": 1, "by": writer}, key=["uuid", "index"])
    store.close()


def test_two_processes_write_at_once_and_a_third_sees_both(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    watcher = opened(path)
    assert watcher.count() == 0
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(path), n, 40)) for n in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    assert watcher.count() == 2 * 40 + 40  # open all the while; shared documents are there once
    watcher.remove_docs({"uuid": {"$regex": "^own"}})
    other = opened(path)
    assert other.count() == 40
    other.update({"uuid": "shared-0", "index": 1, "by": "other"})
    other.remove_docs({"uuid": "shared-1"})
    assert watcher.query_one({"uuid": "shared-0"})["by"] == "other"
    assert watcher.count() == 39


def test_a_store_goes_on_in_a_forked_child(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.sqlite")
    store.update({"uuid": "parent", "index": 1})
    child = os.fork()
    if child == 0:
        try:
            store.update({"uuid": "child", "index": 1})
            os._exit(0 if store.count() == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.count() == 2


def test_a_store_survives_pickling_and_monty_json(tmp_path: Path) -> None:
    store = JobStore(opened(tmp_path / "s.sqlite"), additional_stores={"data": opened(tmp_path / "s.sqlite", "blobs")})
    store.update({"uuid": "a", "index": 1, "output": 5})
    for twin in (
        pickle.loads(pickle.dumps(store)),
        MontyDecoder().decode(json.dumps(store, cls=MontyEncoder)),
    ):
        twin.connect()
        assert twin.get_output("a") == 5


def test_a_file_that_is_no_store_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_text("this is no database, and long enough not to be taken for an empty one" * 20)
    with pytest.raises(JobStoreError, match="expected a SQLite file made by this program"):
        opened(path)
    with pytest.raises(JobStoreError, match="in a folder that exists"):
        opened(tmp_path / "nowhere" / "s.sqlite")
    newer = sqlite3.connect(tmp_path / "newer.sqlite")
    newer.execute("pragma user_version=99")
    newer.close()
    with pytest.raises(JobStoreError, match="format version 99"):
        opened(tmp_path / "newer.sqlite")


def test_a_collection_name_that_is_no_identifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not plain"):
        SQLiteStore(tmp_path / "s.sqlite", 'jobs"; drop table jobs; --')


def test_an_unconnected_store_says_so(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite")
    with pytest.raises(JobStoreError, match="call connect"):
        store.count()
    with pytest.raises(JobStoreError, match="call connect"):
        store.update({"uuid": "a"})


MONGO = StoreConfig(kind="mongodb", mongodb_uri_variable="HULLWARD_TEST_ADDRESS")


def test_mongodb_holds_the_jobs_and_never_shows_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HULLWARD_TEST_ADDRESS", f"mongodb://user:{SECRET}@db.example:27017")
    server = mongomock_ng.MongoClient()
    server.admin.command = lambda name: {"ok": 1}
    monkeypatch.setattr(dft.stores, "MongoClient", lambda address, **_: server)
    store = open_job_store(MONGO, tmp_path)
    first, heavy = add(1, 2), relax_like(3)
    run_locally(Flow([first, heavy]), store=store, log=False, raise_immediately=True, ensure_success=True)
    assert open_job_store(MONGO, tmp_path).get_output(first.uuid) == 3
    assert store.get_output(heavy.uuid, load=True)["trajectory"] == [0.0, 1.0, 2.0]
    assert sorted(server["hullward"].list_collection_names()) == ["jobs", "jobs_data"]
    documents = store.docs_store
    shown = [repr(store), str(store), store.name, repr(documents), str(documents), documents.name]
    shown += [json.dumps(store, cls=MontyEncoder), repr(pickle.dumps(store)), repr(store.as_dict())]
    assert not [text for text in shown if SECRET in text or "db.example" in text]
    twin = pickle.loads(pickle.dumps(store))
    twin.connect()
    assert twin.count() == 2


@pytest.mark.parametrize(
    "address",
    [
        f"mongodb://user:{SECRET}@127.0.0.1:1/?serverSelectionTimeoutMS=200",
        f"mongodb://user:{SECRET}:more@host",
        f"mongodb://user:a/{SECRET}@host:70000",
        f"http://user:{SECRET}@host",
    ],
)
def test_errors_about_the_address_do_not_hold_it(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HULLWARD_TEST_ADDRESS", address)
    with pytest.raises(
        JobStoreError, match="no MongoDB server answers at the address in HULLWARD_TEST_ADDRESS"
    ) as info:
        open_job_store(MONGO, tmp_path)
    assert SECRET not in "".join(traceback.format_exception(info.value))
    assert info.value.__context__ is None


def test_a_missing_address_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HULLWARD_TEST_ADDRESS", raising=False)
    with pytest.raises(JobStoreError, match="environment variable HULLWARD_TEST_ADDRESS is not set"):
        open_job_store(MONGO, tmp_path)
    assert EnvironmentMongoStore("A", "d", "c") != EnvironmentMongoStore("B", "d", "c")


@pytest.mark.benchmark
def test_rate_of_writing_documents(tmp_path: Path) -> None:
    store = JobStore(opened(tmp_path / "s.sqlite"))
    ballast = [[float(i), float(i) ** 0.5, -1.0] for i in range(1000)]  # about 45 kB as JSON
    times = []
    for i in range(300):
        start = time.perf_counter()
        store.update({"uuid": f"u{i}", "index": 1, "output": {"forces": ballast}})
        times.append(time.perf_counter() - start)
    store.close()
    start = time.perf_counter()
    store.connect()
    print(f"\nupdate {sorted(times)[150] * 1e3:.1f} ms, reopen {300} documents {time.perf_counter() - start:.2f} s")
