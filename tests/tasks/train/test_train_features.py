"""Training of the feature network on a few real crystals: what it leaves out, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.paths import AssetError, resolve
from generative.config import FilesSource
from generative.metrics.network_features import ABOUT_FILE, WEIGHTS_FILE, load_network
from tasks.train import features as module
from tasks.train.features import FeatureTraining, train_features

SMALL = FeatureTraining(n_steps=6, batch_crystals=8, warmup_steps=2, held_out=0.2, checkpoint_steps=2)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty crystals to train on, thirty of which are also the test file."""
    try:
        resolve(module.TEST.path)
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    monkeypatch.setattr(module, "SOURCES", (FilesSource(path=module.TEST.path, limit=60),))
    monkeypatch.setattr(module, "TEST", FilesSource(path=module.TEST.path, limit=30))


@pytest.mark.usefixtures("few")
def test_ids_of_the_test_file_are_not_trained_on_and_the_card_says_what_was(tmp_path: Path) -> None:
    place = train_features(tmp_path, SMALL)
    training = json.loads((place / ABOUT_FILE).read_text())["training"]
    rows = {row["set"]: row for row in training["figures"]}
    assert rows["test file"]["n"] == 30
    held = rows["held-out formulas of the training files"]["n"]
    assert training["crystals_trained"] + held <= 30
    assert held >= 1
    card = (place / "MODEL_CARD.md").read_text()
    assert load_network(place).name in card
    assert f"{training['crystals_trained']:,} crystals, 6 steps of 8" in card


@pytest.mark.usefixtures("few")
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(train_features(tmp_path / "whole", SMALL) / WEIGHTS_FILE)
    batch = module._batch

    def stopped(step: int, n_crystals: int, config: FeatureTraining) -> list[int]:
        if step == 5:
            raise KeyboardInterrupt
        return batch(step, n_crystals, config)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_batch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_features(tmp_path / "parts", SMALL)
    parts = load_file(train_features(tmp_path / "parts", SMALL) / WEIGHTS_FILE)
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value)


@pytest.mark.usefixtures("few")
def test_a_folder_of_a_training_with_other_settings_is_refused(tmp_path: Path) -> None:
    train_features(tmp_path, SMALL)
    with pytest.raises(ValueError, match="other settings"):
        train_features(tmp_path, FeatureTraining(n_steps=7))


def test_every_crystal_comes_once_per_epoch() -> None:
    rows = [row for step in range(10) for row in module._batch(step, 40, FeatureTraining(batch_crystals=4))]
    assert sorted(rows) == list(range(40))
    again = [row for step in range(10, 20) for row in module._batch(step, 40, FeatureTraining(batch_crystals=4))]
    assert sorted(again) == list(range(40))
    assert again != rows


def test_the_rate_rises_and_falls_to_nothing() -> None:
    config = FeatureTraining(n_steps=100, warmup_steps=10)
    rates = [module._rate(config)(step) for step in range(101)]
    assert np.argmax(rates) in range(9, 11)
    assert rates[0] == pytest.approx(0.1, abs=0.01)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
