"""How a run waits for DFT jobs without a process: it is suspended, and whoever finds the jobs done resumes it.

A deployed run is suspended on the Prefect server, which survives the death of every process, and the schedule of the
deployment `dft/collect` is switched on until nothing is open any more. A run without a deployment ends; the same
command goes on from what is done.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from storage.checksums import DamagedFileError
from storage.documents import read_document, write_document

COLLECT = "dft/collect"
WAITING = "waiting.json"
"""In the run's folder: the flow run that is suspended."""

PATIENCE_S = 10 * 365 * 24 * 3600
"""After this long a suspended run cannot be resumed: Prefect wants a number."""


def wait_without_process(folder: Path, n_open: int) -> None:
    """Suspend this flow run; where it has no deployment, say how to go on and return."""
    from prefect.flow_runs import suspend_flow_run

    logger = get_run_logger()
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        logger.info(
            "%d DFT jobs are under way and need no process here; `hullward dft collect %s` brings them on and home",
            n_open,
            folder,
        )
        return
    write_document(folder / WAITING, {"flow_run_id": str(context.flow_run.id)})
    switch_schedule(True)
    logger.info("%d DFT jobs are under way: this run is suspended, and %s resumes it", n_open, COLLECT)
    # A key of its own each time: Prefect lets a run through a pause that it has been through before.
    suspend_flow_run(timeout=PATIENCE_S, key=str(uuid.uuid4()))


def resume_waiting(folder: Path) -> bool:
    """Resume the flow run that waits for this folder's jobs; False if none does, or it is gone."""
    from prefect.exceptions import NotPausedError, ObjectNotFound
    from prefect.flow_runs import resume_flow_run

    file = folder / WAITING
    if not file.is_file():
        return False
    remedy = f"resume the flow run of {folder.name} in the UI, or give the same discover again"
    try:
        flow_run_id = uuid.UUID(read_document(file, remedy)["flow_run_id"])
    except (DamagedFileError, KeyError, ValueError) as error:
        said = str(error) if isinstance(error, DamagedFileError) else f"{file} names no flow run: {remedy}"
        get_run_logger().warning("%s", said)
        file.unlink()
        return False
    try:
        resume_flow_run(flow_run_id)
    except (NotPausedError, ObjectNotFound) as error:
        get_run_logger().warning("flow run %s does not wait any more: %s", flow_run_id, error)
        return False
    finally:
        file.unlink()
    return True


def switch_schedule(active: bool) -> None:
    """Switch the schedules of `dft/collect` on or off, where it is deployed."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(COLLECT)
        except ObjectNotFound:
            if active:
                logger.warning("%s is not deployed, so nobody follows the jobs: run `hullward deploy`", COLLECT)
            return
        for schedule in deployment.schedules:
            if schedule.active != active and schedule.id is not None:
                client.update_deployment_schedule(deployment.id, schedule.id, active=active)
