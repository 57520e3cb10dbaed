"""Submission through a real Slurm of one node: its faults, its words, its ids."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dft.submission.allocation import Member, allocation_name, allocations
from dft.submission.cluster_queue import ClusterQueue
from dft.submission.queues import QueueState, QueueUnavailableError, SubmissionError
from dft.submission.states import JobState
from dft.submission.submitter import Submitter
from tests.dft.submission.conftest import Jobs, kill, until
from tests.servers.slurm import Slurm

pytestmark = pytest.mark.dft_real


def ids(jobs: Jobs) -> list[str]:
    return [id for allocation in allocations(jobs.root) if (id := allocation.queue_id)]


def name_of(jobs: Jobs, key: str) -> str:
    """Name of the allocation of a job's first attempt."""
    return allocation_name(jobs.root, [Member(key, 1)])


def job_pids(jobs: Jobs, key: str) -> list[int]:
    """Slurm's own process over the job script, the worker that it runs, and the job itself."""
    pids = [int((jobs.root / key / "runs.txt").read_text().split()[0])]
    for _ in range(2):
        pids.insert(0, int(Path(f"/proc/{pids[0]}/stat").read_text().rsplit(")", 1)[1].split()[1]))
    return pids


def listed(slurm: Slurm) -> list[str]:
    """Names of jobs that wait or run."""
    return slurm.run("squeue", "--noheader", "--format=%j").split()


def test_jobs_run_through_slurm_under_the_names_of_their_folders(slurm: Slurm, jobs: Jobs) -> None:
    keys = [jobs.add(seconds=1) for _ in range(4)]
    submitter = jobs.submitter("slurm", allocations_max=4, partition="main")
    submitter.step(keys)
    assert {name.rpartition("-")[0] for name in listed(slurm)} == {f"h{key}-1" for key in keys}
    found = jobs.finish(submitter, keys).statuses
    assert {status.state for status in found.values()} == {JobState.DONE}
    assert [jobs.runs(key) for key in keys] == [1] * 4
    claim = (jobs.root / keys[0] / "claim-1.json").read_text()
    assert f'"queue_id": "{ids(jobs)[sorted(keys).index(keys[0])]}"' in claim


def test_what_a_job_asks_for_is_what_slurm_grants(slurm: Slurm, jobs: Jobs) -> None:
    key = jobs.add(seconds=5)
    settings: dict[str, Any] = {"processes_per_node": 2, "walltime_s": 120, "partition": "main"}
    settings |= {"header_lines": ("#SBATCH --comment=from-the-settings",), "mpi_command": "srun --mpi=none"}
    jobs.submitter("slurm", **settings, setup_lines=("env > environment.txt",)).step([key])
    (id,) = ids(jobs)
    shown = slurm.run("scontrol", "show", "job", id)
    for part in ("NumNodes=1", "NumTasks=2", "TimeLimit=00:02:00", "Partition=main", "Comment=from-the-settings"):
        assert part in shown, shown
    (allocation,) = allocations(jobs.root)
    until((allocation.folder / "environment.txt").exists)
    environment = (allocation.folder / "environment.txt").read_text()
    assert f"SLURM_JOB_ID={id}" in environment
    assert "export HULLWARD_MPI_COMMAND='srun --mpi=none'" in allocation.script.read_text()
    jobs.submitter("slurm").cancel([key])


