"""Settings of the submission of DFT jobs: which queue, what a job script asks for, limits, retries. Torch-free."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from storage.settings import RoomConfig

SECRET_ASSIGNED = re.compile(r"\b\w*(?:key|token|secret|passw|credential)\w*\s*=", re.IGNORECASE)
"""A line that gives a value to a variable whose name promises a secret."""


_MARKS = "_ . , @ : / = + - * ? [ ] ! % ^ ~"
_ORDER = re.compile(rf"(?!-)[\w{re.escape(_MARKS.replace(' ', ''))}]+")
"""What may be asked of a queue by name: lists, hosts and patterns included, but no space, behind which Slurm reads the
next order."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9._@-]+")
"""What ssh may be given as a host: no option, no port, and nothing that could hold a password."""


class SubmissionConfig(RoomConfig):
    """Where DFT jobs run and what is asked of the queue. Changes no result."""

    queue: Literal["local", "slurm", "pbs", "sge"] = Field(
        "local", description="local processes of this machine, or a queue"
    )
    host: str | None = Field(
        None,
        description="machine with the queue, reached by ssh: a Host of ~/.ssh/config, or user@host; null is this one",
    )
    remote_folder: str | None = Field(
        None, description="folder on `host` that jobs run in, absolute, seen by its compute nodes; made if missing"
    )
    remote_only: tuple[str, ...] = Field(
        ("WAVECAR*", "CHG*", "AECCAR*", "LOCPOT*", "ELFCAR*", "POTCAR*", "*.gpw"),
        description="patterns of files that stay on `host` when the rest of a job's folder comes home",
    )
    partition: str | None = Field(None, description="partition or queue of the cluster; null takes its default")
    account: str | None = Field(None, description="account that is charged")
    qos: str | None = Field(None, description="quality of service (Slurm)")
    walltime_s: int = Field(24 * 3600, ge=1, description="time limit of one allocation, seconds")
    nodes: int = Field(1, ge=1, le=10_000, description="nodes of one allocation")
    processes_per_node: int = Field(1, ge=1, le=1024, description="MPI processes on each node")
    threads_per_process: int = Field(1, ge=1, le=1024, description="threads of each process (OMP_NUM_THREADS)")
    memory_mb_per_thread: int | None = Field(None, ge=1, description="memory per thread, MB; null takes the default")
    gpus: int = Field(0, ge=0, le=64, description="GPUs of one allocation (Slurm)")
    header_lines: tuple[str, ...] = Field(
        (), description="further lines of the script's head as they stand, such as '#SBATCH --constraint=cpu'"
    )
    modules: tuple[str, ...] = Field((), description="modules loaded before the work, after `module purge`")
    setup_lines: tuple[str, ...] = Field(
        (), description="shell lines before the work, such as 'source /opt/vasp/env.sh'; never a secret"
    )
    mpi_command: str | None = Field(
        None,
        description="how a program is started in parallel, such as 'srun' or 'mpirun -np 4'; handed to the engines as "
        "HULLWARD_MPI_COMMAND",
    )
    python: str | None = Field(
        None,
        description="Python on the compute nodes; null takes the one that submits, on a shared file system, and cannot "
        "be null with `host`",
    )
    job_command: tuple[str, ...] = Field(
        ("{python}", "-P", "-m", "dft.run_job", "{folder}"),
        min_length=1,
        description="command that runs one job folder, word by word; put a container's command before it if need be",
    )
    jobs_per_allocation: int = Field(
        1, ge=1, le=10_000, description="job folders that share one allocation (one job of the queue)"
    )
    jobs_at_once: int = Field(1, ge=1, le=1024, description="job folders of an allocation that run side by side")
    allocations_max: int = Field(
        8, ge=1, le=10_000, description="allocations waiting or running at once; further jobs wait on disk"
    )
    submissions_per_step: int = Field(
        100, ge=1, le=10_000, description="allocations handed to the queue per step, however many may be open"
    )
    attempts_max: int = Field(3, ge=1, le=100, description="attempts at one job before it counts as failed")
    poll_s: float = Field(10.0, gt=0, le=86_400, description="first pause between two looks at the queue, seconds")
    poll_max_s: float = Field(
        300.0, gt=0, le=86_400, description="longest pause; it doubles while nothing changes or the queue is silent"
    )
    settle_s: float = Field(
        2.0, ge=0, le=3600, description="how long a job that the queue calls ended may still be writing, seconds"
    )
    vanished_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="how long a job that the queue does not know must give no sign of life to count as lost, seconds",
    )
    heartbeat_s: float = Field(
        15.0, gt=0, le=3600, description="a running job says every so often that it lives, seconds; below vanished_s"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_s * 2 > self.vanished_s:
            raise ValueError(
                f"heartbeat_s {self.heartbeat_s:g} must be at most half of vanished_s {self.vanished_s:g}: a living "
                "job would count as lost"
            )
        if self.poll_s > self.poll_max_s:
            raise ValueError(f"poll_s {self.poll_s:g} must not exceed poll_max_s {self.poll_max_s:g}")
        if not any("{folder}" in word for word in self.job_command):
            raise ValueError("job_command has no word with {folder}: expected one, which becomes the job's folder")
        named = {name: getattr(self, name) for name in ("partition", "account", "qos")}
        words = {name: (getattr(self, name) or "",) for name in (*named, "mpi_command", "python", "remote_folder")}
        lists = {name: getattr(self, name) for name in ("header_lines", "modules", "setup_lines", "remote_only")}
        refuse_control_characters({**words, **lists})
        if any("\0" in word for word in self.job_command):
            raise ValueError("job_command holds a null character: no program can be given one")
        refuse_more_than_names(named)
        if any("$$" in line for line in self.header_lines):
            raise ValueError("header_lines hold '$$', with which the head of a job script cannot be made: leave it out")
        refuse_secrets((*self.header_lines, *self.setup_lines))
        self._check_host()
        return self

    def _check_host(self) -> None:
        if any("/" in pattern for pattern in self.remote_only):
            raise ValueError("remote_only holds a '/': expected patterns of names of files, such as 'WAVECAR*'")
        if self.host is None:
            if self.remote_folder is not None:
                raise ValueError("remote_folder is set without host: name the machine, or leave it out")
            return
        if not _HOST.fullmatch(self.host):
            raise ValueError(
                f"host {self.host!r} is none: expected a Host of ~/.ssh/config or user@host, of letters, digits and "
                "'. _ - @'; ports, jump hosts and keys are stated in ~/.ssh/config"
            )
        if self.queue == "local":
            raise ValueError("host is set and queue is local: expected slurm, pbs or sge, whose commands run there")
        if self.remote_folder is None or not self.remote_folder.startswith("/") or self.remote_folder.strip("/") == "":
            raise ValueError(
                f"remote_folder {self.remote_folder!r} must be an absolute path on {self.host}, such as "
                "/scratch/me/hullward: no shell there fills in '~' or '$SCRATCH'"
            )
        if self.python is None:
            raise ValueError(
                f"python is null: expected the path of a Python on {self.host} that has Hullward's packages, since "
                "that of this machine is not there"
            )


def refuse_control_characters(texts: Mapping[str, Iterable[str]]) -> None:
    """Settings by name that become parts of a job script.

    Raises: ValueError: if one holds a line break, which would be the beginning of another line of the script.
    """
    for name, values in texts.items():
        if any(
            unicodedata.category(character) == "Cc" and character != "\t" for value in values for character in value
        ):
            raise ValueError(f"{name} holds a line break or another control character: give one line per entry")


def refuse_more_than_names(named: Mapping[str, str | None]) -> None:
    """Settings by name that become words of a job script's head. Raises: ValueError: if one is more than a word."""
    for name, value in named.items():
        if value is not None and not _ORDER.fullmatch(value):
            raise ValueError(
                f"{name} {value!r} is no such name: expected letters, digits and {_MARKS}, since the head of a job "
                "script knows no quotes"
            )


def refuse_secrets(lines: Iterable[str]) -> None:
    """Lines of the user's for a job script. Raises: ValueError: if one gives a value to what is named as a secret."""
    if any(SECRET_ASSIGNED.search(line) for line in lines):
        # The line itself is not repeated.
        raise ValueError(
            "header_lines or setup_lines set a variable whose name promises a secret: source a file that only "
            "you can read instead, since job scripts and manifests are kept"
        )
