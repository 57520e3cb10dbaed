"""Submission by local processes: each fault ends in a retry or a reason; nothing is lost, doubled or forgotten."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from dft.submission import settling
from dft.submission.allocation import ALLOCATIONS, Allocation, Member, allocation_name, allocations, claim_file
from dft.submission.config import SubmissionConfig
from dft.submission.files import create_json
from dft.submission.local_queue import LocalQueue
from dft.submission.queues import QueueFullError, QueueJob, QueueState, QueueUnavailableError
from dft.submission.settling import is_over
from dft.submission.states import JobState
from dft.submission.submitter import Submitter, SubmitterBusyError
from tests.dft.submission.conftest import Jobs, kill, until


def states(submitter: Submitter, keys: list[str]) -> list[str]:
    return [status.state.value for status in submitter.statuses(keys).values()]


def worker_pids(jobs: Jobs) -> list[int]:
    """Processes that run an allocation below this root."""
    root = str(jobs.root)
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "dft.submission.run_allocation" in words and words[-1].startswith(root) and "timeout" not in words[0]:
            found.append(process.pid)
    return found


def test_jobs_are_run_once_each_within_the_limit_and_end_as_done(jobs: Jobs) -> None:
    keys = [jobs.add(seconds=0.3) for _ in range(5)]
    submitter = jobs.submitter(allocations_max=2)
    assert states(submitter, keys) == ["new"] * 5
    most = 0

    def look(step: Any) -> None:
        nonlocal most
        most = max(most, sum(not allocation.is_settled for allocation in allocations(jobs.root)))

    step = submitter.wait(keys, look, timeout_s=60)
    assert [status.state for status in step.statuses.values()] == [JobState.DONE] * 5
    assert [jobs.runs(key) for key in keys] == [1] * 5
    assert most == 2


def test_what_was_done_by_an_earlier_campaign_is_not_done_again(jobs: Jobs) -> None:
    keys = [jobs.add(), jobs.add()]
    jobs.finish(jobs.submitter(), keys)
    step = jobs.submitter().step(keys)
    assert not step.submitted
    assert [jobs.runs(key) for key in keys] == [1, 1]


def test_a_failed_attempt_is_repeated_and_its_reason_kept(jobs: Jobs) -> None:
    key = jobs.add(fails_first=2)
    status = jobs.finish(jobs.submitter(attempts_max=3), [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 3, 3)
    assert status.reasons == ("scf: electrons did not converge",) * 2


def test_a_job_that_always_fails_ends_as_failed_with_its_reason_and_the_others_go_on(jobs: Jobs) -> None:
    hopeless, fine, forbidden = jobs.add(fails_first=99), jobs.add(), jobs.add(fails_first=99, is_retryable=False)
    found = jobs.finish(jobs.submitter(attempts_max=2), [hopeless, fine, forbidden]).statuses
    assert (found[hopeless].state, jobs.runs(hopeless)) == (JobState.FAILED, 2)
    assert found[hopeless].reason == "electrons did not converge"
    assert found[fine].state == JobState.DONE
    assert (found[forbidden].state, jobs.runs(forbidden)) == (JobState.FAILED, 1)


def test_a_binary_that_dies_without_a_word_is_retried_and_its_last_words_are_kept(jobs: Jobs) -> None:
    key = jobs.add(dies_first=1, signal=int(signal.SIGSEGV))
    status = jobs.finish(jobs.submitter(), [key]).statuses[key]
    assert (status.state, jobs.runs(key)) == (JobState.DONE, 2)
    assert "SIGSEGV" in status.reasons[0]
    assert "about to die" in status.reasons[0]


@pytest.mark.parametrize("says_stopped", [True, False])
def test_a_job_that_uses_up_its_walltime_is_ended_and_says_so(jobs: Jobs, says_stopped: bool) -> None:
    key = jobs.add(seconds=[30, 0], says_stopped=says_stopped)
    # As short as lets two processes begin one after the other on busy cores.
    status = jobs.finish(jobs.submitter(walltime_s=3), [key]).statuses[key]
    assert (status.state, jobs.runs(key)) == (JobState.DONE, 2)
    assert status.reasons == ("walltime: the job was ended at its time limit of 3 s",)


def test_a_worker_killed_with_all_its_processes_is_noticed_and_the_job_run_again(jobs: Jobs) -> None:
    key = jobs.add(seconds=[30, 0])
    submitter = jobs.submitter()
    submitter.step([key])
    until(lambda: jobs.runs(key) == 1)
    for process in psutil.process_iter():
        if process.pid in worker_pids(jobs):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, jobs.runs(key)) == (JobState.DONE, 2)
    assert len(status.reasons) == 1


def test_a_job_that_outlives_its_killed_worker_is_waited_for_and_not_run_twice(jobs: Jobs) -> None:
    key = jobs.add(seconds=4)
    submitter = jobs.submitter()
    submitter.step([key])
    until(lambda: jobs.runs(key) == 1)
    for pid in worker_pids(jobs):
        os.kill(pid, signal.SIGKILL)
    assert jobs.finish(submitter, [key]).statuses[key].state is JobState.DONE
    assert jobs.runs(key) == 1


def test_a_controller_killed_in_the_middle_leaves_jobs_that_another_takes_over(jobs: Jobs) -> None:
    keys = [jobs.add(seconds=0.4) for _ in range(8)]
    for n_done in (1, 3, 5):
        controller = jobs.controller(keys, allocations_max=2)
        until(lambda n=n_done: sum((jobs.root / key / "record.json").exists() for key in keys) >= n)
        kill(controller)
    found = jobs.finish(jobs.submitter(allocations_max=2), keys).statuses
    assert {status.state for status in found.values()} == {JobState.DONE}
    assert [jobs.runs(key) for key in keys] == [1] * 8


class DyingQueue(LocalQueue):
    """The controller dies when it has handed a script over, or just before."""

    def __init__(self, before: bool) -> None:
        self.before = before

    def submit(self, script: Path, name: str) -> str:
        if not self.before:
            super().submit(script, name)
        raise KeyboardInterrupt


class IdleQueue(LocalQueue):
    """Takes a script and does nothing with it."""

    def submit(self, script: Path, name: str) -> str:
        return f"{socket.gethostname()}/{name}"


@pytest.mark.parametrize("by_double", [True, False])
def test_a_registered_job_that_ended_is_not_over_while_its_double_lives(
    jobs: Jobs, by_double: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double of an allocation that was submitted twice came first; the registered job left it to it and ended."""
    moments = [time.time()]
    write_json = settling.write_json

    def write_by_this_clock(path: Path, content: Mapping[str, Any]) -> None:
        write_json(path, content)
        os.utime(path, (moments[-1], moments[-1]))

    monkeypatch.setattr(settling, "time", SimpleNamespace(time=lambda: moments[-1]))
    monkeypatch.setattr(settling, "write_json", write_by_this_clock)
    key = jobs.add(seconds=60)
    config = jobs.config(settle_s=0.1, heartbeat_s=0.3, vanished_s=0.9)
    Submitter(jobs.root, config, IdleQueue()).step([key])
    (allocation,) = allocations(jobs.root)
    assert allocation.queue_id is not None
    ended = QueueJob(allocation.queue_id, QueueState.ENDED, "COMPLETED")
    claim = claim_file(jobs.root / key, 1)
    assert create_json(
        claim, {"queue_id": "double" if by_double else allocation.queue_id, "allocation": allocation.name}
    )

    assert not is_over(allocation, ended, config)
    for _ in range(8):
        moments.append(moments[-1] + 0.2)
        os.utime(claim, (moments[-1], moments[-1]))  # it says that it lives
        if by_double:
            assert not is_over(allocation, ended, config)
    if by_double:
        moments.append(moments[-1] + 1.0)
        assert not is_over(allocation, ended, config)  # it has lived since it was last looked at
        moments.append(moments[-1] + 1.0)
    assert is_over(allocation, ended, config)


