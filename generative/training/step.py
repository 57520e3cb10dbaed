"""One step of a training, its validation, and what both leave behind: Lightning's view of a system."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import lightning
import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from generative.crystal.batch import CrystalBatch
from generative.systems.trainable import Loss, Objective, Phase, Trainable
from generative.training.config import TrainConfig
from generative.training.data import TrainingError, TrainingSet
from generative.training.learning_rates import Plateau, learning_factor
from generative.training.muon import Muon

logger = logging.getLogger(__name__)

VALIDATION_STEP = 2**30
"""Noise of validations is drawn as that of steps from here on: always the same, and none that a training sees."""


def _described(batch: CrystalBatch) -> str:
    volume = batch.lattice_ang.det().abs().min().item()
    return f"its smallest cell is {volume:.3g} A^3, its first atomic numbers {batch.atomic_numbers[:8].tolist()}"


class _Turn:
    """An objective with its optimisers, and the peak rates of their groups."""

    def __init__(self, objective: Objective, optimisers: tuple[torch.optim.Optimizer, ...]) -> None:
        self.objective, self.optimisers = objective, optimisers
        self.peaks = [[float(group["lr"]) for group in optimiser.param_groups] for optimiser in optimisers]


@dataclass(frozen=True)
class _PlannedPhase:
    """A phase, the steps from `first` up to `last`, and its objectives in order."""

    phase: Phase
    first: int
    last: int
    turns: tuple[_Turn, ...]


def _named(objective: str, loss: Loss) -> dict[str, torch.Tensor]:
    """Total and parts under the names of the curves."""
    before = f"{objective}_" if objective else ""
    return {f"{before}loss": loss.total, **{f"{before}{name}": part for name, part in loss.parts.items()}}


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
        self.phase_index = 0
        """Of the phase that plateau and best validation are of."""
        self.watched_loss = math.nan
        self.learning_rate = 0.0
        self.steps_done = 0
        """Batches that the training has seen; Lightning counts the steps of each optimiser."""
        # Weights are averaged; what batch normalisation has measured goes with them as it is, or validation and the
        # checkpoint would hold the statistics of the first weights. Other buffers never change while a system trains.
        self._measured = [
            (of_average, of_system)
            for ours, theirs in zip(self.averaged.modules(), system.modules(), strict=True)
            if isinstance(ours, _BatchNorm)
            for of_average, of_system in zip(ours.buffers(), theirs.buffers(), strict=True)
        ]
        self._batches_per_epoch = batches_per_epoch
        self._last: dict[str, torch.Tensor] = {}

    def _step_rng(self, step: int, rank: int = 0) -> torch.Generator:
        """A generator seeded by (seed, step, rank): noise is the same whether or not the run was interrupted."""
        seed = np.random.SeedSequence((self.config.seed, step, rank)).generate_state(1)[0]
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        return torch.Generator(device=device).manual_seed(int(seed))

    def epoch_of(self, step: int) -> int:
        """Passes over the training set finished before this step."""
        return step * self.trainer.world_size // self._batches_per_epoch

    @property
    def is_stale(self) -> bool:
        """Whether the best validation is so old that the training ends."""
        limit = self.config.early_stop_validations
        return limit is not None and self.validations_since_best > limit

    @cached_property
    def _phases(self) -> tuple[_PlannedPhase, ...]:
        """The system's phases with the steps at which they begin and end, and their optimisers."""
        phases = self.system.phases()
        ends = np.cumsum([phase.share for phase in phases])
        marks = [0, *(round(self.config.max_steps * float(end / ends[-1])) for end in ends)]
        return tuple(
            _PlannedPhase(phase, first, last, tuple(_Turn(o, tuple(self._optimisers(o))) for o in phase.objectives))
            for phase, first, last in zip(phases, marks, marks[1:], strict=False)
        )

    def _optimisers(self, objective: Objective) -> Sequence[torch.optim.Optimizer]:
        """Its own; or Adam for all its weights; or Muon for the matrices that the system names, AdamW for the rest."""
        config, parameters = self.config, list(objective.parameters)
        if objective.optimisers is not None:
            return objective.optimisers
        if config.optimiser == "adam":
            return [torch.optim.Adam(parameters, lr=config.adam_lr, betas=(0.9, 0.999))]
        named, own = {id(p) for p in self.system.muon_parameters()}, {id(p) for p in parameters}
        matrices = [p for p in self.system.muon_parameters() if id(p) in own]
        rest = [p for p in parameters if id(p) not in named]
        made: list[torch.optim.Optimizer] = []
        if matrices:
            rate, decay = config.muon_lr, config.weight_decay
            made.append(Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        if rest:
            rate, decay = config.adam_lr, config.weight_decay
            made.append(torch.optim.AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.98)))
        return made

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of all phases and objectives, in order."""
        return [optimiser for phase in self._phases for turn in phase.turns for optimiser in turn.optimisers]

    @property
    def phase(self) -> _PlannedPhase:
        """The one that the next step belongs to; the last after all steps."""
        return next((p for p in self._phases if p.first <= self.steps_done < p.last), self._phases[-1])

    def _begin_phase(self) -> None:
        """In a new phase another loss is watched: what was found of the one before does not count."""
        if (index := self._phases.index(self.phase)) != self.phase_index:
            self.phase_index, self.plateau = index, Plateau()
            self.best_loss, self.validations_since_best = math.inf, 0

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """Every objective that has its turn in this step, then the average of the weights."""
        self._begin_phase()
        step, phase = self.steps_done, self.phase
        factor = learning_factor(step - phase.first, self.config, phase.last - phase.first) * self.plateau.factor
        rng, epoch = self._step_rng(step, self.global_rank), self.epoch_of(step)
        stepped = self.optimizers()  # the same in Lightning's wrapping, which knows of precision and devices
        wrapped = dict(
            zip(self.configure_optimizers(), stepped if isinstance(stepped, list) else [stepped], strict=True)
        )
        losses: dict[str, torch.Tensor] = {}
        for turn in phase.turns:
            if (step - phase.first + 1) % turn.objective.every:
                continue
            try:
                loss = turn.objective.loss(self.system, batch, rng, epoch)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                raise TrainingError(f"a lattice is singular at step {step}: {_described(batch)}") from None
            for optimiser, peaks in zip(turn.optimisers, turn.peaks, strict=True):
                for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                    group["lr"] = self.learning_rate = peak * factor
            for parameter in self.system.parameters():
                parameter.grad = None  # of other objectives too: what theirs left behind must not be clipped with this
            self.manual_backward(loss.total)
            self._check(loss.total.detach(), self._clip(turn.objective), step, batch)
            for optimiser in turn.optimisers:
                wrapped[optimiser].step()
            losses |= _named(turn.objective.name, Loss(loss.total.detach(), loss.parts))
        # The average forgets initialisation quickly: its decay rises to the configured one over the first steps.
        decay = min(self.config.ema, 1 - 1 / (0.1 * step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.system.parameters()), 1 - decay)
            for of_average, of_system in self._measured:
                of_average.copy_(of_system)
        self._last = {**self._last, **{name: value.detach() for name, value in losses.items()}}
        self.steps_done = step + 1

    def _check(self, loss: torch.Tensor, gradient: torch.Tensor, step: int, batch: CrystalBatch) -> None:
        if torch.isfinite(loss + gradient):  # one question: each stalls a GPU
            return
        what, value = ("gradient", gradient) if torch.isfinite(loss) else ("loss", loss)
        rates = "adam_lr" if self.config.optimiser == "adam" else "adam_lr and muon_lr"
        raise TrainingError(
            f"{what} is {value.item()} at step {step}: {_described(batch)}; a rate is too high, or a crystal bad: "
            f"lower {rates}, or resume from the last checkpoint"
        )

    def _clip(self, objective: Objective) -> torch.Tensor:
        """Clip the gradient; its norm (its largest value, where values are clipped) before that."""
        parameters, limit = list(objective.parameters), self.config.clip_limit if objective.clips else math.inf
        if self.config.clip == "norm":
            return torch.nn.utils.clip_grad_norm_(parameters, limit)
        gradients = [p.grad for p in parameters if p.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, norm_type=math.inf)
        torch.nn.utils.clip_grad_value_(parameters, limit)
        return largest

    def losses_of_last_step(self) -> dict[str, float]:
        """Of the last step in which each objective had its turn: train_loss and train_<part>."""
        named = {f"train_{name}": value for name, value in self._last.items()}
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
            rng = self._step_rng(VALIDATION_STEP + i)
            with self.trainer.precision_plugin.forward_context():
                for turn in self.phase.turns:
                    found = _named(turn.objective.name, turn.objective.loss(self.averaged, batch, rng, epoch))
                    for name, value in found.items():
                        sums[f"val_{name}"] = sums.get(f"val_{name}", torch.zeros_like(value)) + value * len(batch)
            n += len(batch)
        means = torch.stack([v.float() for v in sums.values()]) / n
        return dict(zip(sums, means.tolist(), strict=True))

    def validated(self, measured: Mapping[str, float]) -> None:
        """Take note of a validation: for the rates, for what is best, for an early end."""
        self._begin_phase()
        self.metrics.update(measured)
        # Of several objectives the last is watched: it is the one that the others serve.
        name = self.phase.turns[-1].objective.name
        before = f"val_{name}_" if name else "val_"
        self.watched_loss = measured.get(f"{before}validation", measured[f"{before}loss"])
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
            "steps": self.steps_done,
            "phase": self.phase_index,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Inverse of on_save_checkpoint."""
        saved = checkpoint["training"]
        self.plateau = Plateau(**saved["plateau"])
        self.best_loss, self.validations_since_best = saved["best_loss"], saved["validations_since_best"]
        self.metrics = dict(saved["metrics"])
        self.phase_index = int(saved.get("phase", 0))
        # States of earlier versions held Lightning's own count alone.
        self.steps_done = int(saved.get("steps", checkpoint["global_step"] // len(checkpoint["optimizer_states"])))
