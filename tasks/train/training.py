"""Training of a generator: ingest, reduce, fit, keep. One function for the flow, the command line and scripts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.paths import resolve
from generative.datasets.config import DataConfig, FilesSource
from generative.training.config import TrainConfig
from storage.atomic import sweep, write_text
from tasks.discover.run import hardware
from tasks.ingest.downloads import network_context

if TYPE_CHECKING:
    from generative.checkpoints import Checkpoint
    from generative.datasets.site_labels import SiteLabel
    from generative.training.data import TrainingSet


def _table(path: str, config: TrainConfig, target: Path) -> Any:
    """The dataset table of one source file, with the filters of the training data; ingested once."""
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import is_whole, read_dataset

    if not is_whole(target):
        data = DataConfig(sources=(FilesSource(path=path),), filters=config.data.filters, workers=config.data.workers)
        ingest(data, None, target, resolve)
    return read_dataset(target).table


def excluded_ids(config: TrainConfig, folder: Path) -> list[str]:
    """Ids of the source file that training must not see."""
    if config.exclude is None:
        return []
    table = _table(config.exclude, config.model_copy(update={"data": DataConfig()}), folder / "excluded")
    return [str(name) for name in table.column("source_id").to_pylist()]


def _labels(path: str, exclude: Sequence[str], exclude_formulas: Sequence[str]) -> tuple[SiteLabel, ...]:
    """Further crystals without coordinates; how many rows are none is said in the log."""
    from generative.datasets.site_labels import read_site_labels

    labels, refused = read_site_labels(resolve(path), exclude, exclude_formulas)
    if refused:
        logging.getLogger(__name__).warning(
            "%d of %d rows of %s are left out, the first: %s", len(refused), len(refused) + len(labels), path,
            "; ".join(f"{name}: {why}" for name, why in list(refused.items())[:1]),
        )  # fmt: skip
    return tuple(labels)


def _prepare(config: TrainConfig, folder: Path, resume: bool) -> None:
    """Ingest the training data, unless they are there; refuse a folder that holds others."""
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import is_whole

    # Folders of earlier versions know nothing of formulas.
    parts = {"exclude", "validation", *(("exclude_formulas",) if config.exclude_formulas else ())}
    # Settings that say which crystals are trained on, and how they are told apart from those that are not.
    asked = {
        "data.json": config.data.model_dump_json(exclude={"workers"}),
        "parts.json": config.model_dump_json(include=parts),
    }
    is_new = not resume or not (folder / "dataset" / "manifest.json").exists()
    for name, text in asked.items():
        marker = folder / name
        if not is_new and marker.is_file() and marker.read_bytes() != text.encode():
            raise ValueError(
                f"{folder} holds a training on other data (see {name}): train in another folder, or start this one anew"
            )
    if is_new or not is_whole(folder / "dataset"):
        for part in ("excluded", "validation"):
            shutil.rmtree(folder / part, ignore_errors=True)
        ingest(config.data, None, folder / "dataset", resolve, network=network_context(folder / ".downloads"))
        for name, text in asked.items():
            write_text(folder / name, text)


def _initial(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint to start from, if one is named.

    Raises: ValueError: if it is one of another kind of system.
    """
    from generative import checkpoints

    if config.init is None:
        return None
    initial = checkpoints.load(config.init)
    if initial.system.name != config.kind:
        raise ValueError(
            f"init names a checkpoint of the system {initial.system.name!r}, where kind is {config.kind!r}: "
            "expected both the same"
        )
    return initial


