"""What Prefect adds to a chunk: a flow of n chunks against the plain function, on SQLite and on PostgreSQL.

A chunk does what every chunk of the pipeline does besides computing: it reports progress, logs a line, and keeps a
table under a key. HULLWARD_BENCH_CHUNKS names the numbers of chunks (10,100,1000). All seconds are of processors, of
the client, of the server and of PostgreSQL's processes, so that other work on the machine does not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from prefect import flow, task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from configs.schema import ExecutionConfig
from tasks.files import FileRef, key_of, keyed
from tasks.report.run.artifacts import Progress
from tasks.runners import Workers
from tests.flows.conftest import prefect_client
from tests.servers.own_prefect import OwnServer, own_server
from tests.servers.postgresql import PostgreSQL, reason_to_skip

pytestmark = pytest.mark.benchmark

CHUNKS = tuple(int(text) for text in os.environ.get("HULLWARD_BENCH_CHUNKS", "10,100,1000").split(","))
ROWS = 32
RECORDED_S = 600.0


def chunk_file(folder: Path, chunk: int) -> FileRef:
    """A table of a chunk, kept under its key."""
    table = pa.table({"id": [f"{chunk}-{row}" for row in range(ROWS)], "energy": [0.5 * row for row in range(ROWS)]})
    return keyed(folder / f"{chunk:05d}.parquet", key_of("chunk", chunk_file, chunk=chunk), lambda: table)


@task(name="chunk", task_run_name="chunk-{chunk}")
def chunk_task(chunk: int, folder: Path) -> FileRef:
    """The same as a task."""
    with Progress(f"chunk-{chunk}", f"chunk {chunk}") as progress:
        progress.update(1, 1)
        ref = chunk_file(folder, chunk)
    get_run_logger().info("chunk %d: %d rows", chunk, ROWS)
    return ref


@flow(name="chunks")
def chunks_flow(folder: Path, n: int) -> str:
    """All chunks, as the pipeline hands them out; the id of the run."""
    with Workers(ExecutionConfig()) as workers:
        list(workers.mapped("chunk", chunk_task, range(n), folder))
    return str(flow_run.id)


def cpu_s(*roots: psutil.Process | None) -> float:
    """Processor time of these processes and their children so far, s."""
    total = 0.0
    for root in roots:
        if root is not None:
            times = [root.cpu_times(), *(child.cpu_times() for child in root.children(recursive=True))]
            total += sum(one.user + one.system + one.children_user + one.children_system for one in times)
    return total


def settled(server: OwnServer, run_id: str, n: int) -> int:
    """Task runs recorded once there are n, or none has come for a while."""
    found, last_s, deadline = -1, time.monotonic(), time.monotonic() + RECORDED_S
    while found < n and time.monotonic() < min(deadline, last_s + 60):
        now = server.n_completed(run_id)
        if now != found:
            found, last_s = now, time.monotonic()
        time.sleep(1)
    return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_seconds_that_prefect_adds_to_a_chunk(database: str, stack: ExitStack, tmp_path: Path) -> None:
    more, postgresql = {}, None
    if database == "PostgreSQL":
        if reason := reason_to_skip():
            pytest.skip(reason)
        kept = PostgreSQL()
        stack.callback(kept.stop)
        kept.start()
        more["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = kept.url
        postgresql = psutil.Process(kept.pid)
    (tmp_path / "home").mkdir()
    server = stack.enter_context(own_server(tmp_path / "home", more))
    stack.enter_context(prefect_client(server.environment))
    chunks_flow(tmp_path / "first", 1)  # what is loaded once
    print(f"\n{database}: ms of processor per chunk; client, server and database, and the plain function")  # noqa: T201
    for n in CHUNKS:
        (tmp_path / f"plain-{n}").mkdir()
        began = time.process_time()
        for chunk in range(n):
            chunk_file(tmp_path / f"plain-{n}", chunk)
        plain_s = time.process_time() - began
        client, there, wall = time.process_time(), cpu_s(server.process, postgresql), time.perf_counter()
        run_id = chunks_flow(tmp_path / f"flow-{n}", n)
        client_s, wall_s = time.process_time() - client - plain_s, time.perf_counter() - wall
        found = settled(server, run_id, n)
        there_s = cpu_s(server.process, postgresql) - there
        print(  # noqa: T201
            f"{n:6,} chunks: {1e3 * client_s / n:6.1f} + {1e3 * there_s / n:6.1f}, plain {1e3 * plain_s / n:5.2f}; "
            f"{1e3 * wall_s / n:6.1f} ms by the clock; {found:,} recorded",
            flush=True,
        )
        assert found == n
