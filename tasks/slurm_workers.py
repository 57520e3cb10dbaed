"""Dask workers in jobs of Slurm, through dask-jobqueue: `execution.task_runner: dask-slurm`.

Dask's scheduler lives in the process of the flow. Whoever reaches it could have it run anything, so it speaks TLS with
certificates of its own, made for the run, and shows no page. There are as many jobs in the queue as chunks to compute,
within bounds; one that is lost is handed over again, and its chunk is computed by another.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from prefect.settings import get_current_settings
from prefect_dask.client import PrefectDaskClient
from prefect_dask.task_runners import DaskTaskRunner

from configs.schema import ExecutionConfig
from configs.slurm_workers import HEAD
from dft.submission.cluster_queue import ClusterQueue
from dft.submission.hosts import COMMAND_S
from dft.submission.queues import QueueState, QueueUnavailableError

FOLDER = ".slurm"
"""Below the folder of the runs: what the jobs say, and while a run lasts the certificates of its workers."""

JOB_NAME = "hullward-worker"
PLAIN_PATH = re.compile(r"[\w/.+@:,=-]+")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOST_MAX = 3
"""So many jobs in a row that end before they are workers are no accident."""

ABSENT_S = 60
"""How long a worker goes on when its scheduler, and so the flow, is gone, seconds."""


class SlurmWorkersError(RuntimeError):
    """There can be no workers in jobs of Slurm; the message says why and what to do."""


class SlurmTaskRunner(DaskTaskRunner):
    """Hands tasks to workers in jobs of Slurm. Nothing is handed to the queue before the first task is."""

    def __init__(self, execution: ExecutionConfig) -> None:
        """Check what can be checked here.

        Raises: SlurmWorkersError: if a program, a package, a path or the server's address is not fit for it.
        """
        self._execution = execution
        self._folder = Path(execution.runs_folder).resolve() / FOLDER
        self._queue = ClusterQueue("slurm")
        self._n_lost = 0
        _require_fit(execution, self._folder)
        slurm = execution.slurm
        # A chunk takes tens of seconds, which Dask cannot know of the first ones: each that waits is worth a worker.
        when = {"target_duration": "10ms", "interval": "1s", "wait_count": slurm.idle_s}
        super().__init__(adapt_kwargs={"minimum": slurm.workers_min, "maximum": slurm.workers_max, **when})

    @property
    def client(self) -> PrefectDaskClient:
        """The cluster's, which is started when it is asked for first.

        Raises: SlurmWorkersError: if Slurm would refuse the jobs of its workers.
        """
        if self._client is None and self._cluster is None:
            self._cluster = self._exit_stack.enter_context(self._started_cluster())
        return super().client

    def _started_cluster(self) -> Any:
        """A scheduler without workers.

        Raises: SlurmWorkersError: if Slurm would refuse the jobs of its workers.
        """
        from dask_jobqueue.slurm import SLURMCluster

        slurm = self._execution.slurm
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        more = [line.removeprefix(HEAD) for line in slurm.header_lines]
        cluster: Any = SLURMCluster(
            n_workers=0,
            cores=1,  # one thread per worker: PyTorch's own threads do the rest
            processes=1,
            job_cpu=slurm.cores or self._execution.torch_threads,
            memory=f"{slurm.memory_gb}GiB",
            walltime=f"{slurm.walltime_s // 3600}:{slurm.walltime_s // 60 % 60:02}:{slurm.walltime_s % 60:02}",
            queue=slurm.partition,
            account=slurm.account,
            job_extra_directives=[*([f"--qos={slurm.qos}"] if slurm.qos else []), *more],
            job_script_prologue=list(slurm.setup_lines),
            python=shlex.quote(slurm.python) if slurm.python else None,
            interface=slurm.interface,
            death_timeout=ABSENT_S,
            worker_extra_args=["--no-dashboard", "--dashboard-address", "127.0.0.1:0"],
            job_name=JOB_NAME,
            log_directory=str(self._folder),
            shared_temp_directory=str(self._folder),
            protocol="tls://",
            security=True,  # with certificates made for the run
            # What Dask has to show it shows without a password.
            scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        )
        try:
            self._require_accepted(cluster.job_script())
        except SlurmWorkersError:
            cluster.close()
            raise
        return cluster

    def _require_accepted(self, script: str) -> None:
        """Raises: SlurmWorkersError: if Slurm would not take the script of a worker's job; with its own words."""
        asked = subprocess.run(
            ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        if asked.returncode != 0:
            said = " ".join(asked.stderr.split()) or "no message"
            raise SlurmWorkersError(f"Slurm refuses a worker's job: {said}; see execution.slurm in the settings")

    def look(self) -> None:
        """Hand over again what was lost in the queue before it was a worker, which Dask would wait for without end.

        Raises: SlurmWorkersError: if that happens to job after job.
        """
        cluster: Any = self._cluster
        if cluster is None:
            return
        # Their ids alone: when it closes, Dask takes a job that somebody still holds for one that was not closed.
        jobs = {name: job.job_id for name, job in dict(cluster.workers).items()}
        try:
            known = self._queue.find([id for id in jobs.values() if id is not None])
        except QueueUnavailableError:
            return
        there = {worker.name for worker in list(cluster.scheduler.workers.values())}
        if there:
            self._n_lost = 0
        away = {name: id for name, id in jobs.items() if name not in there}
        gone = [id for id in away.values() if id and (id not in known or known[id].state is QueueState.ENDED)]
        refused = [name for name, id in away.items() if id is None]
        self._n_lost += len(gone)
        if refused:
            self._require_accepted(cluster.job_script())
        if self._n_lost >= LOST_MAX:
            raise SlurmWorkersError(
                f"{self._n_lost} jobs of Slurm ended before they were workers, the last one {self._last_words(gone)}"
            )
        if lost := [*refused, *(name for name, id in away.items() if id in gone)]:
            cluster.sync(cluster.scale_down, lost)

    def _last_words(self, ids: list[str]) -> str:
        """Of the last of these jobs: its id, its file and its last line."""
        file = self._folder / f"{JOB_NAME}-{ids[-1]}.err"
        said = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
        last = next((line.strip() for line in reversed(said) if line.strip()), "nothing")
        return f"{ids[-1]}; {file} ends: {last}"


def _require_fit(execution: ExecutionConfig, folder: Path) -> None:
    """Raises: SlurmWorkersError: for the first thing that is missing or does not fit."""
    if find_spec("dask_jobqueue") is None:
        raise SlurmWorkersError(
            "execution.task_runner is 'dask-slurm', but the package dask-jobqueue is not installed: "
            "pip install 'dask-jobqueue>=0.9,<0.10', or Hullward with its extra 'slurm'"
        )
    if missing := [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]:
        raise SlurmWorkersError(
            f"execution.task_runner is 'dask-slurm', but there is no {missing[0]} on this machine: start the run where "
            "jobs of Slurm can be submitted, or choose another task_runner"
        )
    interface, interfaces = execution.slurm.interface, sorted(psutil.net_if_addrs())
    if interface is not None and interface not in interfaces:
        raise SlurmWorkersError(
            f"execution.slurm.interface is {interface!r}, which this machine does not have: expected one of "
            f"{', '.join(interfaces)}"
        )
    if not PLAIN_PATH.fullmatch(str(folder)):
        raise SlurmWorkersError(
            f"execution.runs_folder lies at {str(folder.parent)!r}: expected letters, digits and _ / . + @ : , = -, "
            "since the head of a job script knows no quotes"
        )
    host = urlsplit(get_current_settings().api.url or "").hostname
    if interface != "lo" and (host is None or host in LOOPBACK):
        raise SlurmWorkersError(
            "workers in jobs of Slurm report to the run's Prefect server, which listens on this machine's loopback: "
            "set PREFECT_API_URL to a server that the compute nodes reach, or execution.slurm.interface to 'lo' where "
            "they are this machine"
        )
