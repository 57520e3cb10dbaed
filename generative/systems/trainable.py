"""What a system offers to be trained by `hullward train`, and what it gets for nothing; the loop: training/loop.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.systems.interface import System
from storage.settings import RoomConfig

if TYPE_CHECKING:
    from generative.training.data import TrainingSet


class Loss(NamedTuple):
    """A loss and what it is made of.

    Attributes:
        total: scalar whose gradient is followed.
        parts: scalars for the curves, each under its name. One called "validation", if there is one, is what the
            learning rate, the choice of weights and early stopping watch on held-out crystals; without it they watch
            `total`.
    """

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss and the weights that follow it.

    Attributes:
        loss: of (the system or its averaged copy, batch, generator of all noise, epoch).
        parameters: that are changed; all others keep still while it has its turn.
        name: before the names of its parts in the curves; empty where there is but one objective.
        every: it has its turn in one of so many steps, the last of them: a generator that follows five steps of its
            critic has 5.
        optimisers: its own; None makes those that the settings name. Their rates are peaks, scheduled like the others.
        clips: whether its gradient is clipped as the settings say; a critic's slope is held otherwise.
    """

    loss: Callable[[Any, CrystalBatch, torch.Generator, int], Loss]
    parameters: Sequence[nn.Parameter]
    name: str = ""
    every: int = 1
    optimisers: tuple[torch.optim.Optimizer, ...] | None = None
    clips: bool = True


@dataclass(frozen=True, eq=False)
class Phase:
    """A part of a training: objectives that take turns on each batch, in order. Rates warm up and decay in each phase.

    Attributes:
        objectives: what is followed; weights of no objective are frozen.
        share: of the training's steps, relative to the other phases'.
        name: in logs.
    """

    objectives: tuple[Objective, ...]
    share: float = 1.0
    name: str = ""


class Trainable(System, ABC):
    """A system with something to learn: by default one loss, followed by all its weights from first to last step.

    Attributes:
        needs_bonds: whether a loss reads `batch.bonds`; crystals without a CrystalNN graph are then left out of the
            training.
    """

    needs_bonds: ClassVar[bool] = False

    @abstractmethod
    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Loss of a batch, all noise drawn from `rng`.

        `self.training` tells a training step from a validation; `epoch` counts from 0 the passes over the training set.
        """

    def phases(self) -> tuple[Phase, ...]:
        """What is trained, in turn."""
        return (Phase((Objective(type(self).loss, list(self.parameters())),)),)

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set its buffers (means, spreads ...) from the training crystals, once, before the first step."""

    def measure(self, data: TrainingSet) -> None:
        """As fit_statistics, for a system that measures more of the arranged training set than energies."""
        self.fit_statistics(data.crystals, data.energies)

    @classmethod
    def columns(cls, config: RoomConfig) -> tuple[str, ...]:
        """Columns of numbers that it learns from beside the one that is told as energy, by its settings."""
        return ()

    def finish(self) -> None:
        """Called once after the last step, with the weights that are to be kept."""

    def refused(self, crystal: Crystal) -> str:
        """Why it cannot be trained on this crystal, in one sentence; empty where it can."""
        return ""

    def refusals(self, crystals: Sequence[Crystal], cache: Path | None = None, workers: int = 1) -> list[str]:
        """`refused` of each crystal, in order; a system that computes much to know it may share the work.

        Args: crystals; cache and workers as of `arranged`.
        """
        return [self.refused(crystal) for crystal in crystals]

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """The training crystals with batches in the form that its loss reads, such as pairs of polymorphs.

        Args:
            data: crystals in Niggli cells.
            cache: folder for what is computed once per crystal.
            workers: processes.
        """
        return data

    def muon_parameters(self) -> list[nn.Parameter]:
        """Matrices for Muon under optimiser 'muon-adamw'; where there are none, AdamW takes all."""
        return []