def train(
    config: TrainConfig,
    folder: Path,
    callbacks: Sequence[Any] = (),
    resume: bool = True,
    cache: Path | None = None,
) -> Path:
    """Train a generator and keep it as `folder/<name>`; going on where an interrupted training stopped.

    Args:
        config: kind, data, sizes, budget.
        folder: working folder: dataset, curves/, resume.ckpt, and the checkpoint folder at the end.
        callbacks: Lightning callbacks, such as a progress artifact.
        resume: False starts anew.
        cache: as of generative.training.loop.fit.
    Returns: the checkpoint folder.
    Raises: TrainingError, ValueError: if the settings, the data or the folder do not fit, or a loss is not finite.
    """
    from generative.datasets.manifest import read_dataset
    from generative.training.data import level_note, training_set
    from generative.training.loop import system_settings, trainable_type

    settings = system_settings(config)  # a wrong name is told before hours of download
    columns = trainable_type(config).columns(settings)
    sweep(folder)
    initial = _initial(config)
    _prepare(config, folder, resume)
    dataset = read_dataset(folder / "dataset")
    if note := level_note(dataset.table, config.property):
        logging.getLogger(__name__).warning(note)
    exclude, formulas = excluded_ids(config, folder), config.exclude_formulas
    data = training_set(dataset.table, exclude, config.property, formulas, columns)
    if config.labels is not None:
        # A crystal that is there with coordinates would be told its own answer by its label.
        known = dataset.table.column("source_id").to_pylist()
        data.labels = _labels(config.labels, [*exclude, *known], formulas)
    held = None
    if config.validation is not None:
        table = _table(config.validation, config, folder / "validation")
        held = training_set(table, exclude, config.property, formulas, columns)
    fingerprint = dataset.manifest.fingerprint_sha256
    checkpoint = train_on(data, held, config, folder, callbacks, resume, cache, initial, fingerprint)
    add_card(config, folder)
    return checkpoint


def train_on(
    data: TrainingSet,
    held: TrainingSet | None,
    config: TrainConfig,
    folder: Path,
    callbacks: Sequence[Any] = (),
    resume: bool = True,
    cache: Path | None = None,
    initial: Checkpoint | None = None,
    data_fingerprint_sha256: str = "",
) -> Path:
    """Train on these crystals, whatever sources the settings name, and keep the generator as `folder/<name>`.

    Args:
        data: crystals to train on.
        held: crystals to validate on; None holds out a part of `data`, as config says.
        config: kind, sizes, budget.
        folder: as of `train`.
        callbacks: as of `train`.
        resume: as of `train`.
        cache: as of generative.training.loop.fit.
        initial: checkpoint to start from.
        data_fingerprint_sha256: of the data, for the checkpoint's record.
    Returns: the checkpoint folder.
    Raises: TrainingError: if the settings or the data do not fit, or a loss is not finite.
    """
    from generative import checkpoints
    from generative.systems.trainable import Trainable
    from generative.training.data import TrainingError
    from generative.training.loop import fit

    start = None if initial is None else initial.system
    if start is not None and not isinstance(start, Trainable):
        raise TrainingError(f"init holds a {start.name}, which learns nothing: expected a {config.kind}")
    system, record = fit(data, config, folder, callbacks, resume, start, held, cache)
    if initial is not None:
        record |= {"init_sha256": initial.digest, "init_training": initial.training}
    about = {
        **record,
        "property_known": sum(value is not None for value in data.energies),
        "data_fingerprint_sha256": data_fingerprint_sha256,
        "settings": config.model_dump(mode="json", exclude_defaults=True),
        "hardware": {**hardware(), "cpu_threads_used": config.torch_threads},
    }
    checkpoints.save(folder / config.name, system, about, checkpoints.stored_as(config.precision))
    return folder / config.name


def add_card(config: TrainConfig, folder: Path) -> None:
    """Write the checkpoint's MODEL_CARD.md, scored on the test file if there is one; none of an unscored regressor."""
    from generative.config import SampleConfig
    from generative.systems.interface import Regressor
    from generative.training.loop import trainable_type
    from tasks.train import model_card

    checkpoint = folder / config.name
    if issubclass(trainable_type(config), Regressor):
        if config.test is None:
            return
        _table(config.test, config.model_copy(update={"data": DataConfig()}), folder / "test")
        score = model_card.score_regressor(
            checkpoint, config.property, folder / "dataset", folder / "test", config.test
        )
        text = model_card.regressor_card(checkpoint, score)
    else:
        settings = SampleConfig(checkpoint=str(checkpoint), chunk_size=256)
        drawn = None
        if config.test is not None:
            drawn = model_card.score_generator(config.test, settings, folder / "test", config.test_limit, config.seed)
        text = model_card.card_text(checkpoint, drawn)
    write_text(checkpoint / "MODEL_CARD.md", text)
