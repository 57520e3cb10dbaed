"""Prefect's processes on this machine: started, watched, and ended with everything that they have started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.servers.environment import HOST, require_database_address
from flows.servers.prefect_api import Api

READY_S = 180.0
STOP_S = 12.0
PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServeError(RuntimeError):
    """The server cannot be started, or has stopped."""


def listening_on(port: int, option: str = "make ui PORT=") -> socket.socket:
    """A listening socket of loopback, taken before any work is done; port 0 takes any free one.

    Args: the port; what a user writes before the number of another one.

    Raises: ServeError: if another program has the port.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        other = port + 10 if port < 65_000 else 5010
        raise ServeError(
            f"port {port} of {HOST} is taken: stop the program that has it, or choose another: {option}{other}"
        ) from None
    listener.listen()
    return listener


def _before_the_program() -> None:
    """The child of a background script would ignore SIGINT, and Prefect's worker then SIGTERM; and none outlives us."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Service:
    """A process with its log; in a session of its own, so that Ctrl-C ends it in our order, not at random."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        listener: socket.socket | None = None,
    ) -> None:
        """Start Python with these arguments. One that gets a listening socket ends when its standard input does."""
        self.name, self.log = name, logs / f"{name}.log"
        logs.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=dict(environment),
                stdin=subprocess.DEVNULL if listener is None else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if listener is None else (listener.fileno(),),
                preexec_fn=_before_the_program if listener is None else None,
            )

    def require_running(self) -> None:
        """Raises: ServeError: if the process has ended; the message ends with its last words."""
        if self.process.poll() is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
            raise ServeError(
                f"the {self.name} has stopped with exit code {self.process.returncode}; {self.log}: {last}"
            )

    def stop(self) -> None:
        """End the process and all of its session."""
        if self.process.poll() is None:
            if self.process.stdin is None:
                self.process.terminate()
            else:
                self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        # The session's group outlives its leader while a process is in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_server(listener: socket.socket, environment: Mapping[str, str], logs: Path) -> Service:
    """Prefect's server on this socket, which is closed here; it does not outlive this process.

    Raises: DatabaseAddressError: if the environment names a database that no server could use.
    """
    require_database_address(environment)
    arguments = ["-m", "flows.servers.prefect_server", str(listener.fileno()), str(os.getpid())]
    with listener:
        return Service("server", arguments, environment, logs, listener)


def wait_until_ready(api: Api, server: Service) -> None:
    """Return when the server answers. Raises: ServeError: if it ends, or is silent for READY_S."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        server.require_running()
        with contextlib.suppress(urllib.error.URLError, OSError):
            api("ready", timeout_s=2)
            return
        time.sleep(0.1)
    raise ServeError(f"the server did not answer within {READY_S:.0f} s; its log is {server.log}")
