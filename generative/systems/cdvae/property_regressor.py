"""A scalar of a crystal by DimeNet++: the separate model by which the CDVAE family's energies are compared.

The benchmark compares energies of generated and of test crystals that one regressor predicts for both, never those of
DFT (arXiv:2110.06197, property statistics). As there: DimeNet++ over CrystalNN's bonds, mean over the atoms, one
output, mean squared error of the standardised target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import Bonds, pack_bonds
from generative.crystal.crystals import Crystal
from generative.networks.dimenet import Z_MAX, DimeNetConfig, DimeNetPlusPlus
from generative.networks.periodic_graph import measured
from generative.systems.cdvae.config import SIZES, SizeName
from generative.systems.interface import Regressor
from generative.systems.trainable import Loss, Trainable
from storage.settings import RoomConfig


class PropertyRegressorConfig(RoomConfig):
    """Sizes of the regressor."""

    size: SizeName = Field("cpu", description="width of DimeNet++: paper (published), cpu, or tiny (for tests)")


class PropertyRegressor(Regressor, Trainable):
    """A crystal with its bonds to one number."""

    name = "dimenet-regressor"
    config_type = PropertyRegressorConfig
    needs_bonds = True
    config: PropertyRegressorConfig

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, config: PropertyRegressorConfig) -> None:
        super().__init__(config)
        self.dimenet = DimeNetPlusPlus(DimeNetConfig(**SIZES[config.size].dimenet), 1)
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_scale", torch.ones(()))

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal has no prediction, in one sentence; empty where it has."""
        numbers = crystal.atomic_numbers
        if not len(numbers):
            return "it has no atoms"
        if numbers.min() < 1 or numbers.max() > Z_MAX:
            return f"it holds atomic numbers {numbers.min()} to {numbers.max()}, and the network knows 1 to {Z_MAX}"
        return ""

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set the scaling of the target from the training crystals.

        Raises: ValueError: if none of them has a value.
        """
        known = [e for e in energies_ev_per_atom if e is not None and math.isfinite(e)]
        if not known:
            raise ValueError(f"none of the {len(crystals)} training crystals has a value of the property to be learnt")
        values = torch.tensor(known, dtype=torch.float64)
        self.target_mean.copy_(values.mean())
        self.target_scale.copy_(values.std(correction=0).clamp_min(1e-5))

    def forward(self, batch: CrystalBatch) -> Tensor:
        """The property in standard deviations of the training set, (B,). The batch needs its bonds."""
        bonds = batch.bonds
        assert bonds is not None, "a batch without bonds: pack it from a TrainingSet with bonds, or use predict"
        crystal = torch.repeat_interleave(batch.n_atoms, output_size=len(batch.atomic_numbers))
        edges = measured(batch.frac, batch.lattice_ang, crystal, bonds.source, bonds.target, bonds.image)
        predicted: Tensor = self.dimenet(batch.atomic_numbers, crystal, len(batch), edges).squeeze(-1)
        return predicted

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Mean squared error over the crystals that have a value, in variances of the training set."""
        wanted = (batch.energy_ev_per_atom - self.target_mean) / self.target_scale
        known = ~wanted.isnan()
        squared = functional.mse_loss(self(batch), wanted.nan_to_num(), reduction="none") * known
        total = squared.sum() / known.sum().clamp_min(1)
        return Loss(total, {"energy": total, "validation": total})

    @torch.no_grad()
    def predict(
        self, crystals: Sequence[Crystal], bonds: Sequence[Bonds | None], batch_crystals: int = 256
    ) -> np.ndarray:
        """See Regressor.predict: NaN where a crystal has no bonds or cannot be read."""
        values = np.full(len(crystals), math.nan)
        usable = [i for i, bond in enumerate(bonds) if bond is not None and not self.refused(crystals[i])]
        device = self.target_mean.device
        for first in range(0, len(usable), batch_crystals):
            rows = usable[first : first + batch_crystals]
            packed = pack_bonds([b for i in rows if (b := bonds[i])], [len(crystals[i].atomic_numbers) for i in rows])
            batch = CrystalBatch.pack([crystals[i] for i in rows]).replace(bonds=packed).to(device)
            values[rows] = (self(batch) * self.target_scale + self.target_mean).double().cpu().numpy()
        return values
