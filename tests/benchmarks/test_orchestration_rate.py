"""What Prefect adds to a chunk, on SQLite and on PostgreSQL; every task run is recorded. See orchestration.py.

HULLWARD_BENCH_CHUNKS names the numbers of chunks (10,100,1000).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.postgresql import reason_to_skip

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).resolve().parents[2]
CHUNKS = os.environ.get("HULLWARD_BENCH_CHUNKS", "10,100,1000")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_milliseconds_that_prefect_adds_to_a_chunk(database: str) -> None:
    if database == "postgresql" and (reason := reason_to_skip()):
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.benchmarks.orchestration", database, CHUNKS]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    print("\n" + done.stdout)  # noqa: T201
    for line in done.stdout.splitlines()[1:]:
        asked, *_, recorded = line.split()
        assert recorded == asked
