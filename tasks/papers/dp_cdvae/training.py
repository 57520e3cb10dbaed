"""Trainings of a reproduction: every system, and the energy regressor, on every data set, at one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from configs.paths import resolve
from configs.reproduction import DatasetEntry, ReproductionConfig
from generative.config import DataConfig, FilesSource, FilterConfig
from generative.training.config import TrainConfig
from tasks.papers import trainings
from tasks.papers.dp_cdvae.places import train_place
from tasks.papers.results import Result, digest_of, locked

REGRESSOR = "dimenet-regressor"
PLACES = {"data", "exclude", "validation"}
"""Settings that name files, whose digests count."""


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
    settings = training_of(config, entry, system).model_dump(mode="json", exclude=trainings.MACHINE | PLACES)
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

    Raises: generative.training.loop.TrainingError: if the data do not suffice, or a loss stops being finite.
    """
    from tasks.train.training import train

    entry, place = config.dataset(dataset), train_place(dataset, system)
    inputs, folder = training_inputs(config, entry, system), place.folder(config)
    with locked(folder):
        found = Result.read(place.file(config))
        if found is not None and found.inputs == inputs and (folder / "model" / "model.json").is_file():
            return replace(found, reused=True)
        trainings.clear_unless(folder, inputs)
        settings = training_of(config, entry, system)
        checkpoint = train(settings, folder, callbacks, cache=config.folder / dataset / "bonds")
        result = trainings.training_result(config, place, settings, inputs, checkpoint)
        if not system and measure:
            from tasks.papers.dp_cdvae.energies import regressor_figures

            result = replace(result, figures=(*result.figures, *regressor_figures(config, dataset, checkpoint)))
        result.write(place.file(config))
        return result


def checkpoint_of(config: ReproductionConfig, dataset: str, system: str) -> tuple[str, str]:
    """The trained checkpoint and its digest; where only the result of its training is here, the digest that it states.

    Raises: NotReadyError: if it is not trained, or was trained with other settings.
    """
    place = train_place(dataset, system)
    what = f"{system or 'the energy regressor'} on {dataset}"
    inputs = training_inputs(config, config.dataset(dataset), system)
    return trainings.checkpoint_of(config, place, inputs, what)
