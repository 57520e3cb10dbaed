"""Proposers of the benchmark: checkpoints that are there, or made here of crystals without the hidden formulas.

A training is kept by a digest of its settings and files, the hidden formulas among them, and goes on where it was
killed. Unlike other stages it is not made again when code has changed, since that would cost hours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from configs.paths import resolve
from configs.rediscovery import ProposerEntry, RediscoveryConfig
from generative.training.config import TrainConfig
from storage.checksums import DamagedFileError
from storage.digests import file_digest
from storage.documents import read_document, write_document
from tasks.discover.run import locked
from tasks.files import OF_A_RUN, FileRef, key_of, write_table
from tasks.papers.trainings import settings_of
from tasks.rediscovery.targets import datasets_of, hidden_formulas, without_hidden
from tasks.train.baselines import WITH_CRYSTALS, make_baseline
from tasks.train.training import train

FILES = ("exclude", "labels", "validation")
"""Settings of a training that name a file."""


class MadeProposer(BaseModel):
    """A proposer that can be asked.

    Attributes:
        entry: its settings.
        checkpoint: folder of its checkpoint, or 'package:NAME'.
        sha256: of the checkpoint.
        seconds: what making it took, added up over interruptions; None where it was there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entry: ProposerEntry
    checkpoint: str
    sha256: str
    seconds: float | None = None


def make_proposer(config: RediscoveryConfig, entry: ProposerEntry, targets: FileRef) -> MadeProposer:
    """The checkpoint of a proposer, made unless it is there.

    Args:
        config: of the benchmark.
        entry: the proposer.
        targets: what it must not have learned from.

    Raises: CheckpointError: if the checkpoint that is named is not there, or draws no crystals.
    """
    from generative.checkpoints import digest, generator_type

    seconds = None
    if entry.checkpoint is not None:
        checkpoint = entry.checkpoint
    elif entry.training is not None:
        checkpoint, seconds = _trained(config, entry.training_config(hidden_formulas(targets.read())))
    else:
        checkpoint, seconds = _baseline(config, entry, targets)
    generator_type(checkpoint)
    return MadeProposer(entry=entry, checkpoint=checkpoint, sha256=digest(checkpoint), seconds=seconds)


def digest_of_training(config: TrainConfig) -> str:
    """What the result of a training depends on: settings, and the files that they name."""
    named = [getattr(config, name) for name in FILES]
    paths = [path for source in config.data.sources for files in source.inputs(resolve).values() for path in files]
    paths += [resolve(name) for name in named if name is not None]
    return key_of(
        "training",
        settings=settings_of(config),
        labels=config.labels,
        exclude_formulas=config.exclude_formulas,
        files=[file_digest(path) for path in paths],
    )


def _trained(config: RediscoveryConfig, training: TrainConfig) -> tuple[str, float]:
    folder = config.shared_folder / ".proposers" / f"{training.name}-{digest_of_training(training)[:16]}"
    return _made(folder, folder / training.name, lambda: train(training, folder))


def _baseline(config: RediscoveryConfig, entry: ProposerEntry, targets: FileRef) -> tuple[str, float]:
    assert entry.baseline is not None  # the settings name one origin
    templates: pa.Table | None = None
    if entry.baseline in WITH_CRYSTALS:
        templates = without_hidden(datasets_of(config.templates, config), targets.read())
    held = None if templates is None else templates.column("id").to_pylist()
    key = key_of("baseline", make_baseline, settings=entry.settings, templates=held, targets=targets.sha256)
    folder = config.shared_folder / ".proposers" / f"{entry.baseline}-{key[:16]}"

    def make() -> None:
        crystals = None if templates is None else str(write_table(templates, folder / "templates.parquet").path)
        make_baseline(str(entry.baseline), crystals, folder / "checkpoint", dict(entry.settings))

    return _made(folder, folder / "checkpoint", make)


def _made(folder: Path, checkpoint: Path, make: Callable[[], object]) -> tuple[str, float]:
    """The checkpoint and what it took, s; made unless it is there.

    Raises: RunBusyError: if another benchmark is making it.
    """
    with locked(folder):
        return str(checkpoint), _seconds_made(folder / "seconds.json", checkpoint, make)


def _seconds_made(marker: Path, checkpoint: Path, make: Callable[[], object]) -> float:
    try:
        spent = float(read_document(marker, OF_A_RUN)["seconds"]) if marker.is_file() else 0.0
    except DamagedFileError:
        spent = 0.0
    if not (checkpoint / "model.json").is_file():
        started = time.monotonic()
        try:
            make()
        finally:
            spent = round(spent + time.monotonic() - started, 1)
            write_document(marker, {"seconds": spent})
    return spent
