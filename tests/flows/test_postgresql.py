"""Prefect's server on a PostgreSQL that the environment names: no record is lost, and its password is in no file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.servers.environment import (
    DATABASE,
    DatabaseAddressError,
    require_database_address,
    server_environment,
    without_database,
)
from flows.servers.prefect_server import wait_for_room
from tests.servers.own_prefect import own_server
from tests.servers.postgresql import postgresql, reason_to_skip

ROOT = Path(__file__).resolve().parents[2]
N_TASKS = 500
PATIENCE_S = 300  # busy cores; alone it takes a tenth

MANY = """
import sys
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
@task
def nothing(item):
    return item
@flow
def many(n: int):
    with ThreadPoolTaskRunner(max_workers=8) as runner:
        for future in [runner.submit(nothing, {"item": item}) for item in range(n)]:
            future.result()
    return flow_run.id
print(many(int(sys.argv[1])))
"""
"""A flow of so many tasks that take no time, as fast as they can be begun."""


def test_no_task_run_is_lost_on_postgresql_and_its_password_is_in_no_file(tmp_path: Path) -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)
    home = tmp_path / "home"
    home.mkdir()
    with postgresql() as database, own_server(home, {DATABASE[0]: database.url}) as server:
        # A process of its own: Prefect's client keeps to the first server that it has spoken to.
        client = {**server.environment, "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", MANY, str(N_TASKS)], env=client, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        run_id, deadline = done.stdout.split()[-1], time.monotonic() + PATIENCE_S
        while (n := server.n_completed(run_id)) < N_TASKS:
            assert time.monotonic() < deadline, f"{n} of {N_TASKS} recorded"
            time.sleep(0.2)
        assert server.api("flow_runs/" + run_id)["state_type"] == "COMPLETED"
        assert not (home / "prefect.db").exists()
        written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert database.password not in database.log()
        assert database.password.encode() not in written
        assert database.password not in done.stdout + done.stderr


def test_a_wrong_password_of_the_database_is_in_no_log(tmp_path: Path) -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)
    from flows.servers.services import ServeError

    (tmp_path / "home").mkdir()
    with postgresql() as database:
        wrong = database.url.replace(database.password, "not-the-pass-word")
        with (
            pytest.raises(ServeError, match="server has stopped") as error,
            own_server(tmp_path / "home", {DATABASE[0]: wrong}),
        ):
            pass
    said = (tmp_path / "home" / "logs" / "server.log").read_text(errors="replace")
    assert "password authentication failed" in said
    assert "not-the-pass-word" not in said + str(error.value)


@pytest.mark.parametrize("name", DATABASE)
def test_an_address_that_is_none_is_refused_without_being_repeated(name: str) -> None:
    for wrong in (
        "secret-word",
        "postgresql://user:secret-word@host/prefect",
        "postgresql+asyncpg:user:secret-word@host",
    ):
        with pytest.raises(DatabaseAddressError, match=f"{name} is not the address of a database") as error:
            require_database_address({name: wrong})
        assert "secret-word" not in str(error.value)
    require_database_address({name: "postgresql+asyncpg://user:word@host:5432/prefect"})
    require_database_address({})


def test_make_ui_refuses_such_an_address_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.servers.serve", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), DATABASE[0]: "secret-word"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"hullward: {DATABASE[0]} is not the address of a database" in done.stderr
    assert "secret-word" not in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_server_is_told_of_the_database(tmp_path: Path) -> None:
    inherited = {DATABASE[0]: "postgresql+asyncpg://u:word@h/d", "PREFECT_SERVER_DATABASE_PASSWORD": "word", "A": "b"}
    environment = server_environment(tmp_path, 4200, inherited, None)
    assert environment[DATABASE[0]] == inherited[DATABASE[0]]
    left = without_database(environment)
    assert left["A"] == "b"
    assert not [value for value in left.values() if "word" in value]


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_record_waits_for_room_before_a_busy_database(is_patient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.utilities.messaging import memory

    monkeypatch.setattr(memory, "Subscription", memory.Subscription)  # undone at the end
    if is_patient:
        wait_for_room()

    async def received(n: int) -> int:
        topic = memory.Topic("records")
        subscription, found = topic.subscribe(), 0

        async def database() -> None:
            nonlocal found
            await asyncio.sleep(0.1)
            while True:
                await subscription.get()
                found += 1
                if found % 100 == 0:
                    await asyncio.sleep(0)

        reading = asyncio.create_task(database())
        for number in range(n):
            await topic.publish(memory.MemoryMessage(b"", {"number": str(number)}))
        await asyncio.sleep(0.2)
        reading.cancel()
        return found

    n = 10_500
    assert (asyncio.run(received(n)) == n) is is_patient
