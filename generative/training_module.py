"""One step of a training, its validation, and what both leave behind: Lightning's view of a system."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning
import numpy as np
import torch

from generative.batch import CrystalBatch
from generative.learning_rates import Plateau, learning_factor
from generative.muon import Muon
from generative.systems.trainable import Loss, Trainable
from generative.training_config import TrainConfig
from generative.training_data import TrainingError, TrainingSet

logger = logging.getLogger(__name__)

VALIDATION_STEP = 2**30
"""Noise of validations is drawn as that of steps from here on: always the same, and none that a training sees."""


def _described(batch: CrystalBatch) -> str:
    volume = batch.lattice_ang.det().abs().min().item()
    return f"its smallest cell is {volume:.3g} A^3, its first atomic numbers {batch.atomic_numbers[:8].tolist()}"


class SystemTraining(lightning.LightningModule):
    """Lightning's view of a system: its optimisers, averaged weights, a stop at the first loss that is not finite.

    What must outlive an interruption beside weights (plateau, best validation) is in its checkpoint too.
    """

    def __init__(self, system: Trainable, config: TrainConfig, batches_per_epoch: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.system, self.config = system, config
        self.averaged = copy.deepcopy(system)
        for parameter in self.averaged.parameters():
            parameter.requires_grad_(False)
        self.metrics: dict[str, float] = {}
        self.plateau = Plateau()
        self.best_loss, self.validations_since_best = math.inf, 0
        self.watched_loss = math.nan
        self.learning_rate = 0.0
        self._batches_per_epoch = batches_per_epoch
        self._last: Loss | None = None

    def _step_rng(self, step: int, rank: int = 0) -> torch.Generator:
        """A generator seeded by (seed, step, rank): noise is the same whether or not the run was interrupted."""
        seed = np.random.SeedSequence((self.config.seed, step, rank)).generate_state(1)[0]
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        return torch.Generator(device=device).manual_seed(int(seed))

    @property
    def steps_done(self) -> int:
        """Optimiser steps; Lightning counts each optimiser's."""
        return int(self.global_step) // len(self.trainer.optimizers)

    def epoch_of(self, step: int) -> int:
        """Passes over the training set finished before this step."""
        return step * self.trainer.world_size // self._batches_per_epoch

    @property
    def is_stale(self) -> bool:
        """Whether the best validation is so old that the training ends."""
        limit = self.config.early_stop_validations
        return limit is not None and self.validations_since_best > limit

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for all; or Muon for the system's matrices, if it names any, and AdamW for the rest."""
        config = self.config
        if config.optimiser == "adam":
            return [torch.optim.Adam(self.system.parameters(), lr=config.adam_lr, betas=(0.9, 0.999))]
        matrices = self.system.muon_parameters()
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.system.parameters() if id(p) not in chosen]
        adam = torch.optim.AdamW(rest, lr=config.adam_lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
        if not matrices:
            return [adam]
        muon = Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        return [muon, adam]

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """One update of weights and of their average."""
        step = self.steps_done
        try:
            loss = self.system.loss(batch, self._step_rng(step, self.global_rank), self.epoch_of(step))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise TrainingError(f"a lattice is singular at step {step}: {_described(batch)}") from None
        optimizers = self.trainer.optimizers
        stepped: Any = self.optimizers()  # the same in Lightning's wrapping, which counts the steps
        for optimizer in optimizers:
            peak = self.config.muon_lr if isinstance(optimizer, Muon) else self.config.adam_lr
            self.learning_rate = peak * learning_factor(step, self.config) * self.plateau.factor
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
            optimizer.zero_grad()
        self.manual_backward(loss.total)
        self._check(loss.total.detach(), self._clip(), step, batch)
        for optimizer in stepped if isinstance(stepped, list) else [stepped]:
            optimizer.step()
        # The average forgets initialisation quickly: its decay rises to the configured one over the first steps.
        decay = min(self.config.ema, 1 - 1 / (0.1 * step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.system.parameters()), 1 - decay)
        self._last = Loss(loss.total.detach(), {name: part.detach() for name, part in loss.parts.items()})

    def _check(self, loss: torch.Tensor, gradient: torch.Tensor, step: int, batch: CrystalBatch) -> None:
        if torch.isfinite(loss + gradient):  # one question: each stalls a GPU
            return
        what, value = ("gradient", gradient) if torch.isfinite(loss) else ("loss", loss)
        rates = "adam_lr" if self.config.optimiser == "adam" else "adam_lr and muon_lr"
        raise TrainingError(
            f"{what} is {value.item()} at step {step}: {_described(batch)}; a rate is too high, or a crystal bad: "
            f"lower {rates}, or resume from the last checkpoint"
        )

    def _clip(self) -> torch.Tensor:
        """Clip the gradient; its norm (its largest value, where values are clipped) before that."""
        parameters, limit = list(self.system.parameters()), self.config.clip_limit
        if self.config.clip == "norm":
            return torch.nn.utils.clip_grad_norm_(parameters, limit)
        gradients = [p.grad for p in parameters if p.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, norm_type=math.inf)
        torch.nn.utils.clip_grad_value_(parameters, limit)
        return largest

    def losses_of_last_step(self) -> dict[str, float]:
        """Of the last training step: train_loss and train_<part>."""
        assert self._last is not None
        named = {"train_loss": self._last.total, **{f"train_{k}": v for k, v in self._last.parts.items()}}
        row = dict(zip(named, torch.stack([v.float() for v in named.values()]).tolist(), strict=True))
        self.metrics.update(row)
        self.log_dict(row, prog_bar=True, logger=False)
        return row

    @torch.no_grad()
    def held_out_loss(self, held: TrainingSet) -> dict[str, float]:
        """Loss of the averaged weights, mean over crystals, the same noise at every call: val_loss and val_<part>."""
        self.averaged.eval()
        epoch, sums, n = self.epoch_of(self.steps_done), dict[str, torch.Tensor](), 0
        for i, rows in enumerate(held.batches(self.config.batch_crystals, None)):
            batch = held[rows].to(self.device)
            with self.trainer.precision_plugin.forward_context():
                loss = self.averaged.loss(batch, self._step_rng(VALIDATION_STEP + i), epoch)
            for name, value in {"val_loss": loss.total, **{f"val_{k}": v for k, v in loss.parts.items()}}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(batch)
            n += len(batch)
        means = torch.stack([v.float() for v in sums.values()]) / n
        return dict(zip(sums, means.tolist(), strict=True))

    def validated(self, measured: Mapping[str, float]) -> None:
        """Take note of a validation: for the rates, for what is best, for an early end."""
        self.metrics.update(measured)
        self.watched_loss = measured.get("val_validation", measured["val_loss"])
        if not math.isfinite(self.watched_loss):
            logger.warning("the validation loss at step %d is %g", self.steps_done, self.watched_loss)
        if self.config.schedule == "plateau":
            self.plateau = self.plateau.after(self.watched_loss, self.config)
        if self.watched_loss < self.best_loss:
            self.best_loss, self.validations_since_best = self.watched_loss, 0
        else:
            self.validations_since_best += 1
        self.log_dict(dict(measured), prog_bar=True, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What Lightning does not know of."""
        checkpoint["training"] = {
            "kind": self.system.name,
            "system": self.system.config.model_dump(mode="json"),
            "optimiser": self.config.optimiser,
            "plateau": asdict(self.plateau),
            "best_loss": self.best_loss,
            "validations_since_best": self.validations_since_best,
            "metrics": self.metrics,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Inverse of on_save_checkpoint."""
        saved = checkpoint["training"]
        self.plateau = Plateau(**saved["plateau"])
        self.best_loss, self.validations_since_best = saved["best_loss"], saved["validations_since_best"]
        self.metrics = dict(saved["metrics"])
