"""Queues of clusters: Slurm, PBS, SGE. Commands are made and answers read by qtoolkit, and run by a host."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from qtoolkit.core.data_objects import QState
from qtoolkit.core.exceptions import CommandFailedError, OutputParsingError
from qtoolkit.io import scheduler_mapping

from dft.submission.hosts import Host, ThisMachine
from dft.submission.queues import QueueFullError, QueueJob, QueueState, QueueUnavailableError, SubmissionError

UNKNOWN_JOB = ("invalid job id", "unknown job", "following jobs do not exist", "job has finished", "do not exist")
"""How queues say that they do not know an id (any more); everything else that fails is silence, not an answer."""

FULL = ("maxsubmit", "submit limit", "maximum number of", "would exceed", "exceeds")
"""How queues say that a user has as many jobs there as are allowed: to be tried again later."""

_UNREADABLE = (CommandFailedError, OutputParsingError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What qtoolkit raises on a listing that it cannot read."""

_MARKS = {"slurm": "<><>", "pbs": "Job Id:", "sge": "<job_info"}
"""What an answer must hold to be a listing at all, unless it is empty."""

_BETWEEN = {"slurm": r"\n", "pbs": r"\n\s*\n|(?m:(?=^\s*Job Id:))", "sge": r"(?=<job_list\b)"}
"""What stands between two jobs of a listing: lines of squeue, paragraphs of 'qstat -f', elements of 'qstat -xml'."""

_ID = {
    "slurm": re.compile(r"\d+(_\S+)?"),
    "pbs": re.compile(r"\d+(\[\d*\])?(\.\S+)?"),
    "sge": re.compile(r"\d+"),
}
"""A job's id, array members included."""

ENDED = frozenset({QState.DONE, QState.FAILED})
RUNNING = frozenset({QState.RUNNING, QState.SUSPENDED})


