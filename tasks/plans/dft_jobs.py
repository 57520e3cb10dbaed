"""What `hullward dft submit` would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dft.engines.config import PotentialEngineConfig
from dft.job_folder import Purpose
from storage.progress import in_words
from storage.wording import amount
from tasks.dft.campaign import TABLE, submitter_of
from tasks.plans.rates import rates
from tasks.plans.record import Plan, Stage, Written

if TYPE_CHECKING:
    from dft.campaign.campaign import PlannedCampaign
    from dft.job_folder import Job as Calculation
    from dft.records import DFTRecord
    from dft.submission.config import SubmissionConfig

WORK = {
    Purpose.RELAXATION: "candidates, relaxed",
    Purpose.REFERENCE: "competing phases",
    Purpose.STATIC: "candidates as generated",
}
"""What the calculations of each purpose are, in the order in which they are submitted."""

ENDED = ("done", "failed", "lost", "cancelled")


def plan_submission(planned: PlannedCampaign) -> Plan:
    """What submitting a campaign would do: the jobs, what goes to the queue at once, and what it may cost.

    Raises: ValueError: if the queue cannot be asked for what the settings say.
    """
    from dft.campaign.campaign import FILE
    from dft.campaign.collection import records_of
    from dft.submission.allocation import ALLOCATIONS
    from dft.submission.states import JobState

    campaign = planned.campaign
    submission, submitter = campaign.dft.submission, submitter_of(campaign)
    statuses = submitter.statuses(campaign.keys)
    handed_over = submitter.planned(campaign.keys)
    records = records_of(campaign)
    states = {key: status.state.value for key, status in statuses.items()}
    left = [one for one in planned.calculations if states[one.key] not in ENDED or _again(one.key, handed_over)]
    hours, by = _core_hours(left, records, submission)
    most = -(-len(left) // submission.jobs_per_allocation) * _cores(submission) * submission.walltime_s / 3600
    counts = ", ".join(f"{n} {state}" for state in JobState if (n := list(states.values()).count(state.value)))
    at_once = sum(len(allocation.members) for allocation, _ in handed_over)
    waiting = amount(max(0, len(left) - at_once), "waits", "wait")
    facts = [
        ("engine", _engine(planned)),
        ("jobs", f"{len(states)}: {counts}"),
        ("queue", _queue(submission, submitter.queue.command)),
        ("now", f"{amount(len(handed_over), 'allocation')} with {amount(at_once, 'job')}; {waiting} on disk"),
        ("cost", f"about {_number(hours)} core hours, {by}" if hours is not None else "no measured rate"),
        ("at most", f"{_number(most)} core hours, which is what the queue is asked for in a first attempt"),
    ]
    if handed_over:
        facts.append(("script", f"of the first allocation, {handed_over[0][0].name}\n{handed_over[0][1]}"))
    return Plan(
        command="dft submit",
        name=campaign.name,
        facts=tuple(facts),
        potentials=(),
        stages=tuple(_stages(planned.calculations, states)),
        rates="",
        memory_mb=None,
        writes=(
            Written.at(campaign.folder / FILE, "the campaign: its jobs by their keys"),
            Written.at(campaign.root, f"{len(planned.calculations)} job folders, "
                       f"{sum((campaign.root / one.key).is_dir() for one in planned.calculations)} of them there"),
            Written.at(campaign.root / ALLOCATIONS, "scripts and state of what the queue has"),
            Written.at(campaign.folder / TABLE, "the table of jobs, renewed at each step"),
        ),
        warnings=campaign.notes,
        details={
            "folder": str(campaign.folder),
            "engine": campaign.dft.engine.model_dump(mode="json"),
            "submission": submission.model_dump(mode="json"),
            "jobs": [
                {"key": one.key, "candidate_id": one.candidate_id, "purpose": one.purpose.value,
                 "formula": one.structure.composition.reduced_formula, "n_atoms": len(one.structure),
                 "state": states[one.key], "folder": str(campaign.root / one.key)}
                for one in planned.calculations
            ],
            "allocations": [
                {"name": allocation.name, "jobs": [member.key for member in allocation.members], "script": script}
                for allocation, script in handed_over
            ],
            "core_hours": hours,
            "core_hours_max": most,
        },
    )  # fmt: skip


def _again(key: str, handed_over: Sequence[tuple[Any, str]]) -> bool:
    return any(member.key == key for allocation, _ in handed_over for member in allocation.members)


def _stages(calculations: Sequence[Calculation], states: Mapping[str, str]) -> list[Stage]:
    """One per purpose that there is."""
    found = []
    for purpose, what in WORK.items():
        mine = [one for one in calculations if one.purpose is purpose]
        if mine:
            sizes = sorted(len(one.structure) for one in mine)
            cells = (
                f"cells of {sizes[0]} to {sizes[-1]} atoms" if sizes[0] < sizes[-1] else f"cells of {sizes[0]} atoms"
            )
            done = sum(states[one.key] == "done" for one in mine)
            found.append(Stage(purpose.value, f"{len(mine)} {what}, {cells}", None, len(mine), done))
    return found


def _engine(planned: PlannedCampaign) -> str:
    """The engine with what names its level, and the settings that differ from its defaults."""
    engine = planned.campaign.dft.engine
    said = [
        f"{name} {value}"
        for name, value in engine.settings().items()
        if name in ("functional", "cutoff_ev", "preset", "potential")
        or (name != "name" and value != type(engine).model_fields[name].get_default(call_default_factory=True))
    ]
    return ", ".join([engine.name, *said])


def _queue(config: SubmissionConfig, command: str) -> str:
    """Where the jobs go, by which command, and what an allocation is asked for."""
    where = [f"{name} {value}" for name in ("partition", "account", "qos") if (value := getattr(config, name))]
    asked = (
        f"nodes {config.nodes}, processes on each {config.processes_per_node}, threads of each "
        f"{config.threads_per_process}, jobs {config.jobs_per_allocation}, {in_words(config.walltime_s)} at most"
    )
    there = "" if config.host is None else f" on {config.host}, in {config.remote_folder}"
    return ", ".join([f"{config.queue} ({command} job.sh){there}", *where]) + f"\nan allocation: {asked}"


def _cores(config: SubmissionConfig) -> int:
    return config.nodes * config.processes_per_node * config.threads_per_process


def _core_hours(
    calculations: Sequence[Calculation], records: Mapping[str, DFTRecord], config: SubmissionConfig
) -> tuple[float | None, str]:
    """What the jobs take, and by which measure; None where a kind of them has none.

    Those of a potential by measured rates; others as long as done jobs of the same purpose and settings have taken,
    on as many cores as are asked for now.
    """
    by_potential, by_done = rates(), _seconds_done(records)
    total = 0.0
    for one in calculations:
        if isinstance(one.engine, PotentialEngineConfig):
            kind = "phase" if one.purpose is Purpose.REFERENCE else "candidate"
            settings = one.engine.relaxation()
            if one.purpose is Purpose.STATIC:
                settings = settings.model_copy(update={"max_steps": 0})
            seconds = by_potential.relaxation_s(one.engine.potential, settings, [len(one.structure)], kind)
            seconds = None if seconds is None else seconds + by_potential.seconds_of("potential")
        else:
            done = by_done.get((one.purpose.value, one.engine.settings_digest))
            seconds = None if done is None else sum(done) / len(done) * _cores(config) / config.jobs_at_once
        if seconds is None:
            return None, ""
        total += seconds / 3600
    is_measured = any(not isinstance(one.engine, PotentialEngineConfig) for one in calculations)
    return total, f"as the {amount(len(records), 'job')} done here" if is_measured else by_potential.told


def _seconds_done(records: Mapping[str, DFTRecord]) -> dict[tuple[str, str], list[float]]:
    """Wall times of done jobs by purpose and settings, s."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records.values():
        found.setdefault((record.purpose, record.settings_digest), []).append(record.wall_time_s)
    return found


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
