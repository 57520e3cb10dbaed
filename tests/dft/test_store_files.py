"""Job documents as files, and entries of a store that were damaged: what is whole is kept, what is not is said."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jobflow.core.store import JobStore

from dft.config import StoreConfig
from dft.store_files import StoreFileError, export_documents, import_documents
from dft.stores import open_job_store


def filled(folder: Path, n: int = 7) -> JobStore:
    store = open_job_store(StoreConfig(), folder)
    for i in range(n):
        document = {"uuid": f"job-{i}", "index": 1, "name": "static" if i % 2 else "relax", "metadata": {"n": i}}
        document["output"] = {
            "energy_ev": -1.0 / (i + 1),
            "when": datetime(2026, 1, 1) + timedelta(hours=i),
            "none": None,
        }
        store.update(document, key=["uuid", "index"])
        store.additional_stores["data"].update(
            {"blob_uuid": f"blob-{i}", "job_uuid": f"job-{i}", "data": [i] * 3}, key="blob_uuid"
        )
    return store


def content(store: JobStore) -> list[list[dict[str, Any]]]:
    parts = (store.docs_store, store.additional_stores["data"])
    plain = [[{k: v for k, v in doc.items() if k != "_id"} for doc in part.query()] for part in parts]
    return [sorted(docs, key=str) for docs in plain]


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.jsonl.gz"])
def test_what_is_exported_is_imported_as_it_was_and_twice_is_once(tmp_path: Path, name: str) -> None:
    with filled(tmp_path / "a") as store:
        assert export_documents(store, tmp_path / name) == {"jobs": 7, "data": 7}
        expected = content(store)
    with open_job_store(StoreConfig(), tmp_path / "b") as other:
        for _ in range(2):
            imported = import_documents(other, tmp_path / name)
            assert (imported.n_documents, imported.refused) == ({"jobs": 7, "data": 7}, ())
        assert content(other) == expected
    with open_job_store(StoreConfig(), tmp_path / "b") as reopened:
        assert content(reopened) == expected
    raw = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode().splitlines()
    assert [json.loads(line).get("table") for line in lines] == [None, *["jobs"] * 7, *["data"] * 7]


def test_a_query_chooses_documents_with_their_large_outputs(tmp_path: Path) -> None:
    with filled(tmp_path / "a") as store:
        assert export_documents(store, tmp_path / "some.jsonl", {"name": "static"}) == {"jobs": 3, "data": 3}


def test_a_broken_line_is_named_and_those_around_it_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    with filled(tmp_path / "a") as store:
        export_documents(store, file)
    lines = file.read_text().splitlines()
    lines[3] = lines[3][:20]
    lines[4] = '{"table": "logs", "document": {}}'
    lines[5] = '{"table": "jobs", "document": {"index": 1}}'
    file.write_text("\n".join(lines))
    with open_job_store(StoreConfig(), tmp_path / "b") as other:
        imported = import_documents(other, file)
    assert imported.n_documents == {"jobs": 4, "data": 7}
    assert [sentence.split(":")[0] for sentence in imported.refused] == ["line 4", "line 5", "line 6"]
    assert "'logs' is unknown" in imported.refused[1]
    assert "lacks 'uuid'" in imported.refused[2]


@pytest.mark.parametrize("text", ["", "[]", "not json", '{"format": "other"}', '{"format": "hullward job documents"}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with (
        open_job_store(StoreConfig(), tmp_path) as store,
        pytest.raises(StoreFileError, match="expected a file of job"),
    ):
        import_documents(store, tmp_path / "x.jsonl")


def test_a_truncated_archive_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    with filled(tmp_path / "a", 3000) as store:
        export_documents(store, tmp_path / "jobs.jsonl.gz")
    whole = (tmp_path / "jobs.jsonl.gz").read_bytes()
    (tmp_path / "jobs.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with open_job_store(StoreConfig(), tmp_path / "b") as other:
        with pytest.raises(StoreFileError, match="is damaged"):
            import_documents(other, tmp_path / "jobs.jsonl.gz")
        assert 200 <= other.count() < 3000


@pytest.mark.parametrize("damage", ["cut", "bytes", "other"])
def test_a_damaged_entry_is_set_aside_and_the_others_are_there(tmp_path: Path, damage: str) -> None:
    with filled(tmp_path) as store:
        expected = content(store)[0]
    file = tmp_path / "jobs.sqlite"
    raw = sqlite3.connect(file)
    (row, text) = raw.execute("select id, doc from jobs where doc like '%job-3%'").fetchone()
    spoilt = {"cut": text[:40], "bytes": text.replace("relax", "r\udcff").replace("static", "s\udcff"), "other": "[]"}
    raw.execute(
        "update jobs set doc = cast(? as text) where id = ?", (spoilt[damage].encode("utf-8", "surrogateescape"), row)
    )
    raw.commit()
    raw.close()
    with open_job_store(StoreConfig(), tmp_path) as store:
        assert content(store)[0] == [doc for doc in expected if doc["uuid"] != "job-3"]
        store.update({"uuid": "job-3", "index": 1, "output": "anew"}, key=["uuid", "index"])
    with open_job_store(StoreConfig(), tmp_path) as store:
        assert store.query_one({"uuid": "job-3"})["output"] == "anew"
        assert store.count() == 7
    raw = sqlite3.connect(file)
    ((kept,),) = raw.execute("select doc from jobs_damaged").fetchall()
    raw.close()
    assert kept == spoilt[damage].encode("utf-8", "surrogateescape")


def test_updates_by_key_are_those_of_a_dictionary(tmp_path: Path) -> None:
    # The store keeps an index of its own; the truth is a dict that is told the same.
    draw = random.Random(0)
    truth: dict[tuple[str, int], int] = {}
    with open_job_store(StoreConfig(), tmp_path) as store, open_job_store(StoreConfig(), tmp_path) as other:
        for step in range(300):
            key = (f"u{draw.randrange(20)}", draw.randrange(3))
            chosen = draw.choice([store, other])
            if draw.random() < 0.15:
                chosen.remove_docs({"uuid": key[0], "index": key[1]})
                truth.pop(key, None)
            else:
                chosen.update([{"uuid": key[0], "index": key[1], "value": step}], key=["uuid", "index"])
                truth[key] = step
        for one in (store, other):
            assert {(d["uuid"], d["index"]): d["value"] for d in one.query()} == truth
            assert one.count() == len(truth)
