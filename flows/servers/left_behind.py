"""Runs that lost their process, and scheduled runs that nobody could begin in time: brought to an end on the server."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import psutil

from flows.servers.deployments import POOL
from flows.servers.prefect_api import Api

OF_OUR_POOL = {"name": {"any_": [POOL]}}
UNFINISHED = ["RUNNING", "PENDING", "CANCELLING"]
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""In the environment of a process that carries out a run of a worker; its value is the run's id."""


def processes_of_runs(url: str) -> Iterator[tuple[psutil.Process, str]]:
    """Processes of this user that carry out a run of the server with this address, with the run's id."""
    for process in psutil.process_iter():
        # Processes of others, and such as have ended meanwhile.
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if RUN_ID in environment and environment.get("PREFECT_API_URL") == url:
                yield process, environment[RUN_ID]


def end_processes(url: str) -> None:
    """Kill what a worker has started for runs of this server: each is in a session of its own and may outlive it."""
    for process, _ in list(processes_of_runs(url)):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def end_runs(api: Api) -> int:
    """End on the server every run of the pool that no process carries out; the number of them.

    Such a run would count as running for ever, and hold the slot of its deployment, for which the next run waits. A run
    that was being cancelled is cancelled, any other has crashed.
    """
    alive = {run_id for _, run_id in processes_of_runs(api.url)}
    wanted = {"state": {"type": {"any_": UNFINISHED}}}
    dead = [run for run in api.all("flow_runs", flow_runs=wanted, work_pools=OF_OUR_POOL) if run["id"] not in alive]
    for run in dead:
        if run["state_type"] == "CANCELLING":
            api.set_state(run["id"], "CANCELLED", "Cancelled", "its process has ended")
        else:
            api.set_state(run["id"], "CRASHED", "Crashed", "its process has ended; a rerun skips what is done")
    return len(dead)


def free_slots(api: Api) -> None:
    """Let every deployment of the pool hold as many slots as it has runs under way."""
    wanted = {"state": {"type": {"any_": UNFINISHED}}}
    under_way = Counter(run["deployment_id"] for run in api.all("flow_runs", flow_runs=wanted, work_pools=OF_OUR_POOL))
    for deployment in api.all("deployments", work_pools=OF_OUR_POOL):
        limit = deployment["global_concurrency_limit"]
        if limit is not None and limit["active_slots"] != (held := under_way[deployment["id"]]):
            api(f"v2/concurrency_limits/{limit['id']}", {"active_slots": held}, method="PATCH")


def skip_late(api: Api) -> int:
    """Of each schedule's runs that should have begun, leave the last one; the number of those skipped.

    They pile up while the worker is away or busy, or the machine asleep, and would then run one after the other.
    """
    now = datetime.now(UTC).isoformat()
    wanted = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": now}}
    due = [
        run
        for run in api.all("flow_runs", flow_runs=wanted, work_pools=OF_OUR_POOL, sort="EXPECTED_START_TIME_DESC")
        # A run that has begun and goes on later, as one that waited for DFT jobs, is none of them.
        if run["auto_scheduled"] and not run["run_count"] and run["created_by"]
    ]
    waiting: set[tuple[str, str]] = set()
    skipped = 0
    for run in due:
        schedule = (run["deployment_id"], run["created_by"]["id"])
        if schedule in waiting:
            api.set_state(run["id"], "CANCELLED", "Skipped", "a later run of the same schedule is due")
            skipped += 1
        waiting.add(schedule)
    return skipped
