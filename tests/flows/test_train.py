"""The training flow: a checkpoint that loads, and progress on the run's page."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.checkpoints import load

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Three steps on thirty strained rock salts."""
    rng = np.random.default_rng(0)
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for metal in ("Li", "Na", "K", "Rb", "Cs", "Ag"):
        for halogen in ("F", "Cl", "Br", "I", "H"):
            strain = np.eye(3) + rng.normal(0.0, 0.05, (3, 3))
            cell = Lattice(np.array([[0, 2.6, 2.6], [2.6, 0, 2.6], [2.6, 2.6, 0]]) @ strain)
            Structure(cell, [metal, halogen], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(cifs / f"{metal}{halogen}.cif"))
    return {
        "name": "tiny",
        "data": {"sources": [{"kind": "files", "path": str(cifs)}]},
        "system": {"width": 32, "n_layers": 1},
        "max_steps": 3,
        "batch_crystals": 8,
        "validation_fraction": 0.3,
        "torch_threads": 1,
    }


def run(settings: dict[str, Any], folder: Path, environment: dict[str, str]) -> None:
    code = (
        "import json, sys\n"
        "from flows.train import train\n"
        "from generative.config import TrainConfig\n"
        "train(TrainConfig.model_validate(json.loads(sys.argv[1])), runs_folder=sys.argv[2])"
    )
    command = [sys.executable, "-c", code, json.dumps(settings), str(folder)]
    quiet = {**environment, "HULLWARD_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_training_leaves_a_checkpoint_and_its_progress(
    settings: dict[str, Any], tmp_path: Path, prefect_environment: dict[str, str]
) -> None:
    run(settings, tmp_path / "runs", prefect_environment)
    checkpoint = load(str(tmp_path / "runs" / "training" / "tiny" / "tiny"))
    assert checkpoint.training["steps"] == 3
    body = json.dumps({"artifacts": {"key": {"any_": ["training-tiny"]}}}).encode()
    asked = urllib.request.Request(
        prefect_environment["PREFECT_API_URL"] + "/artifacts/filter", body, {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=20) as reply:
        (artifact,) = json.loads(reply.read())
    assert float(artifact["data"]) == 100.0
    assert "step 3 of 3" in artifact["description"]
