"""The flow `ingest` with a database on loopback and a real Prefect server: what it leaves, and what it never shows."""

from __future__ import annotations

import base64
import csv
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from configs.ingest import IngestConfig
from flows.cli.main import app
from generative.datasets.manifest import check_dataset
from tests.flows.conftest import prefect_client
from tests.servers import materials_project
from tests.servers.faults import FaultProxy, Stall, Status
from tests.servers.materials_project import MaterialsProjectServer

ROOT = Path(__file__).resolve().parents[2]
KEY = "Zq7+/Planted%Key=NobodyShouldSee"
"""As long as a real one, and of characters that change when they are percent-encoded or quoted."""

N_RECORDS, PAGE_SIZE = 120, 40
runner = CliRunner()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MaterialsProjectServer]:
    monkeypatch.setattr(materials_project, "KEY", KEY)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with MaterialsProjectServer(N_RECORDS) as running:
        yield running
        assert running.errors == []


def settings(url: str, folder: Path, refresh: bool = False, **source: Any) -> IngestConfig:
    stated = {"kind": "materials-project", "endpoint": url, "page_size": PAGE_SIZE, "requests_per_second": 1000}
    stated |= {"attempts": 2, "backoff_s": 0.01, **source}
    return IngestConfig.model_validate(
        {
            "name": "tiny",
            "data": {"sources": [stated], "refresh": refresh},
            "execution": {"runs_folder": str(folder / "runs")},
        }
    )


