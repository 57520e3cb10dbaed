"""Settings of `execution.task_runner: dask-slurm`: what each job of the queue asks for, and how many there are."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dft.submission.config import refuse_control_characters, refuse_more_than_names, refuse_secrets
from storage.settings import RoomConfig

HEAD = "#SBATCH "


class SlurmWorkersConfig(RoomConfig):
    """Jobs of Slurm, each of which is one worker that computes chunks. Changes no result."""

    workers_min: int = Field(0, ge=0, le=1024, description="workers that are kept while there is nothing to do")
    workers_max: int = Field(4, ge=1, le=1024, description="workers at most: jobs of ours in the queue at once")
    idle_s: int = Field(300, ge=1, le=86_400, description="how long a worker above workers_min may idle, seconds")
    partition: str | None = Field(None, description="partition of the cluster; null takes its default")
    account: str | None = Field(None, description="account that is charged")
    qos: str | None = Field(None, description="quality of service")
    walltime_s: int = Field(
        4 * 3600, ge=60, description="time limit of one job, seconds; a chunk that it cuts off is computed by another"
    )
    cores: int | None = Field(None, ge=1, le=1024, description="cores of one worker; null is torch_threads")
    memory_gb: float = Field(4.0, gt=0, le=100_000, description="memory of one worker, GiB")
    interface: str | None = Field(
        None,
        description="network interface by which workers reach this process, such as ib0; null is that of the host's "
        "name, lo a cluster that is this machine alone",
    )
    python: str | None = Field(
        None, description="Python on the compute nodes; null takes the one that submits, on a shared file system"
    )
    header_lines: tuple[str, ...] = Field(
        (), description="further lines of the script's head as they stand, such as '#SBATCH --gres=gpu:1'"
    )
    setup_lines: tuple[str, ...] = Field(
        (), description="shell lines before the work, such as 'module load cuda'; never a secret"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.workers_min > self.workers_max:
            raise ValueError(f"workers_min {self.workers_min} must not exceed workers_max {self.workers_max}")
        named = {name: getattr(self, name) for name in ("partition", "account", "qos", "interface")}
        words = {name: (value or "",) for name, value in {**named, "python": self.python}.items()}
        refuse_control_characters({**words, "header_lines": self.header_lines, "setup_lines": self.setup_lines})
        refuse_more_than_names(named)
        if wrong := [line for line in self.header_lines if not line.startswith(HEAD)]:
            raise ValueError(f"header_lines hold {wrong[0]!r}: expected lines that begin with {HEAD!r}")
        refuse_secrets((*self.header_lines, *self.setup_lines))
        return self