class ClusterQueue:
    """A queue that is used by its commands."""

    def __init__(self, kind: str, host: Host | None = None) -> None:
        """Name the queue.

        Args:
            kind: 'slurm', 'pbs' or 'sge'.
            host: where its commands run; None is this machine.

        Raises: ValueError: if it is none of these.
        """
        if kind not in scheduler_mapping or kind == "shell":
            raise ValueError(f"queue {kind!r} is unknown: expected local, slurm, pbs or sge")
        self.kind = kind
        self.host: Host = ThisMachine() if host is None else host
        self.name = kind if self.host.place is None else f"{kind} on {self.host.place.partition(':')[0]}"
        """What it is called in notes and errors."""
        self.io: Any = scheduler_mapping[kind]()
        self.command: str = self.io.SUBMIT_CMD
        self._unreadable: list[str] = []
        self._said: set[str] = set()
        self._notes: list[str] = []

    def submit(self, script: Path, name: str) -> str:
        """Hand the script to the queue; see Queue."""
        # By its bare name, from its own folder: whatever that folder is called, it is no part of a command.
        done = self._run(f"{self.command} {shlex.quote(script.name)}", script.parent)
        answer = self.io.parse_submit_output(done.returncode, done.stdout, done.stderr)
        if answer.job_id is None or done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split()) or "no message"
            if _is_silence(said):
                raise QueueUnavailableError(f"{self.name} does not answer: {said}")
            if any(phrase in said.lower() for phrase in FULL):
                raise QueueFullError(f"{self.name} takes no more jobs for now: {said}")
            raise SubmissionError(f"{self.name} refuses {script}: {said}; see dft.submission in the settings")
        return str(answer.job_id)

    def find(self, ids: Collection[str]) -> dict[str, QueueJob]:
        """One listing for all living jobs, then one question per job that is not in it; see Queue."""
        if not ids:
            return {}
        wanted = set(ids)
        found = {str(job.job_id): _as_job(job) for job in self._listed() if str(job.job_id) in wanted}
        for missing in sorted(wanted - set(found)):
            if (job := self._asked(missing)) is not None:
                found[missing] = job
        return found

    def named(self, names: Collection[str]) -> dict[str, str]:
        """Looked up among the user's jobs; see Queue."""
        wanted = set(names)
        if not wanted:
            return {}
        found = {
            str(job.name): str(job.job_id)
            for job in self._listed()
            if job.name in wanted and _as_job(job).state is not QueueState.ENDED
        }
        for name in sorted(wanted - set(found)):
            if hidden := [piece for piece in self._unreadable if name in piece]:
                # Not known to be absent: to hand it over again would be a conclusion from what could not be read.
                raise QueueUnavailableError(
                    f"{self.name} lists job {name} in a form that cannot be read: {hidden[0]!r}"
                )
        return found

    def notes(self) -> list[str]:
        """What was found since the last call that the user should know, one sentence each."""
        notes, self._notes = self._notes, []
        return notes

    def cancel(self, id: str) -> None:
        """Ask the queue to end the job; see Queue."""
        done = self._run(self.io.get_cancel_cmd(id))
        said = " ".join(done.stderr.split())
        if done.returncode != 0 and not _says_unknown(said) and "already completing or completed" not in said.lower():
            raise QueueUnavailableError(f"{self.name} did not cancel job {id}: {said or 'no message'}")

    def _listed(self) -> list[Any]:
        """The user's jobs that wait or run."""
        done = self._run(self.io.get_jobs_list_cmd(None, self.host.user))
        try:
            # An empty listing of the same answer: whether the command itself failed.
            self.io.parse_jobs_list_output(done.returncode, "", done.stderr)
        except _UNREADABLE as error:
            raise QueueUnavailableError(
                f"{self.name} gave no listing of jobs: {' '.join(str(error).split())}"
            ) from error
        return self._read_all(done.stdout)

    def _read_all(self, listing: str) -> list[Any]:
        """The jobs of a listing; what of it cannot be read is left out, kept in `_unreadable`, and said once.

        Raises: QueueUnavailableError: if it is no listing.
        """
        if listing.strip() and _MARKS[self.kind] not in listing:
            raise QueueUnavailableError(f"{self.name} gave no listing of jobs: {' '.join(listing.split())[:200]!r}")
        jobs: list[Any] = []
        self._unreadable = []
        for piece in _pieces(self.kind, listing):
            try:
                jobs.append(self._read(piece))
            except _UNREADABLE:
                self._unreadable.append(" ".join(piece.split()))
                self._say_once(piece, "lists a job in a form that cannot be read, left out")
        return jobs

    def _say_once(self, text: str, what: str) -> None:
        """A note, unless there was one on the same job: the time used in a line is another one at each look."""
        number = re.search(r"\d+", text)
        key = number.group() if number else text
        if key not in self._said:
            self._said.add(key)
            self._notes.append(f"{self.name} {what}: {' '.join(text.split())[:200]!r}")

    def _read(self, piece: str) -> Any:
        """The job of one piece of a listing.

        Raises: one of _UNREADABLE: if there is none in it.
        """
        text = f"<job_info>{piece}</job_info>" if self.kind == "sge" else piece
        jobs: list[Any] = self.io.parse_jobs_list_output(0, text, "")
        if len(jobs) != 1 or not _ID[self.kind].fullmatch(str(jobs[0].job_id).strip()):
            raise OutputParsingError(f"{len(jobs)} jobs in {piece!r}: expected one with its id")
        if self.kind == "pbs" and piece.count("job_state =") > 1:
            raise OutputParsingError(f"two jobs run into one another in {piece!r}")
        return jobs[0]

    def _asked(self, id: str) -> QueueJob | None:
        """One job, ended ones included as long as the queue remembers them."""
        done = self._run(self.io.get_job_cmd(id))
        said = " ".join(done.stderr.split())
        if done.returncode != 0:
            if _says_unknown(said):
                return None
            raise QueueUnavailableError(f"{self.name} does not say what became of job {id}: {said or 'no message'}")
        if self.kind == "sge":  # which has no question for one job
            of_id = [job for job in self._read_all(done.stdout) if str(job.job_id) == id]
            if not of_id and any(re.search(rf"\b{re.escape(id)}\b", piece) for piece in self._unreadable):
                return QueueJob(id, QueueState.WAITING)
            return _as_job(of_id[0]) if of_id else None
        try:
            job = self.io.parse_job_output(done.returncode, _without_loose_words(done.stdout), done.stderr, id)
        except _UNREADABLE:
            # The queue knows it and says something of it: so it is neither ended nor gone.
            self._say_once(f"{id}: {done.stdout}", "says of a job what cannot be read, so nothing is concluded")
            return QueueJob(id, QueueState.WAITING)
        return None if job is None else _as_job(job)

    def _run(self, command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command line of qtoolkit's, variables set before it included; it is split here, and no shell sees it."""
        words, variables = shlex.split(command), dict[str, str]()
        while (variable := words[0].partition("="))[1] and variable[0].isidentifier():
            variables[variable[0]] = variable[2]
            del words[0]
        return self.host.run(words, variables) if folder is None else self.host.hand_over(words, variables, folder)


def _pieces(kind: str, listing: str) -> list[str]:
    """What of a listing is about one job each; blank lines are about none, and nor is what stands around elements."""
    pieces = [piece.strip() for piece in re.split(_BETWEEN[kind], listing)]
    if kind == "sge":
        return [piece.partition("</job_list>")[0] + "</job_list>" for piece in pieces if piece.startswith("<job_list")]
    return [piece for piece in pieces if piece]


def _as_job(job: Any) -> QueueJob:
    state = QueueState.ENDED if job.state in ENDED else QueueState.WAITING
    if job.state in RUNNING:
        state = QueueState.RUNNING
    return QueueJob(str(job.job_id), state, getattr(job.sub_state, "name", ""))


def _says_unknown(said: str) -> bool:
    return any(phrase in said.lower() for phrase in UNKNOWN_JOB)


def _is_silence(said: str) -> bool:
    """Whether a command failed because the queue's server is away, and not because of what was asked."""
    phrases = ("unable to contact", "connection refused", "timed out", "cannot connect")
    return any(phrase in said.lower() for phrase in phrases)


def _without_loose_words(said: str) -> str:
    """The first word of each name in what 'scontrol show job -o' says.

    qtoolkit 0.1.7 reads it as words with '=', fails on others (a path with a space), and believes the last of two: a
    folder may be called 'x JobState=COMPLETED', but Slurm says the state before it names any folder.
    """
    if "JobState=" not in said:
        return said
    first: dict[str, str] = {}
    for word in said.split():
        name, equals, value = word.partition("=")
        if equals:
            first.setdefault(name, value)
    return " ".join(f"{name}={value}" for name, value in first.items())
