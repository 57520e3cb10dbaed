"""What became of an allocation that the queue calls ended, or does not know: each member gets its reason."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from dft.submission.allocation import Allocation, Member, claim_file, pending_members
from dft.submission.config import SubmissionConfig
from dft.submission.files import create_json, now, read_json, write_error, write_json
from dft.submission.queues import QueueJob
from dft.submission.run_allocation import last_words
from dft.submission.states import LOST_KIND

WALLTIME_SHARE, WALLTIME_SLACK_S = 0.98, 0.5
"""A job that was asked to end this near its time limit had used it up."""

NOT_STARTED_KIND = "not started"


@dataclass(frozen=True)
class _Cause:
    """Why an allocation ended without the results of its members."""

    kind: str
    sentence: str
    is_retryable: bool = True


KNOWN_ENDS: Mapping[str, _Cause] = {
    "TIMEOUT": _Cause("walltime", "the queue ended the job at its time limit of {walltime_s} s"),
    "DEADLINE": _Cause("walltime", "the queue ended the job at its deadline"),
    "NODE_FAIL": _Cause("node failure", "a node of the job failed"),
    "BOOT_FAIL": _Cause("node failure", "a node of the job did not start"),
    "PREEMPTED": _Cause("preempted", "the queue gave the job's nodes to another one"),
    "OUT_OF_MEMORY": _Cause(
        "out of memory", "the job used more memory than it had asked for: raise memory_mb_per_thread", False
    ),
    "CANCELLED": _Cause("cancelled", "the job was cancelled in the queue", False),
}
"""Ends that the queue names (Slurm's words); everything else is told apart by what the worker left."""


def is_over(allocation: Allocation, job: QueueJob | None, config: SubmissionConfig) -> bool:
    """Whether nothing more can come of an allocation that the queue calls ended, or does not know (`job` None).

    A file that is still on its way through the network file system gets `settle_s`. Where the queue knows nothing, or a
    member is run by another job (the allocation was submitted twice, and the double came first), a member that says it
    lives counts more than the queue; it has `vanished_s` for that.
    """
    noticed = allocation.folder / "gone.json"
    if not pending_members(allocation):
        return True
    found = read_json(noticed)
    is_unsure = job is None or _is_run_by_another(allocation)
    patience_s = config.vanished_s if is_unsure else config.settle_s
    if found is None:
        write_json(noticed, {"since": time.time(), "known_to_queue": job is not None})
        return patience_s == 0
    if time.time() - float(found["since"]) < patience_s:
        return False
    if is_unsure and _lived_after(allocation, noticed.stat().st_mtime):
        write_json(noticed, {"since": time.time(), "known_to_queue": job is not None})
        return False
    return True


def settle(allocation: Allocation, job: QueueJob | None) -> None:
    """Write down why each member without a result has none, and that nothing is left to expect. Done twice, the same.

    A member that was never started is not charged with an attempt that another one used up.
    """
    native = "" if job is None else job.native
    pending = [member for member in pending_members(allocation) if not _says_itself(allocation, member)]
    if not pending:
        write_json(allocation.folder / "settled.json", {"kind": None, "queue_state": native, "at": now()})
        return
    cause = _cause(allocation, job)
    begun = {member.key for member in allocation.members if _began(allocation, member)}
    for member in pending:
        folder = allocation.root / member.key
        # A late start of this attempt finds it claimed and leaves it.
        create_json(claim_file(folder, member.attempt), {"settled": True, "allocation": allocation.name, "at": now()})
        if cause.kind == "cancelled":
            write_json(folder / "cancelled.json", {"reason": cause.sentence, "when": now()})
        elif member.key in begun or not begun:
            write_error(folder, member.key, cause.kind, cause.sentence, is_retryable=cause.is_retryable)
        else:
            sentence = f"its allocation {allocation.name} ended before its turn came: {cause.sentence}"
            write_error(folder, member.key, NOT_STARTED_KIND, sentence, is_retryable=True)
    write_json(allocation.folder / "settled.json", {"kind": cause.kind, "queue_state": native, "at": now()})


def _says_itself(allocation: Allocation, member: Member) -> bool:
    """Whether a member was ended by its own engine, in an allocation that nobody ended: its reason is the right one.

    So ends VASP when custodian has it stop before the time limit.
    """
    is_ended_by_queue = "signal" in (allocation.ended or {"signal": ""})
    return not is_ended_by_queue and read_json(allocation.root / member.key / "error.json") is not None


def _cause(allocation: Allocation, job: QueueJob | None) -> _Cause:
    ended = allocation.ended or {}
    elapsed_s = float(ended.get("elapsed_s", 0.0))
    if job is not None and job.native in KNOWN_ENDS:
        known = KNOWN_ENDS[job.native]
        return _Cause(known.kind, known.sentence.format(walltime_s=allocation.walltime_s), known.is_retryable)
    if "signal" in ended:
        if elapsed_s >= min(WALLTIME_SHARE * allocation.walltime_s, allocation.walltime_s - WALLTIME_SLACK_S):
            return _Cause("walltime", f"the job was ended at its time limit of {allocation.walltime_s} s")
        return _Cause("killed", f"the job was ended by {ended['signal']} after {elapsed_s:.0f} s")
    if not any(_began(allocation, member) for member in allocation.members):
        said = last_words(allocation.folder / "err")
        if job is None and said == "none":
            return _Cause(
                LOST_KIND, f"the queue does not know job {allocation.queue_id} and it left no sign of a start"
            )
        return _Cause(
            NOT_STARTED_KIND,
            f"the job script ended before its first job began; last words: {said}; see {allocation.folder}/job.sh",
        )
    if job is None:
        return _Cause(
            LOST_KIND, f"the queue does not know job {allocation.queue_id} any more and it gives no sign of life"
        )
    return _Cause("crashed", f"the job's process ended without a word (queue: {job.native or 'ended'})")


def _began(allocation: Allocation, member: Member) -> bool:
    claim = read_json(claim_file(allocation.root / member.key, member.attempt))
    return claim is not None and "queue_id" in claim and claim["allocation"] == allocation.name


def _is_run_by_another(allocation: Allocation) -> bool:
    """Whether a job of the queue that is not the registered one has claimed a member without a result."""
    claims = [read_json(claim_file(allocation.root / m.key, m.attempt)) or {} for m in pending_members(allocation)]
    ids = {str(claim["queue_id"]) for claim in claims if "queue_id" in claim and claim["allocation"] == allocation.name}
    return bool(ids - {allocation.queue_id})


def _lived_after(allocation: Allocation, moment: float) -> bool:
    """Whether a member has said that it lives since; both times are the file system's own."""
    for member in pending_members(allocation):
        claim = claim_file(allocation.root / member.key, member.attempt)
        if claim.exists() and claim.stat().st_mtime > moment:
            return True
    return False
