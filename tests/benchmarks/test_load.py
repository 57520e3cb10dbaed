"""How time and memory of a run's stages grow with the number of candidates, relaxation and sampling left out.

HULLWARD_BENCH_ROWS is the largest number of candidates (default 8,000); a quarter and half of it come before, so that
the growth can be read off. HULLWARD_BENCH_STAGES names the stages (default all; those before a stage must be named
too). Each stage is a process of its own, whose peak memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.paths import AssetError
from tests.benchmarks.load_stages import STAGES
from tests.benchmarks.made_candidates import real_crystals

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).resolve().parents[2]
N_ROWS = int(os.environ.get("HULLWARD_BENCH_ROWS", "8000"))
STAGES_ASKED = tuple(os.environ.get("HULLWARD_BENCH_STAGES", ",".join(STAGES)).split(","))
MEMORY_MAX_MB = 4096


def test_stages_of_a_run_grow_with_the_number_of_candidates_in_bounded_memory(tmp_path: Path) -> None:
    try:
        real_crystals()
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    print(f"\n{'stage':8}{'candidates':>12}{'s':>10}{'s of cpu':>10}{'MB':>8}")  # noqa: T201
    for n in (N_ROWS // 4, N_ROWS // 2, N_ROWS):
        for stage in STAGES_ASKED:
            command = [sys.executable, "-m", "tests.benchmarks.load_stages", stage, str(tmp_path / str(n)), str(n)]
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            took = json.loads(done.stdout.splitlines()[-1])
            wall_s, cpu_s, peak_mb = (took.pop(name) for name in ("wall_s", "cpu_s", "peak_mb"))
            print(f"{stage:8}{n:12,}{wall_s:10.1f}{cpu_s:10.1f}{peak_mb:8.0f}  {took or ''}", flush=True)  # noqa: T201
            assert peak_mb < MEMORY_MAX_MB
