"""Prefect server, worker and UI on this machine, and the reports of the runs beside them: `make ui`.

All on loopback. The server's database and the logs are in .prefect; Ctrl-C or SIGTERM stops everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from flows.deployments import POOL, DeployError, deploy_all
from flows.environment import HOST, server_environment
from flows.run_files import report_server

READY_S = 180.0
STOP_S = 10.0


class ServeError(RuntimeError):
    """The server cannot be started, or has stopped."""


def require_free(port: int) -> None:
    """Raises: ServeError: if another program listens on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise ServeError(
                f"port {port} of {HOST} is taken: stop the program that has it, or choose another: "
                f"make ui PORT={port + 10}"
            ) from None


def _default_signals() -> None:
    """A child started in the background of a script would ignore SIGINT, and Prefect's worker with it SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Service:
    """A Prefect process with its log; in a session of its own, so that Ctrl-C ends it in our order, not at random."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name, self.log = name, logs / f"{name}.log"
        logs.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_default_signals,
            )

    def require_running(self) -> None:
        """Raises: ServeError: if the process has ended; the message ends with its last words."""
        if self.process.poll() is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
            raise ServeError(
                f"the {self.name} has stopped with exit code {self.process.returncode}; {self.log}: {last}"
            )

    def stop(self) -> None:
        """End the process and all it has started."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        # The group outlives its leader while a run's process is in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _request(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    # No proxy stands between this machine and itself.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as reply:
        return json.loads(reply.read() or b"null")


def wait_until_ready(api: str, server: Service) -> None:
    """Return when the server answers. Raises: ServeError: if it ends, or is silent for READY_S."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        server.require_running()
        with contextlib.suppress(urllib.error.URLError, OSError):
            _request(f"{api}/ready")
            return
        time.sleep(0.5)
    raise ServeError(f"the server did not answer within {READY_S:.0f} s; its log is {server.log}")


def end_runs(api: str) -> int:
    """Mark runs that the stopped worker took with it as crashed; they would count as running for ever. Their number."""
    states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    body = {"flow_runs": states, "work_pools": {"name": {"any_": [POOL]}}}
    runs = _request(f"{api}/flow_runs/filter", body)
    for run in runs:
        state = {"type": "CRASHED", "name": "Crashed", "message": "the worker was stopped; a rerun skips what is done"}
        _request(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    return len(runs)


def serve(port: int, folder: Path, stopped: threading.Event) -> None:
    """Run everything until `stopped` is set.

    Args:
        port: of the server; the reports are on the next one.
        folder: the checkout.
        stopped: set by whoever wants an end.

    Raises: ServeError, DeployError: if something cannot be started or stops by itself.
    """
    for wanted in (port, port + 1):
        require_free(wanted)
    home, runs = folder / ".prefect", folder / "runs"
    reports = f"http://{HOST}:{port + 1}"
    environment = {**server_environment(home, port, os.environ), "HULLWARD_REPORTS_URL": reports}
    api = environment["PREFECT_API_URL"]
    runs.mkdir(exist_ok=True)
    _say("starting the server (some seconds, the first time more) ...")
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(report_server(runs, port + 1))
        threading.Thread(target=files.serve_forever, daemon=True).start()
        stack.callback(files.shutdown)
        server = Service("server", ["server", "start", "--host", HOST, "--port", str(port)], environment, home / "logs")
        stack.callback(server.stop)
        wait_until_ready(api, server)
        names = deploy_all(folder, environment)
        worker = Service("worker", ["worker", "start", "--pool", POOL, "--limit", "1"], environment, home / "logs")
        stack.callback(_finish_runs, api)
        stack.callback(worker.stop)
        _say(
            f"UI       http://{HOST}:{port}\nreports  {reports}\nlogs     {home / 'logs'}\n\n"
            f"start a run in the UI, or:  PREFECT_API_URL={api} {Path(sys.executable).parent / 'prefect'} "
            f"deployment run {names[0]} --watch\nCtrl-C stops everything"
        )
        while not stopped.wait(1.0):
            server.require_running()
            worker.require_running()
        _say("stopping ...")


def _finish_runs(api: str) -> None:
    with contextlib.suppress(urllib.error.URLError, OSError):
        if n := end_runs(api):
            _say(f"{n} unfinished runs are marked as crashed; started again, they skip what is done")


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the checkout in the current folder; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="flows.serve", description="Prefect server, worker, UI and reports on loopback"
    )
    parser.add_argument("--port", type=int, default=4200, help="of the server and its UI; reports are on the next one")
    port = parser.parse_args(arguments).port
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        serve(port, Path.cwd(), stopped)
    except (ServeError, DeployError) as error:
        _say(f"hullward: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