@pytest.mark.parametrize("seconds", [0.0, 3.0])
@pytest.mark.parametrize("before", [True, False])
def test_a_controller_that_dies_around_the_submission_leaves_a_job_that_runs_once(
    jobs: Jobs, before: bool, seconds: float
) -> None:
    key = jobs.add(seconds=seconds)
    with pytest.raises(KeyboardInterrupt):
        Submitter(jobs.root, jobs.config(), DyingQueue(before)).step([key])
    assert states(jobs.submitter(), [key])[0] in {"submitted", "running", "done"}
    if not before and not seconds:
        until((jobs.root / key / "record.json").exists)
    status = jobs.finish(jobs.submitter(), [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 1, 1)


def test_a_controller_that_dies_before_the_commit_leaves_nothing_behind(jobs: Jobs) -> None:
    key = jobs.add()
    folder = jobs.root / ALLOCATIONS / allocation_name(jobs.root, [Member(key, 1)])
    folder.mkdir(parents=True)
    (folder / "job.sh").write_text("half a scri")
    assert states(jobs.submitter(), [key]) == ["new"]
    assert jobs.finish(jobs.submitter(), [key]).statuses[key].state is JobState.DONE


def test_a_script_handed_over_twice_runs_its_job_once(jobs: Jobs) -> None:
    key = jobs.add(seconds=1.0)
    submitter = jobs.submitter()
    submitter.step([key])
    (allocation,) = allocations(jobs.root)
    for _ in range(3):
        LocalQueue().submit(allocation.script, allocation.name)
    jobs.finish(submitter, [key])
    until(lambda: not worker_pids(jobs))
    assert jobs.runs(key) == 1


def test_of_many_processes_exactly_one_makes_a_file(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        made = pool.starmap(create_json, [(tmp_path / "claim.json", {"n": n}) for n in range(64)])
    assert sum(made) == 1
    assert json.loads((tmp_path / "claim.json").read_text()) == {"n": made.index(True)}
    assert [file.name for file in tmp_path.iterdir()] == ["claim.json"]


class SilentQueue(LocalQueue):
    """A queue whose server is away."""

    def find(self, ids: Collection[str]) -> dict[str, QueueJob]:
        raise QueueUnavailableError("slurm gave no listing: unable to contact")


def test_nothing_is_concluded_from_a_queue_that_does_not_answer(jobs: Jobs) -> None:
    key = jobs.add(seconds=1.0)
    jobs.submitter().step([key])
    silent = Submitter(jobs.root, jobs.config(settle_s=0), SilentQueue())
    for _ in range(3):
        step = silent.step([key])
        assert "unable to contact" in step.notes[0]
        assert step.statuses[key].state in {JobState.SUBMITTED, JobState.RUNNING}
    assert jobs.finish(jobs.submitter(), [key]).statuses[key].n_attempts == 1


class FullQueue(LocalQueue):
    """A queue that takes two jobs of a user."""

    n = 0

    def submit(self, script: Path, name: str) -> str:
        if self.n == 2:
            raise QueueFullError("slurm takes no more jobs for now: QOSMaxSubmitJobPerUserLimit")
        self.n += 1
        return super().submit(script, name)


def test_a_queue_that_is_full_takes_the_rest_later(jobs: Jobs) -> None:
    keys = [jobs.add() for _ in range(4)]
    step = Submitter(jobs.root, jobs.config(), FullQueue()).step(keys)
    assert len(step.submitted) == 2
    assert "waits on disk" in step.notes[0]
    assert set(jobs.finish(jobs.submitter(), keys).statuses[k].state for k in keys) == {JobState.DONE}
    assert [jobs.runs(key) for key in keys] == [1] * 4


@pytest.mark.parametrize("at_once", [1, 3])
def test_packed_jobs_share_an_allocation_and_one_failure_costs_the_others_nothing(jobs: Jobs, at_once: int) -> None:
    keys = [jobs.add(seconds=0.3, fails_first=int(n == 1)) for n in range(6)]
    submitter = jobs.submitter(jobs_per_allocation=6, jobs_at_once=at_once, allocations_max=2)
    found = jobs.finish(submitter, keys).statuses
    assert {status.state for status in found.values()} == {JobState.DONE}
    assert [jobs.runs(key) for key in keys] == [1, 2, 1, 1, 1, 1]
    assert [len(a.members) for a in sorted(allocations(jobs.root), key=lambda a: len(a.members))] == [1, 6]


def test_a_packed_allocation_out_of_time_charges_only_the_jobs_it_had_begun(jobs: Jobs) -> None:
    keys = [jobs.add(seconds=0.1), jobs.add(seconds=[30, 0]), jobs.add(), jobs.add()]
    submitter = jobs.submitter(jobs_per_allocation=4, walltime_s=4, attempts_max=2)
    found = jobs.finish(submitter, keys).statuses
    assert {status.state for status in found.values()} == {JobState.DONE}
    assert [jobs.runs(key) for key in keys] == [1, 2, 1, 1]
    assert found[keys[1]].reasons[0].startswith("walltime: ")
    assert found[keys[2]].reasons[0].startswith("not started: its allocation")


def test_a_script_that_fails_before_its_job_begins_is_reported_with_its_last_words(jobs: Jobs) -> None:
    key = jobs.add()
    submitter = jobs.submitter(setup_lines=("source /nowhere/vasp.sh || exit 3",), attempts_max=2)
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.FAILED, 2, 0)
    assert status.kind == "not started"
    assert "/nowhere/vasp.sh: No such file or directory" in status.reason


def test_cancelled_jobs_end_and_stay_ended_until_they_are_allowed_again(jobs: Jobs) -> None:
    slow, waiting = jobs.add(seconds=[60, 0]), jobs.add()
    submitter = jobs.submitter(allocations_max=1)
    submitter.step([slow, waiting])
    until(lambda: jobs.runs(slow) == 1)
    assert submitter.cancel([slow, waiting]) == [slow, waiting]
    until(lambda: not worker_pids(jobs))
    step = submitter.step([slow, waiting])
    assert [status.state for status in step.statuses.values()] == [JobState.CANCELLED] * 2
    assert step.statuses[slow].reason == "cancelled by its user"
    assert submitter.retry([waiting, slow]) == [waiting, slow]
    found = jobs.finish(submitter, [slow, waiting]).statuses
    assert {status.state for status in found.values()} == {JobState.DONE}
    assert (jobs.runs(slow), jobs.runs(waiting)) == (2, 1)


def test_one_job_of_a_packed_allocation_is_cancelled_and_the_others_run_on(jobs: Jobs) -> None:
    keys = [jobs.add(seconds=60), jobs.add(seconds=0.2)]
    submitter = jobs.submitter(jobs_per_allocation=2)
    submitter.step(keys)
    until(lambda: jobs.runs(keys[0]) == 1)
    submitter.cancel(keys[:1])
    found = jobs.finish(submitter, keys).statuses
    assert [status.state for status in found.values()] == [JobState.CANCELLED, JobState.DONE]


def test_a_retry_by_hand_gives_a_job_that_used_up_its_attempts_as_many_again(jobs: Jobs) -> None:
    key = jobs.add(fails_first=3)
    submitter = jobs.submitter(attempts_max=2)
    assert jobs.finish(submitter, [key]).statuses[key].state is JobState.FAILED
    assert submitter.retry([key]) == [key]
    status = jobs.finish(submitter, [key]).statuses[key]
    assert (status.state, status.n_attempts, len(status.reasons)) == (JobState.DONE, 4, 3)


def test_a_record_that_cannot_be_read_is_put_aside_and_computed_again(jobs: Jobs) -> None:
    key = jobs.add()

    def fault(folder: Path) -> str:
        try:
            json.loads((folder / "record.json").read_text())
        except ValueError as error:
            return str(error)
        return ""

    jobs.finish(jobs.submitter(), [key])
    record = jobs.root / key / "record.json"
    record.write_text(record.read_text()[:10])
    status = jobs.finish(Submitter(jobs.root, jobs.config(), record_fault=fault), [key]).statuses[key]
    assert (status.state, status.n_attempts, jobs.runs(key)) == (JobState.DONE, 2, 2)
    assert status.reasons[0].startswith("unreadable record: record.json cannot be used")
    assert len(list((jobs.root / key / "attempts").glob("1.record.unreadable.*"))) == 1


def test_one_controller_at_a_time_submits_and_anyone_may_look(jobs: Jobs) -> None:
    key = jobs.add()
    first = jobs.submitter()
    with first.locked():
        with pytest.raises(SubmitterBusyError, match="another process submits from"):
            jobs.submitter().step([key])
        assert states(jobs.submitter(), [key]) == ["new"]


def test_a_folder_that_is_not_there_is_named(jobs: Jobs) -> None:
    with pytest.raises(FileNotFoundError, match="holds no job.json"):
        jobs.submitter().step(["0" * 24])


def test_an_allocation_of_a_later_version_is_refused(jobs: Jobs) -> None:
    key = jobs.add()
    jobs.finish(jobs.submitter(), [key])
    (allocation,) = allocations(jobs.root)
    file = allocation.folder / "allocation.json"
    file.write_text(file.read_text().replace('"schema_version": "1"', '"schema_version": "2"'))
    with pytest.raises(ValueError, match="schema_version '2', expected '1'"):
        Allocation.read(allocation.folder)


def test_the_folder_may_be_on_a_path_with_spaces_and_quotes(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "it's a folder")
    key = jobs.add()
    assert jobs.finish(jobs.submitter(), [key]).statuses[key].state is JobState.DONE


def test_settings_that_contradict_or_hold_a_secret_are_refused_without_repeating_it() -> None:
    with pytest.raises(ValidationError, match="a living job would count as lost"):
        SubmissionConfig(heartbeat_s=60, vanished_s=60)
    with pytest.raises(ValidationError, match=r"no word with \{folder\}"):
        SubmissionConfig(job_command=("python", "-m", "dft.run_job"))
    with pytest.raises(ValidationError, match="source a file") as caught:
        SubmissionConfig(setup_lines=("export MP_API_KEY=abcdef",))
    assert all("abcdef" not in error["msg"] for error in caught.value.errors())


def test_the_state_survives_a_copy_of_the_root(jobs: Jobs, tmp_path: Path) -> None:
    keys = [jobs.add(), jobs.add(fails_first=9)]
    before = jobs.finish(jobs.submitter(attempts_max=1), keys).statuses
    subprocess.run(["cp", "-a", str(jobs.root), str(tmp_path / "copy")], check=True)
    # Away in one step: the process of an allocation may still be closing its files.
    jobs.root.rename(tmp_path / "moved away")
    after = Submitter(tmp_path / "copy", jobs.config(attempts_max=1)).statuses(keys)
    assert after == before
