"""`hullward dft submit --dry-run`: what submitting would do, from the same functions, with nothing on disk changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dft.campaign.campaign import Campaign
from dft.job_folder import RECORD
from dft.submission.allocation import allocations
from dft.submission.local_queue import LocalQueue
from flows.cli.main import app
from tests.flows.test_cli import rock_salt

SETTINGS = """
dft:
  engine: {name: potential, potential: CHGNet}
  submission: {queue: local, walltime_s: 7200, jobs_per_allocation: 2, allocations_max: 1, setup_lines: [echo hello]}
"""


def files_below(folder: Path) -> dict[Path, bytes | None]:
    """All that is there, with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A submission of three crystals, of which the queue takes two at once."""
    monkeypatch.chdir(tmp_path)
    for name, length in (("a", 4.2), ("b", 4.3), ("c", 4.4)):
        rock_salt(length).to(str(tmp_path / f"{name}.cif"))
    (tmp_path / "cluster.yaml").write_text(SETTINGS, encoding="utf-8")
    return ["dft", "submit", "a.cif", "b.cif", "c.cif", "--out", "runs/mine", "--config", "cluster.yaml"]


def planned(words: list[str]) -> dict[str, Any]:
    told = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_what_is_planned_is_what_is_submitted_and_planning_leaves_the_disk_alone(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(tmp_path)
    plan = planned(words)
    assert files_below(tmp_path) == before

    monkeypatch.setattr(LocalQueue, "submit", lambda self, script, name: f"here/{name}")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    campaign = Campaign.read(tmp_path / "runs" / "mine")
    assert [job["key"] for job in plan["jobs"]] == campaign.keys
    assert [Path(job["folder"]).resolve() for job in plan["jobs"]] == [campaign.root / key for key in campaign.keys]
    (handed,) = allocations(campaign.root)
    (expected,) = plan["allocations"]
    assert expected["jobs"] == [member.key for member in handed.members] == campaign.keys[:2]
    # The tag of the root is drawn at the first submission; all else of the script is as it was told.
    tag = handed.name.rpartition("-")[2]
    assert expected["script"].replace("xxxxxx", tag) == handed.script.read_text(encoding="utf-8")
    assert "echo hello" in expected["script"]

    # What is under way is not planned again, and that is read without a trace either.
    before = files_below(tmp_path)
    again = planned(words)
    assert files_below(tmp_path) == before
    assert [job["state"] for job in again["jobs"]] == ["submitted", "submitted", "new"]
    assert again["allocations"] == []


def test_cost_is_told_by_measured_rates_beside_what_the_queue_is_asked_for(words: list[str], tmp_path: Path) -> None:
    plan = planned(words)
    # Two allocations of one core for two hours each; a potential needs seconds.
    assert plan["core_hours_max"] == 4
    assert 0 < plan["core_hours"] < 0.1
    text = CliRunner().invoke(app, [*words, "--dry-run"]).stdout
    assert "nothing is computed or written" in text
    assert "1 allocation with 2 jobs; 1 waits on disk" in text
    # Of GPAW nothing is measured until a job of it is done here.
    other = [*words, "--set", "dft.engine={name: gpaw}"]
    assert planned(other)["core_hours"] is None
    assert not list(tmp_path.rglob(RECORD))


def test_the_name_of_a_run_is_answered_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    told = CliRunner().invoke(app, ["dft", "submit", "mine"], env={"COLUMNS": "200"})
    assert told.exit_code == 2
    assert "mine: no such file or folder; did you mean runs/mine?" in told.stderr
