"""Trainings of a reproduction: every system, and the energy regressor, on every data set, at one budget.

A training goes on where it was killed, and is begun anew only where its settings or files have changed: unlike other
stages not where code has, since a reworded sentence must not cost hours. The digest of the code that trained stands in
the result instead.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.paths import resolve
from configs.reproduction import DatasetEntry, ReproductionConfig
from generative.config import DataConfig, FilesSource, FilterConfig
from generative.metrics.figures import Figure
from generative.training_config import TrainConfig
from tasks.files import code_digest, write_text
from tasks.reproductions.dp_cdvae.places import train_place
from tasks.reproductions.results import Measured, NotReadyError, Place, Result, digest_of, locked
from tasks.run import hardware

REGRESSOR = "dimenet-regressor"
CODE = ("generative", "tasks/train.py")
MACHINE = {"device", "n_devices", "torch_threads"}
"""Settings that change no result."""

PLACES = {"data", "exclude", "validation"}
"""Settings that name files, whose digests count."""

CURVE_POINTS = 200
"""Most points of a curve that are kept: enough to draw it."""


def training_of(config: ReproductionConfig, entry: DatasetEntry, system: str) -> TrainConfig:
    """The settings of one training.

    Args:
        config: holds what all have in common.
        entry: the data set.
        system: its name; empty for the regressor.
    """
    common = config.training if system else config.regressor
    sizes: dict[str, Any] = {"size": config.size, **common.system}
    if system:
        sizes["max_atoms"] = entry.max_atoms
    stated = common.model_dump() | {
        "name": "model",
        "kind": system or REGRESSOR,
        "seed": config.seed,
        "data": DataConfig(
            sources=(FilesSource(path=entry.train),),
            filters=FilterConfig(n_atoms_max=entry.max_atoms),
            workers=config.workers,
        ).model_dump(),
        "exclude": entry.test,
        "validation": entry.validation,
        "property": None if system else entry.property_name,
        "system": sizes,
        "device": config.execution.device,
        "torch_threads": config.execution.torch_threads,
    }
    if entry.validation is not None:  # then there is no part to be held out, and the settings refuse to name one
        stated = {name: value for name, value in stated.items() if name not in ("validation_fraction", "split")}
    if system:
        stated["max_steps"] = entry.max_steps or common.max_steps
        stated["batch_crystals"] = entry.batch_crystals or common.batch_crystals
    return TrainConfig.model_validate(stated)


@lru_cache(maxsize=32)
def digest_of_file(path: str) -> str:
    """Digest of a file of crystals, whatever its name."""
    from generative.datasets.files import Files

    return Files(FilesSource(path=path), resolve(path)).database_version() or ""


def training_inputs(config: ReproductionConfig, entry: DatasetEntry, system: str) -> str:
    """Digest of the settings and files of a training."""
    settings = training_of(config, entry, system).model_dump(mode="json", exclude=MACHINE | PLACES)
    files = [digest_of_file(path) for path in (entry.train, entry.test, entry.validation) if path is not None]
    return digest_of({"settings": settings, "files": files, "n_atoms_max": entry.max_atoms})


def trained(
    config: ReproductionConfig, dataset: str, system: str, callbacks: Sequence[Any] = (), measure: bool = True
) -> Result:
    """Train a system on a data set, going on where an interrupted training of the same settings stopped.

    Args:
        config: the reproduction.
        dataset: name of the data set.
        system: name of the system; empty for the regressor.
        callbacks: Lightning callbacks, such as a progress artifact.
        measure: whether a finished regressor is tried on the test set.

    Raises: generative.training.TrainingError: if the data do not suffice, or a loss stops being finite.
    """
    from tasks.train import train

    entry, place = config.dataset(dataset), train_place(dataset, system)
    inputs, folder = training_inputs(config, entry, system), place.folder(config)
    with locked(folder):
        found = Result.read(place.file(config))
        if found is not None and found.inputs == inputs and (folder / "model" / "model.json").is_file():
            return replace(found, reused=True)
        _clear_unless(folder, inputs)
        shared = config.folder / dataset / "bonds"
        checkpoint = train(training_of(config, entry, system), folder, callbacks, cache=shared)
        result = _result(config, place, inputs, checkpoint)
        if not system and measure:
            from tasks.reproductions.dp_cdvae.energies import regressor_figures

            result = replace(result, figures=(*result.figures, *regressor_figures(config, dataset, checkpoint)))
        result.write(place.file(config))
        return result


def _clear_unless(folder: Path, inputs: str) -> None:
    """Empty the folder of a training with other settings; note whose it is from now on."""
    marker = folder / "started.json"
    if not marker.is_file() or json.loads(marker.read_text(encoding="utf-8")).get("inputs") != inputs:
        for part in folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part)
            elif part.name != ".lock":
                part.unlink()
        write_text(marker, json.dumps({"inputs": inputs}) + "\n")


def _result(config: ReproductionConfig, place: Place, inputs: str, checkpoint: Path) -> Result:
    from generative.checkpoints import about, digest, load
    from tasks.loading import device_of

    training = about(str(checkpoint))["training"]
    system = load(str(checkpoint)).system
    settings = training_of(config, config.dataset(place.dataset), place.system)
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
        "code_sha256": code_digest(CODE),
        "data_fingerprint_sha256": training.get("data_fingerprint_sha256"),
        "seed": settings.seed,
    }
    figures = tuple(
        Measured(Figure(place.stage, name, float(value), "", crystals))
        for name, value in sorted(training.get("metrics", {}).items())
    )
    return Result(place, inputs, inputs, figures, budget, curves_of(place.folder(config)))


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


def checkpoint_of(config: ReproductionConfig, dataset: str, system: str) -> tuple[str, str]:
    """The trained checkpoint and its digest; where only the result of its training is here, the digest that it states.

    Raises: NotReadyError: if it is not trained, or was trained with other settings.
    """
    from generative.checkpoints import digest

    place = train_place(dataset, system)
    what = f"{system or 'the energy regressor'} on {dataset}"
    found = Result.read(place.file(config))
    if found is None:
        raise NotReadyError(f"{what} is not trained: run the stage {place.stage}")
    if found.inputs != training_inputs(config, config.dataset(dataset), system):
        raise NotReadyError(f"{what} was trained with other settings or files: run the stage {place.stage} again")
    folder = place.folder(config) / "model"
    if not (folder / "model.json").is_file():
        return str(folder), str(found.budget["checkpoint_sha256"])
    return str(folder), digest(str(folder))
