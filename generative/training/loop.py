"""Training of any system through Lightning: one CPU, one GPU or several, resumable, the averaged weights kept.

By default the matrices that a system names are updated by Muon (orthogonalised momentum), the rest by AdamW: for
crystal-flow, at equal time on a CPU, this reached a lower validation loss than AdamW alone (docs/generator.md has the
figures). Adam with rates that fall at a plateau is the recipe of the CDVAE family.
"""

from __future__ import annotations

import copy
import csv
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from generative import checkpoints
from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.isolation import isolation_reason
from generative.processor import prepare_processor
from generative.settings_errors import validated
from generative.systems.interface import Generator
from generative.systems.registry import UnknownSystemError, of_kind, system_type
from generative.systems.trainable import Trainable
from generative.training.callbacks import Clock, SaveState, StopAtStep, TrainingCurve, Validation, save_state
from generative.training.config import TrainConfig
from generative.training.data import StepSampler, TrainingError, TrainingSet, split
from generative.training.selection import KeepBest
from generative.training.step import SystemTraining
from storage.checksums import DamagedFileError, check
from storage.settings import RoomConfig

logger = logging.getLogger(__name__)


def trainable_type(config: TrainConfig) -> type[Trainable]:
    """The class of the system that is to be trained.

    Raises: TrainingError: if no system of that kind can be trained.
    """
    try:
        kind = system_type(config.kind)
    except UnknownSystemError:
        kind = None
    if kind is None or not issubclass(kind, Trainable):
        raise TrainingError(f"kind is {config.kind!r}: expected one of {', '.join(of_kind(Trainable))}")
    return kind


def system_settings(config: TrainConfig) -> RoomConfig:
    """The settings of the system that is to be trained.

    Raises: TrainingError: if no system of that kind can be trained, or `system` holds what it does not know.
    """
    kind = trainable_type(config)
    try:
        return validated(kind.config_type, config.system, config.kind, "system")
    except ValueError as error:
        raise TrainingError(str(error)) from None


