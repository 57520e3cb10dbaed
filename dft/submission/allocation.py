"""What is on disk about allocations and attempts: the only state of the submission.

    <root>/<key>/                     a job folder: job.json, and once it has run record.json or error.json
        claim-<n>.json                who runs attempt n: made once, by one process; its time says when it last lived
        cancelled.json                nobody is to run this job
        attempts/<n>.error.json       why attempt n failed, once a later one was allowed
    <root>/.root.json                 tag of the root in names of the queue's jobs
    <root>/.allocations/<name>/       one job of the queue, which runs one or several folders
        allocation.json               members with their attempt number, written before the queue is asked
        job.sh                        its script
        queue_id.json                 the queue's id, written after the queue has answered
        ended.json                    what the worker saw at its end: exit status or signal, seconds
        gone.json                     when it was first seen missing or ended in the queue
        settled.json                  nothing is left to expect of it, and why

A key's latest attempt is the highest number in any allocation.json: one file, written by one rename, commits an
allocation with all its members. An allocation is named after its first member, that member's attempt and the root,
so the name is unique, and an allocation whose id was never written is found again in the queue by its name.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dft.submission.files import create_json, read_json, write_json

SCHEMA_VERSION = "1"
ALLOCATIONS = ".allocations"
ROOT = ".root.json"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
STOPPED_KIND = "stopped"
"""Kind of the error that dft.run_job leaves when it is told to end."""


@dataclass(frozen=True)
class Member:
    """A job folder's place in an allocation."""

    key: str
    attempt: int

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(
                f"{self.key!r} is no key of a job: expected letters, digits, '.', '_' and '-', since it names a folder "
                "and the queue's job"
            )


@dataclass(frozen=True)
class Allocation:
    """One job of the queue.

    Attributes:
        folder: <root>/.allocations/<name>.
        members: job folders that it runs, in order.
        queue: kind of queue it was made for.
        walltime_s: its time limit, seconds.
        jobs_at_once: members that run side by side.
        heartbeat_s: how often its worker says that it lives, seconds.
        job_command: command per folder, with {folder} left open.
        created_at: UTC, ISO 8601.
        place: machine and folder that it was sent to, 'host:folder'; None for this machine.
    """

    folder: Path
    members: tuple[Member, ...]
    queue: str
    walltime_s: int
    jobs_at_once: int
    heartbeat_s: float
    job_command: tuple[str, ...]
    created_at: str
    place: str | None = None

    @property
    def name(self) -> str:
        """Its name in the queue."""
        return self.folder.name

    @property
    def root(self) -> Path:
        """Where the job folders are."""
        return self.folder.parent.parent

    @property
    def script(self) -> Path:
        """Its job script."""
        return self.folder / "job.sh"

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to expect of it."""
        return (self.folder / "settled.json").exists()

    @property
    def queue_id(self) -> str | None:
        """The queue's id, if it is known."""
        found = read_json(self.folder / "queue_id.json")
        return None if found is None else str(found["id"])

    @property
    def ended(self) -> dict[str, Any] | None:
        """What its worker saw at the end: `status` or `signal`, and `elapsed_s`."""
        return read_json(self.folder / "ended.json")

    def write(self) -> None:
        """Commit the allocation: from now on its members have these attempts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(
            self.folder / "allocation.json",
            {
                "schema_version": SCHEMA_VERSION,
                "members": [{"key": member.key, "attempt": member.attempt} for member in self.members],
                "queue": self.queue,
                "walltime_s": self.walltime_s,
                "jobs_at_once": self.jobs_at_once,
                "heartbeat_s": self.heartbeat_s,
                "job_command": list(self.job_command),
                "created_at": self.created_at,
                "place": self.place,
            },
        )

    @classmethod
    def read(cls, folder: Path) -> Allocation | None:
        """The allocation in a folder; None if it was never committed."""
        stated = read_json(folder / "allocation.json")
        if stated is None:
            return None
        if stated["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{folder / 'allocation.json'} has schema_version {stated['schema_version']!r}, expected "
                f"{SCHEMA_VERSION!r}: use the version of Hullward that wrote it"
            )
        return cls(
            folder=folder,
            members=tuple(Member(member["key"], member["attempt"]) for member in stated["members"]),
            queue=stated["queue"],
            walltime_s=stated["walltime_s"],
            jobs_at_once=stated["jobs_at_once"],
            heartbeat_s=stated["heartbeat_s"],
            job_command=tuple(stated["job_command"]),
            created_at=stated["created_at"],
            place=stated.get("place"),
        )


UNDRAWN_TAG = "xxxxxx"
"""In the place of a root's tag that is not drawn yet."""


def allocation_name(root: Path, members: Iterable[Member], *, is_planned: bool = False) -> str:
    """Unique, a valid name for every queue (PBS and SGE want a letter first), and legible: key, attempt, root.

    The last part keeps two roots apart that hold the same job: a queue knows jobs by name alone. A name that is planned
    draws no tag.
    """
    first = next(iter(members))
    return f"h{first.key}-{first.attempt}-{(known_tag(root) or UNDRAWN_TAG) if is_planned else root_tag(root)}"


def root_tag(root: Path) -> str:
    """Six hex digits drawn once for a root; a root that is moved keeps them."""
    create_json(root / ROOT, {"tag": secrets.token_hex(3)})
    if (found := known_tag(root)) is None:
        raise ValueError(f"{root / ROOT} cannot be read: expected the tag by which the queue knows this root's jobs")
    return found


def known_tag(root: Path) -> str | None:
    """The tag of a root, if it is drawn."""
    found = read_json(root / ROOT)
    return None if found is None else str(found["tag"])


def allocations(root: Path) -> Iterator[Allocation]:
    """Every committed allocation below a root, by name."""
    allocations = root / ALLOCATIONS
    for folder in sorted(allocations.iterdir()) if allocations.is_dir() else ():
        if (found := Allocation.read(folder)) is not None:
            yield found


def claim_file(folder: Path, attempt: int) -> Path:
    """Where the process that runs an attempt has written down itself."""
    return folder / f"claim-{attempt}.json"


def is_attempt_over(folder: Path, attempt: int) -> bool:
    """Whether an attempt at a job folder's job has its result, or is not wanted any more.

    An error of the kind 'stopped' is no result: the job was told to end, the queue knows why and may start it again.
    """
    ends = ("record.json", "cancelled.json", f"attempts/{attempt}.error.json", f"attempts/{attempt}.cancelled.json")
    return any((folder / name).exists() for name in ends) or has_error(folder)


def is_unwanted(allocation: Allocation) -> bool:
    """Whether nothing is left to run because of a cancel. One that has done its work may end by itself."""

    def is_cancelled(member: Member) -> bool:
        folder = allocation.root / member.key
        return any((folder / name).exists() for name in ("cancelled.json", f"attempts/{member.attempt}.cancelled.json"))

    return not pending_members(allocation) and any(is_cancelled(member) for member in allocation.members)


def has_error(folder: Path) -> bool:
    """Whether a job folder holds an error that says why there is no record."""
    error = folder / "error.json"
    return error.exists() and (read_json(error) or {}).get("kind") != STOPPED_KIND


def pending_members(allocation: Allocation) -> list[Member]:
    """Members whose attempt has no result yet and is still wanted."""
    return [one for one in allocation.members if not is_attempt_over(allocation.root / one.key, one.attempt)]


def archived_error(folder: Path, attempt: int) -> Path:
    """Where an attempt's error is kept once a later attempt was allowed."""
    return folder / "attempts" / f"{attempt}.error.json"
