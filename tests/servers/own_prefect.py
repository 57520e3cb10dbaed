"""A Prefect server of a test's own, on loopback, with a database of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.servers.environment import server_environment
from flows.servers.prefect_api import Api
from flows.servers.services import listening_on, start_server, wait_until_ready


@dataclass(frozen=True)
class OwnServer:
    """A server that answers.

    Attributes:
        environment: of its clients.
        process: its own.
    """

    environment: dict[str, str]
    process: psutil.Process

    @property
    def api(self) -> Api:
        """How it is asked."""
        return Api.of(self.environment)

    def n_completed(self, flow_run_id: str) -> int:
        """Task runs of a flow run that it has recorded as completed."""
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        wanted["task_runs"] = {"state": {"type": {"any_": ["COMPLETED"]}}}
        return int(self.api("task_runs/count", wanted, timeout_s=120))


@contextmanager
def own_server(home: Path, more: Mapping[str, str] | None = None) -> Iterator[OwnServer]:
    """A server until the end of the block.

    Args:
        home: folder of its database and logs.
        more: further variables of its environment.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    listener = listening_on(0)
    environment = server_environment(home, listener.getsockname()[1], inherited, None)
    server = start_server(listener, {**environment, **(more or {})}, home / "logs")
    try:
        wait_until_ready(Api.of(environment), server)
        yield OwnServer(environment, psutil.Process(server.process.pid))
    finally:
        server.stop()
