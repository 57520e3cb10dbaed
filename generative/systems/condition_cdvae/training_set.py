"""Training crystals with the numbers that a condition may ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generative.crystal.batch import CrystalBatch
from generative.requests import FORMATION_ENERGY
from generative.training.data import TrainingSet


@dataclass(frozen=True, kw_only=True)
class ConditionedCrystals(CrystalBatch):
    """Crystals with P numbers each.

    Attributes:
        values: in their own units, NaN where unknown, (B, P).
    """

    values: Tensor


class ConditionedSet(TrainingSet):
    """A training set whose batches hold the numbers of these columns."""

    def __init__(self, data: TrainingSet, names: Sequence[str]) -> None:
        super().__init__(data.crystals, data.spacegroups, data.energies, data.ids, data.bonds)
        self.labels, self.columns = data.labels, data.columns
        known = {**data.columns, FORMATION_ENERGY: data.energies}
        rows = [[math.nan if value is None else value for value in known[name]] for name in names]
        self.values = torch.tensor(rows, dtype=torch.float32).view(len(names), len(data)).T

    def __getitem__(self, rows: Sequence[int]) -> ConditionedCrystals:
        """The batch of these rows."""
        return ConditionedCrystals.extending(super().__getitem__(rows), values=self.values[list(rows)])
