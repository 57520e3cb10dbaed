"""Chunks computed by Dask workers in jobs of a real Slurm: killed, refused, lost; and what cannot be, in a sentence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings

import tasks.runners
import tasks.slurm_workers
from configs.schema import ConfigError, DiscoverConfig, ExecutionConfig, parse
from tasks.runners import Workers
from tasks.slurm_workers import SlurmTaskRunner, SlurmWorkersError
from tests.flows.conftest import Discover, prefect_client
from tests.servers.slurm import Slurm, slurm, slurm_daemons

__all__ = ["slurm", "slurm_daemons"]

PATIENCE_S = 600  # two busy cores, on which each worker loads torch; alone it takes a tenth
HERE = {"interface": "lo", "workers_max": 2, "memory_gb": 2.0}
"""Workers of a cluster that is this machine."""


def wait_until(there: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, f"waited in vain: {log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.1)


def of_jobs(ids: list[str]) -> list[psutil.Process]:
    """Processes in these jobs of the queue."""
    found = []
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("SLURM_JOB_ID") in ids:
            found.append(process)
    return found


def running(cluster: Slurm) -> list[str]:
    return cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()


def listeners(processes: list[psutil.Process]) -> set[str]:
    """Addresses at which these processes wait for others."""
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture
def on_slurm(prefect_environment: dict[str, str], slurm: Slurm) -> Discover:
    return Discover({**prefect_environment, "SLURM_CONF": str(slurm.config)})


@pytest.mark.dft_real
def test_a_run_whose_worker_and_driver_are_killed_goes_on_to_the_bytes_of_one_that_was_not(
    slurm: Slurm, on_slurm: Discover, campaign: Any, finished: Any, tmp_path: Path
) -> None:
    runs, log = tmp_path / "runs", tmp_path / "log"
    config = campaign.config(runs, execution={"task_runner": "dask-slurm", "slurm": HERE})
    with on_slurm.running(config, tmp_path) as driver:
        wait_until(lambda: any((runs / "tiny" / "sample").glob("*.parquet")), driver, log)
        first = running(slurm)
        assert first
        everybody = [psutil.Process(driver.pid), *of_jobs(first)]
        assert len(everybody) > 2
        assert listeners(everybody) <= {"127.0.0.1", "::1"}
        certificates = list((runs / ".slurm").glob(".dask-jobqueue*"))
        assert certificates
        assert {file.stat().st_mode & 0o777 for file in (*certificates,)} == {0o600}
        assert (runs / ".slurm").stat().st_mode & 0o777 == 0o700
        for process in of_jobs(first[:1]):
            process.kill()
        wait_until(lambda: len(set(running(slurm)) - set(first[:1])) >= 1, driver, log)
        wait_until(lambda: any((runs / "tiny" / "relax").glob("*.parquet")), driver, log)
        os.killpg(driver.pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
    assert not (runs / "tiny" / "report.html").exists()
    drawn = {file: file.stat().st_mtime_ns for file in (runs / "tiny" / "sample").glob("*.parquet")}

    # Workers of the dead driver may still be at work beside those of the next one.
    with on_slurm.running(config, tmp_path) as driver:
        assert driver.wait(PATIENCE_S) == 0, log.read_text(errors="replace")[-3000:]
    assert {file: file.stat().st_mtime_ns for file in drawn} == drawn
    expected = (finished.folder / "candidates.parquet").read_bytes()
    assert (runs / "tiny" / "candidates.parquet").read_bytes() == expected
    words = " ".join(file.read_text(errors="replace") for file in (runs / ".slurm").glob("*.err"))
    folders = {line.split()[-1] for line in words.split("\n") if "Local Directory:" in line}
    assert len(folders) == words.count("Local Directory:") > 1


@task
def job_id(item: int) -> str:
    return f"{item} {os.environ.get('SLURM_JOB_ID')}"


def outcomes(environment: dict[str, str], execution: ExecutionConfig, n: int = 3) -> list[str]:
    """What `n` tasks return."""

    @flow
    def some() -> list[str]:
        with Workers(execution) as workers:
            return list(workers.mapped("some", job_id, range(n)))

    with prefect_client(environment):
        return some()


def execution(folder: Path, **slurm_settings: Any) -> ExecutionConfig:
    return ExecutionConfig.model_validate(
        {
            "runs_folder": str(folder),
            "task_runner": "dask-slurm",
            "torch_threads": 1,
            "slurm": {**HERE, **slurm_settings},
        }
    )


@pytest.mark.dft_real
def test_what_a_job_asks_for_and_its_lines_of_shell_are_the_settings(
    slurm: Slurm, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    lines = {"setup_lines": (f"scontrol show job $SLURM_JOB_ID > {tmp_path}/job",)}
    lines |= {"header_lines": ("#SBATCH --comment=from-the-settings",)}
    found = outcomes(
        prefect_environment, execution(tmp_path, workers_max=1, walltime_s=5400, partition="main", **lines)
    )
    assert [text.split()[0] for text in found] == ["0", "1", "2"]
    (id,) = {text.split()[1] for text in found}
    shown = (tmp_path / "job").read_text()
    for part in (f"JobId={id} ", "TimeLimit=01:30:00", "Partition=main", "CPUs/Task=1", "MinMemoryNode=2G"):
        assert part in shown, shown
    assert "Comment=from-the-settings" in shown
    slurm.until(lambda: not running(slurm))  # the flow has ended, and so have its jobs


@pytest.mark.dft_real
def test_a_script_that_slurm_refuses_ends_the_run_in_its_words(
    slurm: Slurm, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SlurmWorkersError, match=r"refuses a worker's job: .*invalid partition.*; see execution.slurm"):
        outcomes(prefect_environment, execution(tmp_path, partition="nowhere"))


@pytest.mark.dft_real
def test_jobs_that_end_before_they_are_workers_end_the_run_with_their_last_words(
    slurm: Slurm, prefect_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.runners, "LOOK_S", 1.0)
    broken = execution(tmp_path, workers_max=1, setup_lines=("echo there is no module cuda >&2; exit 3",))
    sentence = (
        r"3 jobs of Slurm ended before they were workers, the last one \d+; .*\.err ends: there is no module cuda"
    )
    with pytest.raises(SlurmWorkersError, match=sentence):
        outcomes(prefect_environment, broken)


@pytest.fixture
def submitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that could submit, and a server that every node reaches."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.path.dirname(shutil.which('sh') or '/bin/sh')}")
    with temporary_settings({PREFECT_API_URL: "http://prefect.example.org:4200/api"}):
        yield tmp_path


def test_nothing_is_asked_of_a_queue_before_there_is_a_task(submitting: Path) -> None:
    with SlurmTaskRunner(execution(submitting / "runs")):
        assert not (submitting / "runs").exists()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("package", "the package dask-jobqueue is not installed: pip install"),
        ("program", "there is no sbatch on this machine: start the run where jobs of Slurm can be submitted"),
        ("interface", "execution.slurm.interface is 'ib7', which this machine does not have: expected one of .*lo"),
        ("path", "execution.runs_folder lies at '.*a run': expected letters, digits"),
        ("server", "listens on this machine's loopback: set PREFECT_API_URL to a server that the compute nodes reach"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_handed_over(
    missing: str, sentence: str, submitting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = execution(submitting / ("a run" if missing == "path" else "runs"), interface=None)
    if missing == "package":
        monkeypatch.setattr(tasks.slurm_workers, "find_spec", lambda name: None)
    if missing == "program":
        (submitting / "bin" / "sbatch").unlink()
        monkeypatch.setenv("PATH", str(submitting / "bin"))
    if missing == "interface":
        asked = execution(submitting / "runs", interface="ib7")
    url = "http://127.0.0.1:4200/api" if missing == "server" else "http://prefect.example.org:4200/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(SlurmWorkersError, match=sentence):
        SlurmTaskRunner(asked)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"workers_min": 5}, "workers_min 5 must not exceed workers_max 4"),
        ({"partition": "main\n#SBATCH --uid=0"}, "partition holds a line break"),
        ({"account": "a b"}, "account 'a b' is no such name"),
        (
            {"header_lines": ["--gres=gpu:1"]},
            "header_lines hold '--gres=gpu:1': expected lines that begin with '#SBATCH '",
        ),
        ({"setup_lines": ["export MP_API_KEY=abc"]}, "set a variable whose name promises a secret"),
        ({"cores": 1}, "slurm.cores is 1, but torch_threads is 2: expected a core for each"),
        ({"walltime": 60}, "walltime is unknown; did you mean walltime_s"),
    ],
)
def test_settings_that_no_job_could_have_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(DiscoverConfig, {"execution": {"task_runner": "dask-slurm", "slurm": wrong}}, "here")
    assert sentence in str(error.value) or wrong.keys() == {"walltime"}, str(error.value)
    assert "abc" not in str(error.value)
