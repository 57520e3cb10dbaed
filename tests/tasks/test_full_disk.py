"""A real disk without room: whatever is written names its file and the remedy, and leaves what was there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from dft.config import InputsConfig, Preset
from dft.inputs.folder import write_inputs
from dft.stores import SQLiteStore
from dft.submission.files import create_json, write_json
from flows.cli.main import app
from generative import checkpoints
from generative.datasets.databases.database import Record
from generative.datasets.databases.store import Store
from generative.datasets.manifest import DatasetWriter
from generative.datasets.records import rejected_of
from generative.datasets.table import DATASET_SCHEMA
from generative.kept_results import KeptResults
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig
from generative.training.callbacks import save_state
from storage.atomic import DiskFullError, write_text
from tasks.discover.run import RunFolder, update_manifest
from tasks.files import write_table
from tests.servers.finished_run import candidate_rows, write_run

FREE = 8192
"""Bytes that are left."""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte that is full but for FREE bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip() or done.returncode}")
    try:
        with (place / "others").open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                if os.statvfs(place).f_bavail * os.statvfs(place).f_frsize <= FREE:
                    break
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # what failed may hold a file open yet


def noise(n: int) -> list[float]:
    """Numbers that no compression makes small."""
    return list(np.random.default_rng(0).standard_normal(n))


class Trainer:
    """What save_state asks of Lightning's."""

    is_global_zero = True

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        torch.save({"state_dict": torch.tensor(noise(20_000)), "weights_only": weights_only}, path)


def write_dataset(place: Path) -> None:
    refusals = [(str(i), f"reason {x}", {"x": x}) for i, x in enumerate(noise(20_000))]
    with DatasetWriter(place) as writer:
        writer.add(DATASET_SCHEMA.empty_table(), rejected_of("made", refusals))


def fill_download(place: Path) -> None:
    with Store.opened(place / "oqmd.sqlite") as store:
        store.add([Record(str(i), None, {"x": noise(3000)}) for i in range(20)])


def fill_jobs(place: Path) -> None:
    store = SQLiteStore(place / "jobs.sqlite", "jobs", key="uuid")
    try:
        store.connect()
        store.update([{"uuid": str(i), "output": noise(3000)} for i in range(20)])
    finally:
        store.close()


def keep_results(place: Path) -> None:
    with KeptResults(place / "bonds.sqlite", "bonds", "1") as kept:
        for i in range(20):
            kept.write(str(i), np.array(noise(3000)).tobytes(), "")


def make_inputs(place: Path) -> None:
    silicon = Structure(Lattice.cubic(5.4), ["Si"], [[0, 0, 0]])
    write_inputs(silicon, Preset.MP_RELAX, place / "c1", {"numbers": noise(3000)}, "c1", InputsConfig())


def save_checkpoint(place: Path) -> None:
    checkpoints.save(place / "flow", CrystalFlow(CrystalFlowConfig(width=64, n_layers=2)), {})


LONG = {"numbers": noise(3000)}
WRITERS: dict[str, Callable[[Path], Any]] = {
    "table.parquet": lambda place: write_table(pa.table({"x": noise(20_000)}), place / "table.parquet"),
    "rejected.parquet": write_dataset,
    "manifest.json": lambda place: update_manifest(RunFolder(place), **LONG),
    "report.html": lambda place: write_text(place / "report.html", str(LONG)),
    "flow": save_checkpoint,
    "resume.ckpt": lambda place: save_state(Trainer(), place / "resume.ckpt"),  # type: ignore[arg-type]
    "job.json": lambda place: write_json(place / "job.json", LONG, checksum=True),
    "claim.json": lambda place: create_json(place / "claim.json", LONG),
    "c1": make_inputs,
    "jobs.sqlite": fill_jobs,
    "oqmd.sqlite": fill_download,
    "bonds.sqlite": keep_results,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_names_the_file_and_leaves_what_was_there(name: str, full_disk: Path) -> None:
    before = {path.name for path in full_disk.iterdir()}
    with pytest.raises(DiskFullError) as caught:
        WRITERS[name](full_disk)
    assert f"{full_disk / name} cannot be written" in str(caught.value)
    assert "make room there" in str(caught.value)
    # SQLite keeps what it has begun, and undoes it when it is opened the next time.
    left = {path.name for path in full_disk.iterdir() if ".sqlite" not in path.name}
    assert left == before


def test_the_command_line_says_it_in_one_sentence(full_disk: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", candidate_rows(60))
    done = CliRunner().invoke(app, ["export", str(run), str(full_disk / "out.jsonl")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"hullward: {full_disk / 'out.jsonl'} cannot be written (no space left on device): ")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in full_disk.iterdir()} == {"others"}
