"""The feature network is trained by the one loop: what it leaves out, what it leaves behind, where it goes on."""

from __future__ import annotations

import csv
import gzip
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from configs.paths import resolve
from configs.schema import parse
from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.metrics.network_features import load_network, network_features
from generative.systems.cgcnn_features import CGCNNFeatures
from generative.training.config import TrainConfig
from tasks.train.training import train
from tests.servers.real import FILE, real_records

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and GPUs


def config(**changes: Any) -> TrainConfig:
    """Sixty real crystals, a small network."""
    real_records(1)  # skips where there are none
    settings = {
        "name": "made",
        "kind": "cgcnn-features",
        "data": {"sources": [{"kind": "files", "path": FILE, "limit": 60}]},
        "system": {"width": 8, "n_convolutions": 2, "n_features": 4},
        "max_steps": 60,
        "batch_crystals": 16,
        "batches": "random",
        "adam_lr": 0.01,
        "warmup_steps": 5,
        "decay_fraction": 1,
        "ema": 0,
        "validation_fraction": 0.2,
        "validation_every": 20,
        "precision": "32",
        "torch_threads": 1,
        "device": "cpu",
        **changes,
    }
    return parse(TrainConfig, settings, "test")


def curve(folder: Path, name: str) -> list[float]:
    (file,) = folder.glob("curves/from-*/metrics.csv")
    with file.open() as text:
        return [float(row[name]) for row in csv.DictReader(text) if row.get(name)]


def test_training_lowers_the_error_and_leaves_a_network_whose_features_can_be_compared(tmp_path: Path) -> None:
    many = {"sources": [{"kind": "files", "path": FILE, "limit": 300}]}
    place = train(config(data=many, max_steps=120), tmp_path)
    losses = curve(tmp_path, "train_loss")
    assert losses[-1] < 0.7 * losses[0]
    held = curve(tmp_path, "val_loss")
    assert held[-1] < 0.8 * held[0]
    loaded, system = load_network(place), checkpoints.load(str(place)).regressor
    assert isinstance(system, CGCNNFeatures)
    # In evaluation mode batch normalisation goes by what it has measured: of the first weights, it would be far off.
    records = [r for r in real_records(300) if {site.Z for site in r.structure.species} <= loaded.elements]
    crystals = [Crystal.from_structure(record.structure) for record in records]
    assert network_features(crystals, network=loaded).usable.all()
    known = np.array([record.formation_energy_ev_per_atom for record in records])
    errors = np.abs(system.predict(crystals) - known)
    assert errors.mean() < 0.8 * np.abs(known - known.mean()).mean()


def test_ids_of_the_test_file_are_not_trained_on_and_the_card_says_what_was(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    real_records(1)  # skips where there are none
    with gzip.open(resolve(FILE), "rt", encoding="utf-8", newline="") as whole, test.open("w", newline="") as part:
        csv.writer(part).writerows(islice(csv.reader(whole), 31))
    place = train(config(exclude=str(test), test=str(test), max_steps=4), tmp_path / "run")
    about = checkpoints.about(str(place))["training"]
    assert about["crystals_trained"] + about["crystals_held_out"] <= 30
    card = (place / "MODEL_CARD.md").read_text()
    told, untold = (re.search(pattern, card) for pattern in (r"\| test file \| (\d+) \|", r"; (\d+) of its crystals"))
    assert told is not None
    assert untold is not None
    assert int(told[1]) + int(untold[1]) == 30  # some hold elements that were not trained on
    assert f"{about['crystals_trained']:,} crystals trained on" in card


class Stop(Callback):
    """Ends a training as a signal would, after the state of step 40 is written."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_done == 45:
            raise KeyboardInterrupt


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = checkpoints.load(str(train(config(save_every=20), tmp_path / "whole"))).system.state_dict()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config(save_every=20), tmp_path / "parts", [Stop()])
    parts = checkpoints.load(str(train(config(save_every=20), tmp_path / "parts"))).system.state_dict()
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value)


def test_a_folder_of_a_training_with_other_sizes_is_refused(tmp_path: Path) -> None:
    train(config(max_steps=4), tmp_path)
    with pytest.raises(RuntimeError, match="start this one anew"):
        train(config(max_steps=4, system={"width": 16}), tmp_path)
