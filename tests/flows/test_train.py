"""The training flow: a checkpoint that loads, and progress on the page of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
        "from generative.training.config import TrainConfig\n"
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
    for part in ("train_loss", "train_frac", "val_loss", "val_lattice"):
        assert part in artifact["description"]


BAR = """
import json
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from tasks.report.run.artifacts import Progress

def bars():
    with get_client(sync_client=True) as client:
        named = ArtifactFilter(key=ArtifactFilterKey(any_=["bar-of-work"]))
        return [(one.key, one.data) for one in client.read_artifacts(artifact_filter=named)]

@flow
def work():
    moments = iter((0.0, 1.0, 4.0, 8.0))
    with Progress("bar of work", "working", lambda: next(moments)) as progress:
        seen = [bars()]
        for done in (1, 2, 3):
            progress.update(done, 4)
            seen.append(bars())
    print(json.dumps([*seen, bars()]))

work()
"""


def test_the_bar_of_work_is_on_the_runs_page_until_the_work_is_done(prefect_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", BAR]
    done = subprocess.run(command, cwd=ROOT, env=prefect_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [[[key, float(data)] for key, data in bars] for bars in json.loads(done.stdout.splitlines()[-1])]
    assert seen == [[], [], [["bar-of-work", 50.0]], [["bar-of-work", 75.0]], []]


def cli(settings: dict[str, Any], place: Path, *options: str) -> subprocess.Popen[str]:
    """`hullward train` in a process of its own, working in place/out."""
    place.mkdir(exist_ok=True)
    (place / "training.yaml").write_text(json.dumps(settings), encoding="utf-8")
    call = "from flows.cli.main import app; app()"
    command = [sys.executable, "-c", call, "train", str(place / "training.yaml"), "--out", str(place / "out"), *options]
    quiet = {**os.environ, "HULLWARD_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_training_killed_with_signal_9_goes_on_to_the_same_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    recipe = {
        "system": {"width": 128, "n_layers": 4},
        "batch_crystals": 24,
        "max_steps": 60,
        "save_every": 7,
        "validation_every": 5,
        "schedule": "plateau",
        "plateau_patience": 0,
    }
    whole = cli({**settings, **recipe}, tmp_path / "whole")
    assert whole.wait(timeout=300) == 0
    killed, out = cli({**settings, **recipe}, tmp_path / "killed"), tmp_path / "killed" / "out"
    deadline = time.monotonic() + 300
    while not (out / "resume.ckpt").is_file():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    assert killed.wait(timeout=60) == -signal.SIGKILL
    assert not (out / "tiny").exists()
    again = cli({**settings, **recipe}, tmp_path / "killed")
    assert again.wait(timeout=300) == 0
    weights = [place / "out" / "tiny" / "model.safetensors" for place in (tmp_path / "whole", tmp_path / "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert sorted(part.name for part in (out / "curves").iterdir())[0] == "from-0000000"
    assert len(list((out / "curves").iterdir())) == 2


def test_a_training_is_validated_on_a_file_and_refuses_other_data_later(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.mkdir()
    for cif in sorted((tmp_path / "cifs").glob("Cs*.cif")):
        cif.rename(held / cif.name)
    del settings["validation_fraction"]
    settings |= {"validation": str(held), "property": None, "optimiser": "adam"}
    first = cli(settings, tmp_path / "one")
    assert first.wait(timeout=300) == 0
    record = load(str(tmp_path / "one" / "out" / "tiny")).training
    assert (record["crystals_trained"], record["crystals_held_out"], record["property_known"]) == (25, 5, 0)
    other = cli({**settings, "validation": str(tmp_path / "cifs")}, tmp_path / "one")
    said = other.communicate(timeout=300)[0]
    assert other.returncode != 0
    assert "holds a training on other data (see parts.json)" in " ".join(said.split())


def test_a_wrong_kind_is_told_before_anything_is_read(settings: dict[str, Any], tmp_path: Path) -> None:
    refused = cli({**settings, "kind": "crystal-flows"}, tmp_path / "wrong")
    said = " ".join(refused.communicate(timeout=300)[0].split())
    assert refused.returncode != 0
    assert "kind is 'crystal-flows': expected one of crystal-flow" in said
    assert "Traceback" not in said
    assert not (tmp_path / "wrong" / "out").exists()
