"""dft: DFT jobs of discovery runs. `dft/submit` begins them; `dft/collect`, on a schedule, brings them on and home.

Neither waits: a run takes one step and ends. Jobs belong to their queue, and all state is on disk.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.dft_jobs import DftJobsConfig
from tasks.dft.campaign import advance_task, begin_task, campaign_folders
from tasks.dft.waiting import resume_waiting, switch_schedule


@flow(name="dft", flow_run_name="dft-{config.action}", validate_parameters=True)
def dft(config: DftJobsConfig = DftJobsConfig()) -> dict[str, int]:  # noqa: B008 - frozen
    """Submit the DFT jobs of a finished run, or follow those of all runs.

    Args:
        config: what to do.

    Returns:
        Jobs of which something is still to come, by the run's name.
    """
    runs = Path(config.runs_folder)
    if config.action == "submit" and config.run is not None:
        n_open = {config.run: begin_task(runs / config.run, config.dft)}
        if n_open[config.run]:
            switch_schedule(True)
        return n_open
    folders = [runs / config.run] if config.run is not None else campaign_folders(runs)
    n_open = {folder.name: advance_task(folder) for folder in folders}
    for folder in folders:
        if not n_open[folder.name] and resume_waiting(folder):
            get_run_logger().info("%s: all DFT jobs have ended; its run goes on", folder.name)
    if config.run is None and not any(n_open.values()):
        switch_schedule(False)
    return n_open
