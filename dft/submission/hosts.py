"""The machine on which a queue's commands run, and the job folders as its jobs see them: this one, or one behind ssh.

The folders on this machine stay what every other module reads and the only state of the submission. A machine behind
ssh (dft/submission/remote.py) has a copy of what its jobs need, in a folder of its own, and what they leave is brought
home at each step, after the queue was asked: so what the queue calls ended has said its last word. Nothing is concluded
from a command that did not end: a host that does not answer is a queue that does not answer.

OpenSSH's own `ssh` carries it, because the user's ~/.ssh/config (jump hosts, a shared connection that was opened with a
second factor) is what leads to a cluster; qtoolkit's remote host, by fabric and paramiko, reads little of it and moves
no folders. Hullward itself is not expected there: the rooms `dft` and `storage` are sent once per version.
"""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import dft
from dft.submission.allocation import Allocation
from dft.submission.queues import QueueUnavailableError

COMMAND_S = 120.0
"""How long a command of the queue may take; a controller under load answers after a minute."""

CODE = Path(dft.__file__).resolve().parent.parent
"""Where the rooms are: on the workers' path too, so that they run the code that submitted."""


class HostError(QueueUnavailableError):
    """A machine that cannot be reached, or did not do what it was asked to: nothing may be concluded of its jobs."""


class Host(Protocol):
    """Where queue commands run and job folders lie."""

    place: str | None
    """Machine and folder as the user named them, kept with each allocation; None for this machine."""

    @property
    def user(self) -> str:
        """Whose jobs are looked for in the queue."""
        ...

    @property
    def code(self) -> Path:
        """Folder that holds the rooms, for Python's path."""
        ...

    def seen(self, path: Path) -> Path:
        """The path by which a job of the queue finds a file or folder below the root."""
        ...

    def run(self, words: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """A command, without a shell that could read its words; exit status 127 if there is no such program.

        Raises: QueueUnavailableError: if it did not end.
        """
        ...

    def hand_over(
        self, words: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """The command that hands the script of an allocation to the queue, in its folder; else as `run`."""
        ...

    def prepare(self) -> None:
        """See to it that allocations can be sent. Raises: HostError: if they cannot; nothing was committed then."""
        ...

    def send(self, allocation: Allocation) -> None:
        """Put in place what an allocation needs, before it is handed over. Done twice, the same."""
        ...

    def exchange(self, allocations: Collection[Allocation]) -> None:
        """Tell workers what is not wanted any more, and bring home claims, records, errors and ends."""
        ...

    def close(self, allocation: Allocation) -> None:
        """Bring home all that an allocation has left, and let no late start of it claim what had not begun."""
        ...

    def set_aside_record(self, key: str) -> None:
        """Put a record away that cannot be used, where the job would take it for its result."""
        ...


class ThisMachine:
    """This machine, whose disk the workers share: there is nothing to send or to bring home."""

    place: str | None = None
    code = CODE

    @property
    def user(self) -> str:
        """Who runs this process."""
        return getpass.getuser()

    def seen(self, path: Path) -> Path:
        """The same path."""
        return path

    def run(self, words: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """See Host."""
        return self._run(words, variables, None)

    def hand_over(
        self, words: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """See Host."""
        return self._run(words, variables, folder)

    def prepare(self) -> None:
        """Nothing to do."""

    def send(self, allocation: Allocation) -> None:
        """Nothing to do."""

    def exchange(self, allocations: Collection[Allocation]) -> None:
        """Nothing to do."""

    def close(self, allocation: Allocation) -> None:
        """Nothing to do."""

    def set_aside_record(self, key: str) -> None:
        """Nothing to do."""

    def _run(
        self, words: Sequence[str], variables: Mapping[str, str], folder: Path | None
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                words,
                cwd=folder,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",  # a listing holds paths, whose bytes need be no text
                check=False,
                timeout=COMMAND_S,
            )
        except subprocess.TimeoutExpired:
            raise QueueUnavailableError(f"{words[0]} has not answered within {COMMAND_S:g} s") from None
        except (FileNotFoundError, PermissionError) as error:
            return subprocess.CompletedProcess(words, 127, "", f"{words[0]} cannot be started ({error.strerror})")