def new_system(config: TrainConfig) -> Trainable:
    """The system to be trained, with weights drawn from the seed.

    Raises: TrainingError: as system_settings.
    """
    settings = system_settings(config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return trainable_type(config)(settings)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's advertisements and device lists, not its warnings, are kept off the log."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _collate(item: list[CrystalBatch] | CrystalBatch) -> CrystalBatch:
    return item if isinstance(item, CrystalBatch) else item[0]


def _trainer(config: TrainConfig, folder: Path, first: int, callbacks: Sequence[Callback]) -> lightning.Trainer:
    use_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return lightning.Trainer(
        accelerator="gpu" if use_gpu else "cpu",
        devices=config.n_devices if use_gpu else 1,
        # A system may train a part of itself first (CDVAE's denoiser_from_epoch).
        strategy="ddp_find_unused_parameters_true" if use_gpu and config.n_devices > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=-1,
        # The logger empties a folder it finds, so every resumed part of the curve has its own, named by its first step.
        logger=CSVLogger(folder, name="curves", version=f"from-{first:07d}"),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=os.environ.get("HULLWARD_PROGRESS", "1") != "0",
        callbacks=list(callbacks),
        use_distributed_sampler=False,
    )


def trainable_part(
    data: TrainingSet, system: Trainable, cache: Path, workers: int
) -> tuple[TrainingSet, dict[str, str]]:
    """The crystals that a system can be trained on, with bonds if it reads them; and why the others are left out.

    A crystal with an atom that no network sees (generative.crystal.isolation) is left out whatever the system.

    Args:
        data: crystals without bonds.
        system: says which crystals it refuses, and whether it needs bonds.
        cache: where computed bonds, and what the system computes per crystal, are kept.
        workers: processes that compute them.
    Returns: the set, and {id of a crystal left out: reason}.
    """
    refusals = system.refusals(data.crystals, cache, workers)
    reasons = {
        name: refusal or isolation_reason(crystal)
        for name, crystal, refusal in zip(data.ids, data.crystals, refusals, strict=True)
    }
    left_out = {name: reason for name, reason in reasons.items() if reason}
    kept = data.subset([i for i, name in enumerate(data.ids) if name not in left_out])
    if not system.needs_bonds or not len(kept):
        return kept, left_out
    found = crystal_nn_bonds(kept.crystals, workers=workers, cache=cache)
    left_out |= {name: "CrystalNN finds no graph" for name, b in zip(kept.ids, found, strict=True) if b is None}
    bonded = kept.subset([i for i, b in enumerate(found) if b is not None])
    bonded.bonds = [b for b in found if b is not None]
    return bonded, left_out


def _parts(
    data: TrainingSet, held: TrainingSet | None, config: TrainConfig, system: Trainable, folder: Path, cache: Path
) -> tuple[TrainingSet, TrainingSet, dict[str, str]]:
    """What is trained on, what is held out, and why which crystals are in neither (also written to left_out.csv)."""
    workers = config.data.workers
    whole, left_out = trainable_part(data, system, cache, workers)
    if held is None:
        train, held = split(whole, config.validation_fraction, config.seed, config.split)
    else:
        train = whole
        held, also = trainable_part(held, system, cache, workers)
        left_out |= also
    if left_out:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "left_out.csv").open("w", encoding="utf-8", newline="") as text:
            csv.writer(text).writerows([("id", "reason"), *sorted(left_out.items())])
        reasons = "; ".join(f"{n} because {why}" for why, n in Counter(left_out.values()).most_common(3))
        logger.warning("%d crystals are left out: %s (see left_out.csv)", len(left_out), reasons)
    if not len(train) or not len(held):
        why = f" and {len(left_out)} left out ({next(iter(left_out.values()))})" if left_out else ""
        hint = "; data of one formula need split: crystal" if config.split == "formula" else ""
        raise TrainingError(
            f"{len(data)} crystals leave {len(train)} for training, {len(held)} for validation{why}: expected at least "
            f"one in each; add data or change validation_fraction{hint}"
        )
    train = system.arranged(train, cache, workers)
    try:
        held = system.arranged(held, cache, workers)
    except TrainingError as error:
        raise TrainingError(f"the part held out for validation: {error}; or raise validation_fraction") from error
    return train, held, left_out


def _saved_state(file: Path, system: Trainable, config: TrainConfig) -> dict[str, Any]:
    """A state to resume from.

    Raises: TrainingError: if it is damaged, or that of another system, or of other settings of it.
    """
    remedy = "start the training anew (--no-resume), or put a copy of the file in its place"
    try:
        check(file, remedy)
        saved: dict[str, Any] = torch.load(file, weights_only=True)
    except DamagedFileError as error:
        raise TrainingError(str(error)) from None
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds
        said = " ".join(str(error).split())[:200]
        raise TrainingError(f"{file} cannot be read ({type(error).__name__}: {said}): {remedy}") from error
    found = saved.get("training", {})
    settings = system.config.model_dump(mode="json")
    if (found.get("kind"), found.get("system"), found.get("optimiser")) != (system.name, settings, config.optimiser):
        raise TrainingError(
            f"{file} is the state of a training of {found.get('kind')} by {found.get('optimiser')} with the settings "
            f"{found.get('system')}, not of {system.name} by {config.optimiser} with {settings}: train in another "
            "folder, or start this one anew"
        )
    return saved


