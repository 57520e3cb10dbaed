"""Servers of several commands that begin at once in one folder."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from flows.servers.environment import server_environment
from flows.servers.prefect_api import Api
from flows.servers.services import listening_on, start_server, wait_until_ready


def test_servers_of_commands_that_begin_at_once_in_a_new_folder_all_answer(tmp_path: Path) -> None:
    """Each would make the database that they share, and one that finds it half made does not start."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with ExitStack() as stack:
        begun = []
        for number in range(3):
            listener = listening_on(0)
            environment = server_environment(tmp_path, listener.getsockname()[1], inherited, None)
            server = start_server(listener, environment, tmp_path / f"logs-{number}")
            stack.callback(server.stop)
            begun.append((Api.of(environment), server))
        for api, server in begun:
            wait_until_ready(api, server)
            assert api("flow_runs/filter", {"limit": 1}) == []
