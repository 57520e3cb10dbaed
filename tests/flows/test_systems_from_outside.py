"""A system of somebody else's package, known by its entry point alone, is run, named and keyed like those here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.flows.conftest import ROOT, Campaign, Discover
from tests.outside_packages import install, run

MODULE = """
import numpy as np
import torch
from pydantic import Field

from generative.config import SamplerSettings
from storage.settings import RoomConfig
from generative.crystal.crystals import Crystal
from generative.systems.interface import Generator, own_settings, require_cells
from toy_crystals.shapes import cube


class GasSampler(SamplerSettings):
    volume_per_atom_ang3: float = Field(15.0, gt=0)


class Gas(Generator):
    name = "toy-gas"
    config_type, sampler_type = RoomConfig, GasSampler

    def sample(self, requests, rng, settings=None, progress=None):
        how = own_settings(GasSampler, settings)
        require_cells(requests, atoms_max=64)
        made = []
        for request in requests:
            frac = torch.rand(request.n_atoms, 3, generator=rng).double().numpy()
            numbers = np.array(request.atomic_numbers, dtype=np.int16)
            made.append(Crystal(cube(request.n_atoms * how.volume_per_atom_ang3), frac, numbers))
        return made
"""
SHAPES = "import numpy as np\n\n\ndef cube(volume):\n    return volume ** (1 / 3) * np.eye(3)\n"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with an installed package of two modules, and a checkpoint of its system."""
    entries = (
        "[hullward.systems]\ntoy-gas = toy_crystals.gas:Gas\nbroken = toy_crystals.absent:Gas\n"
        "crystal-flow = toy_crystals.gas:Gas\n"
    )
    folder = install(tmp_path / "site", "toy_crystals", {"gas.py": MODULE, "shapes.py": SHAPES}, entries)
    make = (
        "from pathlib import Path\nfrom generative import checkpoints\nfrom storage.settings import RoomConfig\n"
        "from generative.systems.registry import system_type\n"
        f"checkpoints.save(Path({str(tmp_path / 'gas')!r}), system_type('toy-gas')(RoomConfig()), {{}})\n"
    )
    run(make, folder)
    return folder


def settings(campaign: Campaign, tmp_path: Path, **sampler: Any) -> Path:
    sample = {"checkpoint": str(tmp_path / "gas"), "sampler": sampler}
    config = campaign.config(tmp_path / "runs", name="toy", sample=sample)
    file = tmp_path / "toy.yaml"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    return file


def discover_with(file: Path, folder: Path, discover: Discover) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "discover", str(file)],
        cwd=file.parent,
        env={**discover.environment, "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_discover_runs_with_a_system_of_another_package(
    outside: Path, campaign: Campaign, discover: Discover, tmp_path: Path
) -> None:
    # The tiny run's own setting of steps is none of this system's.
    refused = discover_with(settings(campaign, tmp_path, n_steps=5), outside, discover)
    assert refused.returncode == 1
    assert "sample.sampler.n_steps is no setting of toy-gas: expected volume_per_atom_ang3" in refused.stderr
    assert not list((tmp_path / "runs" / "toy").glob("dataset/*"))
    file = settings(campaign, tmp_path, volume_per_atom_ang3=18.0)
    done = discover_with(file, outside, discover)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "runs" / "toy" / "candidates.parquet").to_pylist()
    assert len(rows) == 8
    volumes = [abs(row["lattice_ang"][0] * row["lattice_ang"][4] * row["lattice_ang"][8]) for row in rows]
    assert volumes == pytest.approx([18.0 * row["n_atoms"] for row in rows])
    # A changed helper of the other package computes the draws again.
    (outside / "toy_crystals" / "shapes.py").write_text(SHAPES.replace("np.eye(3)", "np.diag([1.0, 2.0, 0.5])"))
    changed = discover_with(file, outside, discover)
    assert changed.returncode == 0, changed.stderr
    rows = pq.read_table(tmp_path / "runs" / "toy" / "candidates.parquet").to_pylist()
    assert rows[0]["lattice_ang"][4] == pytest.approx(2 * rows[0]["lattice_ang"][0])


def test_a_name_of_ours_cannot_be_taken_and_what_cannot_be_loaded_is_named(outside: Path) -> None:
    code = (
        "import json\nfrom generative.systems.registry import UnknownSystemError, system_type\n"
        "try:\n    system_type('broken')\nexcept UnknownSystemError as error:\n    said = str(error)\n"
        "print(json.dumps([system_type('crystal-flow').__module__, said]))\n"
    )
    module, said = json.loads(run(code, outside))
    assert module == "generative.systems.crystal_flow"
    assert said.startswith("'broken' is registered as toy_crystals.absent:Gas, which cannot be loaded")