def fit(
    data: TrainingSet,
    config: TrainConfig,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    initial: Trainable | None = None,
    held: TrainingSet | None = None,
    cache: Path | None = None,
) -> tuple[Trainable, dict[str, Any]]:
    """Train a system.

    Args:
        data: training crystals.
        config: which system, budget and rates.
        folder: curves/from-<step>/metrics.csv, resume.ckpt (every config.save_every steps and at the end), computed
            bonds and left_out.csv are kept here. A part of the curve holds until the first step of the next.
        callbacks: Lightning callbacks, such as a progress report; on_validation_end is called too.
        resume: go on from the folder's resume.ckpt if there is one.
        initial: weights and statistics to start from; None draws weights and measures statistics.
        held: crystals to validate on; None holds out a part of `data`, as config says.
        cache: folder where what is computed once per crystal (bonds, settings) is kept, which several trainings may
            share; None keeps it in `folder`.
    Returns: the system with the averaged weights that `config.keep` chooses, and a record of the training.
    Raises: TrainingError: if the settings name no system, there is too little data, or the loss stops being finite.
    """
    torch.set_num_threads(config.torch_threads)
    prepare_processor()
    system = new_system(config) if initial is None else copy.deepcopy(initial).train()
    if config.keep == "yield" and not isinstance(system, Generator):
        raise TrainingError(f"keep is 'yield', but {system.name} draws no crystals: expected 'last' or 'loss'")
    train, held, left_out = _parts(data, held, config, system, folder, cache or folder / "bonds")
    if initial is None:
        system.measure(train)
    module = SystemTraining(system, config, train.batches_per_epoch(config.batch_crystals))
    latest, clock = folder / "resume.ckpt", Clock()
    saved = _saved_state(latest, system, config) if resume and latest.is_file() else None
    if saved is None:
        _clear(folder)
        steps = 0
    else:
        module.on_load_checkpoint(saved)
        steps = module.steps_done
    if saved is not None and (steps >= config.max_steps or module.is_stale):
        # It is finished: Lightning would take one step more.
        module.load_state_dict(saved["state_dict"])
        clock.load_state_dict(saved["callbacks"][clock.state_key])
    else:
        keeper = (
            () if config.keep == "last" else (KeepBest(config.keep, folder, train.crystals, train.ids, config.seed),)
        )
        validation = Validation(held, clock, (*keeper, *callbacks))
        steps = _run(
            module,
            train,
            folder,
            steps,
            (StopAtStep(), clock, TrainingCurve(clock), validation, *callbacks, SaveState(latest)),
        )
    record = {
        "steps": steps,
        "stopped_early": module.is_stale,
        "crystals_trained": len(train),
        "crystals_held_out": len(held),
        "crystals_left_out": len(left_out),
        "epochs": round(clock.crystals / len(train), 2),
        "minutes": round(clock.seconds / 60, 1),
        "crystals_per_s": round(clock.crystals / max(clock.seconds_in_steps, 1e-9), 2),
        "metrics": {k: round(v, 5) for k, v in sorted(module.metrics.items())},
        "torch": torch.__version__,
    }
    if config.keep == "last":
        averaged = module.averaged.cpu().eval()
        averaged.finish()
        return averaged, record
    if not (folder / "best" / "model.json").is_file():
        raise TrainingError(f"no validation in {steps} steps was finite: expected one; lower the rates")
    best = checkpoints.load(str(folder / "best"))
    assert isinstance(best.system, Trainable)  # KeepBest saved the one that was trained
    best.system.finish()
    return best.system, {**record, "kept": best.training}


def _run(module: SystemTraining, train: TrainingSet, folder: Path, first: int, callbacks: Sequence[Callback]) -> int:
    """Train from step `first` on, where above 0 from resume.ckpt; the steps done in the end."""
    config, latest = module.config, folder / "resume.ckpt"
    with _quiet_lightning():
        trainer = _trainer(config, folder, first, callbacks)
        sampler = StepSampler(
            train,
            config.batch_crystals,
            config.seed,
            first,
            trainer.global_rank,
            trainer.world_size,
            config.batches == "like-size",
        )
        loader = DataLoader(train, sampler=sampler, batch_size=None, collate_fn=_collate)
        trainer.fit(module, loader, ckpt_path=latest if first else None, weights_only=True)
    save_state(trainer, latest)
    return module.steps_done


def _clear(folder: Path) -> None:
    """Forget what an earlier training in this folder would hand to a new one: its state, and its best weights."""
    (folder / "resume.ckpt").unlink(missing_ok=True)
    shutil.rmtree(folder / "best", ignore_errors=True)
