"""One interface for local processes and for queues: hand over a script, ask what became of it, take it back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class QueueState(StrEnum):
    """What a queue says of a job it knows."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class QueueJob:
    """A job as the queue sees it.

    Attributes:
        id: the queue's own id.
        state: waiting, running or ended.
        native: the queue's own word for it, such as 'TIMEOUT'; empty if it has none.
    """

    id: str
    state: QueueState
    native: str = ""


class QueueUnavailableError(RuntimeError):
    """The queue does not answer: nothing is known about any job, so nothing may be concluded."""


class SubmissionError(RuntimeError):
    """The queue refuses a job script; the message ends with its own words."""


class QueueFullError(SubmissionError):
    """The queue takes no more of this user's jobs for now."""


class Queue(Protocol):
    """Local processes, or a queue.

    Attributes:
        command: what a script is handed over with, such as 'sbatch'.
    """

    @property
    def command(self) -> str: ...  # noqa: D102

    def submit(self, script: Path, name: str) -> str:
        """Hand a job script over; its folder is the working directory.

        Returns: The queue's id of the job.

        Raises: SubmissionError: if the queue refuses. QueueUnavailableError: if it does not answer.
        """
        ...

    def find(self, ids: Collection[str]) -> dict[str, QueueJob]:
        """The jobs of these ids, by id; one that the queue does not know (any more) is missing.

        Raises: QueueUnavailableError: if the queue does not answer.
        """
        ...

    def named(self, names: Collection[str]) -> dict[str, str]:
        """Ids of waiting or running jobs by these names; a name that the queue does not know is missing.

        Raises: QueueUnavailableError: if the queue does not answer.
        """
        ...

    def notes(self) -> list[str]:
        """What of the queue's answers since the last call the user should know, each thing once; one sentence each."""
        ...

    def cancel(self, id: str) -> None:
        """End a job; one that has ended already is left as it is.

        Raises: QueueUnavailableError: if the queue does not answer.
        """
        ...
