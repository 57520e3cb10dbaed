"""What clusters' queues list, read line by line: answers made here, with seeded faults among them, and no queue."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dft.submission.cluster_queue import ClusterQueue
from dft.submission.queues import QueueState, QueueUnavailableError
from dft.submission.submitter import Submitter
from tests.dft.submission.conftest import Jobs

KINDS = ("slurm", "pbs", "sge")
STATES = {
    "slurm": {"PD": QueueState.WAITING, "R": QueueState.RUNNING, "CG": QueueState.RUNNING},
    "pbs": {"Q": QueueState.WAITING, "R": QueueState.RUNNING},
    "sge": {"qw": QueueState.WAITING, "r": QueueState.RUNNING},
}


def entry(kind: str, id: str, name: str, state: str) -> str:
    """A job as the queue's own command lists it, by the manuals of squeue, qstat -f and qstat -xml."""
    if kind == "slurm":
        fields = (id, state, "None", name, "me", "main", "1:00:00", "1", "4", "0:12", "2G")
        return "<><> ".join(fields)
    if kind == "pbs":
        values = (
            f"Job_Name = {name}\n    Job_Owner = me@host\n    job_state = {state}\n    queue = main\n"
            "    Resource_List.ncpus = 4\n    Resource_List.nodect = 1\n    Resource_List.walltime = 01:00:00"
        )
        return f"Job Id: {id}\n    {values}\n"
    return (
        f'<job_list state="running"><JB_job_number>{id}</JB_job_number><JB_name>{name}</JB_name>'
        f"<JB_owner>me</JB_owner><state>{state}</state></job_list>"
    )


def listing(kind: str, entries: list[str]) -> str:
    if kind == "sge":
        return f"<?xml version='1.0'?>\n<job_info>\n<queue_info>\n{chr(10).join(entries)}\n</queue_info></job_info>"
    return "\n".join(entries)


def spoilt(kind: str, whole: str, rng: random.Random) -> str:
    """The entry of a job with one fault that makes it unreadable."""
    if kind == "slurm":
        fields = whole.split("<><>")
        faults = [
            "<><>".join(fields[: rng.randrange(2, len(fields))]),  # cut off
            "<><>".join([*fields, " more"]),
            "<><>".join([fields[0], " ??", *fields[2:]]),  # a state of a later Slurm
            "<><>".join(["", *fields[1:]]),
            "slurm_load_jobs error: <><> Zero Bytes were transmitted",
        ]
    elif kind == "pbs":
        faults = [
            whole.replace("job_state = ", "job_state = ?"),
            whole.replace("    queue = main\n", ""),
            whole.replace("me@host", "me@host@other"),
            whole.replace("Job Id: ", "Job Id: none "),
            whole.split("\n")[0],
        ]
    else:
        faults = [
            whole.replace("</state>", ""),
            whole.replace("<state>", "<state>?"),
            whole.replace("</JB_job_number>", "x</JB_job_number>"),
            whole[: rng.randrange(40, len(whole) - 12)].rpartition("<")[0] + "<",
            whole.replace("me</JB_owner>", "&broken</JB_owner>"),
        ]
    return rng.choice(faults)


