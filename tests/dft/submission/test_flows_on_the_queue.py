"""The job scripts of docs/cluster.md for whole flows, as they stand there, on a real Slurm."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dft.submission.conftest import until
from tests.servers.own_prefect import own_server
from tests.servers.slurm import Slurm

pytestmark = pytest.mark.dft_real

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"

PATIENT = """#!/bin/sh
echo "$SLURM_RESTART_COUNT $@" >> begun
[ -n "$SLURM_RESTART_COUNT" ] && exit 0
trap 'echo told >> begun; exit 143' TERM
sleep 300 & wait
"""
"""Stands for a run: the first time it is at work until it is told to end, the second time it ends by itself."""

NOTED = """
import os
from pathlib import Path
from prefect import flow

@flow
def noted():
    Path("noted").write_text(os.environ["SLURM_JOB_ID"])
"""


def script(name: str) -> str:
    """The block of shell that follows the name on the page."""
    found = re.search(rf"`{re.escape(name)}`:\n\n```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found, name
    return found[1].replace("--mem=16G", "--mem=2G").replace("--cpus-per-task=8", "--cpus-per-task=1")


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Callable[..., str]:
    """Hands a script of the page over, from the test's folder; gives the job's id."""

    def handed_over(name: str, *arguments: str, **variables: str) -> str:
        (tmp_path / name).write_text(script(name), encoding="utf-8")
        before = slurm.environment
        slurm.environment = {**before, **variables}
        try:
            said = slurm.run("sbatch", f"--chdir={tmp_path}", str(tmp_path / name), *arguments)
        finally:
            slurm.environment = before
        return said.split()[-1]

    return handed_over


def test_a_run_whose_time_is_nearly_over_is_told_and_goes_on_in_the_queue(
    slurm: Slurm, submit: Callable[..., str], tmp_path: Path
) -> None:
    program = tmp_path / "hullward"
    program.write_text(PATIENT)
    program.chmod(0o755)
    begun = tmp_path / "begun"
    id = submit("hullward.sbatch", "discover", "two words", HULLWARD=str(program))
    until(begun.exists)
    slurm.run("scancel", "--batch", "--signal=TERM", id)  # as Slurm does before the time limit
    until(lambda: "Reason=BeginTime" in slurm.run("scontrol", "show", "job", id))
    slurm.run("scontrol", "update", f"jobid={id}", "starttime=now+10")  # Slurm waits two minutes
    until(lambda: begun.read_text().count("discover") == 2)
    assert begun.read_text().splitlines() == [" discover two words", "told", "1 discover two words"]


def test_a_worker_in_a_job_begins_the_runs_of_a_pool_there(
    slurm: Slurm, submit: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "noted.py").write_text(NOTED)
    with own_server(tmp_path / "home") as server:
        api = server.api
        api("work_pools/", {"name": "hullward", "type": "process"})
        flow = api("flows/", {"name": "noted"})["id"]
        place = {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
        wanted = {"name": "noted", "flow_id": flow, "entrypoint": "noted.py:noted", "pull_steps": [place]}
        deployment = api("deployments/", {**wanted, "work_pool_name": "hullward"})["id"]
        run = api(f"deployments/{deployment}/create_flow_run", {})["id"]
        named = {name: value for name, value in server.environment.items() if name.startswith("PREFECT_")}
        id = submit("hullward-worker.sbatch", PREFECT=str(Path(sys.executable).parent / "prefect"), **named)
        until(lambda: api(f"flow_runs/{run}", timeout_s=60)["state_type"] == "COMPLETED", patience_s=600)
        assert (tmp_path / "noted").read_text() == id
        slurm.run("scancel", "--full", id)
        slurm.until(lambda: not slurm.run("squeue", "--noheader"))
