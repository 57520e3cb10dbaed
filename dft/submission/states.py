"""What state each job is in, read from the files alone: the record is the truth first, then what the queue had said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dft.submission.allocation import ALLOCATIONS, Allocation, archived_error, claim_file, has_error, is_attempt_over
from dft.submission.files import read_json


class JobState(StrEnum):
    """State of a job."""

    NEW = "new"
    SUBMITTED = "submitted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


OPEN = frozenset({JobState.NEW, JobState.SUBMITTED, JobState.RUNNING})
"""States in which something is still to come."""

LOST_KIND = "lost"
"""Kind of the error of a job that the queue does not know any more."""


@dataclass(frozen=True)
class JobStatus:
    """One job.

    Attributes:
        key: of its folder.
        state: where it stands.
        n_attempts: attempts that began or were to begin.
        reason: why it failed, was lost or cancelled; of one that is to be tried again, why the last attempt failed.
        kind: kind of that failure.
        is_retryable: whether another attempt could help.
        reasons: of all earlier attempts, in order.
        allocation: name of the latest allocation.
        queue_id: its id in the queue.
    """

    key: str
    state: JobState
    n_attempts: int = 0
    reason: str = ""
    kind: str = ""
    is_retryable: bool = False
    reasons: tuple[str, ...] = ()
    allocation: str = ""
    queue_id: str = ""


class AllocationIndex:
    """The allocations below a root, each read once: what is committed never changes."""

    def __init__(self, root: Path) -> None:
        """Name the root; nothing is read yet."""
        self.root = root
        self._of_name: dict[str, Allocation] = {}
        self._settled: set[str] = set()
        self._latest: dict[str, tuple[int, str]] = {}

    def refresh(self) -> None:
        """Take in allocations that have been committed since."""
        allocations = self.root / ALLOCATIONS
        names = {folder.name for folder in allocations.iterdir()} if allocations.is_dir() else set()
        for name in sorted(names - set(self._of_name)):
            if (found := Allocation.read(allocations / name)) is None:
                continue
            self._of_name[name] = found
            for member in found.members:
                if member.attempt > self._latest.get(member.key, (0, ""))[0]:
                    self._latest[member.key] = (member.attempt, name)

    def latest(self, key: str) -> tuple[int, Allocation | None]:
        """Number of a key's latest attempt and its allocation; 0 and None if there was none."""
        attempt, name = self._latest.get(key, (0, ""))
        return attempt, self._of_name.get(name)

    def is_settled(self, allocation: Allocation) -> bool:
        """Whether nothing is left to expect of an allocation."""
        if allocation.name not in self._settled and allocation.is_settled:
            self._settled.add(allocation.name)
        return allocation.name in self._settled

    def unsettled(self) -> list[Allocation]:
        """Allocations of which something is to be expected, oldest first."""
        found = [allocation for allocation in self._of_name.values() if not self.is_settled(allocation)]
        return sorted(found, key=lambda allocation: (allocation.created_at, allocation.name))


def status_of(root: Path, key: str, index: AllocationIndex) -> JobStatus:
    """Where one job stands, as far as the files say."""
    folder = root / key
    attempt, allocation = index.latest(key)
    reasons = earlier_reasons(folder, attempt)
    name = "" if allocation is None else allocation.name
    status = JobStatus(key, JobState.NEW, attempt, reasons=reasons, allocation=name)
    if (folder / "record.json").exists():
        return replace(status, state=JobState.DONE)
    if (folder / "cancelled.json").exists():
        cancelled = read_json(folder / "cancelled.json") or {}
        return replace(status, state=JobState.CANCELLED, kind="cancelled", reason=str(cancelled.get("reason", "")))
    is_over = allocation is None or index.is_settled(allocation)
    if has_error(folder) or (is_over and (folder / "error.json").exists()):
        error = read_json(folder / "error.json") or {}
        kind = str(error.get("kind", "unreadable error"))
        return replace(
            status,
            state=JobState.LOST if kind == LOST_KIND else JobState.FAILED,
            reason=str(error.get("reason", "error.json cannot be read")),
            kind=kind,
            is_retryable=bool(error.get("is_retryable", True)),
        )
    if allocation is None or is_over or is_attempt_over(folder, attempt):
        return replace(status, reason=reasons[-1] if reasons else "")
    is_running = claim_file(folder, attempt).exists()
    state = JobState.RUNNING if is_running else JobState.SUBMITTED
    return replace(status, state=state, queue_id=allocation.queue_id or "")


def earlier_reasons(folder: Path, n_attempts: int) -> tuple[str, ...]:
    """Why earlier attempts failed, in order."""
    found = (read_json(archived_error(folder, number)) for number in range(n_attempts + 1))
    return tuple(f"{error['kind']}: {error['reason']}" for error in found if error is not None)
