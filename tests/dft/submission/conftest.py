"""Jobs of a second or less that behave as told, in folders as dft.run_job wants them; local processes and a Slurm."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dft.submission.config import SubmissionConfig
from dft.submission.submitter import Step, Submitter
from tests.servers.slurm import slurm, slurm_daemons

__all__ = ["slurm", "slurm_daemons"]

PATIENCE_S = 240  # two busy cores, and the clock of Slurm, which looks every half minute; most take a few seconds

BEHAVING_JOB = Path(__file__).parent / "behaving_job.py"


class Jobs:
    """A root with job folders. A job does what its folder says; a run of it is noted in runs.txt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def add(self, **behaviour: Any) -> str:
        """A job folder; behaviour: `seconds` it takes, `fails` first so many times, `dies` by this signal."""
        key = hashlib.sha256(str(len(list(self.root.iterdir()))).encode()).hexdigest()[:24]
        folder = self.root / key
        folder.mkdir()
        (folder / "job.json").write_text(json.dumps({"schema_version": "1", "key": key, "behaviour": behaviour}))
        return key

    def runs(self, key: str) -> int:
        """How often a job was begun."""
        file = self.root / key / "runs.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def config(self, queue: str = "local", **settings: Any) -> SubmissionConfig:
        quick: dict[str, Any] = {
            "queue": queue,
            "job_command": (sys.executable, str(BEHAVING_JOB), "{folder}"),
            "walltime_s": 60,
            "poll_s": 0.1,
            "poll_max_s": 0.5,
            "settle_s": 0.2,
            "heartbeat_s": 0.3,
            "vanished_s": 1.5,
        }
        return SubmissionConfig(**{**quick, **settings})

    def submitter(self, queue: str = "local", **settings: Any) -> Submitter:
        return Submitter(self.root, self.config(queue, **settings))

    def finish(self, submitter: Submitter, keys: list[str]) -> Step:
        step = submitter.wait(keys, timeout_s=PATIENCE_S)
        assert not step.n_open, step
        return step

    def controller(self, keys: list[str], queue: str = "local", **settings: Any) -> subprocess.Popen[bytes]:
        """A controller in a process of its own, to be killed."""
        config = self.config(queue, **settings).model_dump_json()
        code = (
            "import sys; from pathlib import Path\n"
            "from dft.submission.config import SubmissionConfig; from dft.submission.submitter import Submitter\n"
            "config = SubmissionConfig.model_validate_json(sys.argv[2])\n"
            "Submitter(Path(sys.argv[1]), config).wait(sys.argv[3:])\n"
        )
        return subprocess.Popen([sys.executable, "-c", code, str(self.root), config, *keys], cwd=os.getcwd())


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")


def until(there: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not there():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
