"""Other programs, started and waited for: they end with us, whatever ends us."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dft.engines.base import EngineError, FaultKind

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2)."""
END_S = 2.0
"""How long a program that is told to end may take; queues kill everything some seconds after they ask."""
TAIL_CHARACTERS = 4000

DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")


def run_program(command: Sequence[str], folder: Path, output: str, environment: Mapping[str, str]) -> int:
    """Run a program in a folder to its end; its exit status, negative for a signal.

    It stays in our process group, so that a queue that ends the group ends it, and is told to end when this process
    dies alone, so that no calculation goes on unseen beside its next attempt.

    Args:
        command: word by word.
        folder: where it runs.
        output: file in the folder that its output is added to.
        environment: variables set beside ours.

    Raises: EngineError: if there is no such program.
    """
    with (folder / output).open("ab") as out:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                preexec_fn=_die_with_parent,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise EngineError(
                FaultKind.ENGINE_MISSING,
                f"{command[0]} cannot be started ({error.strerror}): install it, load its module in setup_lines, or "
                "name it in the engine's settings",
                is_retryable=False,
            ) from error
        try:
            return process.wait()
        finally:
            _end(process)


def last_words(file: Path) -> str:
    """The end of a program's output; empty if there is none."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - TAIL_CHARACTERS))
            return log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def free_bytes(folder: Path) -> int:
    """Space left where a folder lies, as an ordinary user sees it."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing to do after an ordinary end; after an exception the program is ended first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
