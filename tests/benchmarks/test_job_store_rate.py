"""Rates of the embedded job store: documents written one by one and in batches, queries, export and import.

HULLWARD_BENCH_DOCUMENTS sets how many job documents (default 10,000). Rates are printed, never asserted.
"""

from __future__ import annotations

import os
import random
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dft.config import StoreConfig
from dft.store_files import export_documents, import_documents
from dft.stores import open_job_store

pytestmark = pytest.mark.benchmark

N_DOCUMENTS = int(os.environ.get("HULLWARD_BENCH_DOCUMENTS", "10000"))


def document(number: int, draw: random.Random) -> dict[str, Any]:
    """A record of twelve atoms, about 3 kB."""
    return {
        "uuid": str(uuid.UUID(int=draw.getrandbits(128))),
        "index": 1,
        "name": "dft record",
        "metadata": {"candidate_id": f"c{number % 500}", "formula": "TiB2", "purpose": "relaxation"},
        "hosts": [],
        "output": {
            "energy_ev": -draw.random(),
            "is_converged": number % 10 != 0,
            "forces_ev_per_ang": [[draw.gauss(0, 0.01) for _ in range(3)] for _ in range(12)],
            "structure": {"sites": [{"species": "Ti", "abc": [draw.random() for _ in range(3)]} for _ in range(12)]},
        },
    }


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median of the repeats, s."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def test_rates_of_the_embedded_job_store(tmp_path: Path) -> None:
    draw = random.Random(0)
    documents = [document(number, draw) for number in range(N_DOCUMENTS)]
    with open_job_store(StoreConfig(), tmp_path / "one") as store:
        tenth, began = max(1, N_DOCUMENTS // 10), time.perf_counter()
        marks = []
        for number, one in enumerate(documents, start=1):
            store.update(one, key=["uuid", "index"])
            if number % tenth == 0:
                marks.append(time.perf_counter())
        print(f"\n{N_DOCUMENTS} documents one by one: {N_DOCUMENTS / (marks[-1] - began):.0f}/s")
        print(f"  the first tenth {tenth / (marks[0] - began):.0f}/s, the last {tenth / (marks[-1] - marks[-2]):.0f}/s")
        chosen = documents[N_DOCUMENTS // 2]
        by_uuid = seconds(lambda: store.query_one({"uuid": chosen["uuid"]}))
        by_candidate = seconds(lambda: list(store.query({"metadata.candidate_id": "c7"})))
        found = len(list(store.query({"metadata.candidate_id": "c7"})))
        counted = seconds(lambda: store.count({"output.is_converged": True}))
        print(f"one by uuid: {1e3 * by_uuid:.1f} ms; {found} by candidate: {1e3 * by_candidate:.1f} ms")
        print(f"count of the converged: {1e3 * counted:.1f} ms")
        replaced = seconds(lambda: store.update({**chosen, "name": "again"}, key=["uuid", "index"]))
        print(f"one replaced: {1e3 * replaced:.1f} ms")
        file = tmp_path / "jobs.jsonl.gz"
        exported = seconds(lambda: export_documents(store, file), repeats=1)
        print(f"export: {N_DOCUMENTS / exported:.0f}/s, {file.stat().st_size / 1e6:.1f} MB compressed")
    with open_job_store(StoreConfig(), tmp_path / "two") as other:
        imported = seconds(lambda: import_documents(other, file), repeats=1)
        assert other.count() == N_DOCUMENTS
        print(f"import: {N_DOCUMENTS / imported:.0f}/s")
    size = (tmp_path / "one" / "jobs.sqlite").stat().st_size / 1e6
    opened = seconds(lambda: open_job_store(StoreConfig(), tmp_path / "one").close(), repeats=1)
    print(f"opened again in {opened:.1f} s, {size:.0f} MB on disk")
