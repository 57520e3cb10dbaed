"""Jobs as detached processes of this machine, which outlive whoever started them.

A job's processes carry its name in their environment: that is how a controller started later, or in the place of one
that was killed, finds them. So an id cannot be taken for that of another process which came to the same number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from dft.submission.queues import QueueJob, QueueState, QueueUnavailableError, SubmissionError

NAME_VARIABLE = "HULLWARD_ALLOCATION"
TERM_S = 5.0
"""How long a cancelled job may take to end by itself."""


class LocalQueue:
    """Local processes. How many run at once is decided by `allocations_max`: everything submitted starts at once."""

    command = "bash"

    def submit(self, script: Path, name: str) -> str:
        """Start the script in a session of its own; see Queue."""
        # The shell in between ends at once, so that the job belongs to init and leaves no zombie here.
        command = ["bash", "-c", 'setsid nohup bash "$1" < /dev/null >> out 2>> err &', "bash", str(script.absolute())]
        environment = {**os.environ, NAME_VARIABLE: name}
        done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SubmissionError(f"bash did not start {script}: {done.stderr.strip() or 'no message'}")
        return f"{socket.gethostname()}/{name}"

    def find(self, ids: Collection[str]) -> dict[str, QueueJob]:
        """Jobs of which a process lives; see Queue."""
        host = socket.gethostname()
        if elsewhere := sorted({id.partition("/")[0] for id in ids} - {host}):
            raise QueueUnavailableError(
                f"local jobs were started on {', '.join(elsewhere)} and this is {host}: go on there, or use a queue"
            )
        wanted = set(ids)
        living = {f"{host}/{name}" for name, _ in self._processes()}
        return {id: QueueJob(id, QueueState.RUNNING) for id in wanted & living}

    def named(self, names: Collection[str]) -> dict[str, str]:
        """A local job's id is its machine and its name; see Queue."""
        wanted = set(names)
        return {name: f"{socket.gethostname()}/{name}" for name, _ in self._processes() if name in wanted}

    def notes(self) -> list[str]:
        """None: there is no listing to misread; see Queue."""
        return []

    def cancel(self, id: str) -> None:
        """End all processes of a job, first by asking; see Queue."""
        name = id.partition("/")[2]
        for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, TERM_S)):
            for _, process in list(self._processes(name)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                if not any(True for _ in self._processes(name)):
                    return
                time.sleep(0.05)

    def _processes(self, name: str | None = None) -> Iterator[tuple[str, psutil.Process]]:
        """Living processes that carry a job's name, or this one."""
        own = os.getuid()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.uids().real != own or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                carried = process.environ().get(NAME_VARIABLE)
                if carried is not None and (name is None or carried == name):
                    yield carried, process
