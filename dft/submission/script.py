"""Job scripts: the queue's head by qtoolkit, the environment from the settings, and one command."""

from __future__ import annotations

import os
import re
import shlex
import string
import sys
import unicodedata
from pathlib import Path
from typing import Any

from qtoolkit.core.data_objects import ProcessPlacement, QResources
from qtoolkit.core.exceptions import UnsupportedResourcesError
from qtoolkit.io import scheduler_mapping

from dft.submission.allocation import Allocation
from dft.submission.config import SubmissionConfig
from dft.submission.hosts import CODE
from dft.submission.local_queue import NAME_VARIABLE
from dft.submission.run_allocation import BEGAN_VARIABLE, QUEUE_ID_VARIABLE, WALLTIME_VARIABLE

IDS = {"local": f"$(hostname)/${NAME_VARIABLE}", "slurm": "$SLURM_JOB_ID", "pbs": "$PBS_JOBID", "sge": "$JOB_ID"}
"""Where each queue tells a job its id."""

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+=@-]+")
"""Paths that every queue's head takes as they are."""

LOCAL_GRACE_S = 10
"""How long a local job that has used up its time may take to end, seconds."""


def job_script(config: SubmissionConfig, allocation: Allocation, code: Path = CODE) -> str:
    """The job script of an allocation.

    Args:
        config: what to ask for.
        allocation: what to run, with the folder that its job sees; its name becomes the job's name.
        code: folder of the rooms, as its job sees it.

    Returns: A bash script whose head is written for `config.queue`.

    Raises: ValueError: if qtoolkit does not know a setting for this queue, such as `qos` for PBS.
    """
    python = config.python or sys.executable
    # -P: the root is the working directory, and a file in it called json.py must not stand for Python's.
    command = [python, "-P", "-m", "dft.submission.run_allocation", str(allocation.folder)]
    if config.queue == "local":
        # exec: a signal of the queue then reaches the worker itself. timeout passes it on.
        command = ["timeout", f"--kill-after={LOCAL_GRACE_S}s", f"{allocation.walltime_s}s", *command]
    lines = [
        *_redirected(config, allocation),
        f"export {BEGAN_VARIABLE}=$(date +%s.%N)",  # first: the queue's clock runs while modules load
        f"export {WALLTIME_VARIABLE}={allocation.walltime_s}",
        *_environment(config),
        f"export PYTHONPATH={shell_word(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f'export {QUEUE_ID_VARIABLE}="{IDS[config.queue]}"',
        f"export OMP_NUM_THREADS={config.threads_per_process}",
        f"export HULLWARD_PROCESSES={config.nodes * config.processes_per_node}",
    ]
    if config.mpi_command is not None:
        lines.append(f"export HULLWARD_MPI_COMMAND={shell_word(config.mpi_command)}")
    lines += [f"cd {shell_word(str(allocation.root))}", f"exec {' '.join(map(shell_word, command))}"]
    if config.queue == "local":
        return "\n".join(["#!/bin/bash", *lines]) + "\n"
    io = scheduler_mapping[config.queue]()
    io.sanitize_job_name = True
    try:
        return str(io.get_submission_script(lines, _resources(config, allocation))) + "\n"
    except (UnsupportedResourcesError, ValueError) as error:
        raise ValueError(f"{config.queue} cannot be asked for this: {error}; change dft.submission") from error


def shell_word(text: str) -> str:
    """Text as one word of bash, on one line: SGE looks for orders to it on every line of a script."""
    if not any(unicodedata.category(character) == "Cc" for character in text):
        return shlex.quote(text)
    plain = set(string.ascii_letters + string.digits + " /._-+=:,@%")
    return "$'" + "".join(chr(b) if chr(b) in plain else f"\\{b:03o}" for b in os.fsencode(text)) + "'"


def _log(config: SubmissionConfig, allocation: Allocation, name: str) -> str | None:
    """Where the queue's head sends the output; None where it could misread the path, since no head knows quotes.

    Slurm takes a name below the working directory too, from which the script is submitted, but fills in '%j' and drops
    backslashes in the directory's own name.
    """
    if _PLAIN_PATH.fullmatch(path := str(allocation.folder)):
        return str(allocation.folder / name)
    return name if config.queue == "slurm" and "%" not in path and "\\" not in path else None


def _redirected(config: SubmissionConfig, allocation: Allocation) -> list[str]:
    """Where the head cannot say where output goes, the script does."""
    if config.queue == "local" or _log(config, allocation, "out") is not None:
        return []
    out, err = (shell_word(str(allocation.folder / name)) for name in ("out", "err"))
    return [f"exec >> {out} 2>> {err}"]


def _environment(config: SubmissionConfig) -> list[str]:
    modules = ["module purge", *(f"module load {shell_word(name)}" for name in config.modules)]
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
        output_filepath=_log(config, allocation, "out") or os.devnull,
        error_filepath=_log(config, allocation, "err") or os.devnull,
        **{name: value for name, value in asked.items() if value is not None},
    )
