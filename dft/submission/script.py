"""Job scripts: the queue's head by qtoolkit, the environment from the settings, and one command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from qtoolkit.core.data_objects import ProcessPlacement, QResources
from qtoolkit.core.exceptions import UnsupportedResourcesError
from qtoolkit.io import scheduler_mapping

import dft
from dft.submission.allocation import Allocation
from dft.submission.config import SubmissionConfig
from dft.submission.local_queue import NAME_VARIABLE
from dft.submission.run_allocation import BEGAN_VARIABLE, QUEUE_ID_VARIABLE, WALLTIME_VARIABLE

CODE = Path(dft.__file__).resolve().parent.parent
"""Where the rooms are: on the workers' path too, so that they run the code that submitted."""

IDS = {"local": f"$(hostname)/${NAME_VARIABLE}", "slurm": "$SLURM_JOB_ID", "pbs": "$PBS_JOBID", "sge": "$JOB_ID"}
"""Where each queue tells a job its id."""

LOCAL_GRACE_S = 10
"""How long a local job that has used up its time may take to end, seconds."""


def job_script(config: SubmissionConfig, allocation: Allocation) -> str:
    """The job script of an allocation.

    Args:
        config: what to ask for.
        allocation: what to run; its name becomes the job's name.

    Returns: A bash script whose head is written for `config.queue`.

    Raises: ValueError: if qtoolkit does not know a setting for this queue, such as `qos` for PBS.
    """
    python = config.python or sys.executable
    command = [python, "-m", "dft.submission.run_allocation", str(allocation.folder)]
    if config.queue == "local":
        # exec: a signal of the queue then reaches the worker itself. timeout passes it on.
        command = ["timeout", f"--kill-after={LOCAL_GRACE_S}s", f"{allocation.walltime_s}s", *command]
    lines = [
        f"export {BEGAN_VARIABLE}=$(date +%s.%N)",  # first: the queue's clock runs while modules load
        f"export {WALLTIME_VARIABLE}={allocation.walltime_s}",
        *_environment(config),
        f"export PYTHONPATH={shlex.quote(str(CODE))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f'export {QUEUE_ID_VARIABLE}="{IDS[config.queue]}"',
        f"export OMP_NUM_THREADS={config.threads_per_process}",
        f"export HULLWARD_PROCESSES={config.nodes * config.processes_per_node}",
    ]
    if config.mpi_command is not None:
        lines.append(f"export HULLWARD_MPI_COMMAND={shlex.quote(config.mpi_command)}")
    lines += [f"cd {shlex.quote(str(allocation.root))}", f"exec {shlex.join(command)}"]
    if config.queue == "local":
        return "\n".join(["#!/bin/bash", *lines]) + "\n"
    io = scheduler_mapping[config.queue]()
    io.sanitize_job_name = True
    try:
        return str(io.get_submission_script(lines, _resources(config, allocation))) + "\n"
    except (UnsupportedResourcesError, ValueError) as error:
        raise ValueError(f"{config.queue} cannot be asked for this: {error}; change dft.submission") from error


def _environment(config: SubmissionConfig) -> list[str]:
    modules = ["module purge", *(f"module load {shlex.quote(name)}" for name in config.modules)]
    return [*(modules if config.modules else ()), *config.setup_lines]


def _resources(config: SubmissionConfig, allocation: Allocation) -> QResources:
    asked: dict[str, Any] = {
        "queue_name": config.partition,
        "account": config.account,
        "qos": config.qos,
        "memory_per_thread": config.memory_mb_per_thread,
        "gpus_per_job": config.gpus or None,
        # One thread is every queue's default; SGE, for one, has no word for it.
        "threads_per_process": config.threads_per_process if config.threads_per_process > 1 else None,
        "scheduler_kwargs": {"qverbatim": "\n".join(config.header_lines)} if config.header_lines else None,
    }
    placement: Any = ProcessPlacement.EVENLY_DISTRIBUTED  # qtoolkit types its enum's members as text
    return QResources(
        job_name=allocation.name,
        nodes=config.nodes,
        processes_per_node=config.processes_per_node,
        process_placement=placement,
        time_limit=allocation.walltime_s,
        output_filepath=str(allocation.folder / "out"),
        error_filepath=str(allocation.folder / "err"),
        **{name: value for name, value in asked.items() if value is not None},
    )