class Finished:
    """A flow run that has ended: its state, and what the workflow server keeps of it."""

    def __init__(self, environment: dict[str, str], state: Any) -> None:
        self.state, self.api = state, environment["PREFECT_API_URL"]
        self.run_id = str(state.state_details.flow_run_id)

    def of(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        body = {"flow_runs": {"id": {"any_": [self.run_id]}}, **filters}
        request = urllib.request.Request(
            f"{self.api}/{what}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            found: list[dict[str, Any]] = json.load(reply)
            return found

    def until(self, ready: Callable[[], Any]) -> Any:
        """What `ready` finds; the server writes its records a moment after the run."""
        deadline = time.monotonic() + 240
        while not (found := ready()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.2)
        return found

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Task runs by name, without the digits that Prefect puts behind one."""
        return {re.sub(r"-[0-9a-f]{3}$", "", run["name"]): run for run in self.of("task_runs")}

    def logged(self) -> str:
        filters = {"logs": {"flow_run_id": {"any_": [self.run_id]}}}
        return "\n".join(entry["message"] for entry in self.of("logs", **filters))


@contextmanager
def client(environment: dict[str, str]) -> Iterator[None]:
    """As prefect_client, with the tasks' logs sent to the server, as they are outside of tests."""
    from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    with prefect_client(environment), temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        yield


def run(environment: dict[str, str], config: IngestConfig) -> Finished:
    from flows.ingest import ingest

    with client(environment):
        return Finished(environment, ingest(config, return_state=True))


def places(key: str) -> list[bytes]:
    """The key as it might stand in a file: plain, percent-encoded, in JSON, in base64 at each of its three phases."""
    raw = key.encode()
    coded = [base64.b64encode(b"\0" * phase + raw)[(0, 2, 3)[phase] : -4] for phase in range(3)]
    return [
        raw,
        quote(key).encode(),
        quote(key, safe="").encode(),
        json.dumps(key).encode(),
        raw.hex().encode(),
        *coded,
    ]


def traces_of(key: str, *contents: bytes) -> list[str]:
    return [form.decode() for form in places(key) for content in contents if form in content]


def everything_in(folder: Path) -> list[bytes]:
    """Bytes of every file; of tables and downloads also what is packed in them."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found += [str(file).encode(), file.read_bytes()]
        if file.suffix == ".parquet":
            found.append(repr(pq.read_table(file).to_pylist()).encode())
        if file.suffix == ".sqlite" and ".downloads" in file.parts:
            with sqlite3.connect(file) as connection:
                found += [zlib.decompress(body) for (body,) in connection.execute("SELECT body FROM records")]
    return found


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_the_search_for_a_key_finds_it_in_each_form(phase: int, tmp_path: Path) -> None:
    hidden = base64.b64encode(b"." * phase + KEY.encode() + b"tail")
    assert traces_of(KEY, hidden)
    for form in places(KEY)[:5]:
        assert traces_of(KEY, b"before " + form + b" after")
    (tmp_path / "x").write_bytes(b"a" + KEY.encode())
    assert traces_of(KEY, *everything_in(tmp_path))
    assert not traces_of(KEY, b"Zq7+/Planted%Key=NobodyShouldSe")


@pytest.fixture
def spoken(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that any library logs at any level, while Prefect's loggers pass theirs on."""
    loggers = [logging.getLogger(name) for name in ("prefect", "prefect.flow_runs", "prefect.task_runs")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = True
    with caplog.at_level(logging.DEBUG):
        yield caplog
    for logger, propagate in zip(loggers, before, strict=True):
        logger.propagate = propagate


def test_a_database_becomes_a_dataset_with_a_report_and_the_key_is_nowhere(
    server: MaterialsProjectServer,
    prefect_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoken: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    config = settings(server.url, tmp_path)
    done = run(prefect_environment, config)
    assert done.state.is_completed(), done.state.message

    manifest = check_dataset(config.folder)
    (source,) = manifest.sources
    assert source.n_read == len(server.ids) == source.n_kept + source.n_rejected
    assert source.harvest is not None
    assert source.harvest.n_records == len(server.ids)
    page = (config.folder / "report.html").read_text()
    assert f"{manifest.n_rows:,} known crystals" in page
    assert "http-equiv" in page
    assert not [word for word in ("src=http", 'src="http', "<script", "@import") if word in page]

    names = {"plan", "harvest-materials-project", "ingest", "dataset-report"}
    tasks = done.until(lambda: len(found := done.tasks()) >= len(names) and found)
    assert set(tasks) == names
    artifacts = done.until(lambda: len(found := done.of("artifacts")) >= 2 and found)
    by_key = {artifact["key"]: artifact for artifact in artifacts}
    assert {"dataset-tiny", "sources-tiny"} <= set(by_key)
    assert len(by_key["dataset-tiny"]["data"]) < 300_000
    assert by_key["dataset-tiny"]["data"].count("data:image/png;base64,") == 3
    (row,) = json.loads(by_key["sources-tiny"]["data"])
    assert (row["read"], row["kept"]) == (source.n_read, source.n_kept)
    log = done.until(lambda: "report.html" in (found := done.logged()) and found)
    assert f"{len(server.ids)} records expected, 0 stored" in log
    assert KEY in {request.headers["x-api-key"] for request in server.seen}

    home = Path(prefect_environment["PREFECT_HOME"])
    kept = everything_in(home) + everything_in(tmp_path)
    assert any(b"harvest-materials-project" in content for content in kept)  # the search sees the server's database
    said = [*(repr(vars(record)) for record in spoken.records), *capfd.readouterr(), json.dumps(artifacts), log]
    assert traces_of(KEY, *kept, *(text.encode() for text in said)) == []


def test_a_key_that_a_server_sends_back_in_its_refusal_is_in_no_state_and_no_log(
    server: MaterialsProjectServer,
    prefect_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoken: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    with FaultProxy(server.url) as proxy:
        echo = json.dumps({"message": f"the key {KEY} is not allowed, nor is {quote(KEY, safe='')}"}).encode()
        proxy.spoil(lambda request: "/materials/" in request.route, Status(403, body=echo), times=1000)
        done = run(prefect_environment, settings(proxy.url, tmp_path))
        n_asked = sum("/materials/" in request.route for request in proxy.seen)
    assert done.state.is_failed()
    assert "403" in str(done.state.message)
    assert n_asked <= 4  # a wrong key is not tried again, by the client or the task
    tasks = done.until(lambda: (found := done.tasks()) and "harvest-materials-project" in found and found)
    states = json.dumps([done.of("flow_runs"), list(tasks.values())])
    log = done.until(lambda: "403" in (found := done.logged()) and found)
    kept = everything_in(Path(prefect_environment["PREFECT_HOME"])) + everything_in(tmp_path)
    said = [states, log, str(done.state), repr(done.state), *(repr(vars(record)) for record in spoken.records)]
    assert traces_of(KEY, *kept, *(text.encode() for text in said)) == []
    assert not (tmp_path / "runs" / "datasets").exists()


def test_a_key_in_a_prefect_secret_is_found_and_its_block_is_the_only_place_that_holds_it(
    server: MaterialsProjectServer, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    from prefect.blocks.system import Secret

    from tasks.ingest.secrets import SECRETS

    name = SECRETS["materials-project"][1]
    with client(prefect_environment):
        Secret(value=KEY).save(name)
    try:
        done = run(prefect_environment, settings(server.url, tmp_path))
    finally:
        with client(prefect_environment):
            Secret.delete(name)
    assert done.state.is_completed(), done.state.message
    kept = everything_in(Path(prefect_environment["PREFECT_HOME"])) + everything_in(tmp_path)
    assert traces_of(KEY, *kept) == []  # the server keeps blocks encrypted


def test_without_a_key_the_run_says_where_one_belongs(
    server: MaterialsProjectServer, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(prefect_environment, settings(server.url, tmp_path))
    assert done.state.is_failed()
    assert "MP_API_KEY" in str(done.state.message)
    assert "materials-project-api-key" in str(done.state.message)


def skips(requests: list[Any]) -> list[str]:
    """Which pages of records were asked for."""
    return [r.query.get("_skip", "0") for r in requests if r.route == "/materials/summary/" and "structure" in r.path]


def test_a_harvest_that_breaks_off_is_tried_again_and_goes_on_at_the_page_it_had_reached(
    server: MaterialsProjectServer,
    prefect_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tasks.ingest.stages import harvest_task

    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setattr(harvest_task, "retry_delay_seconds", 0)
    with FaultProxy(server.url) as proxy:
        third = f"_skip={2 * PAGE_SIZE}"
        proxy.spoil(lambda r: third in r.path and "structure" in r.path, Status(503), times=2)
        config = settings(proxy.url, tmp_path)
        done = run(prefect_environment, config)
        asked = skips(proxy.seen)
    assert done.state.is_completed(), done.state.message
    assert check_dataset(config.folder).sources[0].n_read == len(server.ids)
    assert asked.count("0") == 1
    assert asked.count(str(PAGE_SIZE)) == 1
    assert asked.count(str(2 * PAGE_SIZE)) == 3


def test_a_finished_download_needs_no_network_and_a_refresh_brings_what_has_changed(
    server: MaterialsProjectServer,
    prefect_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    with FaultProxy(server.url) as proxy:
        assert run(prefect_environment, settings(proxy.url, tmp_path)).state.is_completed()
        before = check_dataset(tmp_path / "runs" / "datasets" / "tiny")
        changed, removed = server.ids[3], server.ids[7]
        server.update(changed, {"band_gap": 1.25})
        server.remove(removed)
        refreshed = run(prefect_environment, settings(proxy.url, tmp_path, refresh=True))
        assert refreshed.state.is_completed()
        address = proxy.url
    after = check_dataset(tmp_path / "runs" / "datasets" / "tiny")
    harvest = after.sources[0].harvest
    assert harvest is not None
    assert (harvest.n_added, harvest.n_changed, harvest.n_removed) == (0, 1, 1)
    assert after.fingerprint_sha256 != before.fingerprint_sha256
    offline = run(prefect_environment, settings(address, tmp_path, attempts=1, connect_timeout_s=0.5))
    assert offline.state.is_completed(), offline.state.message
    same = check_dataset(tmp_path / "runs" / "datasets" / "tiny")
    assert same.fingerprint_sha256 == after.fingerprint_sha256
    said = offline.until(lambda: "plan" in (found := offline.logged()) and found)
    assert "the plan of materials-project cannot be told" in said


def command(server: MaterialsProjectServer, *more: str) -> list[str]:
    fast = ["--set", f"data.sources.0.page_size={PAGE_SIZE}", "--set", "data.sources.0.requests_per_second=1000"]
    return ["ingest", "materials-project", "--endpoint", server.url, *fast, *more]


def test_a_dry_run_says_what_would_be_asked_and_writes_nothing(
    server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    shown = runner.invoke(app, command(server, "--dry-run"))
    assert shown.exit_code == 0, shown.stderr
    for said in (server.url, server.version, f"{len(server.ids)}", "deprecated=False", "thermo_types=GGA_GGA+U"):
        assert said in shown.stdout
    limited = runner.invoke(app, command(server, "--dry-run", "--limit", "7", "--json"))
    (plan,) = json.loads(limited.stdout)["sources"]
    assert (plan["expected"], plan["stored"], plan["complete"], plan["version"]) == (7, 0, False, server.version)
    assert list(tmp_path.iterdir()) == []
    assert not skips(server.seen)
    assert traces_of(KEY, shown.output.encode(), limited.output.encode()) == []


def test_the_command_tells_how_far_it_is_and_what_it_got(
    server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, command(server, "--limit", "50"))
    assert done.exit_code == 0, done.stderr
    assert "materials-project: 50 of 50 records" in done.stderr
    manifest = check_dataset(Path("runs/datasets/materials-project"))
    assert manifest.sources[0].n_read == 50
    assert f"{manifest.n_rows} crystals in runs/datasets/materials-project/dataset.parquet" in done.stdout
    assert "cut to the first 50 records" in Path("runs/datasets/materials-project/report.html").read_text()


def test_an_interrupted_command_goes_on_where_it_stopped(server: MaterialsProjectServer, tmp_path: Path) -> None:
    environment = {**os.environ, "MP_API_KEY": KEY, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with FaultProxy(server.url) as proxy:
        third = f"_skip={2 * PAGE_SIZE}"
        proxy.spoil(lambda r: third in r.path and "structure" in r.path, Stall(120))
        words = [word.replace(server.url, proxy.url) for word in command(server)]
        arguments = [sys.executable, "-m", "flows.cli", *words]
        process = subprocess.Popen(
            arguments,
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            # Where the tests run in the background of a script, SIGINT is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while str(2 * PAGE_SIZE) not in skips(proxy.seen):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=240)[1]
        assert process.returncode == 130
        assert "the same command goes on" in said
        assert "Traceback" not in said
        again = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        asked = skips(proxy.seen)
    assert [asked.count(str(skip)) for skip in (0, PAGE_SIZE, 2 * PAGE_SIZE)] == [1, 1, 2]
    assert check_dataset(tmp_path / "runs/datasets/materials-project").sources[0].n_read == len(server.ids)
    assert traces_of(KEY, said.encode(), again.stdout.encode(), again.stderr.encode(), *everything_in(tmp_path)) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aflow", "materials-project", "--where", "x"], "--where belongs to one database, but the sources name 2"),
        (["files.csv", "--endpoint", "http://h"], "--endpoint belongs to one database, but the sources name 0"),
        (["optimade"], "Name it behind a colon, such as optimade:alexandria"),
        (["aflow", "--endpoint", f"https://me:{KEY}@host"], "no user, key, query or fragment"),
        (["aflow", "--set", f"data.sources.0.api_key={KEY}"], "keys come from the environment"),
        (["aflow", "--limit", "0"], "data.sources.0.aflow.limit is 0"),
        (["ingest-aflow", "a.csv"], "must stand alone"),
    ],
)
def test_a_wrong_request_is_one_sentence_without_any_key(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["ingest", *arguments], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert traces_of(KEY, done.output.encode()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "elements", "said"),
    [
        ([], "Ta-W-B", "no crystal was kept of 0 records read: nothing in these sources answers"),
        (["Na Cl"] * 2, "Ta-W-B", "no crystal was kept of 2 records read: 2 outside the chemical system"),
        (["no cif"] * 3, "Na-Cl", "no crystal was kept of 3 records read: 0 outside .*, 3 that are no crystals"),
    ],
)
def test_a_dataset_without_a_crystal_is_a_failure_that_says_why(
    rows: list[str], elements: str, said: str, tmp_path: Path
) -> None:
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cif = rock_salt.to(fmt="cif")
    with (tmp_path / "few.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("material_id", "cif"))
        table.writerows((f"x-{i}", cif if row == "Na Cl" else row) for i, row in enumerate(rows))
    done = runner.invoke(
        app, ["ingest", str(tmp_path / "few.csv"), "--elements", elements, "--out", str(tmp_path / "d")]
    )
    assert done.exit_code == 1
    assert re.search(said, done.stderr)
    assert (tmp_path / "d" / "report.html").is_file()
