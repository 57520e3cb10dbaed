"""Trainings of a reproduction: what each took, and whether what lies there is of these settings.

A training goes on where it was killed, and is begun anew only where its settings or files have changed: unlike other
stages not where code has, since a reworded sentence must not cost hours. The digest of the code that trained stands in
the result instead.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from generative.metrics.metric import Metric
from generative.training.config import TrainConfig
from storage.documents import read_document, write_document
from tasks.discover.run import hardware
from tasks.papers.results import AnyComparison, Measured, NotReadyError, Result, ResultKey
from tasks.source_code import code_digest
from tasks.train.training import train_on

MACHINE = {"device", "n_devices", "torch_threads"}
"""Settings that change no result."""

FILES = {"data", "exclude", "validation"}
"""Settings that name files, whose digests count in their place."""

LATER = {"labels", "licence", "exclude_formulas"}
"""Settings that came after results which lie on disk, and that no paper uses: without them these keep their digests."""

CURVE_POINTS = 200
"""Most points of a curve that are kept: enough to draw it."""


def settings_of(training: TrainConfig, but: Collection[str] = ()) -> dict[str, Any]:
    """What a training's result depends on of its settings, as JSON has it.

    Args:
        training: all settings.
        but: further names that are left out.
    """
    return training.model_dump(mode="json", exclude=MACHINE | LATER | set(but))


def clear_unless(folder: Path, inputs: str) -> None:
    """Empty the folder of a training with other settings; note whose it is from now on."""
    marker = folder / "started.json"
    # Whose training it is nobody knows then, and what would be emptied may be days of work.
    unknown = f"remove {folder} to train anew, or only what is in it that is not wanted"
    if not marker.is_file() or read_document(marker, unknown).get("inputs") != inputs:
        for part in folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part)
            elif part.name != ".lock":
                part.unlink()
        write_document(marker, {"inputs": inputs})


def training_result(
    config: AnyComparison, key: ResultKey, settings: TrainConfig, inputs: str, checkpoint: Path
) -> Result:
    """What a finished training took, with its last losses and its curves.

    Args: the reproduction; which result; settings of the training; digest of settings and files; checkpoint.
    """
    from generative.checkpoints import about, digest, load
    from tasks.loading import device_of

    training = about(str(checkpoint))["training"]
    system = load(str(checkpoint)).system
    crystals, epochs = int(training["crystals_trained"]), float(training["epochs"])
    rate = float(training["crystals_per_s"])
    budget = {
        "steps": int(training["steps"]),
        "batch_crystals": settings.batch_crystals,
        "crystals": crystals,
        "crystals_left_out": int(training["crystals_left_out"]),
        "epochs": epochs,
        "seconds": round(epochs * crystals / rate, 1),  # of steps: validations are not counted
        "crystals_per_second": rate,
        "parameters": sum(p.numel() for p in system.parameters()),
        "size": config.size,
        "device": device_of(config.execution),
        "torch_threads": config.execution.torch_threads,
        "hardware": hardware(),
        "checkpoint_sha256": digest(str(checkpoint)),
        "code_sha256": code_digest(train_on, type(system)),
        "data_fingerprint_sha256": training.get("data_fingerprint_sha256"),
        "seed": settings.seed,
    }
    metrics = tuple(
        Measured(Metric(key.stage, name, float(value), "", crystals))
        for name, value in sorted(training.get("metrics", {}).items())
    )
    return Result(key, inputs, inputs, metrics, budget, curves_of(key.folder(config)))


def curves_of(folder: Path) -> dict[str, list[list[float]]]:
    """Losses of a training over its steps, thinned to what a picture needs.

    Every call of the training has left a part, which holds until the first step of the next one.
    """
    points: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("curves/from-*/metrics.csv")):
        first = int(file.parent.name.removeprefix("from-"))
        points = {name: {s: v for s, v in steps.items() if s < first} for name, steps in points.items()}
        with file.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text):
                for name, value in row.items():
                    if name and name not in ("step", "epoch") and value:
                        points.setdefault(name, {})[int(row["step"])] = float(value)
    curves = {}
    for name, by_step in sorted((name, steps) for name, steps in points.items() if steps):
        ordered = [[float(step), value] for step, value in sorted(by_step.items())]
        stride = -(-len(ordered) // CURVE_POINTS)
        curves[name] = ordered[::-stride][::-1]  # the last point is always kept
    return curves


def checkpoint_of(config: AnyComparison, key: ResultKey, inputs: str, what: str) -> tuple[str, str]:
    """The trained checkpoint and its digest; where only the result of its training is here, the digest that it states.

    Args: the reproduction; which training; digest of its settings and files; what was trained, for messages.

    Raises: NotReadyError: if it is not trained, or was trained with other settings.
    """
    from generative.checkpoints import digest

    found = Result.read(key.file(config))
    if found is None:
        raise NotReadyError(f"{what} is not trained: run the stage {key.stage}")
    if found.inputs != inputs:
        raise NotReadyError(f"{what} was trained with other settings or files: run the stage {key.stage} again")
    folder = key.folder(config) / "model"
    if not (folder / "model.json").is_file():
        return str(folder), str(found.budget["checkpoint_sha256"])
    return str(folder), digest(str(folder))
