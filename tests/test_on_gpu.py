"""The script for a GPU, tried without one: its checks of the CDVAE family, and trainings that go on elsewhere."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from generative.systems.cdvae.family import FAMILY
from tests.benchmarks import family_on_gpu, on_gpu
from tests.benchmarks.systems_on_gpu import check_adaptive_cell, check_condition_cdvae


def test_single_precision_agrees_with_double_in_every_member() -> None:
    found = family_on_gpu.check_family("cpu", "tiny")
    assert list(found) == [kind.name for kind in FAMILY]
    for name, row in found.items():
        assert row.pop("reconstructed") == row.pop("generated") == 12, name
        assert min(row.values()) > 0, name
        assert max(row.values()) < 1e-3, name
    assert on_gpu.family_rows(found | {n: {**r, "generated": 1} for n, r in found.items()}).count("\n") == len(FAMILY)


def test_adaptive_cells_and_condition_cdvae_answer_in_single_precision_as_in_double() -> None:
    (edges,) = check_adaptive_cell("cpu", "tiny").values()
    assert 0 < edges < 1e-4
    found = check_condition_cdvae("cpu", "tiny")
    assert (found["reconstructed"], found["asked"]) == (12, 12)
    assert all(0 < found[name] < 1e-4 for name in ("latent", "heard", "vectors", "types"))


def test_both_precisions_see_the_same_noise() -> None:
    with family_on_gpu.same_draws():
        single = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
        double = torch.randn((9, 9), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(single, double.float())
    assert not torch.equal(single, torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Two files of perovskites, and settings of a reproduction of six steps."""
    crystals = [c for c in family_on_gpu.strained_crystals(24) if len(c.atomic_numbers) == 5]
    for part, rows in (("train", crystals[:12]), ("test", crystals[12:])):
        with (tmp_path / f"{part}.csv").open("w", newline="") as text:
            table = csv.writer(text)
            table.writerow(["material_id", "cif", "heat_all"])
            for i, crystal in enumerate(rows):
                table.writerow([f"{part}{i}", crystal.to_structure().to(fmt="cif"), 0.0])
    stated = {
        "name": "tiny",
        "datasets": [
            {
                "name": "perov-5", "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv"),
                "property_name": "heat_all",
            }
        ],
        "training": {
            "max_steps": 6, "batch_crystals": 4, "optimiser": "adam", "split": "crystal", "validation_fraction": 0.3,
            "precision": "32", "warmup_steps": 0,
        },
    }  # fmt: skip
    path = tmp_path / "reproduction.yaml"
    path.write_text(yaml.safe_dump(stated))
    return path


def test_a_training_out_of_time_goes_on_where_its_results_are_brought(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(work: str, minutes: float, *more: str) -> dict[str, object]:
        return on_gpu.main([
            "--parts", "train", "--device", "cpu", "--size", "tiny", "--threads", "1", "--reproduce", str(settings),
            "--systems", "dp-cdvae", "--datasets", "perov-5", "--minutes", str(minutes), "--work", str(tmp_path / work),
            "--out", str(tmp_path / f"{work}-out"), *more,
        ])  # fmt: skip

    def model(work: str) -> Path:
        return tmp_path / work / "reproductions" / "tiny" / "perov-5" / "dp-cdvae" / "train" / "model"

    monkeypatch.setattr(family_on_gpu, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(family_on_gpu, "time", SimpleNamespace(monotonic=Steps(until_late=3)))
    first = call("one", 1.0)
    monkeypatch.undo()
    assert first["reproduction"] == {"train-perov-5-dp-cdvae": "OutOfTimeError: at step 2 of 6"}
    assert not model("one").exists()
    pieces = sorted((tmp_path / "one-out").glob("results-*"))
    assert len(pieces) > 1
    assert all(piece.stat().st_size <= 100_000 for piece in pieces)

    second = call("two", 1.0, "--resume-from", str(tmp_path / "one-out"))
    assert second["left on the machine"] == []
    assert sorted(folder.name for folder in (model("two").parent / "curves").iterdir()) == [
        "from-0000000",
        "from-0000002",
    ]
    done = second["reproduction"]["train-perov-5-dp-cdvae"]  # type: ignore[index]
    assert done["steps"] == 6
    assert math.isfinite(done["val_loss"])
    call("whole", 1.0)
    expected, found = (load_file(model(work) / "model.safetensors") for work in ("whole", "two"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert json.loads((tmp_path / "whole-out" / "table.json").read_text())["device"] == "cpu"


class Steps:
    """A clock that stands still for so many readings, and is late from then on."""

    def __init__(self, until_late: int) -> None:
        self.left = until_late

    def __call__(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 1e9


def test_what_does_not_fit_is_named_and_left(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = on_gpu.parsed(["--reproduce", str(settings), "--work", str(tmp_path / "work"), "--device", "cpu"])
    config = on_gpu.reproduction_of(arguments)
    training = config.folder / "perov-5" / "cdvae" / "train"
    (training / "model").mkdir(parents=True)
    (training / "bonds").mkdir()
    for name, n_bytes in (
        ("resume.ckpt", 90_000),
        ("model/model.safetensors", 30_000),
        ("model/model.json", 9),
        ("bonds/b", 9),
    ):
        (training / name).write_bytes(np.random.default_rng(0).bytes(n_bytes))
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(family_on_gpu, "RESULTS_BYTES", 60_000)
    assert family_on_gpu.pack(config, out) == ["perov-5/cdvae/train/resume.ckpt (0 MiB)"]
    elsewhere = on_gpu.reproduction_of(
        on_gpu.parsed(["--reproduce", str(settings), "--work", str(tmp_path / "other"), "--device", "cpu"])
    )
    family_on_gpu.unpack(out, elsewhere)
    brought = sorted(p.relative_to(elsewhere.folder).as_posix() for p in elsewhere.folder.rglob("*") if p.is_file())
    assert brought == ["perov-5/cdvae/train/model/model.json", "perov-5/cdvae/train/model/model.safetensors"]
    with pytest.raises(SystemExit, match="holds no results-00"):
        family_on_gpu.unpack(tmp_path, config.model_copy(update={"name": "another"}))
