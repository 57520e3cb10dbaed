"""Server, worker, deployments and reports as `make ui` starts them: real processes, a database of their own."""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.deployments import deployment_names
from flows.environment import server_environment

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240  # two busy cores; alone it takes a tenth

pytestmark = pytest.mark.slow


def free_ports() -> int:
    """The first of two free neighbouring ports."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def request(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=20) as reply:
        return json.loads(reply.read() or b"null")


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "it has stopped"
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if found := what():
                return found
        time.sleep(0.5)
    raise AssertionError("waited in vain")


class Served:
    """A running `make ui`: its addresses and what it has said."""

    def __init__(self, folder: Path) -> None:
        for name in ("flows", "tasks", "configs", "generative", "dft", "prefect.yaml"):
            (folder / name).symlink_to(ROOT / name)
        self.folder, self.port = folder, free_ports()
        self.api = f"http://127.0.0.1:{self.port}/api"
        hidden = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--port", str(self.port)],
            cwd=folder,
            env=hidden,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(iter(self.process.stderr.readline, ""))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("checkout"))
    try:
        wait_for(lambda: any("Ctrl-C" in line for line in running.said), running.process)
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


def test_every_deployment_is_registered_as_written(served: Served) -> None:
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    found = {d["name"]: d for d in request(f"{served.api}/deployments/filter", {})}
    assert set(found) == {entry["name"] for entry in stated}
    for entry in stated:
        assert found[entry["name"]]["parameters"] == entry["parameters"]
        assert found[entry["name"]]["work_pool_name"] == "hullward"
        assert found[entry["name"]]["global_concurrency_limit"]["limit"] == 1
        assert found[entry["name"]]["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert [s["active"] for s in found["ternary"]["schedules"]] == [False]
    assert not [run for run in request(f"{served.api}/flow_runs/filter", {}) if run["state_type"] == "SCHEDULED"]


def test_the_form_of_a_run_describes_its_settings(served: Served) -> None:
    form = request(f"{served.api}/deployments/name/discover/ternary")["parameter_openapi_schema"]
    sample = form["definitions"]["SampleConfig"]["properties"]
    assert sample["n_candidates"]["description"] == "crystals to draw"
    assert sample["n_candidates"]["minimum"] == 1


def test_an_interval_schedule_makes_runs(served: Served) -> None:
    # With SQLAlchemy 2.1 the server's scheduler fails at each turn and only its log says so.
    deployment = request(f"{served.api}/deployments/name/discover/quickstart")["id"]
    schedule = [{"schedule": {"interval": 86_400}, "active": True}]
    request(f"{served.api}/deployments/{deployment}/schedules", schedule)
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    runs = wait_for(lambda: request(f"{served.api}/flow_runs/filter", wanted), served.process)
    assert all(run["auto_scheduled"] for run in runs)
    assert runs[0]["parameters"]["config"]["name"] == "quickstart"


def test_the_server_is_reached_on_loopback_only_and_keeps_its_files_in_the_checkout(served: Served) -> None:
    assert (served.folder / ".prefect" / "prefect.db").is_file()
    started = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children(recursive=True)]
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in started
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert {port for _, port in listening} >= {served.port, served.port + 1}


def test_it_stops_with_everything_it_has_started(served: Served) -> None:
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert len(children) >= 2
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0
    assert not [child for child in children if child.is_running()]
    with pytest.raises(urllib.error.URLError):
        request(f"{served.api}/ready")


def test_deployments_are_named_by_flow_and_preset() -> None:
    assert deployment_names(ROOT / "prefect.yaml")[:2] == ["discover/quickstart", "discover/ternary"]


def test_the_servers_environment_keeps_to_this_machine_and_sends_nothing() -> None:
    inherited = {"PREFECT_SERVER_ANALYTICS_ENABLED": "true", "PREFECT_API_URL": "https://elsewhere", "HOME": "/x"}
    environment = server_environment(Path("/x/.prefect"), 4200, inherited)
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_HOME"] == "/x/.prefect"
