"""Server, worker, deployments and reports as `make ui` starts them: real processes, a database of their own."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import shlex
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from dft.campaign.campaign import Campaign as JobsOfRun
from flows.servers.deployments import deployment_names
from flows.servers.environment import server_environment
from flows.servers.left_behind import processes_of_runs
from flows.servers.prefect_api import Api
from tests.flows.conftest import Campaign
from tests.flows.test_dft_jobs import DFT
from tests.servers.chromium import Page, browsing, chromium
from tests.servers.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240  # two busy cores; alone it takes a tenth

pytestmark = pytest.mark.slow

WAITER = """
import time
from prefect import flow

@flow
def waiter():
    time.sleep(3600)
"""


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "it has stopped"
        with contextlib.suppress(OSError):
            if found := what():
                return found
        time.sleep(0.2)
    raise AssertionError("waited in vain")


class Served:
    """A running `make ui`: its addresses and what it has said."""

    def __init__(self, folder: Path) -> None:
        for name in ("flows", "tasks", "configs", "generative", "dft", "storage", "prefect.yaml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "waiter.py").write_text(WAITER, encoding="utf-8")
        self.folder, self.port = folder, free_ports(2)
        self.begin()

    def begin(self) -> None:
        """Start it; returns when it has said that it is ready."""
        hidden = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.servers.serve", "--port", str(self.port)],
            cwd=self.folder,
            env={**hidden, "PREFECT_WORKER_QUERY_SECONDS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()
        wait_for(lambda: any("Ctrl-C" in line for line in self.said), self.process)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.said.extend(iter(process.stderr.readline, ""))

    @property
    def password(self) -> str:
        return (self.folder / ".prefect" / "auth").read_text(encoding="ascii").strip()

    @property
    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.port}/api", self.password)

    def child(self, word: str) -> psutil.Process:
        """The server or the worker."""
        return next(one for one in psutil.Process(self.process.pid).children() if word in " ".join(one.cmdline()))

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Of a deployment, the oldest first."""
        wanted = {"deployments": {"id": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
        return list(self.api.all("flow_runs", **wanted))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("checkout"))
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


def test_every_deployment_is_registered_as_written(served: Served) -> None:
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    found = {d["name"]: d for d in served.api("deployments/filter", {})}
    assert set(found) == {entry["name"] for entry in stated}
    for entry in stated:
        assert found[entry["name"]]["parameters"] == entry["parameters"]
        assert found[entry["name"]]["work_pool_name"] == "hullward"
        assert found[entry["name"]]["global_concurrency_limit"]["limit"] == 1
        strategy = "CANCEL_NEW" if entry["name"] == "collect" else "ENQUEUE"
        assert found[entry["name"]]["concurrency_options"]["collision_strategy"] == strategy
    assert [s["active"] for s in found["ternary"]["schedules"]] == [False]
    assert not [run for run in served.api("flow_runs/filter", {}) if run["state_type"] == "SCHEDULED"]


def test_the_form_of_a_run_describes_its_settings(served: Served) -> None:
    form = served.api("deployments/name/discover/ternary")["parameter_openapi_schema"]
    sample = form["definitions"]["RunSampleConfig"]["properties"]
    assert sample["n_candidates"]["description"] == "crystals to draw"
    assert sample["n_candidates"]["minimum"] == 1
    assert sample["generators"]["items"] == {"$ref": "#/definitions/GeneratorShare"}  # a list of forms


def test_an_interval_schedule_makes_runs(served: Served) -> None:
    # With SQLAlchemy 2.1 the server's scheduler fails at each turn and only its log says so.
    deployment = served.api("deployments/name/discover/quickstart")["id"]
    schedule = [{"schedule": {"interval": 86_400}, "active": True}]
    served.api(f"deployments/{deployment}/schedules", schedule)
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    runs = wait_for(lambda: served.api("flow_runs/filter", wanted), served.process)
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


def test_the_password_is_in_one_file_that_no_other_user_can_read(served: Served) -> None:
    home = served.folder / ".prefect"
    for file, mode in ((home, 0o700), (home / "auth", 0o600), (home / "env", 0o600)):
        assert stat.S_IMODE(file.stat().st_mode) == mode
    secret = served.password.partition(":")[2]
    assert len(secret) >= 32
    told = [secret, base64.b64encode(served.password.encode()).decode()]
    everything = [file for file in served.folder.rglob("*") if file.is_file() and file != home / "auth"]
    assert home / "logs" / "server.log" in everything
    for place in [*(file.read_text(errors="replace") for file in everything), *served.said]:
        assert not [word for word in told if word in place]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            assert secret not in " ".join(process.cmdline())


def test_prefects_commands_know_the_server_from_the_file_that_is_named(served: Served) -> None:
    shell = next(line.partition(". ")[2] for line in served.said if "deployment run" in line).partition(";")[0]
    prefect = shlex.quote(str(Path(sys.executable).parent / "prefect"))
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    listed = subprocess.run(
        ["sh", "-c", f". {shell}; {prefect} deployment ls"], env=hidden, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    assert "discover/ternary" in listed.stdout


def test_nobody_else_tells_the_server_anything(served: Served) -> None:
    body: dict[str, Any] = {"name": "foreign"}
    for password in (None, "hullward:wrong", served.password[:-1]):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            Api(served.api.url, password)("flows/", body)
    elsewhere = Origin("http://example.org")
    place = f"ws://127.0.0.1:{served.port}/api/events/in"
    with connect(place, subprotocols=[Subprotocol("prefect")], proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "token": "wrong"}))
        with pytest.raises(ConnectionClosed, match="1008"):
            socket.recv(timeout=30)
    with pytest.raises(InvalidStatus, match="403"), connect(place, origin=elsewhere, proxy=None):
        pass
    assert not served.api("flows/filter", {"flows": {"name": {"any_": ["foreign"]}}})


