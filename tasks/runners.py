"""Where a run's chunks are computed: threads, processes, or a Dask cluster."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from configs.schema import ExecutionConfig


def task_runner(execution: ExecutionConfig) -> TaskRunner[Any]:
    """The task runner that the settings name; use it as a context."""
    if execution.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=execution.max_workers)
    if execution.task_runner == "processes":
        return ProcessPoolTaskRunner(max_workers=execution.max_workers)
    from prefect_dask.task_runners import DaskTaskRunner

    if execution.dask_address is not None:
        return DaskTaskRunner(address=execution.dask_address)
    # One thread per worker: PyTorch's own threads do the rest.
    local = {"n_workers": execution.max_workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)
