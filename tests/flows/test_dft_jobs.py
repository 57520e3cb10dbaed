"""DFT jobs of a run: begun by discover, waited for without a process, collected by a command or by the deployment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.paths import model_folders
from dft.campaign.campaign import Campaign
from dft.config import StoreConfig
from dft.engines.config import PotentialEngineConfig
from dft.job_folder import read_job, read_record
from dft.records import DFTRecord
from dft.stores import open_job_store
from flows.cli.main import app
from tasks.dft.campaign import advance, campaign_folders, campaign_of_run, look, submitter_of
from tests.flows.conftest import ROOT, prefect_client

pytestmark = pytest.mark.slow

DFT = {
    "run": True,
    "top_n": 2,
    "references_max": 3,
    "engine": {"name": "potential", "potential": "CHGNet", "max_steps": 20},
    "submission": {"queue": "local", "allocations_max": 1, "jobs_per_allocation": 7, "poll_s": 0.5, "poll_max_s": 2},
}
"""A rehearsal: the potential computes what DFT would."""
PATIENCE_S = 240


def command(folder: Path, *words: str) -> dict[str, Any]:
    """What `hullward dft WORDS --json` says in a process of its own."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    line = [sys.executable, "-m", "flows.cli", "dft", *words, "--json"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert isinstance(answered, dict)
    return answered


def said_here(*words: str) -> dict[str, Any]:
    """What the same command says in this process."""
    done = CliRunner().invoke(app, ["dft", *words, "--json"])
    assert done.exit_code == 0, done.stderr
    answered = json.loads(done.stdout)
    assert isinstance(answered, dict)
    return answered


@pytest.fixture(scope="module")
def begun(campaign: Any, discover: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny campaign with DFT at its end; when it returns, its jobs are under way."""
    return discover(campaign.config(tmp_path_factory.mktemp("begun") / "runs", dft=DFT))


@pytest.fixture(scope="module")
def answered(begun: Any) -> dict[str, Any]:
    """What the command says that brings all jobs home."""
    return command(begun.folder.parent, "collect", str(begun.folder), "--wait")


def test_a_run_submits_its_best_candidates_and_the_near_phases_and_ends(begun: Any) -> None:
    made = Campaign.read(begun.folder)
    assert made.root == begun.folder.parent / ".dft"
    assert [job.purpose for job in made.jobs] == ["relaxation"] * 2 + ["reference"] * 3 + ["static"] * 2
    assert {job.formula for job in made.jobs[2:5]} == {"Al", "Ni", "Ti"}
    assert any("DFT jobs are under way and need no process here" in message for _, message in begun.log.said)
    # A job looks for its potential where this process would, whatever variables it is run with.
    assert isinstance(made.dft.engine, PotentialEngineConfig)
    assert made.dft.engine.folders == tuple(map(str, model_folders()))
    first = read_job(made.root / made.keys[0])
    assert first.lineage["rank"] == 1
    assert first.candidate_id == made.jobs[0].candidate_id


def test_the_jobs_come_home_by_the_command_and_the_same_run_again_finds_all_done(
    begun: Any, answered: dict[str, Any], discover: Any
) -> None:
    made = Campaign.read(begun.folder)
    assert answered["counts"] == {"done": 7}
    assert answered["summary"]["n_candidates"] == 2
    records = [read_record(made.root / key) for key in made.keys]
    with open_job_store(StoreConfig(), begun.folder) as store:
        found = {doc["metadata"]["key"]: doc["output"] for doc in store.query({"name": "dft record"})}
    assert set(found) == set(made.keys)
    for key, record in zip(made.keys, records, strict=True):
        assert record is not None
        assert DFTRecord.from_document(found[key]).energy_ev == record.energy_ev
        row = next(row for row in answered["jobs"] if row["key"] == key)
        assert row["energy_ev_per_atom"] == pytest.approx(record.energy_ev / len(record.structure), abs=1e-12)
    again = discover(begun.config)
    assert again.log.computed() == set()
    assert ("dft", "DFT jobs of tiny: 7 done") in again.log.said
    assert not any("under way" in message for _, message in again.log.said)


def test_a_finished_run_is_submitted_from_its_files_as_the_run_itself_would(
    begun: Any, answered: dict[str, Any]
) -> None:
    before = Campaign.read(begun.folder)
    after = campaign_of_run(begun.folder).write()
    assert after == before
    assert answered["n_open"] == 0
    assert campaign_folders(begun.folder.parent) == []


@pytest.mark.usefixtures("answered")
def test_a_damaged_record_and_a_damaged_entry_of_the_store_are_made_good(begun: Any) -> None:
    made = Campaign.read(begun.folder)
    record = made.root / made.keys[0] / "record.json"
    whole = json.loads(record.read_text())
    with open_job_store(StoreConfig(), begun.folder) as store:
        (entry,) = list(store.query({"metadata.key": made.keys[1]}))
        entry["output"]["energy_ev"] = 1.0
        store.update({k: v for k, v in entry.items() if k != "_id"}, key=["uuid", "index"])
    progress = advance(made)
    assert any("1 entry of the job store was not" in note for note in progress.notes)
    record.write_text(record.read_text()[:100])
    submitter_of(made).wait(made.keys, timeout_s=PATIENCE_S)
    assert json.loads(record.read_text())["energy_ev"] == pytest.approx(whole["energy_ev"], abs=1e-4)
    (row,) = [row for row in look(made).rows if row["key"] == made.keys[0]]
    assert row["earlier_reasons"][0].startswith("unreadable record: ")


@pytest.mark.usefixtures("answered")
def test_commands_cancel_retry_export_and_import(begun: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(begun.folder)
    exported = said_here("export", folder, str(tmp_path / "jobs.jsonl.gz"))
    assert exported["n_documents"]["jobs"] == 9  # seven records, and inputs of two candidates
    (tmp_path / "other").mkdir()
    imported = said_here("import", str(tmp_path / "other"), str(tmp_path / "jobs.jsonl.gz"))
    assert imported["n_documents"] == {"jobs": 9}
    assert said_here("cancel", folder)["jobs"] == []  # all are done
    assert said_here("retry", folder)["jobs"] == []
    assert said_here("status", folder, "Al")["jobs"][0]["formula"] == "Al"
    nothing = CliRunner().invoke(app, ["dft", "status", str(tmp_path / "other")])
    assert nothing.exit_code == 1
    assert "has no DFT jobs: expected a folder with campaign.json; `hullward dft submit` makes one" in nothing.stderr


@pytest.mark.usefixtures("answered")
def test_jobs_go_on_where_prefect_is_not(begun: Any, prefect_environment: dict[str, str]) -> None:
    from flows.dft_jobs import dft

    with prefect_client(prefect_environment):
        assert dft({"action": "collect", "runs_folder": str(begun.folder.parent), "run": "tiny"}) == {"tiny": 0}
