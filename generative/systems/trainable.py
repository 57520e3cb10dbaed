"""What a system must offer to be trained by `hullward train` (generative/training.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from generative.batch import CrystalBatch
from generative.config import RoomConfig
from generative.crystals import Crystal


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


class Trainable(Protocol):
    """A generator with something to learn; in fact a torch.nn.Module, of which the members used are listed here too.

    One that learns from several crystals at once, or in a setting of its own, has a method `arranged` too: TrainingSet,
    folder to keep results in, processes -> TrainingSet, whose batches are in the form that its loss reads, such as
    pairs of polymorphs (generative/datasets/polymorphs.py).
    """

    name: ClassVar[str]
    needs_bonds: ClassVar[bool]
    """Whether loss() reads `batch.bonds`; crystals without a CrystalNN graph are then left out of the training."""
    training: bool

    @property
    def config(self) -> RoomConfig:
        """Settings it was built with."""

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set its buffers (means, spreads ...) from the training crystals, once, before the first step."""

    def refused(self, crystal: Crystal) -> str:
        """Why it cannot be trained on this crystal, in one sentence; empty where it can."""

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Loss of a batch, all noise drawn from `rng`.

        `self.training` tells a training step from a validation; `epoch` counts from 0 the passes over the training set.
        """

    def muon_parameters(self) -> list[nn.Parameter]:
        """Matrices for Muon under optimiser 'muon-adamw'; may be empty: AdamW then takes all."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Of torch.nn.Module."""

    def train(self, mode: bool = True) -> Self:
        """Of torch.nn.Module."""

    def eval(self) -> Self:
        """Of torch.nn.Module."""

    def cpu(self) -> Self:
        """Of torch.nn.Module."""
