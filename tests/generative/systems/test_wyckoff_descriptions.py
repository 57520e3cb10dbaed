"""Descriptions of many crystals are those of one at a time, to the bit, whoever made them and wherever they lie."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import WyckoffCrystal, WyckoffError
from generative.systems.wyckoff import descriptions
from generative.systems.wyckoff.descriptions import CACHE_FILE, Descriptions
from generative.training.config import TrainConfig
from generative.training.data import TrainingSet
from generative.training.loop import fit
from tests.real_crystals import real_crystals

N = 60
OVERLAPPING = Crystal(np.eye(3) * 4, np.zeros((2, 3)), np.array([11, 11], dtype=np.int16))


@pytest.fixture(scope="module")
def crystals() -> list[Crystal]:
    return [*real_crystals("mp_20_val", N, 20), OVERLAPPING]


@pytest.fixture(scope="module")
def truth(crystals: list[Crystal]) -> list[WyckoffCrystal]:
    return [WyckoffCrystal.of(crystal) for crystal in crystals[:-1]]


def assert_same(found: Sequence[WyckoffCrystal], truth: Sequence[WyckoffCrystal]) -> None:
    assert [one.signature for one in found] == [one.signature for one in truth]
    for one, other in zip(found, truth, strict=True):
        assert (one.cell.dtype, one.xyz.shape) == (other.cell.dtype, other.xyz.shape)
        assert one.cell.tobytes() == other.cell.tobytes()
        assert one.xyz.tobytes() == other.xyz.tobytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_several_processes_describe_crystals_as_one_does(
    crystals: list[Crystal], truth: list[WyckoffCrystal], workers: int
) -> None:
    made = Descriptions()
    reasons = made.reasons(crystals, workers=workers)
    assert reasons[:-1] == [""] * N
    with pytest.raises(WyckoffError) as told:
        WyckoffCrystal.of(OVERLAPPING)
    assert reasons[-1] == str(told.value)
    assert_same(made.of(crystals[:-1]), truth)
    with pytest.raises(WyckoffError, match="spglib finds no space group of 2 atoms"):
        made.of(crystals)


def test_what_is_kept_is_not_described_again_and_a_reason_is_kept_too(
    crystals: list[Crystal], truth: list[WyckoffCrystal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = Descriptions().reasons(crystals, tmp_path)
    assert reasons[-1]

    def described(crystal: Crystal) -> WyckoffCrystal | str:
        raise AssertionError("a crystal was described again")

    monkeypatch.setattr(descriptions, "_described", described)
    again = Descriptions()
    assert again.reasons(crystals, tmp_path) == reasons
    assert_same(again.of(crystals[:-1]), truth)
    monkeypatch.setattr(descriptions, "RECIPE", "of other packages")
    with pytest.raises(AssertionError, match="described again"):
        Descriptions().reasons(crystals, tmp_path)


def test_a_training_leaves_out_the_same_crystals_and_stores_the_same_numbers_whoever_described_them(
    crystals: list[Crystal], tmp_path: Path
) -> None:
    n = len(crystals)
    data = TrainingSet(crystals, [None] * n, [None] * n, [f"made:{i}" for i in range(n)])
    stored = []
    for name, workers in (("one", 1), ("two", 2), ("kept", 1)):
        settings = {
            "kind": "wyckoff",
            "data": {"workers": workers},
            "system": {"width": 8, "hidden": 16, "dropout": 0.0},  # dropout draws from the global generator
            "max_steps": 2,
            "batch_crystals": 16,
            "validation_fraction": 0.2,
            "torch_threads": 1,
        }
        cache = None if name == "one" else tmp_path / "shared"
        system, record = fit(data, TrainConfig.model_validate(settings), tmp_path / name, cache=cache)
        assert record["crystals_left_out"] == 1
        with (tmp_path / name / "left_out.csv").open(encoding="utf-8", newline="") as text:
            (row,) = csv.DictReader(text)
        assert row["id"] == f"made:{n - 1}"
        assert row["reason"].startswith("spglib finds no space group of 2 atoms")
        stored.append({key: value.numpy().tobytes() for key, value in system.state_dict().items()})
    assert (tmp_path / "shared" / CACHE_FILE).is_file()
    assert stored[0] == stored[1] == stored[2]
