"""Damage of any file of a finished run: a rerun heals it, byte by byte; a command that reads it names it, or none does.

What a flipped bit leaves as it was (white space of a document, the mark of a checksum) is no damage, and is told from
damage by what the file holds, read apart from the code that checks it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dft.campaign.config import DftConfig
from flows.cli.main import app
from storage import tables
from tasks.dft.campaign import campaign_of_run
from tasks.files import KEY, unchanged
from tests.damage import DAMAGES, flip_a_bit
from tests.fuzzing import Fuzz

REBUILT = {"jobs.sqlite", "report.html", ".lock"}
"""The store of jobs is not made anew by a run but refused (tests/dft/test_damaged_stores.py); the report always is."""

WITH_TIMES = {"tiny/manifest.json", "tiny/dataset/manifest.json", "tiny/settings.json"}
"""Hold times, or the folder of the runs."""


def state_of(runs: Path) -> list[Path]:
    """Every file of a run that a rerun looks at."""
    files = sorted(file for file in runs.rglob("*") if file.is_file())
    return [file for file in files if file.name not in REBUILT and "cifs" not in file.parts]


def digests(runs: Path) -> dict[str, str]:
    named = {str(file.relative_to(runs)): file for file in state_of(runs)}
    return {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in named.items() if name not in WITH_TIMES}


@pytest.fixture
def runs(finished: Any, tmp_path: Path) -> Path:
    """The folder of runs with the finished one in it, once more."""
    shutil.copytree(finished.folder.parent, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.fuzz
def test_a_flipped_bit_is_never_believed(fuzz: Fuzz, runs: Path) -> None:
    files = sorted(runs.rglob("*.parquet"))
    assert {file.parent.name for file in files} >= {"tiny", "dataset", "sample", "screen", "relax", ".references"}
    keys = {file: pq.read_schema(file).metadata.get(KEY, b"").decode() for file in files}
    held = {file: pq.read_table(file) for file in files}
    for rng in fuzz.cases(300):
        file = files[int(rng.integers(len(files)))]
        whole = file.read_bytes()
        damage = flip_a_bit(file, rng)
        if unchanged(file, keys[file]) is not None:
            fuzz.failed(f"{damage} -> taken as it is")
        else:
            try:
                found = tables.read_table(file, "make it again")
            except Exception as error:
                named = isinstance(error, tables.DamagedFileError) and str(file) in str(error)
                fuzz.ended("a miss, and refused where it is read") if named else fuzz.failed(f"{damage} -> {error!r}")
            else:
                is_same = found.equals(held[file], check_metadata=True)
                fuzz.ended("a miss, though the same") if is_same else fuzz.failed(f"{damage} -> read as another table")
        file.write_bytes(whole)


def leave_rubbish(runs: Path) -> list[Path]:
    """What a killed process leaves that was writing two tables and a folder."""
    rubbish = [
        runs / "tiny" / "relax" / ".00000.parquet.0123456789abcdef.tmp",
        runs / ".references" / f".a.parquet.{'0' * 16}.tmp",
        runs / "tiny" / "dft" / f".id.{'f' * 16}.tmp",
    ]
    for file in rubbish:
        file.write_bytes(b"half a table")
    half = rubbish[-1].with_name(rubbish[-1].name + ".d")
    half.mkdir()
    (half / "INCAR").write_text("half")
    return [*rubbish, half]


@pytest.mark.slow
@pytest.mark.fuzz
def test_a_run_whose_every_file_is_damaged_is_healed_by_a_rerun(
    fuzz: Fuzz, finished: Any, campaign: Any, discover: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for rng in fuzz.cases(1):
        runs = tmp_path / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(finished.folder.parent, runs)
        expected = digests(runs)
        held = {file: content_of(file) for file in state_of(runs) if file.suffix == ".json"}
        kinds = [DAMAGES[int(rng.integers(len(DAMAGES)))] for _ in state_of(runs)]
        damaged = {file: kind(file, rng) for file, kind in zip(state_of(runs), kinds, strict=True)}
        assert len(damaged) > 20
        rubbish = leave_rubbish(runs)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = discover(campaign.config(runs))
        found = digests(runs)
        said = [record.getMessage() for record in caplog.records]
        tables_damaged = [file for file in damaged if file.suffix == ".parquet" and file.parent.name != "dataset"]
        wrong = [f"{damaged[runs / name]} -> not healed" for name in expected if found.get(name) != expected[name]]
        wrong += [f"{file} -> left there" for file in rubbish if file.exists()]
        wrong += [f"{damaged[file]} -> not said" for file in tables_damaged if not any(str(file) in s for s in said)]
        lacking = [file for file in held if content_of(file).keys() != held[file].keys()]
        wrong += [f"{damaged[file]} -> entries are lacking" for file in lacking]
        if {"ingest", "sample", "screen", "unique", "relax", "rank"} - again.log.computed():
            wrong.append(f"only {sorted(again.log.computed())} computed anything")
        fuzz.failed("; ".join(wrong)) if wrong else fuzz.ended(f"{len(damaged)} files healed")


def content_of(file: Path) -> Any:
    """What a file holds, read by other means than the code under test; its own checksum aside."""
    if file.suffix == ".parquet":
        return pq.read_table(file)
    document = json.loads(file.read_bytes())
    return {name: value for name, value in document.items() if name != "checksum"}


def is_harmless(file: Path, before: Any) -> bool:
    """Whether a damaged file still holds all that it held."""
    try:
        now = content_of(file)
    except Exception:
        return False
    if isinstance(before, dict):
        return {name: now.get(name) for name in before} == before
    return bool(now.equals(before))


READERS: dict[str, tuple[str, ...]] = {
    "report": ("manifest.json", "candidates.parquet", "dataset/dataset.parquet", "../.references/*.parquet"),
    "export": ("manifest.json", "settings.json", "candidates.parquet"),
    "screen": ("candidates.parquet", "dataset/dataset.parquet"),
    "dft": ("campaign.json",),
}
"""Commands that read a finished run, and of what they read."""


def arguments(command: str, run: Path, out: Path) -> list[str]:
    return {
        "report": ["report", str(run)],
        "export": ["export", str(run), str(out / "out.jsonl")],
        "screen": ["screen", str(run / "candidates.parquet"), "--reference", str(run / "dataset" / "dataset.parquet")],
        "dft": ["dft", "status", str(run)],
    }[command]


@pytest.fixture
def in_place(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


@pytest.mark.fuzz
@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("command", READERS)
def test_a_command_names_the_damaged_file(command: str, fuzz: Fuzz, runs: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    if command == "dft":
        campaign_of_run(runs / "tiny", DftConfig.model_validate({"top_n": 2, "engine": {"name": "potential"}})).write()
    healthy = runner.invoke(app, arguments(command, runs / "tiny", tmp_path))
    assert healthy.exit_code == 0, healthy.output
    files = [file for pattern in READERS[command] for file in sorted((runs / "tiny").glob(pattern))]
    assert len(files) >= len(READERS[command])
    for rng in fuzz.cases(8):
        file = files[int(rng.integers(len(files)))]
        whole, before = file.read_bytes(), content_of(file)
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.6, 0.3, 0.1]))](file, rng)
        done = runner.invoke(app, arguments(command, runs / "tiny", tmp_path))
        said = [line for line in done.stderr.splitlines() if line.startswith("hullward: ")]
        if done.exit_code == 1 and len(said) == 1 and file.name in said[0] and "Traceback" not in done.output:
            fuzz.ended("one sentence with the file's name")
        elif done.exit_code == 0 and is_harmless(file, before):
            fuzz.ended("nothing that it reads was changed")
        else:
            fuzz.failed(f"{damage} -> exit code {done.exit_code}: {done.stderr[-400:]}")
        file.write_bytes(whole)
