"""The worker's side: `python -m dft.submission.run_allocation FOLDER` runs the job folders of one allocation.

It needs a shared file system and nothing else: no network, no store. Standard library alone, so that it starts at once.

An attempt is run by whoever made its claim file first. A job that was submitted twice finds its attempts claimed and
leaves them; one that the queue has started again after a node failure finds its own claims and goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dft.submission.allocation import Allocation, Member, claim_file, is_attempt_over
from dft.submission.files import create_json, now, read_json, write_error, write_json

QUEUE_ID_VARIABLE = "HULLWARD_QUEUE_ID"
"""Set by the job script to the queue's own id."""
BEGAN_VARIABLE = "HULLWARD_BEGAN"
"""Set by the job script to its first moment, seconds since 1970: the queue's clock runs from there."""
WALLTIME_VARIABLE = "HULLWARD_WALLTIME_S"
"""Set by the job script to the allocation's time limit, seconds from BEGAN_VARIABLE."""
LOOK_S = 0.2
"""Pause between two looks at the running jobs."""
TERM_S = 3.0
"""How long a job that is told to end may take; queues kill everything some seconds after they ask."""
TAIL_LINES = 5
_PLACE = re.compile(r"\{(?:python|folder)\}")


class _Stopped(Exception):  # noqa: N818 - not an error: the queue wants the allocation to end
    """A signal asks the allocation to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


@dataclass
class _Running:
    """A job folder at work."""

    member: Member
    folder: Path
    process: subprocess.Popen[bytes]


def queue_id() -> str:
    """The id of the queue's job that this process belongs to; this process's own if there is none."""
    return os.environ.get(QUEUE_ID_VARIABLE) or f"{socket.gethostname()}-{os.getpid()}"


def stated_s(variable: str) -> float | None:
    """Seconds that a variable of the environment holds; None without it, or where it holds no positive number."""
    try:
        seconds = float(os.environ[variable])
    except (KeyError, ValueError):  # where `date` knows no %N, the variable ends in a letter
        return None
    return seconds if 0 < seconds < float("inf") else None


def began_s() -> float | None:
    """When the allocation that this process belongs to began, seconds since 1970; None outside of one.

    A moment in the future is none: the clock was set back, and a limit counted from there would come too late.
    """
    began = stated_s(BEGAN_VARIABLE)
    return began if began is not None and began <= time.time() else None


def claimed(allocation: Allocation, member: Member) -> bool:
    """Whether this process may run the attempt: the first to claim it, or the same job of the queue started again."""
    folder = allocation.root / member.key
    claim = claim_file(folder, member.attempt)
    document = {
        "queue_id": queue_id(),
        "allocation": allocation.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": now(),
    }
    if create_json(claim, document):
        return True
    found = read_json(claim)
    if found is None or found.get("queue_id") != document["queue_id"]:
        return False
    if found["host"] == document["host"] and _is_alive(int(found["pid"])) and found["pid"] != document["pid"]:
        return False  # a local job handed over twice: both carry the same id
    write_json(claim, document)
    return True


def run(allocation: Allocation) -> int:
    """Run the members, `jobs_at_once` side by side; 0 if every one that was run left a record.

    A job that ends with neither record nor error gets an error here, with its last words.
    """
    waiting, running, failed = list(allocation.members), list[_Running](), 0
    beat_at = -float("inf")
    try:
        while waiting or running:
            while waiting and len(running) < allocation.jobs_at_once:
                if (started := _started(allocation, waiting.pop(0))) is not None:
                    running.append(started)
            if time.monotonic() - beat_at >= allocation.heartbeat_s:
                beat_at = time.monotonic()
                for job in running:
                    _beat(job)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                failed += not _ended_well(job)
            time.sleep(LOOK_S if running else 0.0)
    finally:
        _end(running)
    return 1 if failed else 0


def _started(allocation: Allocation, member: Member) -> _Running | None:
    """Start one folder's job, unless it is done, cancelled, or another's."""
    folder = allocation.root / member.key
    if is_attempt_over(folder, member.attempt):
        return None
    if not claimed(allocation, member):
        _say(f"{member.key}: attempt {member.attempt} is run by another job, left to it")
        return None
    values = {"{python}": sys.executable, "{folder}": str(folder)}
    # Both at once: a folder may be called {python}.
    command = [_PLACE.sub(lambda place: values[place.group()], word) for word in allocation.job_command]
    _say(f"{member.key}: attempt {member.attempt}: {shlex.join(command)}")
    with (folder / "run.out").open("ab") as out, (folder / "run.err").open("ab") as err:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    return _Running(member, folder, process)


def _beat(job: _Running) -> None:
    """Say that the job lives, and end it if it is not wanted any more."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(claim_file(job.folder, job.member.attempt))
    is_done = (job.folder / "record.json").exists() or (job.folder / "error.json").exists()
    if not is_done and is_attempt_over(job.folder, job.member.attempt):
        _say(f"{job.member.key}: attempt {job.member.attempt} was cancelled")
        _end([job])


def _ended_well(job: _Running) -> bool:
    """Whether the job left a record; one that left nothing at all gets its error written here."""
    if (job.folder / "record.json").exists():
        return True
    if not is_attempt_over(job.folder, job.member.attempt) and not (job.folder / "error.json").exists():
        status = job.process.returncode
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        said = last_words(job.folder / "run.err")
        reason = f"the job {how} and left neither record.json nor error.json; last words: {said}"
        write_error(job.folder, job.member.key, "crashed", reason, is_retryable=True)
    return False


def last_words(file: Path) -> str:
    """The last lines of a log in one line; 'none' if there are none."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 4096))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "none"
    said = [line.strip() for line in lines if line.strip()]
    return " / ".join(said[-TAIL_LINES:])[-600:] or "none"


def _end(jobs: list[_Running]) -> None:
    """End jobs with all processes of theirs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for job in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, number)
        deadline = time.monotonic() + TERM_S
        while time.monotonic() < deadline and any(job.process.poll() is None for job in jobs):
            time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _say(message: str) -> None:
    """A line of the log; bytes of a path that are no text, and line breaks in it, stand there as escapes."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    sys.stdout.write(f"{now()} {plain}\n".encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding))
    sys.stdout.flush()


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


def main(arguments: list[str]) -> int:
    """Run the allocation in a folder; the exit status."""
    if len(arguments) != 1 or (allocation := Allocation.read(Path(arguments[0]).absolute())) is None:
        sys.stderr.write("usage: python -m dft.submission.run_allocation FOLDER-OF-AN-ALLOCATION\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, _stop)
    began = began_s() or time.time()
    ended: dict[str, object] = {"queue_id": queue_id()}
    try:
        status = run(allocation)
        ended["status"] = status
    except _Stopped as stopped:
        ended["signal"], status = str(stopped), 1
    ended["elapsed_s"] = round(time.time() - began, 3)
    write_json(allocation.folder / "ended.json", ended)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
