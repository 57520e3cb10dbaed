"""What Prefect adds to a chunk: `python -m tests.benchmarks.orchestration DATABASE N,N,...`, sqlite or postgresql.

A flow of n chunks against the plain function. A chunk does what every chunk of the pipeline does besides computing: it
reports progress, logs a line, and keeps a table under a key. All seconds are of processors, of the client, of the
server and of PostgreSQL's processes, so that other work on the machine does not count. Prefect's client keeps to the
first server of its process, so each database needs a process of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow as pa
from prefect import flow, task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from configs.schema import ExecutionConfig
from flows.servers.environment import DATABASE
from tasks.files import FileRef, key_of, keyed
from tasks.report.run.artifacts import Progress
from tasks.runners import Workers
from tests.flows.conftest import prefect_client
from tests.servers.own_prefect import OwnServer, own_server
from tests.servers.postgresql import postgresql

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


@contextmanager
def served(database: str, home: Path) -> Iterator[tuple[OwnServer, psutil.Process | None]]:
    """A server with this database, and the database's own process where it has one."""
    home.mkdir()
    if database == "sqlite":
        with own_server(home) as server:
            yield server, None
    else:
        with postgresql() as kept, own_server(home, {DATABASE[0]: kept.url}) as server:
            yield server, psutil.Process(kept.pid)


def row(server: OwnServer, database: psutil.Process | None, folder: Path, n: int) -> str:
    """What n chunks take, once by the plain function, then as a flow."""
    began = time.process_time()
    for chunk in range(n):
        chunk_file(folder / "plain" / str(n), chunk)
    plain_s = time.process_time() - began
    client, there, wall = time.process_time(), cpu_s(server.process, database), time.perf_counter()
    run_id = chunks_flow(folder / "flow" / str(n), n)
    client_s, wall_s = time.process_time() - client - plain_s, time.perf_counter() - wall
    found = settled(server, run_id, n)
    there_s = cpu_s(server.process, database) - there
    each = [f"{1e3 * seconds / n:10.1f}" for seconds in (plain_s, client_s, there_s, wall_s)]
    return f"{n:10,}{''.join(each)}{found:10,}"


def main(database: str, numbers: str) -> None:
    """Print a row per number of chunks, in ms per chunk."""
    with (
        TemporaryDirectory() as name,
        served(database, Path(name, "home")) as (server, process),
        prefect_client(server.environment),
    ):
        chunks_flow(Path(name, "first"), 1)  # what is loaded once
        print(f"{database:>10}{'plain':>10}{'client':>10}{'server':>10}{'clock':>10}{'recorded':>10}", flush=True)
        for n in map(int, numbers.split(",")):
            print(row(server, process, Path(name), n), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
