"""Training of a generator through Lightning: one CPU, one GPU or several, resumable, the averaged weights kept.

Matrices inside the attention blocks are updated by Muon (orthogonalised momentum), the rest by AdamW: at equal time on
a CPU this reached a lower validation loss than AdamW alone (docs/generator.md has the figures).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset, Sampler

from generative import checkpoints
from generative.batch import CrystalBatch
from generative.config import MAX_ATOMS, TrainConfig
from generative.crystals import Crystal
from generative.selection import KeepBest
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig

POOL_BATCHES = 16
"""Batches are cut from pools of this many, sorted by size, so that little padding is computed."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message names the step and the batch."""


class TrainingSet(Dataset[CrystalBatch]):
    """Crystals with their known conditions; an item is a whole batch, given by its list of indices."""

    def __init__(
        self,
        crystals: Sequence[Crystal],
        spacegroups: Sequence[int | None],
        energies_ev_per_atom: Sequence[float | None],
        ids: Sequence[str],
    ) -> None:
        for crystal, name in zip(crystals, ids, strict=True):
            if len(crystal.atomic_numbers) > MAX_ATOMS:
                raise TrainingError(
                    f"{name} has {len(crystal.atomic_numbers)} atoms: the generator takes at most {MAX_ATOMS}; "
                    "set data.filters.n_atoms_max"
                )
        self.crystals, self.ids = list(crystals), list(ids)
        self.spacegroups, self.energies = list(spacegroups), list(energies_ev_per_atom)

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.crystals)

    def __getitem__(self, rows: Sequence[int]) -> CrystalBatch:
        """The batch of these rows."""
        return CrystalBatch.pack(
            [self.crystals[i] for i in rows],
            [self.spacegroups[i] for i in rows],
            [self.energies[i] for i in rows],
        )

    def batches(self, size: int, rng: np.random.Generator | None) -> list[list[int]]:
        """Rows of every batch of one epoch: of like sizes; shuffled when `rng` is given."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        sizes = np.array([len(c.atomic_numbers) for c in self.crystals])
        cut: list[list[int]] = []
        for start in range(0, len(order), size * POOL_BATCHES):
            pool = order[start : start + size * POOL_BATCHES]
            pool = pool[np.argsort(sizes[pool], kind="stable")]
            cut += [pool[i : i + size].tolist() for i in range(0, len(pool), size)]
        return cut if rng is None else [cut[i] for i in rng.permutation(len(cut))]


class StepSampler(Sampler[list[int]]):
    """An endless stream of batches, a function of seed and step alone: resuming at a step repeats nothing."""

    def __init__(self, data: TrainingSet, size: int, seed: int, first_step: int, rank: int = 0, world: int = 1) -> None:
        self.data, self.size, self.seed, self.first_step = data, size, seed, first_step
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """Batches from `first_step` on; with several devices each takes every `world`-th."""
        per_epoch = len(self.data.batches(self.size, None))
        index = self.first_step * self.world + self.rank
        while True:
            epoch = index // per_epoch
            batches = self.data.batches(self.size, np.random.default_rng((self.seed, epoch)))
            while index // per_epoch == epoch:
                yield batches[index % per_epoch]
                index += self.world


def learning_factor(step: int, config: TrainConfig) -> float:
    """Warm-up, plateau, then linear decay to zero over the last part: the plateau can be cut short at any step."""
    decay = max(1, round(config.decay_fraction * config.max_steps))
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return rise * min(1.0, max(0.0, (config.max_steps - step) / decay))


def _described(batch: CrystalBatch) -> str:
    volume = batch.lattice_ang.det().abs().min().item()
    return f"its smallest cell is {volume:.3g} A^3, its first atomic numbers {batch.atomic_numbers[:8].tolist()}"


class FlowTraining(lightning.LightningModule):
    """Lightning's view of the system: two optimisers, averaged weights, a stop at the first loss that is not finite."""

    def __init__(self, system: CrystalFlow, config: TrainConfig, data: TrainingSet) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.system, self.config = system, config
        self.averaged = copy.deepcopy(system).requires_grad_(False)
        self._data = data
        self._rng: torch.Generator | None = None
        self._step_rng(0)

    def _step_rng(self, step: int) -> torch.Generator:
        """A generator seeded by (seed, step, rank): noise is the same whether or not the run was interrupted."""
        rank = self.global_rank if self._trainer is not None else 0
        seed = np.random.SeedSequence((self.config.seed, step, rank)).generate_state(1)[0]
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        return torch.Generator(device=device).manual_seed(int(seed))

    @property
    def steps_done(self) -> int:
        """Optimiser steps; Lightning counts each of the two optimisers."""
        return int(self.global_step) // 2

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for block matrices, AdamW for the rest."""
        blocks = self.system.network.blocks.named_parameters()
        matrices = [p for name, p in blocks if p.ndim == 2 and "adapt" not in name]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.system.parameters() if id(p) not in chosen]
        config = self.config
        muon = torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(rest, lr=config.adam_lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
        return [muon, adam]

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """One update of weights and of their average."""
        step = self.steps_done
        try:
            loss = self.system.loss(batch, self._step_rng(step))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise TrainingError(f"a lattice is singular at step {step}: {_described(batch)}") from None
        if not torch.isfinite(loss.total):
            raise TrainingError(
                f"loss is {loss.total.item()} at step {step}: {_described(batch)}; a rate is too high, or a crystal "
                "bad: lower adam_lr and muon_lr, or resume from the last checkpoint"
            )
        optimizers: list[Any] = self.optimizers()  # type: ignore[assignment]
        rates = (self.config.muon_lr, self.config.adam_lr)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_factor(step, self.config)
            optimizer.zero_grad()
        self.manual_backward(loss.total)
        torch.nn.utils.clip_grad_norm_(self.system.parameters(), self.config.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        # The average forgets initialisation quickly: its decay rises to the configured one over the first steps.
        decay = min(self.config.ema, 1 - 1 / (0.1 * step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.system.parameters()), 1 - decay)
        if step % 50 == 0:
            self.log_dict({"train_frac": loss.frac, "train_lattice": loss.lattice}, prog_bar=True)

    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """Loss of the averaged weights, with the same noise at every validation."""
        loss = self.averaged.loss(batch, self._step_rng(2**30 + batch_idx))
        names = {"val_loss": loss.total, "val_frac": loss.frac, "val_lattice": loss.lattice}
        self.log_dict(names, prog_bar=True, batch_size=len(batch), sync_dist=True)


class WallClock(Callback):
    """Seconds of training, those of interrupted calls included: kept in resume.ckpt."""

    def __init__(self) -> None:
        self.earlier_s, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """So far, s."""
        return self.earlier_s + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self.earlier_s, self._started = float(state_dict["seconds"]), time.monotonic()


class StopAtStep(Callback):
    """Ends the fit at the configured number of optimiser steps."""

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: object) -> None:
        """Called after each step."""
        if pl_module.steps_done >= pl_module.config.max_steps:
            trainer.should_stop = True


def split_by_formula(data: TrainingSet, fraction: float, seed: int) -> tuple[TrainingSet, TrainingSet]:
    """Training and validation sets without a common composition."""

    def part(rows: Sequence[int]) -> TrainingSet:
        return TrainingSet(
            [data.crystals[i] for i in rows],
            [data.spacegroups[i] for i in rows],
            [data.energies[i] for i in rows],
            [data.ids[i] for i in rows],
        )

    def composition(crystal: Crystal) -> str:
        symbols, counts = np.unique(crystal.atomic_numbers, return_counts=True)
        divisor = math.gcd(*counts.tolist())
        return json.dumps([symbols.tolist(), (counts // divisor).tolist()])

    def share(crystal: Crystal) -> float:
        word = hashlib.sha256(f"{seed} {composition(crystal)}".encode()).digest()
        return int.from_bytes(word[:8], "big") / 2**64

    held = [share(c) < fraction for c in data.crystals]
    return part([i for i, h in enumerate(held) if not h]), part([i for i, h in enumerate(held) if h])


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's advertisements and device lists, not its warnings, are kept off the log."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _collate(item: list[CrystalBatch] | CrystalBatch) -> CrystalBatch:
    return item if isinstance(item, CrystalBatch) else item[0]


def _trainer(config: TrainConfig, folder: Path, first: int, callbacks: Sequence[Callback]) -> lightning.Trainer:
    use_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return lightning.Trainer(
        accelerator="gpu" if use_gpu else "cpu",
        devices=config.n_devices if use_gpu else 1,
        strategy="ddp" if use_gpu and config.n_devices > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=-1,
        val_check_interval=min(500, config.max_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        # The logger empties a folder it finds, so every resumed part of the curve has its own, named by its first step.
        logger=CSVLogger(folder, name="curves", version=f"from-{first:07d}"),
        log_every_n_steps=50,
        enable_model_summary=False,
        enable_progress_bar=os.environ.get("HULLWARD_PROGRESS", "1") != "0",
        callbacks=[
            StopAtStep(),
            ModelCheckpoint(folder, "resume", every_n_train_steps=1000, save_top_k=1, enable_version_counter=False),
            *callbacks,
        ],
        use_distributed_sampler=False,
    )


def fit(
    data: TrainingSet,
    config: TrainConfig,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    initial: CrystalFlow | None = None,
) -> tuple[CrystalFlow, dict[str, Any]]:
    """Train a CrystalFlow.

    Args:
        data: training crystals; a part of the formulas is held out for the loss curve.
        config: budget and rates.
        folder: curves/from-<step>/metrics.csv and resume.ckpt (every 500 steps and at the end) are kept here.
        callbacks: Lightning callbacks, such as a progress report.
        resume: go on from the folder's resume.ckpt if there is one.
        initial: weights and lattice statistics to start from; None draws weights and measures statistics.
    Returns: the system with the averaged weights that `config.keep` chooses, and a record of the training.
    Raises: TrainingError: if there is too little data, or the loss stops being finite.
    """
    torch.set_num_threads(config.torch_threads)
    train, held = split_by_formula(data, config.validation_fraction, config.seed)
    if not len(train) or not len(held):
        raise TrainingError(
            f"{len(data)} crystals leave {len(train)} for training and {len(held)} for validation: expected at least "
            "one in each; add data or change validation_fraction"
        )
    if initial is None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            system = CrystalFlow(CrystalFlowConfig.model_validate(config.system))
        system.fit_statistics(train.crystals)
    else:
        system = copy.deepcopy(initial).train()
    module = FlowTraining(system, config, train)
    latest, clock = folder / "resume.ckpt", WallClock()
    with _quiet_lightning():
        keeper = (
            () if config.keep == "last" else (KeepBest(config.keep, folder, train.crystals, train.ids, config.seed),)
        )
        first = torch.load(latest, weights_only=True)["global_step"] // 2 if resume and latest.is_file() else 0
        trainer = _trainer(config, folder, first, (clock, *keeper, *callbacks))
        sampler = StepSampler(train, config.batch_crystals, config.seed, first, trainer.global_rank, trainer.world_size)
        trainer.fit(
            module,
            DataLoader(train, sampler=sampler, batch_size=None, collate_fn=_collate),
            DataLoader(held, sampler=held.batches(config.batch_crystals, None), batch_size=None, collate_fn=_collate),
            ckpt_path=latest if first else None,
            weights_only=True,
        )
    trainer.save_checkpoint(latest)
    record = {
        "steps": module.steps_done,
        "crystals_trained": len(train),
        "crystals_held_out": len(held),
        "minutes": round(clock.seconds / 60, 1),
        "metrics": {k: round(float(v), 5) for k, v in trainer.callback_metrics.items()},
        "torch": torch.__version__,
    }
    if config.keep == "last":
        return module.averaged.cpu().eval(), record
    best = checkpoints.load(str(folder / "best"))
    return best.system, {**record, "kept": best.training}