ATTACK = """(async (api, headers, cors) => {
  const post = (path, body) => fetch(api + path, {method: 'POST', body: body, headers: headers, mode: cors});
  const deployment = id => ({
    name: 'foreign', flow_id: id, work_pool_name: 'hullward', entrypoint: 'waiter.py:waiter',
    pull_steps: [{'prefect.deployments.steps.run_shell_script': {script: 'touch owned'}}]});
  const flow = await (await post('/flows/', JSON.stringify({name: 'foreign'}))).json();
  return (await (await post('/deployments/', JSON.stringify(deployment(flow.id)))).json()).name;
})"""
"""What makes a deployment whose pull step is a shell command."""

SIMPLE = """(async api => {
  const flow = JSON.stringify({name: 'foreign'});
  for (const body of [flow, new Blob([flow]), new Blob([flow], {type: 'text/plain'})])
    await fetch(api + '/flows/', {method: 'POST', mode: 'no-cors', body: body}).catch(() => 0);
  return 'sent';
})"""
"""What a browser sends without asking the server first; one of the three has no Content-Type, which Prefect takes."""


@contextlib.contextmanager
def foreign_page() -> Iterator[int]:
    """A web page of somebody else; the port of its server."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if chromium() is None:
        pytest.skip("no chromium: install Debian's package of that name to try the servers with a real browser")
    with browsing(tmp_path_factory.mktemp("browser"), "--host-resolver-rules=MAP *.test 127.0.0.1") as first:
        yield first


def test_a_page_of_another_origin_makes_no_deployment_and_the_ui_does(served: Served, page: Page) -> None:
    headers = {
        "Authorization": "Basic " + base64.b64encode(served.password.encode()).decode(),
        "Content-Type": "application/json",
    }

    def known() -> list[Any]:
        wanted = {"flows": {"name": {"any_": ["foreign"]}}}
        return [*served.api("flows/filter", wanted), *served.api("deployments/filter", wanted)]

    with foreign_page() as port:
        # One of another site, and one of another port of this machine; then with a name that points to this machine.
        for host in ("evil.test", "127.0.0.1"):
            page.go(f"http://{host}:{port}/")
            assert page.value("document.title") == "elsewhere"
            for given in ({"Content-Type": "application/json"}, headers):
                attack = f"{ATTACK}({json.dumps(served.api.url)}, {json.dumps(given)}, 'cors').catch(e => e.message)"
                assert page.value(attack) == "Failed to fetch"
            assert page.value(f"{SIMPLE}({json.dumps(served.api.url)})") == "sent"
            assert not known()
    for other in (served.port, served.port + 1):
        page.go(f"http://rebound.test:{other}/")
        assert "403" in page.text() or "another host" in page.text()
    # The same words from the UI's own page are understood.
    page.go(f"http://127.0.0.1:{served.port}/ui-settings")
    # Asked again where the server was busy and said 503.
    page.wait_for(f"{ATTACK}('/api', {json.dumps(headers)}, 'same-origin').then(name => name === 'foreign')")
    flow, deployment = known()
    served.api(f"deployments/{deployment['id']}", method="DELETE")
    served.api(f"flows/{flow['id']}", method="DELETE")


def test_both_uis_let_in_whoever_has_the_password_and_ask_no_other_server(served: Served, page: Page) -> None:
    page.go(f"http://127.0.0.1:{served.port}/")
    page.wait_for("document.querySelector('input') !== null")
    assert "Deployments" not in page.text()
    page.value("document.querySelector('input').focus()")
    page.type(served.password)
    page.wait_for("location.pathname.startsWith('/v2/') && document.body.innerText.includes('Deployments')")
    for ui in ("/v2", ""):
        page.go(f"http://127.0.0.1:{served.port}{ui}/deployments")
        page.wait_for("document.body.innerText.includes('adaptive-cell')")
        assert page.value("fetch('/api/health').then(reply => reply.status)") == 200
        with foreign_page() as port:  # who would hear it
            assert page.value(f"{ASK}('http://127.0.0.1:{port}/')") == ["Failed to fetch", "connect-src"]


ASK = """(async address => {
  const refused = new Promise(told => addEventListener('securitypolicyviolation', e => told(e.effectiveDirective)));
  return [await fetch(address, {mode: 'no-cors'}).then(() => 'answered', e => e.message), await refused];
})"""
"""What a page that may ask its own server alone cannot send."""


def states_of(served: Served, run: str) -> str:
    return str(served.api(f"flow_runs/{run}")["state_name"])


def started(served: Served, deployment: str, config: dict[str, Any]) -> str:
    id = wait_for(lambda: served.api(f"deployments/name/{deployment}"), served.process)["id"]
    body = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
    # A busy server answers 503; wait_for asks again.
    return str(wait_for(lambda: served.api(f"deployments/{id}/create_flow_run", body), served.process)["id"])


def test_a_deployed_run_is_suspended_until_its_jobs_have_ended_and_then_completes(
    served: Served, campaign: Campaign
) -> None:
    settings = json.loads(campaign.config(Path("runs"), dft={**DFT, "top_n": 1}).model_dump_json())
    run = started(served, "discover/ternary", settings)
    wait_for(lambda: states_of(served, run) in {"Suspended", "Failed", "Crashed"}, served.process)
    assert states_of(served, run) == "Suspended"
    schedules = wait_for(lambda: served.api("deployments/name/dft/collect"), served.process)["schedules"]
    assert [schedule["active"] for schedule in schedules] == [True]
    jobs = JobsOfRun.read(served.folder / "runs" / "tiny")
    wait_for(lambda: all((jobs.root / key / "record.json").exists() for key in jobs.keys), served.process)
    for _ in range(20):
        follower = started(served, "dft/collect", {"action": "collect"})
        wait_for(lambda id=follower: states_of(served, id) in {"Completed", "Failed", "Cancelled"}, served.process)
        # Cancelled: the schedule's own step was at work.
        assert states_of(served, follower) in {"Completed", "Cancelled"}
        if wait_for(lambda: states_of(served, run), served.process) != "Suspended":
            break
    wait_for(lambda: states_of(served, run) in {"Completed", "Failed"}, served.process)
    assert states_of(served, run) == "Completed"
    schedules = wait_for(lambda: served.api("deployments/name/dft/collect"), served.process)["schedules"]
    assert [schedule["active"] for schedule in schedules] == [False]
    keys = {artifact["key"] for artifact in served.api("artifacts/filter", {})}
    assert {"dft-jobs-tiny", "dft-hull-tiny"} <= keys
    tables = served.api("artifacts/filter", {"artifacts": {"key": {"any_": ["dft-jobs-tiny"]}}})
    assert len(tables) >= 2  # a version per step


def test_after_a_dead_server_its_run_has_crashed_and_of_each_schedules_late_runs_one_is_begun(served: Served) -> None:
    flow = served.api("flows/", {"name": "waiter"})["id"]
    place = {"prefect.deployments.steps.set_working_directory": {"directory": str(served.folder)}}
    wanted = {"name": "waiter", "flow_id": flow, "entrypoint": "waiter.py:waiter", "pull_steps": [place]}
    made = served.api("deployments/", {**wanted, "work_pool_name": "hullward", "concurrency_limit": 1})
    deployment = made["id"]
    first = served.api(f"deployments/{deployment}/create_flow_run", {})["id"]
    wait_for(lambda: served.api(f"flow_runs/{first}")["state_type"] == "RUNNING", served.process)
    assert [run for _, run in processes_of_runs(served.api.url)].count(first)
    served.api(f"deployments/{deployment}/schedules", [{"schedule": {"interval": 2}, "active": True}])
    wait_for(lambda: len(served.runs(deployment)) > 3, served.process)

    served.child("flows.servers.prefect_server").kill()
    assert served.process.wait(PATIENCE_S) == 1
    wait_for_all_said(served, "hullward: the server has stopped with exit code -9")
    assert not list(processes_of_runs(served.api.url))
    time.sleep(6)  # so that several runs are due that nobody begins
    stopped = datetime.now(UTC)

    served.begin()
    assert any("marked as crashed: 1 run that an earlier server left without a process" in s for s in served.said)
    assert served.api(f"flow_runs/{first}")["state_name"] == "Crashed"
    due = [r for r in served.runs(deployment) if r["id"] != first and begins(r) < stopped]
    assert len(due) >= 3
    assert [run["state_name"] for run in due].count("Skipped") >= len(due) - 1
    wait_for(lambda: "RUNNING" in {run["state_type"] for run in served.runs(deployment)}, served.process)
    # While it is at work, those that come due go on being skipped.
    now = datetime.now(UTC)
    wait_for(
        lambda: sum(r["state_name"] == "Skipped" and begins(r) > now for r in served.runs(deployment)) >= 2,
        served.process,
    )


def begins(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["expected_start_time"])


def wait_for_all_said(served: Served, sentence: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(sentence in line for line in served.said):
        assert time.monotonic() < deadline, served.said
        time.sleep(0.1)


def test_it_stops_with_everything_it_has_started(served: Served) -> None:
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert len(children) >= 2
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0
    assert not [child for child in children if child.is_running()]
    assert not list(processes_of_runs(served.api.url))
    with contextlib.closing(sqlite3.connect(served.folder / ".prefect" / "prefect.db")) as database:
        query = "SELECT count(*) FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING', 'CANCELLING')"
        assert database.execute(query).fetchone() == (0,)
    assert not (served.folder / ".prefect" / "env").exists()
    with pytest.raises(urllib.error.URLError):
        served.api("ready")


def test_deployments_are_named_by_flow_and_preset() -> None:
    assert deployment_names(ROOT / "prefect.yaml")[:2] == ["discover/quickstart", "discover/ternary"]


def test_the_servers_environment_keeps_to_this_machine_and_sends_nothing() -> None:
    inherited = {"PREFECT_SERVER_ANALYTICS_ENABLED": "true", "PREFECT_API_URL": "https://elsewhere", "HOME": "/x"}
    environment = server_environment(Path("/x/.prefect"), 4200, inherited, "user:password")
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_HOME"] == "/x/.prefect"
