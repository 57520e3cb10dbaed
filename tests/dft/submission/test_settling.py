"""What is written down about an allocation that has ended, for every mixture of what its members left."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from dft.submission.allocation import Allocation, Member, allocation_name, claim_file
from dft.submission.config import SubmissionConfig
from dft.submission.files import create_json, write_error, write_json
from dft.submission.queues import QueueJob, QueueState
from dft.submission.script import job_script
from dft.submission.settling import settle
from dft.submission.states import AllocationIndex, status_of

ENDED = QueueJob("7", QueueState.ENDED, "COMPLETED")


def allocation(root: Path, n_members: int, walltime_s: int = 600, queue: str = "slurm") -> Allocation:
    members = tuple(Member(f"{place:024x}", 1) for place in range(n_members))
    for member in members:
        (root / member.key).mkdir(parents=True)
    made = Allocation(
        root / ".allocations" / allocation_name(root, members), members, queue, walltime_s, 1, 15.0, ("{folder}",), ""
    )
    made.write()
    return made


def leave(made: Allocation, member: Member, what: str) -> None:
    folder = made.root / member.key
    create_json(claim_file(folder, member.attempt), {"queue_id": "7", "allocation": made.name})
    if what == "record":
        write_json(folder / "record.json", {})
    elif what in ("scf", "stopped"):
        write_error(folder, member.key, what, f"its own reason: {what}", is_retryable=True)


@pytest.mark.parametrize("end", ["status", "signal", "none"])
def test_a_cause_is_named_where_a_member_lacks_a_reason_of_its_own_and_nowhere_else(tmp_path: Path, end: str) -> None:
    kinds = ("record", "scf", "stopped", "nothing")
    for number, left in enumerate(itertools.product(kinds, repeat=2)):
        made = allocation(tmp_path / str(number), len(left))
        for member, what in zip(made.members, left, strict=True):
            leave(made, member, what)
        if end != "none":
            ended = {"status": 1} if end == "status" else {"signal": "SIGTERM"}
            write_json(made.folder / "ended.json", {**ended, "elapsed_s": 599.9})
        settle(made, ENDED)
        # Told to end by the queue, a member's "stopped" is the queue's doing; of itself, it is the engine's.
        lacking = [what for what in left if what == "nothing" or (what == "stopped" and end != "status")]
        cause = json.loads((made.folder / "settled.json").read_text())["kind"]
        assert cause == ({"signal": "walltime"}.get(end, "crashed") if lacking else None)
        index = AllocationIndex(made.root)
        index.refresh()
        for member, what in zip(made.members, left, strict=True):
            status = status_of(made.root, member.key, index)
            if what == "record":
                assert status.state.value == "done"
            else:
                assert status.kind == (cause if what in lacking else what)
                assert status.is_retryable


@pytest.mark.parametrize("queue", ["local", "slurm", "pbs", "sge"])
def test_the_script_sets_the_clock_before_anything_that_takes_time(tmp_path: Path, queue: str) -> None:
    made = allocation(tmp_path / "jobs", 1, walltime_s=4321, queue=queue)
    config = SubmissionConfig(queue=queue, modules=("vasp/6",), setup_lines=("sleep 100",))
    lines = job_script(config, made).splitlines()
    (clock,) = (place for place, line in enumerate(lines) if line.startswith("export HULLWARD_BEGAN=$(date"))
    assert clock < lines.index("module purge") < lines.index("sleep 100")
    assert "export HULLWARD_WALLTIME_S=4321" in lines
