"""Prefect server, worker and UI on this machine, and the reports of the runs beside them: `make ui`.

All on loopback. The server's database, its password and the logs are in .prefect; Ctrl-C or SIGTERM stops everything.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from flows.servers.deployments import POOL, DeployError, deploy_all
from flows.servers.environment import HOST, DatabaseAddressError, server_environment, without_database
from flows.servers.left_behind import end_processes, end_runs, free_slots, skip_late
from flows.servers.prefect_api import Api
from flows.servers.prefect_password import PASSWORD, password_of, write_environment
from flows.servers.run_files import report_server
from flows.servers.services import ServeError, Service, listening_on, start_server, wait_until_ready
from storage.wording import amount

LATE_RUNS_EVERY_S = 10.0


def serve(port: int, folder: Path, stopped: threading.Event) -> None:
    """Run everything until `stopped` is set.

    Args:
        port: of the server; the reports are on the next one.
        folder: the checkout.
        stopped: set by whoever wants an end.

    Raises: ServeError, DeployError: if something cannot be started or stops by itself.
    """
    listener = listening_on(port)
    listening_on(port + 1).close()
    home, runs = folder / ".prefect", folder / "runs"
    reports = f"http://{HOST}:{port + 1}"
    environment = {
        **server_environment(home, port, os.environ, password_of(home)),
        "HULLWARD_REPORTS_URL": reports,
    }
    api = Api.of(environment)
    runs.mkdir(exist_ok=True)
    _say("starting the server (some seconds, the first time more) ...")
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(report_server(runs, port + 1))
        threading.Thread(target=files.serve_forever, daemon=True).start()
        stack.callback(files.shutdown)
        server = start_server(listener, environment, home / "logs")
        stack.callback(server.stop)
        environment = without_database(environment)
        wait_until_ready(api, server)
        _tidy(api)
        names = deploy_all(folder, environment)
        worker_command = ["-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
        worker = Service("worker", worker_command, environment, home / "logs")
        stack.callback(_finish_runs, api)
        stack.callback(worker.stop)
        shell = write_environment(home, api.url)
        stack.callback(shell.unlink, missing_ok=True)
        prefect = Path(sys.executable).parent / "prefect"
        _say(
            f"UI       http://{HOST}:{port}, which asks for the password in {home / PASSWORD}\n"
            f"reports  {reports}\nlogs     {home / 'logs'}\n\n"
            f"start a run in the UI, or:  . {shlex.quote(str(shell))}; {shlex.quote(str(prefect))} "
            f"deployment run {names[0]} --watch\nCtrl-C stops everything"
        )
        looked_s = time.monotonic()
        while not stopped.wait(1.0):
            server.require_running()
            worker.require_running()
            if time.monotonic() - looked_s > LATE_RUNS_EVERY_S:
                looked_s = time.monotonic()
                with contextlib.suppress(OSError):  # a busy server is asked again
                    skip_late(api)
        _say("stopping ...")


def _tidy(api: Api) -> None:
    """What an earlier server left behind when it or this machine died."""
    if n := end_runs(api):
        left = amount(n, "run")
        _say(f"marked as crashed: {left} that an earlier server left without a process; to be begun again")
    free_slots(api)
    if n := skip_late(api):
        due = amount(n, "scheduled run was", "scheduled runs were")
        _say(f"{due} due while no server ran: of each schedule the last one is begun")


def _finish_runs(api: Api) -> None:
    end_processes(api.url)
    with contextlib.suppress(OSError):
        if n := end_runs(api):
            _say(f"{n} unfinished runs are marked as crashed; started again, they skip what is done")


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the checkout in the current folder; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="flows.servers.serve", description="Prefect server, worker, UI and reports on loopback"
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
    except (ServeError, DeployError, DatabaseAddressError, OSError) as error:
        _say(f"hullward: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
