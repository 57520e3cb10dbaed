"""What an engine is, and how one says that it could not."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dft.records import DFTRecord

if TYPE_CHECKING:
    from dft.job_folder import Job


class FaultKind(StrEnum):
    """Kinds of failure, to count and to treat alike."""

    INVALID_JOB = "invalid job"
    ENGINE_MISSING = "engine missing"
    NO_DATA = "no data"
    """The engine has no PAW data set, pseudopotential or parameters for an element."""
    STRUCTURE_REFUSED = "structure refused"
    SETTINGS_REFUSED = "settings refused"
    """Settings outside the job would change what it computes."""
    NOT_STARTED = "not started"
    """Its allocation has too little time left to begin."""
    ELECTRONIC_STEPS = "electronic steps"
    """They did not converge, so there is no energy."""
    CRASHED = "crashed"
    UNREADABLE_OUTPUT = "unreadable output"
    DISK_FULL = "disk full"
    STOPPED = "stopped"
    """Told to end by a signal: walltime, or a cancel."""


class EngineError(RuntimeError):
    """A calculation without a result.

    Attributes:
        kind: what kind of failure.
        is_retryable: whether another attempt at the same could help.
    """

    def __init__(self, kind: FaultKind, reason: str, *, is_retryable: bool) -> None:
        """Say what was found, what was expected, and the remedy."""
        super().__init__(reason)
        self.kind = kind
        self.is_retryable = is_retryable


class Engine(Protocol):
    """A way to compute a crystal."""

    def run(self, job: Job, folder: Path) -> DFTRecord:
        """Compute the job in its folder, going on from what an earlier attempt left there.

        Raises: EngineError: if there is no result.
        """
        ...


DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


RESERVE_BYTES = 64 * 1024
"""Held while a job runs, and let go when the disk is full: so that error.json can still say so."""


def is_disk_full(error: OSError) -> bool:
    """Whether writing failed for lack of space, or of quota."""
    return error.errno in DISK_FULL_ERRNOS


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the named files that are in a folder."""
    found = {}
    for name in sorted(names):
        if (path := folder / name).is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
