"""Which requests our servers take, and who can read the password: small parts, without a server."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from flows.servers.deployments import client_environment
from flows.servers.prefect_password import announced_server, password_of, write_environment
from flows.servers.prefect_server import OwnPagesOnly
from tests.fuzzing import Fuzz

PORT = 4200
NAMES = ("127.0.0.1", "localhost", "LOCALHOST", "evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "2130706433")
NAMES += (
    "0.0.0.0",
    "[::1]",
    "127.1",
    "127.0.0.1.",
    "null",
    "",
    "xn--localhost-",
    "127.0.0.2",
    "localhost\t",
    "ⅼocalhost",
)
PORTS = (
    "",
    ":4200",
    ":80",
    ":",
    ":4200:80",
    ":4200@evil.test",
    ":x",
    "@evil.test:4200",
    "#@evil.test",
    "/..",
    ":４２００",
)


async def taken(headers: list[tuple[bytes, bytes]], kind: str) -> bool:
    """Whether such a request reaches the application behind the guard."""
    reached: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 403

    guard = OwnPagesOnly(application, PORT)
    await guard({"type": kind, "headers": headers, "method": "POST", "path": "/"}, receive, send)
    return bool(reached)


def pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def leads_here(host: str) -> bool:
    """Where a browser that follows this address ends, as an independent reader of addresses has it."""
    try:
        read = urlsplit(f"http://{host}")
        return read.hostname in {"127.0.0.1", "localhost"} and read.netloc == host and read.port is not False
    except ValueError:
        return False


@pytest.mark.fuzz
def test_requests_with_a_foreign_host_or_origin_reach_no_server(fuzz: Fuzz) -> None:
    for rng in fuzz.cases(300):
        hosts = [pick(rng, NAMES) + pick(rng, PORTS) for _ in range(pick(rng, ("x", "x", "x", "xx", "")).count("x"))]
        origins = [pick(rng, ("http://", "https://", "", "file://")) + pick(rng, NAMES) + pick(rng, PORTS)]
        origins = origins[: int(rng.integers(2))]
        headers = [(b"host", host.encode()) for host in hosts] + [(b"origin", one.encode()) for one in origins]
        own = len(hosts) == 1 and leads_here(hosts[0])
        ours = {"http://127.0.0.1:4200", "http://localhost:4200", *(f"http://{host}" for host in hosts)}
        own &= set(origins) <= ours
        was_taken = asyncio.run(taken(headers, pick(rng, ("http", "websocket"))))
        if was_taken and not own:
            fuzz.failed(f"{hosts} {origins} -> taken")
        fuzz.ended("taken" if was_taken else "refused")


def test_the_servers_own_pages_and_programs_are_let_in() -> None:
    for host in ("127.0.0.1:4200", "localhost:4200", "localhost:9000"):
        for origin in (None, f"http://{host}", "http://localhost:4200"):
            headers = [(b"host", host.encode())] + ([] if origin is None else [(b"origin", origin.encode())])
            assert asyncio.run(taken(headers, "http"))


def test_the_password_stays_and_no_other_user_can_read_it(tmp_path: Path) -> None:
    home = tmp_path / ".prefect"
    password = password_of(home)
    assert len(password) > 32
    assert password_of(home) == password
    assert stat.S_IMODE((home / "auth").stat().st_mode) == 0o600
    assert password_of(tmp_path / "other") != password


def test_a_password_that_others_may_know_is_replaced(tmp_path: Path) -> None:
    home = tmp_path / ".prefect"
    first = password_of(home)
    (home / "auth").chmod(0o640)
    second = password_of(home)
    assert second != first
    (home / "auth").rename(home / "elsewhere")
    (home / "auth").symlink_to(home / "elsewhere")
    assert password_of(home) not in {first, second}
    for damaged in (b"", b"short", b"\xff\xfe" * 40, b"user:pass word with spaces in it"):
        (home / "auth").write_bytes(damaged)
        assert len(password_of(home)) > 32


@pytest.mark.parametrize("attempt", range(20))
def test_servers_that_begin_at_once_agree_on_the_password(attempt: int, tmp_path: Path) -> None:
    found: list[str] = []
    begin = threading.Barrier(8)

    def ask() -> None:
        begin.wait()
        found.append(password_of(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {password_of(tmp_path)}


def test_a_running_make_ui_is_found_unless_another_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a b'$(touch x)" / ".prefect"
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    password = password_of(home)
    assert announced_server(home) == {}
    url = "http://127.0.0.1:4200/api"
    shell = write_environment(home, url)
    assert announced_server(home) == {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password}
    assert password not in shell.read_text(encoding="utf-8")
    assert client_environment(home.parent)["PREFECT_API_AUTH_STRING"] == password
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert client_environment(home.parent)["PREFECT_API_AUTH_STRING"] == password
    monkeypatch.setenv("PREFECT_API_URL", "https://elsewhere/api")
    assert "PREFECT_API_AUTH_STRING" not in client_environment(home.parent)
    monkeypatch.chdir(tmp_path)
    read = os.popen(f'. {"/".join(("a*", ".prefect", "env"))}; printf %s "$PREFECT_API_AUTH_STRING"').read()
    assert read == password
    assert not (tmp_path / "x").exists()
