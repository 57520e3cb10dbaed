"""A flipped bit in what a database sent: the records are what they were, or the file is named; never others."""

from __future__ import annotations

from pathlib import Path

import pytest

from generative.datasets.databases.database import Record
from generative.datasets.databases.store import Store
from generative.datasets.sources import SourceError
from tests.damage import DAMAGES
from tests.fuzzing import Fuzz


@pytest.mark.fuzz
def test_a_damaged_download_gives_no_other_records(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "downloads" / "oqmd-1.sqlite"
    bodies = [{"energy": -0.1 * i, "sites": [i] * 9} for i in range(60)]
    records = [Record(f"oqmd-{i}", f"2026-01-{i % 28 + 1:02d}", body) for i, body in enumerate(bodies)]
    with Store.opened(path, {"query": "Al-N-Ti"}) as store:
        store.add(records, lambda _: {"version": "1.6", "started": "2026-01-01", "pages": "all"})
        store.finish("2026-01-02")
    expected = sorted((record.id, record.stamp, dict(record.body)) for record in records)
    whole = path.read_bytes()
    for rng in fuzz.cases(30):
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(whole)
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.15, 0.05]))](path, rng)
        try:
            with Store.opened(path, write=False) as store:
                is_finished, version = store.get("finished") is not None, store.get("version")
                found = [(record.id, record.stamp, dict(record.body)) for record in store.records()]
        except SourceError as error:
            fuzz.ended("refused, the file named") if str(path) in str(error) else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:
            if is_finished and (found, version) != (expected, "1.6"):
                fuzz.failed(f"{damage} -> {len(found)} records of {version}")
            else:  # an emptied file is that of a download that has not begun
                fuzz.ended("all the same" if is_finished else "unfinished, to be downloaded")
