"""Training of a generator: ingest, reduce, fit, keep. One function for the flow, the command line and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.paths import resolve
from generative.config import DataConfig, FilesSource, TrainConfig
from tasks.downloads import network_context
from tasks.files import write_text
from tasks.run import hardware


def excluded_ids(config: TrainConfig, folder: Path) -> list[str]:
    """Ids of the source file that training must not see."""
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import read_dataset

    if config.exclude is None:
        return []
    target = folder / "excluded"
    if not (target / "manifest.json").is_file():
        ingest(DataConfig(sources=(FilesSource(path=config.exclude),)), None, target, resolve)
    return [str(name) for name in read_dataset(target).table.column("source_id").to_pylist()]


def train(config: TrainConfig, folder: Path, callbacks: Sequence[Any] = (), resume: bool = True) -> Path:
    """Train a generator and keep it as `folder/<name>`; going on where an interrupted training stopped.

    Args:
        config: data, sizes, budget.
        folder: working folder: dataset, curves/, resume.ckpt, and the checkpoint folder at the end.
        callbacks: Lightning callbacks, such as a progress artifact.
        resume: False starts anew.
    Returns: the checkpoint folder.
    """
    from generative import checkpoints
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import read_dataset
    from generative.systems.crystal_flow import CrystalFlow
    from generative.training import fit
    from generative.training_data import training_set

    asked = config.data.model_dump_json(exclude={"workers"})
    marker = folder / "data.json"
    if not resume or not (folder / "dataset" / "manifest.json").is_file():
        network = network_context(folder / ".downloads")
        ingest(config.data, None, folder / "dataset", resolve, network=network)
        write_text(marker, asked)
    elif marker.is_file() and marker.read_text(encoding="utf-8") != asked:
        raise ValueError(
            f"{folder} holds a training on other data (see {marker.name}): train in another folder, "
            "or start this one anew"
        )
    dataset = read_dataset(folder / "dataset")
    data = training_set(dataset.table, excluded_ids(config, folder))
    initial = None if config.init is None else checkpoints.load(config.init)
    if initial is not None and not isinstance(initial.system, CrystalFlow):
        raise ValueError(
            f"init names a checkpoint of the system {initial.system.name!r}, which has nothing to train: expected "
            f"one of {CrystalFlow.name!r}"
        )
    system, record = fit(data, config, folder, callbacks, resume, None if initial is None else initial.system)
    if initial is not None:
        record |= {"init_sha256": initial.digest, "init_training": initial.training}
    about = {
        **record,
        "data_fingerprint_sha256": dataset.manifest.fingerprint_sha256,
        "settings": config.model_dump(mode="json", exclude_defaults=True),
        "hardware": {**hardware(), "cpu_threads_used": config.torch_threads},
    }
    checkpoints.save(folder / config.name, system, about)
    if config.test is not None:
        add_card(config, folder)
    return folder / config.name


def add_card(config: TrainConfig, folder: Path) -> None:
    """Score the checkpoint on the test file and write its MODEL_CARD.md."""
    from generative.config import SampleConfig
    from tasks.model_card import card_text, score_generator

    if config.test is None:
        raise ValueError("test is null: name a source file whose compositions the generator is scored on")
    checkpoint = folder / config.name
    settings = SampleConfig(checkpoint=str(checkpoint), chunk_size=256)
    score = score_generator(config.test, settings, folder / "test", config.test_limit, config.seed)
    write_text(checkpoint / "MODEL_CARD.md", card_text(checkpoint, score))
