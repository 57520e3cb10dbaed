"""The notebooks of docs/notebooks run as they stand, and show what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SHOWN: dict[str, tuple[str, ...]] = {
    "first-hour": ("candidates ranked", "image/png", "application/vnd.plotly.v1+json", ".cif"),
    "own-crystals": ("is disordered", "above hull eV/atom", "image/png", "application/vnd.plotly.v1+json"),
    "a-generator": ("12 crystals", "structural validity", "valid, novel and unique", "image/png"),
}


def test_every_notebook_is_tried() -> None:
    assert {file.stem for file in NOTEBOOKS} == set(SHOWN)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_holds_no_outputs(file: Path) -> None:
    notebook: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_and_shows_what_it_says(file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebooks", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for said in SHOWN[file.stem]:
        assert said in done.stdout, said
