"""kill -9 in every stage: what was done is kept, what was half done is not, and the end is the same, byte by byte."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dft.config import StoreConfig
from dft.stores import open_job_store
from tasks.discover.run import RunBusyError

PATIENCE_S = 240  # busy cores; alone it takes a twentieth

pytestmark = pytest.mark.slow

FIRST_CHUNK_DRAWN = ("sample", "chunk 0: 4 candidates, unchanged, skipped")
BEFORE_RELAXATION = {"ingest", "references", "sample", "screen", "unique"}
BEFORE_INPUTS = {*BEFORE_RELAXATION, "relax", "rank"}
STAGES: dict[str, tuple[str, set[str], set[tuple[str, str]]]] = {
    "dataset": ("tiny/dataset/*", set(), set()),
    "sample": ("tiny/sample/*.parquet", {"ingest", "references"}, set()),
    "screen": ("tiny/screen/*.parquet", {"ingest", "references"}, {FIRST_CHUNK_DRAWN}),
    "relax": ("tiny/relax/*.parquet", BEFORE_RELAXATION, set()),
    "references": (".references/*.parquet", BEFORE_RELAXATION, set()),
    "rank": ("tiny/ranked.parquet", BEFORE_INPUTS, set()),
    "inputs": ("tiny/dft/*", BEFORE_INPUTS, set()),
    "report": ("tiny/cifs/*", BEFORE_INPUTS, set()),
}
"""Where to kill: as soon as a file like this is there; then what the rerun finds done before: tasks with all of their
chunks, and words of single chunks. A chunk is screened before the next one is drawn."""


def wait_until(there: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if there():
            return
        assert process.poll() is None, f"ended before it was killed: {log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.002)
    raise AssertionError(f"waited in vain: {log.read_text(errors='replace')[-2000:]}")


def results(runs: Path) -> dict[str, str]:
    """Digest of every file that a run shows, by name, but for those that hold times."""
    found = {}
    for file in sorted(runs.rglob("*")):
        name = str(file.relative_to(runs))
        is_shown = not any(part.startswith(".") for part in Path(name).parts if part != ".references")
        if file.is_file() and is_shown and file.name not in {"jobs.sqlite", "report.html"} and name not in UNEQUAL:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


CHUNKED = {"sample", "screen", "relax", ".references"}
"""Folders with one file per chunk: what lies there under its name is whole, and stays."""

UNEQUAL = {"tiny/manifest.json", "tiny/dataset/manifest.json", "tiny/settings.json"}
"""Hold times, or the folder of the runs."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_in_any_stage_is_finished_by_the_next_with_the_same_result(
    stage: str, finished: Any, campaign: Any, discover: Any, tmp_path: Path
) -> None:
    pattern, done, said = STAGES[stage]
    runs = tmp_path / "runs"
    config = campaign.config(runs)
    with discover.running(config, tmp_path) as process:
        wait_until(lambda: any(True for _ in runs.glob(pattern)), process, tmp_path / "log")
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (runs / "tiny" / "report.html").exists()
    chunks = [file for file in runs.rglob("*.parquet") if file.parent.name in CHUNKED]
    kept = {file: file.stat().st_mtime_ns for file in chunks}

    again = discover(config)
    assert done <= again.log.skipped()
    assert said <= set(again.log.said)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert (again.folder / "candidates.parquet").read_bytes() == (finished.folder / "candidates.parquet").read_bytes()
    assert results(runs) == results(finished.folder.parent)
    assert (again.folder / "report.html").is_file()
    with open_job_store(StoreConfig(), again.folder) as store:
        assert store.count({}) == config.inputs.top_n


def test_a_run_that_another_process_works_on_is_left_alone(campaign: Any, discover: Any, tmp_path: Path) -> None:
    config = campaign.config(tmp_path / "runs")
    with discover.running(config, tmp_path) as process:
        wait_until((tmp_path / "runs" / "tiny" / "manifest.json").is_file, process, tmp_path / "log")
        os.killpg(process.pid, signal.SIGSTOP)  # it is not to finish first
        sentence = f"{tmp_path / 'runs' / 'tiny'} is in use by another process: wait for it, or give this run another"
        with pytest.raises(RunBusyError, match=re.escape(sentence)):
            discover(config)
