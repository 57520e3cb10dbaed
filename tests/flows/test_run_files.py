"""Reports over HTTP: the runs folder, read only, and nothing beside it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.servers.run_files import report_server
from flows.servers.services import ServeError, listening_on


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    runs = tmp_path / "runs"
    (runs / "one" / "cifs").mkdir(parents=True)
    (runs / "one" / "report.html").write_text("<h1>one</h1>")
    (runs / "one" / "cifs" / "a b.cif").write_text("data_a")
    (runs / "one" / ".lock").write_text("secret")
    (runs / "datasets" / "aflow").mkdir(parents=True)
    (runs / "datasets" / "aflow" / "report.html").write_text("<h1>aflow</h1>")
    (runs / ".references").mkdir()
    (runs / ".references" / "x.parquet").write_text("secret")
    (runs / "unfinished").mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (runs / "link.txt").symlink_to(tmp_path / "outside.txt")
    with report_server(runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def test_a_report_and_its_files_are_served(port: int) -> None:
    assert ask(port, "/one/report.html") == (200, "<h1>one</h1>")
    assert ask(port, "/one/cifs/a%20b.cif") == (200, "data_a")
    assert ask(port, "/one/report.html", "HEAD") == (200, "")


def test_the_first_page_lists_runs_with_a_report_and_no_others(port: int) -> None:
    status, page = ask(port, "/")
    assert status == 200
    assert '<a href="one/report.html">one</a>' in page
    assert '<a href="datasets/aflow/report.html">datasets/aflow</a>' in page
    assert ask(port, "/datasets/aflow/report.html") == (200, "<h1>aflow</h1>")
    assert "unfinished" not in page
    assert ".references" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/one/.lock",
        "/.references/x.parquet",
        "/one/%2Elock",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/one/..%2f..%2foutside.txt",
        "/link.txt",
        "/one/cifs/..%5c..%5coutside.txt",
        "//etc/hostname",
        "/absent",
    ],
)
def test_nothing_hidden_or_outside_is_served(port: int, path: str) -> None:
    status, text = ask(port, path)
    assert status == 404
    assert "secret" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(port: int, method: str) -> None:
    assert ask(port, "/one/report.html", method)[0] == 501


def test_a_page_of_another_name_is_refused(port: int) -> None:
    assert ask(port, "/one/report.html", host="example.org")[0] == 403


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with report_server(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_taken_port_is_refused_with_the_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {taken} of 127.0.0.1 is taken: .*PORT={taken + 10}"):
            listening_on(taken)