def test_a_walltime_kill_by_slurm_is_retried_and_named(slurm: Slurm, jobs: Jobs) -> None:
    # Slurm counts whole minutes and looks every half: the shortest test of its own clock takes one and a half.
    key = jobs.add(seconds=[300, 0])
    status = jobs.finish(jobs.submitter("slurm", walltime_s=5), [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 2, 2)
    assert status.reasons[0].startswith("walltime: ")


def test_a_job_that_vanished_from_the_queue_is_lost_then_run_again(
    tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, slurm_daemons: Slurm
) -> None:
    # A Slurm with another memory: the ids of the first mean nothing to it.
    key = jobs.add(seconds=[60, 0])
    other = Slurm(tmp_path / "other")
    monkeypatch.setenv("SLURM_CONF", str(other.config))
    try:
        other.start()
        submitter = jobs.submitter("slurm")
        submitter.step([key])
        until(lambda: jobs.runs(key) == 1)
        (id,) = ids(jobs)
        pids = job_pids(jobs, key)
        other.run("scancel", "--signal=KILL", "--full", id)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    finally:
        other.stop()
    monkeypatch.setenv("SLURM_CONF", str(slurm_daemons.config))
    (allocation,) = allocations(jobs.root)
    (allocation.folder / "queue_id.json").write_text('{"id": "987654"}')
    (allocation.folder / "ended.json").unlink(missing_ok=True)
    step = submitter.step([key])
    assert step.statuses[key].state is JobState.RUNNING  # it may still give a sign of life
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, jobs.runs(key)) == (JobState.DONE, 2)
    assert status.reasons == ("lost: the queue does not know job 987654 any more and it gives no sign of life",)


def test_a_job_unknown_to_the_queue_that_lives_is_waited_for(slurm: Slurm, jobs: Jobs) -> None:
    key = jobs.add(seconds=8)
    submitter = jobs.submitter("slurm", vanished_s=4.0, heartbeat_s=0.2)
    submitter.step([key])
    until(lambda: jobs.runs(key) == 1)
    (allocation,) = allocations(jobs.root)
    (allocation.folder / "queue_id.json").write_text('{"id": "987654"}')
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 1, 1)


@pytest.mark.parametrize("requeue", [True, False])
def test_a_node_failure_costs_no_job(slurm: Slurm, jobs: Jobs, requeue: bool) -> None:
    key = jobs.add(seconds=[120, 0])
    header = () if requeue else ("#SBATCH --no-requeue",)
    submitter = jobs.submitter("slurm", header_lines=header)
    submitter.step([key])
    until(lambda: jobs.runs(key) == 1)
    try:
        # The node dies with all that runs on it.
        slurm.kill("slurmd")
        for pid in job_pids(jobs, key):
            os.kill(pid, signal.SIGKILL)
        slurm.run("scontrol", "update", f"nodename={slurm.host}", "state=down", "reason=test")
    finally:
        slurm.start_node()
        time.sleep(0.5)
        with contextlib.suppress(subprocess.CalledProcessError):  # it has come back by itself
            slurm.run("scontrol", "update", f"nodename={slurm.host}", "state=resume")
        slurm.until(lambda: slurm.node_state() in {"idle", "mixed", "allocated"})
    # Slurm itself holds a requeued job back for two minutes unless it is asked to begin.
    for id in slurm.run("squeue", "--noheader", "--format=%i").split():
        slurm.run("scontrol", "update", f"jobid={id}", "starttime=now")
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, jobs.runs(key)) == (JobState.DONE, 2)
    if not requeue:
        assert status.reasons == ("node failure: a node of the job failed",)


def test_a_controller_killed_in_the_middle_of_a_campaign_doubles_and_loses_nothing(slurm: Slurm, jobs: Jobs) -> None:
    keys = [jobs.add(seconds=0.5) for _ in range(10)]
    for n_done in (1, 4):
        controller = jobs.controller(keys, "slurm", allocations_max=3)
        until(lambda n=n_done: sum((jobs.root / key / "record.json").exists() for key in keys) >= n)
        kill(controller)
    found = jobs.finish(jobs.submitter("slurm", allocations_max=3), keys).statuses
    assert {status.state for status in found.values()} == {JobState.DONE}
    assert [jobs.runs(key) for key in keys] == [1] * 10


class ForgetfulQueue(ClusterQueue):
    """The controller dies between sbatch's answer and the file that holds the id."""

    def submit(self, script: Path, name: str) -> str:
        super().submit(script, name)
        raise KeyboardInterrupt


