"""The command line as a client of Prefect: of the server that is named, or of one of its own while it runs."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flows.cli.console import INTERRUPTED, say
from flows.cli.stopping import end_children, told_to_end
from flows.servers.environment import OF_SERVER_ALONE, SECRET, SQLITE, be_quiet, home_settings, server_environment
from flows.servers.prefect_api import Api
from flows.servers.prefect_password import announced_server, new_password
from flows.servers.services import Service, listening_on, start_server, wait_until_ready

if TYPE_CHECKING:
    from prefect import Flow

P = ParamSpec("P")
R = TypeVar("R")

MARK_S = 5.0
"""Longest wait for the server to take down that the run has crashed."""

OF_THE_MOMENT = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_UI_ENABLED": "false",
    # The server of a short run is stopped while it still writes records; what it says then is of no use to anyone.
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
}
"""Settings of a server that serves one command: no page and no schedule."""


class Client:
    """One run of a flow, from the command line."""

    def __init__(self) -> None:
        self._server: Service | None = None
        self._api: Api | None = None
        self._run_id: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """A worker in another process is sent the flow with its hooks, of which this is one: nothing of the server."""
        return {"_server": None, "_api": None, "_run_id": self._run_id}

    def run(self, flow: Flow[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Carry out a flow here. Raises: what the flow raises; ServeError: if the own server does not start."""
        if self._server is not None and self._api is not None:
            wait_until_ready(self._api, self._server)
        return flow.with_options(on_running=[self.know])(*args, **kwargs)

    def know(self, flow: Any, flow_run: Any, state: Any) -> None:
        """The run whose state is to be told when this process ends early; a hook of Prefect."""
        self._run_id = flow_run.id

    def start_server(self) -> None:
        """Begin to start a server; it is ready when `run` needs it, and stops after Prefect has sent all it has."""
        home = Path(os.environ.get("PREFECT_HOME", Path.cwd() / ".prefect"))
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = listening_on(0)
        environment = server_environment(home, listener.getsockname()[1], os.environ, new_password())
        # Prefect's own work at the end of the process comes first: it registers later.
        self._server = start_server(listener, {**environment, **OF_THE_MOMENT}, home / "logs")
        atexit.register(self._server.stop)
        self._api = Api.of(environment)
        for name in ("PREFECT_API_URL", SECRET[1], *SQLITE, *home_settings(home)):
            os.environ[name] = environment[name]
        for name in OF_SERVER_ALONE:
            os.environ.pop(name, None)
        os.environ["PREFECT_UI_URL"] = ""  # there is no page to point to
        if "prefect" in sys.modules:
            from prefect.context import refresh_global_settings_context

            refresh_global_settings_context()

    def look(self) -> None:
        """End this process if its own server has gone: Prefect would ask it again for hours."""
        if self._server is not None and (code := self._server.process.poll()) is not None:
            say(f"hullward: the run's own Prefect server ended with exit code {code}; the same command goes on")
            end_children()
            os._exit(1)

    def end(self, number: int) -> None:
        """End this process on a signal, its run marked as crashed."""
        name = signal.Signals(number).name
        marking = threading.Thread(target=self._mark_crashed, args=(name,), daemon=True)
        marking.start()
        marking.join(MARK_S)
        end_children()
        what = "interrupted" if number == signal.SIGINT else f"stopped by {name}"
        say(f"hullward: {what}; the same command goes on from what is done")
        sys.stderr.flush()
        os._exit(INTERRUPTED if number == signal.SIGINT else 128 + number)

    def _mark_crashed(self, name: str) -> None:
        if self._run_id is None:
            return
        message = f"stopped by {name}; a rerun skips what is done"
        if self._api is not None:
            self._api.set_state(str(self._run_id), "CRASHED", "Crashed", message)
            return
        from prefect.client.orchestration import get_client
        from prefect.states import Crashed

        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self._run_id, Crashed(message=message), force=True)


def names_a_server() -> bool:
    """Whether the environment, a profile or a settings file of the user says which server to use."""
    if "PREFECT_API_URL" in os.environ:
        return True
    marks = {".env": "PREFECT_", "prefect.toml": "", "pyproject.toml": "[tool.prefect"}
    files = [(Path(name), mark) for name, mark in marks.items()]
    stated = any(file.is_file() and mark in file.read_text("utf-8", "replace") for file, mark in files)
    if not stated and "PREFECT_PROFILE" not in os.environ and not (Path.home() / ".prefect/profiles.toml").is_file():
        return False
    from prefect.settings import get_current_settings

    return get_current_settings().api.url is not None


@contextmanager
def prefect_client() -> Iterator[Client]:
    """A quiet client of Prefect; without a server to talk to, one that starts its own for the while.

    Within it a signal to stop ends the process: SIGTERM with exit code 143, SIGINT with 130.
    """
    be_quiet()
    client = Client()
    with told_to_end(client.end, client.look):
        if not names_a_server():
            client.start_server()
        elif SECRET[1] not in os.environ:
            announced = announced_server(Path(".prefect"))
            if announced and announced["PREFECT_API_URL"] == os.environ.get("PREFECT_API_URL"):
                os.environ.update(announced)
        yield client
