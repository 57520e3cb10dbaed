"""The controller: takes jobs through the queue, step by step, and may be killed between or within any two.

A step reads the files, asks the queue, writes down what has become of each allocation, allows another attempt where one
may help, and submits what is new, within the limits. It keeps nothing in memory that the next step needs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dft.submission.allocation import (
    ALLOCATIONS,
    Allocation,
    Member,
    allocation_name,
    archived_error,
    claim_file,
    is_unwanted,
    pending_members,
)
from dft.submission.cluster_queue import ClusterQueue
from dft.submission.config import SubmissionConfig
from dft.submission.files import now, read_json, write_error, write_json
from dft.submission.hosts import Host, ThisMachine
from dft.submission.local_queue import LocalQueue
from dft.submission.queues import Queue, QueueFullError, QueueJob, QueueState, QueueUnavailableError, SubmissionError
from dft.submission.remote import RemoteHost
from dft.submission.script import job_script
from dft.submission.settling import NOT_STARTED_KIND, is_over, settle
from dft.submission.states import OPEN, AllocationIndex, JobState, JobStatus, status_of


class SubmitterBusyError(RuntimeError):
    """Another process submits from the same root."""


@dataclass
class Step:
    """What a step found and did.

    Attributes:
        statuses: of the jobs asked about, by key.
        submitted: names of allocations handed to the queue.
        retried: keys that were allowed another attempt.
        notes: what the user should know, one sentence each; a silent queue, for one.
        n_open: jobs of which something is still to come.
    """

    statuses: dict[str, JobStatus] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_open: int = 0


def open_host(config: SubmissionConfig, root: Path) -> Host:
    """The machine that the settings name, for the job folders of a root."""
    if config.host is None or config.remote_folder is None:
        return ThisMachine()
    return RemoteHost(config.host, config.remote_folder, root, config.remote_only)


def open_queue(config: SubmissionConfig, host: Host) -> Queue:
    """The queue that the settings name."""
    return LocalQueue() if config.queue == "local" else ClusterQueue(config.queue, host)


class Submitter:
    """Takes the jobs below one root through a queue. Several may exist; one at a time works."""

    def __init__(
        self,
        root: Path,
        config: SubmissionConfig,
        queue: Queue | None = None,
        record_fault: Callable[[Path], str] = lambda folder: "",
    ) -> None:
        """Name the root and the queue.

        Args:
            root: folder of the job folders, on a file system that the workers share.
            config: queue, limits, retries.
            queue: in place of the one that the settings name.
            record_fault: what is wrong with the record in a job folder, one sentence; empty if nothing is.
        """
        self.root = Path(root).absolute()
        self.config = config
        self.host = open_host(config, self.root)
        self.queue = queue if queue is not None else open_queue(config, self.host)
        self._record_fault = record_fault
        self._sound: set[tuple[str, int]] = set()
        self._index = AllocationIndex(self.root)

    def statuses(self, keys: Sequence[str]) -> dict[str, JobStatus]:
        """Where the jobs stand as far as the files say; asks no queue, needs no lock."""
        self._index.refresh()
        return {key: status_of(self.root, key, self._index) for key in keys}

    def n_open(self, statuses: Mapping[str, JobStatus]) -> int:
        """Jobs of which something is still to come: a result, another attempt, or what they left on another machine."""
        return sum(
            status.state in OPEN or self._may_be_retried(status) or self._is_to_come_home(status)
            for status in statuses.values()
        )

    def planned(self, keys: Sequence[str]) -> list[tuple[Allocation, str]]:
        """What a step would hand over now, with its job scripts; asks no queue and writes nothing.

        Args:
            keys: the jobs of interest, in order; one without a folder is new.

        Raises: ValueError: as for dft.submission.script.job_script.
        """
        allocations = [self._allocation(due, is_planned=True) for due in self._due(self.statuses(keys))]
        return [(allocation, self._script_of(allocation)) for allocation in allocations]

    def step(self, keys: Sequence[str], *, submit: bool = True) -> Step:
        """Bring everything one step further.

        Args:
            keys: the jobs of interest, in the order in which they are to be submitted.
            submit: False follows what is under way, and submits nothing.

        Returns: What was found and done. A queue that does not answer is a note; nothing is concluded from silence.

        Raises:
            SubmitterBusyError: if another process is at it.
            SubmissionError: if the queue refuses a job script; what was to be submitted stays to be.
            FileNotFoundError: if a key has no job folder.
        """
        with self.locked():
            step = Step()
            if missing := [key for key in keys if not (self.root / key / "job.json").is_file()]:
                raise FileNotFoundError(
                    f"{self.root / missing[0]} holds no job.json ({len(missing)} of {len(keys)} jobs): expected the "
                    "job folders below the root; was it moved?"
                )
            self._index.refresh()
            try:
                self._follow(step)
                self._quarantine(keys)
                if submit:
                    self._retry(keys, step)
                    self._submit_new(keys, step)
            except QueueUnavailableError as error:
                step.notes.append(f"{error}; nothing is concluded from that, and it is asked again later")
            step.notes += self.queue.notes()
            step.statuses = self.statuses(keys)
            step.n_open = self.n_open(step.statuses)
            return step

    def wait(
        self,
        keys: Sequence[str],
        on_step: Callable[[Step], None] = lambda step: None,
        timeout_s: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Step:
        """Step until nothing is open, or the time is up; the pause doubles while nothing changes."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s, before = self.config.poll_s, None
        while True:
            step = self.step(keys)
            on_step(step)
            if not step.n_open or (deadline is not None and time.monotonic() >= deadline):
                return step
            states = {key: status.state for key, status in step.statuses.items()}
            pause_s = self.config.poll_s if states != before else min(2 * pause_s, self.config.poll_max_s)
            before = states
            sleep(pause_s if deadline is None else max(0.0, min(pause_s, deadline - time.monotonic())))

    def cancel(self, keys: Sequence[str], reason: str = "cancelled by its user") -> list[str]:
        """Cancel jobs that are not done; the keys that were. A packed allocation lives on for its other members."""
        with self.locked():
            statuses = self.statuses(keys)
            chosen = [key for key, status in statuses.items() if status.state in OPEN or status.is_retryable]
            for key in chosen:
                write_json(self.root / key / "cancelled.json", {"reason": reason, "when": now()})
            self.host.exchange([one for one in self._index.unsettled() if one.place == self.host.place])
            for allocation in self._index.unsettled():
                if (id := allocation.queue_id) and is_unwanted(allocation):
                    self.queue.cancel(id)
            return chosen

    def retry(self, keys: Sequence[str]) -> list[str]:
        """Allow failed, lost and cancelled jobs another attempt, whatever the limit; the keys that were allowed one."""
        with self.locked():
            again = (JobState.FAILED, JobState.LOST, JobState.CANCELLED)
            chosen = [key for key, status in self.statuses(keys).items() if status.state in again]
            for key in chosen:
                self._allow_again(key, by_hand=True)
            return chosen

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the root's lock. A killed process holds none.

        Raises: SubmitterBusyError: if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SubmitterBusyError(
                    f"another process submits from {self.root}: wait for it; `hullward dft status` looks without a lock"
                ) from None
            yield

    def _follow(self, step: Step) -> None:
        """Learn of every allocation under way what became of it."""
        here = (self.config.queue, self.host.place)
        mine = [one for one in self._index.unsettled() if (one.queue, one.place) == here]
        if others := {(one.queue, one.place) for one in self._index.unsettled()} - {here}:
            named = sorted(queue if place is None else f"{queue} on {place}" for queue, place in others)
            step.notes.append(
                f"jobs are under way in another queue ({', '.join(named)}): set dft.submission.queue, and host and "
                "remote_folder"
            )
        self._resolve([allocation for allocation in mine if allocation.queue_id is None], step)
        id_of = {allocation.name: id for allocation in mine if (id := allocation.queue_id) is not None}
        jobs = self.queue.find(list(id_of.values()))
        self.host.exchange(mine)  # after the queue was asked: what it calls ended has said its last word
        for allocation in mine:
            if allocation.name not in id_of:
                continue
            job = jobs.get(id_of[allocation.name])
            if job is None or job.state is QueueState.ENDED:
                self._end(allocation, job)
            else:
                (allocation.folder / "gone.json").unlink(missing_ok=True)
                if is_unwanted(allocation):
                    self.queue.cancel(job.id)

    def _end(self, allocation: Allocation, job: QueueJob | None) -> None:
        if is_over(allocation, job, self.config):
            self.host.close(allocation)
            if is_over(allocation, job, self.config):  # a member may have begun before it was closed
                settle(allocation, job)

    def _resolve(self, unknown: list[Allocation], step: Step) -> None:
        """Allocations whose id was not written: the controller died between the queue's answer and the file.

        Each is looked up in the queue by name, then in its members' claims (it may have run already). Only what is
        found in neither place is handed over, under the same name and attempt numbers: should the first script arrive
        late after all, claims let only one of the two run.
        """
        ids = self.queue.named([allocation.name for allocation in unknown])
        self.host.exchange(unknown)
        for allocation in unknown:
            id = ids.get(allocation.name) or _claimed_id(allocation)
            if id is not None:
                write_json(allocation.folder / "queue_id.json", {"id": id, "at": now(), "found": True})
            elif pending_members(allocation):
                self._hand_over(allocation, step)
            else:
                self.host.close(allocation)
                settle(allocation, None)

    def _quarantine(self, keys: Sequence[str]) -> None:
        """A record that cannot be read is moved aside and counts as a failed attempt."""
        for key in keys:
            record = self.root / key / "record.json"
            if not record.exists():
                continue
            seen = (key, record.stat().st_mtime_ns)
            if seen in self._sound:
                continue
            if not (fault := self._record_fault(record.parent)):
                self._sound.add(seen)
                continue
            self.host.set_aside_record(key)
            attempt = self._index.latest(key)[0]
            aside = record.parent / "attempts" / f"{attempt}.record.unreadable.{record.stat().st_mtime_ns}.json"
            aside.parent.mkdir(exist_ok=True)
            sentence = f"record.json cannot be used ({fault}); kept as {aside.relative_to(record.parent)}"
            write_error(record.parent, key, "unreadable record", sentence, is_retryable=True)
            os.replace(record, aside)

    def _retry(self, keys: Sequence[str], step: Step) -> None:
        for key, status in self.statuses(keys).items():
            if self._may_be_retried(status):
                self._allow_again(key)
                step.retried.append(key)

    def _may_be_retried(self, status: JobStatus) -> bool:
        is_failed = status.state in (JobState.FAILED, JobState.LOST)
        return is_failed and status.is_retryable and self._n_charged(status) < self.config.attempts_max

    def _is_to_come_home(self, status: JobStatus) -> bool:
        """Whether a job's files lie elsewhere: the record comes at once, all others when the queue has ended it."""
        allocation = self._index.latest(status.key)[1]
        if allocation is None or allocation.place is None or allocation.place != self.host.place:
            return False
        return not self._index.is_settled(allocation)

    def _n_charged(self, status: JobStatus) -> int:
        """Attempts that count: one that another job's failure took away does not, nor those before a retry by hand."""
        reasons = [*status.reasons, f"{status.kind}: {status.reason}"]
        taken = sum(reason.startswith(f"{NOT_STARTED_KIND}: its allocation") for reason in reasons)
        pardoned = (read_json(self.root / status.key / "attempts" / "pardoned.json") or {}).get("attempts", 0)
        return status.n_attempts - taken - int(pardoned)

    def _allow_again(self, key: str, by_hand: bool = False) -> None:
        """Keep the reason of the last attempt, and open the way for another."""
        folder, attempt = self.root / key, self._index.latest(key)[0]
        (folder / "attempts").mkdir(exist_ok=True)
        if by_hand:
            charged = self._n_charged(status_of(self.root, key, self._index))
            before = (read_json(folder / "attempts" / "pardoned.json") or {}).get("attempts", 0)
            write_json(folder / "attempts" / "pardoned.json", {"attempts": before + charged, "when": now()})
        cancelled = folder / "cancelled.json"
        if cancelled.exists():
            os.replace(cancelled, folder / "attempts" / f"{attempt}.cancelled.json")
        if (folder / "error.json").exists():
            os.replace(folder / "error.json", archived_error(folder, attempt))

    def _submit_new(self, keys: Sequence[str], step: Step) -> None:
        """Submit what is new, packed, within the limits."""
        due = self._due(self.statuses(keys), len(step.submitted))
        if due:
            self.host.prepare()
        for members in due:
            allocation = self._commit(members)
            try:
                self._hand_over(allocation, step)
            except QueueFullError as error:
                step.notes.append(f"{error}; the rest waits on disk")
                return

    def _due(self, statuses: Mapping[str, JobStatus], n_submitted: int = 0) -> list[list[str]]:
        """Keys of the allocations to be handed over next, so many of the step being handed over already."""
        new = [key for key, one in statuses.items() if one.state is JobState.NEW or self._may_be_retried(one)]
        size = self.config.jobs_per_allocation
        packed = [new[begin : begin + size] for begin in range(0, len(new), size)]
        free = self.config.allocations_max - len(self._index.unsettled())
        return packed[: max(0, min(free, self.config.submissions_per_step) - n_submitted)]

    def _allocation(self, keys: Sequence[str], *, is_planned: bool = False) -> Allocation:
        """The next allocation of these jobs, not written down yet."""
        members = tuple(Member(key, self._index.latest(key)[0] + 1) for key in keys)
        return Allocation(
            folder=self.root / ALLOCATIONS / allocation_name(self.root, members, is_planned=is_planned),
            members=members,
            queue=self.config.queue,
            walltime_s=self.config.walltime_s,
            jobs_at_once=self.config.jobs_at_once,
            heartbeat_s=self.config.heartbeat_s,
            job_command=self.config.job_command,
            created_at=now(),
            place=self.host.place,
        )

    def _commit(self, keys: Sequence[str]) -> Allocation:
        """Write an allocation down before the queue is asked."""
        allocation = self._allocation(keys)
        shutil.rmtree(allocation.folder, ignore_errors=True)  # left by a controller that was killed before the commit
        allocation.folder.mkdir(parents=True)
        allocation.script.write_text(self._script_of(allocation), encoding="utf-8", errors="surrogateescape")
        allocation.write()
        self._index.refresh()
        return allocation

    def _script_of(self, allocation: Allocation) -> str:
        """The job script, with the paths of the machine where it runs."""
        seen = replace(allocation, folder=self.host.seen(allocation.folder))
        return job_script(self.config, seen, self.host.code)

    def _hand_over(self, allocation: Allocation, step: Step) -> None:
        self.host.send(allocation)
        try:
            id = self.queue.submit(allocation.script, allocation.name)
        except SubmissionError:
            # There is no such job: what was to be submitted is new again, and other settings may be tried.
            (allocation.folder / "allocation.json").unlink()
            self._index = AllocationIndex(self.root)
            self._index.refresh()
            raise
        write_json(allocation.folder / "queue_id.json", {"id": id, "at": now()})
        step.submitted.append(allocation.name)


def _claimed_id(allocation: Allocation) -> str | None:
    """The queue's id as the worker of an allocation wrote it into a claim."""
    for member in allocation.members:
        claim = read_json(claim_file(allocation.root / member.key, member.attempt)) or {}
        if "queue_id" in claim and claim.get("allocation") == allocation.name:
            return str(claim["queue_id"])
    return None
