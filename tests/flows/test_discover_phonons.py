"""Phonons of a run's best candidates: what the table, the report and the manifest say of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dft.config import PhononConfig
from dft.phonons import potential_phonons
from generative.crystals import crystals_of
from tasks.loading import potential

SMALL: dict[str, Any] = {"supercell_height_ang": 3.0, "relax_max_steps": 3, "mesh_length_ang": 5.0}
"""One cell, hardly relaxed: its modes are those of no minimum, which is what is to be told."""


def with_phonons(finished: Any, discover: Any, runs: Path, **changes: Any) -> Any:
    """The finished run's folder once more, with phonons of its best candidates."""
    if not runs.is_dir():
        shutil.copytree(finished.folder.parent, runs)
    stated = finished.config.model_dump()
    stated["execution"]["runs_folder"] = str(runs)
    stated["phonons"] = {**SMALL, "n_best": 2, **changes}
    return discover(type(finished.config).model_validate(stated))


@pytest.fixture(scope="module")
def shaken(finished: Any, discover: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_phonons(finished, discover, tmp_path_factory.mktemp("shaken") / "runs")


def said_by(run: Any, task: str) -> list[str]:
    return [message for name, message in run.log.said if name.startswith(task)]


def test_the_best_candidates_have_the_phonons_of_their_relaxed_crystals(shaken: Any) -> None:
    table = pq.read_table(shaken.folder / "candidates.parquet")
    ranked = [row for row in table.to_pylist() if row["rank"] is not None]
    rows = pq.read_table(shaken.folder / "phonons.parquet").to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in ranked[:2]]
    crystal = crystals_of(table, "relaxed_")[0]
    assert crystal is not None
    loaded = potential(shaken.config.relax, shaken.config.execution)
    expected = potential_phonons(crystal.to_structure(), loaded, PhononConfig(**SMALL))
    assert rows[0]["lowest_thz"] == pytest.approx(expected.lowest_thz, abs=0.02)
    assert rows[0]["n_imaginary"] == len(expected.imaginary)
    assert rows[0]["supercell"] == list(expected.supercell)
    assert rows[0]["method"] == loaded.method


def test_report_and_manifest_say_which_candidates_are_saddle_points(shaken: Any) -> None:
    rows = pq.read_table(shaken.folder / "phonons.parquet").to_pylist()
    unstable = sum(bool(row["n_imaginary"]) for row in rows)
    page = (shaken.folder / "report.html").read_text(encoding="utf-8")
    assert f"{unstable} of 2 candidates whose phonons were computed" in page
    assert page.count("saddle point") == unstable
    stated = json.loads((shaken.folder / "manifest.json").read_text())["phonons"]
    assert [figure["rank"] for figure in stated] == [1, 2]
    assert stated[0]["lowest_thz"] == rows[0]["lowest_thz"]


def test_phonons_are_computed_once_and_only_where_they_are_asked_for(shaken: Any, finished: Any, discover: Any) -> None:
    runs = shaken.folder.parent
    again = with_phonons(finished, discover, runs)
    assert len(said_by(again, "phonons")) == 2
    assert all("unchanged, skipped" in message for message in said_by(again, "phonons"))
    off = with_phonons(finished, discover, runs, n_best=0)
    assert not said_by(off, "phonons")
    assert "Phonons of the best candidates" not in (off.folder / "report.html").read_text(encoding="utf-8")
    assert not (finished.folder / "phonons.parquet").exists()


def test_a_candidate_without_phonons_keeps_its_rank_and_a_sentence(
    finished: Any, discover: Any, tmp_path: Path
) -> None:
    run = with_phonons(finished, discover, tmp_path / "runs", n_best=1, supercell_atoms_max=1)
    (row,) = pq.read_table(run.folder / "phonons.parquet").to_pylist()
    assert row["lowest_thz"] is None
    assert "more than supercell_atoms_max 1" in row["notes"]
    assert "more than supercell_atoms_max 1" in (run.folder / "report.html").read_text(encoding="utf-8")
    best = pq.read_table(run.folder / "candidates.parquet").to_pylist()[0]
    assert (best["id"], best["rank"]) == (row["id"], 1)