class Answers(ClusterQueue):
    """A queue whose commands are answered here."""

    def __init__(self, kind: str, text: str, one: dict[str, str] | None = None) -> None:
        super().__init__(kind)
        self.text, self.one, self.submitted = text, one or {}, 0

    def _run(self, command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        for id, said in self.one.items():
            if command.split()[-1] == id:
                return subprocess.CompletedProcess(command, 0, said, "")
        if "squeue" in command or "qstat" in command and not command.split()[-1][0].isdigit():
            return subprocess.CompletedProcess(command, 0, self.text, "")
        return subprocess.CompletedProcess(command, 1, "", "Invalid job id specified: Unknown Job Id")


@pytest.mark.parametrize("kind", KINDS)
def test_unreadable_entries_among_good_ones_cost_themselves_alone_and_are_said_once(kind: str) -> None:
    rng = random.Random(16)
    for _ in range(60):
        suffix = ".server" if kind == "pbs" else ""
        ids = [f"{number}{suffix}" for number in rng.sample(range(1000, 9999), rng.randrange(2, 9))]
        states = [rng.choice(list(STATES[kind])) for _ in ids]
        bad = set(rng.sample(range(len(ids)), rng.randrange(1, len(ids))))
        entries = [entry(kind, id, f"h{id[:4]}-1-abcdef", state) for id, state in zip(ids, states, strict=True)]
        entries = [spoilt(kind, one, rng) if place in bad else one for place, one in enumerate(entries)]
        queue = Answers(kind, listing(kind, entries))
        good = {id: STATES[kind][state] for n, (id, state) in enumerate(zip(ids, states, strict=True)) if n not in bad}
        assert {id: job.state for id, job in queue.find(good).items()} == good, entries
        said = queue.notes()
        assert 1 <= len(said) <= len(bad)
        assert all("cannot be read" in note for note in said)
        queue.find(good)
        assert queue.notes() == []
        names = {f"h{id[:4]}-1-abcdef": id for id in good}
        assert queue.named(names) == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_listing_gives_every_job_its_state_and_nothing_to_say(kind: str) -> None:
    states = {f"10{place}.server" if kind == "pbs" else f"10{place}": s for place, s in enumerate(STATES[kind])}
    queue = Answers(kind, listing(kind, [entry(kind, id, f"h{id}", state) for id, state in states.items()]))
    assert {id: job.state for id, job in queue.find(states).items()} == {i: STATES[kind][s] for i, s in states.items()}
    assert Answers(kind, "").find(states) == {}
    assert queue.notes() == []


def test_of_a_job_whose_own_answer_cannot_be_read_nothing_is_concluded() -> None:
    line = entry("slurm", "7", "h7", "R").replace("<><> R<><>", "<><> ??<><>")
    queue = Answers("slurm", listing("slurm", [line, entry("slurm", "8", "h8", "R")]), {"7": "JobId=7 JobState=NEWLY"})
    found = queue.find(["7", "8"])
    assert [found[id].state for id in ("7", "8")] == [QueueState.WAITING, QueueState.RUNNING]
    assert len(queue.notes()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_in_an_entry_that_cannot_be_read_is_not_taken_for_absent(kind: str) -> None:
    broken = entry(kind, "7", "h7-1-abcdef", "R").replace("R", "?").replace("<state>r", "<state>?")
    queue = Answers(kind, listing(kind, [broken, entry(kind, "8", "h8-1-abcdef", list(STATES[kind])[0])]))
    with pytest.raises(QueueUnavailableError, match="h7-1-abcdef in a form that cannot be read"):
        queue.named(["h7-1-abcdef", "h8-1-abcdef"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_listing_at_all_is_silence(kind: str) -> None:
    with pytest.raises(QueueUnavailableError, match="gave no listing of jobs: 'Service unavailable"):
        Answers(kind, "Service unavailable\nplease come back").find(["7"])


def test_a_step_says_what_could_not_be_read_and_goes_on_with_the_rest(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [jobs.add(), jobs.add()]
    queue = Answers("slurm", listing("slurm", ["12<><> R<><> None", entry("slurm", "13", "other", "R")]))
    handed: list[str] = []

    def submit(script: Path, name: str) -> str:
        handed.append(name)
        return str(100 + len(handed))

    monkeypatch.setattr(queue, "submit", submit)
    submitter = Submitter(jobs.root, jobs.config("slurm"), queue)
    submitter.step(keys)
    steps: list[Any] = [submitter.step(keys) for _ in range(3)]
    assert len(handed) == 2
    assert [len(step.notes) for step in steps] == [1, 0, 0]
    assert "'12<><> R<><> None'" in steps[0].notes[0]
