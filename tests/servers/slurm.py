"""A Slurm of one node for tests: munged, slurmctld and slurmd of Debian's packages, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.servers.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
UP_S = 120.0  # busy cores; alone it takes seconds

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SlurmctldPort={port}
SlurmdPort={node_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
KillWait=2
OverTimeLimit=0
MinJobAge={min_job_age_s}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def reason_to_skip() -> str:
    """Why there can be no Slurm here; empty if there can."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm slurm-client munge"
    if os.geteuid() != 0:
        return "Slurm's daemons change users, which needs root"
    return ""


class Slurm:
    """The daemons. Commands find them by SLURM_CONF."""

    def __init__(self, folder: Path, cpus: int = 2, min_job_age_s: int = 3600) -> None:
        self.folder = folder
        for name in ("run", "log", "state", "spool", "munge"):
            (folder / name).mkdir(parents=True)
        for name in ("munge", "log"):
            (folder / name).chmod(0o700)
        self.config = folder / "slurm.conf"
        self.host = socket.gethostname().partition(".")[0]
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                host=self.host,
                port=free_ports(),
                node_port=free_ports(),
                cpus=cpus,
                min_job_age_s=min_job_age_s,
            )
        )
        key = folder / "munge" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.environment = {**os.environ, "SLURM_CONF": str(self.config)}
        self.environment["PATH"] += os.pathsep + "/usr/sbin"

    def start(self) -> None:
        place = self.folder
        self.run(
            *("munged", "--force", f"--socket={place}/run/munge.socket", f"--key-file={place}/munge/munge.key"),
            *(f"--log-file={place}/log/munged.log", f"--pid-file={place}/run/munged.pid"),
            f"--seed-file={place}/munge/munge.seed",
        )
        self.start_controller()
        self.start_node()
        self.until(lambda: self.node_state() == "idle")

    def start_controller(self) -> None:
        self.run("slurmctld", "-f", str(self.config))

    def start_node(self) -> None:
        self.run("slurmd", "-f", str(self.config), "-N", self.host)

    def stop(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            self.run("scancel", "--user=root", "--signal=KILL")
        # Whatever was started here names this folder in its command line: daemons, and steps of a node that was killed.
        for process in psutil.process_iter(["cmdline", "environ"]):
            words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
            is_ours = any(str(self.folder) in text for text in (*words, environment.get("SLURM_CONF", "")))
            if is_ours and process.name() in {"slurmd", "slurmctld", "slurmscriptd", "munged", "slurmstepd"}:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def kill(self, daemon: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon by its pid file."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "run" / f"{daemon}.pid").read_text()), number)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60, cwd=self.folder
        )
        return done.stdout.strip()

    def node_state(self) -> str:
        with contextlib.suppress(subprocess.CalledProcessError):
            return self.run("sinfo", "--noheader", "--format=%T")
        return "no answer"

    def until(self, there: object, patience_s: float = UP_S) -> None:
        assert callable(there)
        deadline = time.monotonic() + patience_s
        while not there():
            assert time.monotonic() < deadline, f"waited in vain; sinfo: {self.node_state()}"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def slurm(slurm_daemons: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A running Slurm which this process's commands talk to."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_daemons.config))
    if slurm_daemons.node_state().startswith("drain"):  # by the fault of an earlier test
        slurm_daemons.run("scontrol", "update", f"nodename={slurm_daemons.host}", "state=resume")
    yield slurm_daemons
    slurm_daemons.run("scancel", "--user=root")
    slurm_daemons.until(lambda: not slurm_daemons.run("squeue", "--noheader"))