def test_a_job_whose_id_was_never_written_is_found_by_its_name(slurm: Slurm, jobs: Jobs) -> None:
    key = jobs.add(seconds=3)
    with pytest.raises(KeyboardInterrupt):
        Submitter(jobs.root, jobs.config("slurm"), ForgetfulQueue("slurm")).step([key])
    (allocation,) = allocations(jobs.root)
    assert allocation.queue_id is None
    submitter = jobs.submitter("slurm")
    submitter.step([key])
    assert listed(slurm) == [allocation.name]
    assert allocation.queue_id is not None
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 1, 1)


def test_a_submission_doubled_in_slurm_runs_its_job_once(slurm: Slurm, jobs: Jobs) -> None:
    key = jobs.add(seconds=2)
    submitter = jobs.submitter("slurm")
    submitter.step([key])
    (allocation,) = allocations(jobs.root)
    slurm.run("sbatch", str(allocation.script))
    assert len(listed(slurm)) == 2
    jobs.finish(submitter, [key])
    until(lambda: not listed(slurm))
    assert jobs.runs(key) == 1
    assert "left to it" in (allocation.folder / "out").read_text()


def test_a_controller_of_slurm_that_is_away_is_silence_and_not_an_answer(slurm: Slurm, jobs: Jobs) -> None:
    key = jobs.add(seconds=10)
    submitter = jobs.submitter("slurm", settle_s=0)
    began = time.time()
    submitter.step([key])
    until(lambda: jobs.runs(key) == 1)
    # A controller that forgets the last job gives its id to the next one, for which Slurm drains the node.
    until(lambda: (slurm.folder / "state" / "job_state").stat().st_mtime > began)
    slurm.kill("slurmctld")
    try:
        step = submitter.step([key])
        assert step.notes
        assert step.statuses[key].state in {JobState.RUNNING, JobState.DONE}
        with pytest.raises(QueueUnavailableError):
            ClusterQueue("slurm").find(["1"])
    finally:
        slurm.start_controller()
        slurm.until(lambda: slurm.node_state() != "no answer")
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 1, 1)


def test_jobs_are_cancelled_in_slurm_and_by_it(slurm: Slurm, jobs: Jobs) -> None:
    ours, theirs = jobs.add(seconds=60), jobs.add(seconds=60)
    submitter = jobs.submitter("slurm")
    submitter.step([ours, theirs])
    submitter.cancel([ours])
    slurm.run("scancel", f"--name={name_of(jobs, theirs)}")
    found = jobs.finish(submitter, [ours, theirs]).statuses
    assert [status.state for status in found.values()] == [JobState.CANCELLED] * 2
    assert found[theirs].reason == "the job was cancelled in the queue"
    until(lambda: not listed(slurm))


def test_an_order_that_slurm_refuses_is_said_in_its_words_and_stays_to_be_submitted(slurm: Slurm, jobs: Jobs) -> None:
    key = jobs.add()
    with pytest.raises(SubmissionError, match="slurm refuses .*nowhere"):
        jobs.submitter("slurm", partition="nowhere").step([key])
    status = jobs.finish(jobs.submitter("slurm"), [key]).statuses[key]
    assert (status.state, jobs.runs(key)) == (JobState.DONE, 1)


def test_what_slurm_says_of_a_job_is_told_apart(slurm: Slurm, jobs: Jobs) -> None:
    running, waiting = jobs.add(seconds=3), jobs.add()
    jobs.submitter("slurm", processes_per_node=2).step([running, waiting])
    until(lambda: jobs.runs(running) == 1)
    queue = ClusterQueue("slurm")
    names = [name_of(jobs, running), name_of(jobs, waiting)]
    found = queue.named([*names, "h-nobody"])
    assert set(found) == set(names)
    states = [queue.find([found[name]])[found[name]].state for name in names]
    assert states == [QueueState.RUNNING, QueueState.WAITING]
    assert queue.find(["987654"]) == {}
    jobs.finish(jobs.submitter("slurm"), [running, waiting])
    assert queue.find(list(found.values()))[found[names[0]]].native == "COMPLETED"
