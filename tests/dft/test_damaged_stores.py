"""A flipped bit in a job store: its documents are what they were, or set aside; never others, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft.stores import JobStoreError, SQLiteStore
from tests.damage import DAMAGES
from tests.fuzzing import Fuzz


@pytest.mark.fuzz
def test_a_damaged_job_store_holds_no_other_documents(
    fuzz: Fuzz, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SQLiteStore(path, "jobs", key="uuid")
    store.connect()
    outputs = [{"energy": -3.5 - i, "name": "TaB2" * 20} for i in range(30)]
    store.update([{"uuid": f"u{i}", "index": 1, "output": output} for i, output in enumerate(outputs)])
    store.remove_docs({"uuid": "u7"})
    expected = {doc["uuid"]: {**doc, "_id": None} for doc in store.query()}
    store.close()
    whole = path.read_bytes()
    for rng in fuzz.cases(30):
        for old in tmp_path.iterdir():
            old.unlink()
        path.write_bytes(whole)
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.15, 0.05]))](path, rng)
        caplog.clear()
        again = SQLiteStore(path, "jobs", key="uuid")
        try:
            again.connect()
            found = {doc["uuid"]: {**doc, "_id": None} for doc in again.query()}
        except JobStoreError as error:
            fuzz.ended("refused, the file named") if str(path) in str(error) else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:
            wrong = [name for name, doc in found.items() if doc != expected.get(name)]
            if wrong or (len(found) < len(expected) and str(path) not in caplog.text):
                fuzz.failed(f"{damage} -> {wrong or 'documents missing, and nothing said'}")
            else:
                fuzz.ended("all the same" if len(found) == len(expected) else "documents missing, which was said")
        finally:
            again.close()
