"""Commands that are told to end, or killed: the run has crashed, nothing lives on, the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240  # busy cores; alone it takes a twentieth

pytestmark = pytest.mark.slow

ENDLESS = {"max_steps": 100_000, "fmax_ev_per_ang": 1e-12, "chunk_size": 4}
"""Settings of a relaxation that is at work for as long as the test lasts."""

WAITING = """
import sys, threading
from pathlib import Path
from flows.cli.prefect_client import prefect_client
with prefect_client() as client:
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    @task
    def wait():
        Path("waiting").touch()
        threading.Event().wait()

    @flow(name="waiter")
    def waiter():
        with ThreadPoolTaskRunner(max_workers=1) as runner:
            runner.submit(wait, {}).result()

    client.run(waiter)
"""
"""A flow on a server of its own, as a command starts it, whose thread never ends."""


def wait_for(there: Callable[[], Any], log: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if there():
            return
        assert process is None or process.poll() is None, log.read_text(errors="replace")[-2000:]
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {log.read_text(errors='replace')[-2000:]}")


class Command:
    """A command in a folder, without a server to talk to: it starts its own, in the folder's .prefect."""

    def __init__(self, arguments: list[str], folder: Path, home: Path) -> None:
        self.folder, self.home, self.log = folder, home, folder / "log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        cache = os.environ.get("XDG_CACHE_HOME", str(Path("~/.cache").expanduser()))  # of compiled code
        places = {"PREFECT_HOME": str(home), "HOME": str(folder), "XDG_CACHE_HOME": cache}
        environment = {**kept, **places, "PYTHONPATH": str(ROOT)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, pattern: str) -> None:
        wait_for(lambda: any(True for _ in self.folder.glob(pattern)), self.log, self.process)

    def others(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def server(self) -> psutil.Process:
        return next(one for one in self.others() if "flows.servers.prefect_server" in one.cmdline())

    def last_state(self) -> str:
        """Of the youngest run, as the server's database has it when the server is gone."""
        with contextlib.closing(sqlite3.connect(self.home / "prefect.db")) as database:
            return str(database.execute("SELECT state_type FROM flow_run ORDER BY created DESC LIMIT 1").fetchone()[0])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the database is made once."""
    return tmp_path_factory.mktemp("home") / ".prefect"


@pytest.fixture
def start(tmp_path: Path, home: Path) -> Iterator[Callable[..., Command]]:
    """Starts a command; whatever is left of it at the end is killed."""
    started: list[Command] = []

    def begin(*arguments: str) -> Command:
        started.append(Command(list(arguments), tmp_path, home))
        return started[-1]

    yield begin
    for command in started:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(tmp_path):
                    process.kill()
        command.process.wait()


def tell_everybody(command: Command) -> None:
    """Slurm signals every process of a step, and a container's end reaches all of its processes: the server too."""
    everybody = [psutil.Process(command.process.pid), *command.others()]
    assert len(everybody) >= 2
    for process in everybody:
        process.send_signal(signal.SIGTERM)


def ended(command: Command, servers: list[psutil.Process]) -> str:
    """The command's last line, once it and its server are gone."""
    command.process.wait(PATIENCE_S)
    wait_for(lambda: not any(server.is_running() for server in servers), command.log)
    return command.log.read_text(errors="replace").rstrip("\n").split("\n")[-1]


def hullward(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


STOPPED = "hullward: stopped by SIGTERM; the same command goes on from what is done"


def test_a_discovery_whose_processes_are_all_told_to_end_has_crashed_and_its_rerun_heals_it(
    campaign: Any, start: Callable[..., Command], tmp_path: Path, finished: Any
) -> None:
    settings, runs = tmp_path / "settings.yaml", tmp_path / "runs"
    settings.write_text(campaign.config(runs, relax=ENDLESS).model_dump_json(), encoding="utf-8")
    command = start(*hullward("discover", str(settings)))
    wait_for(lambda: "Task run 'unique" in command.log.read_text(), command.log, command.process)
    servers = [command.server()]
    tell_everybody(command)
    assert ended(command, servers) == STOPPED
    assert command.process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in command.log.read_text()
    assert command.last_state() == "CRASHED"
    settings.write_text(campaign.config(runs).model_dump_json(), encoding="utf-8")
    again = start(*hullward("discover", str(settings)))
    assert again.process.wait(PATIENCE_S) == 0
    assert again.last_state() == "COMPLETED"
    table = "candidates.parquet"
    assert (runs / "tiny" / table).read_bytes() == (finished.folder / table).read_bytes()


def test_a_modification_that_timeout_ends_has_crashed(campaign: Any, start: Callable[..., Command]) -> None:
    changes = {"relax.max_steps": ENDLESS["max_steps"], "relax.fmax_ev_per_ang": ENDLESS["fmax_ev_per_ang"]}
    changes |= {"sample.n_steps": 5, "relax.potential": "CHGNet", "execution.device": "cpu"}
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    crystal, checkpoint = campaign.folder / "cifs" / "AlNi.cif", str(campaign.checkpoint)
    modify = hullward("modify", str(crystal), "-n", "4", "--checkpoint", checkpoint, *settings)
    # In the foreground it hands a signal to the command alone, as when its time is up.
    command = start("timeout", "--foreground", "-s", "TERM", "3600", *modify)
    command.wait_for("runs/**/*.parquet")
    servers = [command.server()]
    command.process.send_signal(signal.SIGTERM)
    assert ended(command, servers) == STOPPED
    assert command.process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in command.log.read_text()
    assert command.last_state() == "CRASHED"


def test_a_client_that_is_killed_leaves_no_server(start: Callable[..., Command]) -> None:
    command = start(sys.executable, "-c", WAITING)
    command.wait_for("waiting")
    servers = [command.server()]
    command.process.kill()
    ended(command, servers)


def test_a_client_whose_own_server_is_killed_ends_with_a_sentence(start: Callable[..., Command]) -> None:
    command = start(sys.executable, "-c", WAITING)
    command.wait_for("waiting")
    command.server().kill()
    said = ended(command, [])
    assert said == "hullward: the run's own Prefect server ended with exit code -9; the same command goes on"
    assert command.process.returncode == 1
