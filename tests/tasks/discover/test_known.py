"""What a run chooses as competing phases, and how it tells what it left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from configs.schema import DiscoverConfig
from generative.datasets.cut import Cut
from generative.datasets.table import DATASET_SCHEMA
from tasks import files
from tasks.discover.known import choose_references, competing_phases_of, cut_of
from tasks.discover.run import RunFolder, read_manifest
from tasks.files import FileRef, write_table

STATED = {"Al": 0.0, "N2": 0.0, "Ti": 0.0, "TiN": -1.89, "AlN": -1.6}
DECOYS = {f"Al{n}N{m}": 0.2 + 0.01 * n for n in range(2, 8) for m in (1, 5, 7) if n not in (5, 7)}


def dataset(folder: Path, energies: dict[str, float | None]) -> FileRef:
    rows = [
        {"id": f"x:{formula}", "formula": formula, "method": "PBE", "formation_energy_ev_per_atom": energy}
        for formula, energy in energies.items()
    ]
    kept = [name for name in DATASET_SCHEMA.names if name != "atomic_numbers"]
    table = pa.Table.from_pylist(rows, pa.schema([DATASET_SCHEMA.field(name) for name in kept]))
    write_table(table, folder / "dataset.parquet")
    return FileRef.of(folder / "dataset.parquet")


def limited(most: int, **changes: Any) -> DiscoverConfig:
    return DiscoverConfig.model_validate({"elements": ["Al", "Ti", "N"], "hull": {"references_max": most}, **changes})


def test_a_run_with_more_phases_than_its_limit_keeps_what_is_stable_and_its_manifest_says_what_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dataset(tmp_path, {**DECOYS, **STATED})
    n = len(DECOYS) + len(STATED)
    first = choose_references(limited(8), tmp_path, known)
    kept = set(first.read().column("formula").to_pylist())
    assert kept >= set(STATED)
    assert len(kept) == 8
    said = read_manifest(RunFolder(tmp_path))["competing_phases"]
    assert (said["n_phases"], said["n_cut"], said["most"], said["could_lie_on_hull"]) == (n, n - 8, 8, False)
    assert said["note"].startswith(f"{n - 8} of {n} competing phases were left out of the hull (hull.references_max 8)")
    # Done already: the file is taken as it is, and still knows.
    again = choose_references(limited(8), tmp_path, known)
    assert again.reused
    assert cut_of(again.read()) == cut_of(first.read()) == Cut.from_dict(said)
    # The code of the choice is part of the key.
    monkeypatch.setattr(files, "code_digest", lambda *entries: f"other code of {[e.__name__ for e in entries]}")
    assert not choose_references(limited(8), tmp_path, known).reused


def test_a_run_that_leaves_nothing_out_says_nothing(tmp_path: Path) -> None:
    ref = choose_references(limited(400), tmp_path, dataset(tmp_path, dict(STATED)))
    assert len(ref.read()) == len(STATED)
    assert read_manifest(RunFolder(tmp_path))["competing_phases"]["note"] == ""


def test_phases_without_energies_that_were_left_out_are_counted(tmp_path: Path) -> None:
    known = dataset(tmp_path, {**STATED, **dict.fromkeys(DECOYS)})
    choose_references(limited(10), tmp_path, known)
    said = read_manifest(RunFolder(tmp_path))["competing_phases"]
    assert (said["n_unstated"], said["could_lie_on_hull"]) == (len(DECOYS) - 5, True)
    assert json.dumps(said)  # no infinities
    assert "have no stated energy and could lie on the hull" in said["note"]


def test_each_system_has_its_own_limit(tmp_path: Path) -> None:
    table = dataset(tmp_path, {**STATED, **DECOYS}).read()
    chosen = competing_phases_of(table, [("Al", "N"), ("N", "Ti")], 4)
    assert {"Al", "AlN", "N2", "Ti", "TiN"} < set(chosen.column("formula").to_pylist())
    cut = cut_of(chosen)
    assert cut is not None
    assert "(hull.references_max 4 for each chemical system)" in cut.note
