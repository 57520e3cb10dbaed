"""`discover` on crystals of a database: one line of the settings names it, everything else stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.servers.aflux import Aflux, real_entries
from tests.servers.faults import FaultProxy
from tests.servers.loopback import Loopback
from tests.servers.materials_project import KEY, MaterialsProjectServer
from tests.servers.optimade import OptimadeServer, alexandria_entry
from tests.servers.real import real_records

SYSTEM = {"Al", "Ni", "Ti"}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Loopback]]:
    with ExitStack() as stack:
        inside = [record for record in real_records(4000) if set(record.elements) <= SYSTEM]
        optimade = stack.enter_context(OptimadeServer([alexandria_entry(record) for record in inside]))
        yield {
            "materials-project": stack.enter_context(MaterialsProjectServer(4000)),
            "aflow": stack.enter_context(Aflux(real_entries(4000))),
            "optimade": stack.enter_context(FaultProxy(optimade.url)),
        }


@pytest.mark.parametrize("kind", ["materials-project", "aflow", "optimade"])
def test_a_run_takes_its_known_crystals_from_a_database_named_in_one_line(
    kind: str, servers: dict[str, Loopback], campaign: Any, discover: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    door = servers[kind]
    endpoint = door.url + ("/API/aflux/" if kind == "aflow" else "")
    config = campaign.config(
        tmp_path, data={"sources": [{"kind": kind, "endpoint": endpoint, "requests_per_second": 1000}]}
    )
    run = discover(config)
    (source,) = json.loads((run.folder / "manifest.json").read_text())["dataset"]["sources"]
    known = pq.read_table(run.folder / "dataset" / "dataset.parquet")
    assert source["kind"] == kind
    assert source["n_kept"] == len(known) >= 3
    assert all(set(system.split("-")) <= SYSTEM for system in known.column("chemsys").to_pylist())
    candidates = pq.read_table(run.folder / "candidates.parquet")
    assert len(candidates) == config.sample.n_candidates
    assert candidates.column("rank").null_count < len(candidates)
    assert (run.folder / "report.html").is_file()

    asked = len(door.seen)
    again = discover(config)
    assert len(door.seen) == asked, "a finished download is taken as it is"
    assert "ingest" in again.log.skipped()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written if KEY.encode() in file.read_bytes()]
