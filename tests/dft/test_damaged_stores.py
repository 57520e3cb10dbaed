"""Damage of job stores, jobs and records: they hold what they held, or it is set aside or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.engines.config import PotentialEngineConfig
from dft.job_folder import JobFolderError, make_job_folder, read_job, read_record, write_record
from dft.records import RecordError
from dft.stores import JobStoreError, SQLiteStore
from tests.damage import DAMAGES
from tests.dft.made_records import record
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


@pytest.mark.fuzz
def test_a_damaged_record_or_job_is_never_another_one(fuzz: Fuzz, tmp_path: Path) -> None:
    silicon = Structure(Lattice.cubic(5.4), ["Si"], [[0, 0, 0]])
    engine = PotentialEngineConfig(potential="CHGNet")
    folder = make_job_folder(tmp_path, silicon, engine, candidate_id="c1", lineage={"rank": 1})
    write_record(folder, record(silicon, -5.4))
    held = (read_job(folder), read_record(folder))
    for rng in fuzz.cases(40):
        path = folder / str(rng.choice(["job.json", "record.json"]))
        whole = path.read_bytes()
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.15, 0.05]))](path, rng)
        try:
            found = (read_job(folder), read_record(folder))
        except (JobFolderError, RecordError) as error:
            fuzz.ended("refused, the file named") if str(path) in str(error) else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:
            same = found[0] == held[0] and found[1].as_document() == held[1].as_document()  # type: ignore[union-attr]
            fuzz.ended("the same") if same else fuzz.failed(f"{damage} -> another")
        path.write_bytes(whole)
