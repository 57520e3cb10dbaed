"""The worker's side of one job: `python -m dft.run_job FOLDER` computes it and leaves record.json or error.json.

Exit status 0 with a record, 1 with an error, 2 for a wrong command. A folder that has its record is left alone.
SIGTERM, SIGINT, SIGHUP and SIGXCPU end the calculation in good order: what it has found so far stays, and running again
goes on from there.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from dft.engines.base import RESERVE_BYTES, EngineError, FaultKind, is_disk_full
from dft.engines.registry import open_engine
from dft.job_folder import ERROR, RECORD, Job, JobFolderError, read_job, read_record, write_record
from dft.records import RecordError
from dft.submission.files import write_error

RESERVE = ".reserve"

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)


class _Stopped(BaseException):
    """A signal asks the job to end. Not an Exception: no library's broad `except` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


def run_folder(folder: Path) -> bool:
    """Compute the job in a folder; whether it has a record now.

    Raises: BlockingIOError: if another process on this machine is computing it.
    """
    with _alone(folder):
        if _has_record(folder):
            return True
        (folder / ERROR).unlink(missing_ok=True)
        key = folder.name
        try:
            _hold_reserve(folder)
            job = read_job(folder)
            key = job.key
            _compute(job, folder)
            return True
        except JobFolderError as error:
            _leave_error(folder, key, EngineError(FaultKind.INVALID_JOB, str(error), is_retryable=False))
        except EngineError as error:
            _leave_error(folder, key, error)
        except _Stopped as stopped:
            reason = f"the job was told to end by {stopped} (time limit, or cancelled): run it again to go on"
            _leave_error(folder, key, EngineError(FaultKind.STOPPED, reason, is_retryable=True))
        except OSError as error:
            _leave_error(folder, key, _of_system(error, folder))
        except Exception as error:  # the campaign goes on: whatever happened is this job's own reason
            sys.stderr.write(traceback.format_exc())
            reason = f"{type(error).__name__}: {error}; the traceback is in the job's standard error"
            _leave_error(folder, key, EngineError(FaultKind.CRASHED, reason, is_retryable=True))
        finally:
            (folder / RESERVE).unlink(missing_ok=True)
    return False


def _compute(job: Job, folder: Path) -> None:
    write_record(folder, open_engine(job.engine).run(job, folder))


def _has_record(folder: Path) -> bool:
    """Whether the result is there; one that cannot be read is put aside, with its reason in the log."""
    try:
        return read_record(folder) is not None
    except RecordError as error:
        aside = folder / f"{RECORD}.unreadable"
        os.replace(folder / RECORD, aside)
        sys.stderr.write(f"{folder / RECORD} cannot be used ({error}): kept as {aside.name}, computing again\n")
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process per folder; the lock is the operating system's, so a dead process holds none."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:  # some network file systems have no locks; the queue's own claims hold there
            sys.stderr.write(f"{folder} is not locked ({error}): only the queue keeps a second process away\n")
        yield


def _hold_reserve(folder: Path) -> None:
    with (folder / RESERVE).open("wb") as file:
        file.write(b"\0" * RESERVE_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _leave_error(folder: Path, key: str, error: EngineError) -> None:
    sys.stderr.write(f"{key}: {error.kind}: {error}\n")
    with suppress(OSError):
        (folder / RESERVE).unlink(missing_ok=True)
    write_error(folder, key, error.kind.value, str(error), is_retryable=error.is_retryable)


def _of_system(error: OSError, folder: Path) -> EngineError:
    if is_disk_full(error):
        return EngineError(
            FaultKind.DISK_FULL,
            f"no space left to write in {folder} ({error}): make room, then run again",
            is_retryable=True,
        )
    sys.stderr.write(traceback.format_exc())
    return EngineError(FaultKind.CRASHED, f"{type(error).__name__}: {error}", is_retryable=True)


def _stop(number: int, frame: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # a second one must not cut off the error of the first
    raise _Stopped(number)


def main(arguments: list[str]) -> int:
    """Run the job in a folder; the exit status."""
    if len(arguments) != 1 or not (folder := Path(arguments[0]).absolute()).is_dir():
        sys.stderr.write("usage: python -m dft.run_job FOLDER-OF-A-JOB\n")
        return 2
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        return 0 if run_folder(folder) else 1
    except BlockingIOError:
        sys.stderr.write(f"{folder} is being computed by another process: left to it\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
