"""What `hullward train` would do."""

from __future__ import annotations

from pathlib import Path

from configs.paths import AssetError, resolve
from generative.datasets.config import NetworkSource
from generative.training.config import TrainConfig
from storage.wording import amount
from tasks.plans.rates import rates
from tasks.plans.record import Plan, Stage, Written


def plan_training(config: TrainConfig, folder: Path) -> Plan:
    """What a training of these settings in this folder would do.

    Raises: TrainingError, ValueError: if the kind, or one of its settings, is none.
    """
    from generative.datasets.manifest import is_whole, read_manifest
    from generative.training.loop import system_settings, trainable_type

    settings = system_settings(config)
    kind = trainable_type(config)
    measured, checkpoint = rates(), folder / config.name
    size = str(settings.model_dump().get("size", ""))
    is_read = is_whole(folder / "dataset")
    n_shown = config.max_steps * config.batch_crystals
    finished, begun = (checkpoint / "model.json").is_file(), (folder / "resume.ckpt").is_file()
    seconds = measured.training_s(kind.name, size, n_shown)
    n_sources = len(config.data.sources)
    data = (
        f"{amount(read_manifest(folder / 'dataset').n_rows, 'crystal')}, read"
        if is_read
        else amount(n_sources, "source")
    )
    return Plan(
        command="train",
        name=config.name,
        facts=(
            ("kind", f"{kind.name}{f', size {size}' if size else ''}, seed {config.seed}"),
            ("data", data),
            ("steps", f"{config.max_steps:,} of {config.batch_crystals} crystals, validated every "
                      f"{config.validation_every}; precision {config.precision}"),
            ("begins", "at the state that an interrupted training left" if begun and not finished else
                       f"at {config.init}" if config.init else "anew"),
        ),
        potentials=(),
        stages=(
            Stage("data", "read, checked and made into graphs", None, 1, int(is_read)),
            Stage("training", f"{n_shown:,} crystals shown", seconds, 1, int(finished)),
        ),
        rates=measured.told if seconds is not None else "",
        memory_mb=None,
        writes=(
            Written.at(checkpoint, "the checkpoint: weights, record, card"),
            Written.at(folder / "dataset", "training crystals"),
            Written.at(folder / "curves", "losses"),
            Written.at(folder / "resume.ckpt", "state to go on from, while it lasts"),
        ),
        warnings=tuple(_missing(config)),
        details={"folder": str(folder), "kind": kind.name, "n_steps": config.max_steps, "is_finished": finished},
    )  # fmt: skip


def _missing(config: TrainConfig) -> list[str]:
    """One sentence per file that is not here."""
    named = [*(getattr(one, "path", "") for one in config.data.sources if not isinstance(one, NetworkSource))]
    said = []
    for path in filter(None, (*named, config.exclude, config.test, config.validation, config.labels)):
        try:
            if not resolve(path).exists():
                said.append(f"{path}: no such file or folder")
        except AssetError as error:
            said.append(str(error))
    if config.init and not config.init.startswith("package:") and not (Path(config.init) / "model.json").is_file():
        said.append(f"init names {config.init}, which holds no checkpoint")
    return said
