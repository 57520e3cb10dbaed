"""What generators and modifiers over the structure matrix have in common: network, conditions, errors, statistics.

Shape letters: B crystals, R = 64 rows, E width of the embedded time.
Source: conditional generation and modification of crystals by diffusion and flow matching (AIRI).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from generative.crystal.crystals import Crystal, reduced
from generative.crystal.spacegroup_operations import operations
from generative.crystal.species import MAX_Z, element_properties
from generative.crystal.standard_setting import in_standard_setting, in_standard_settings
from generative.crystal.structure_matrix import FIRST_LATTICE_ROW, MAX_SITES, N_ROWS, too_large
from generative.networks.condition_encoders import (
    ElementEncoder,
    EncoderSizes,
    NumberEncoder,
    OperationsEncoder,
    one_hot_with,
)
from generative.networks.unet import UNet1d
from generative.processes import gaussian_diffusion
from generative.systems.trainable import Loss, Trainable
from generative.systems.unet.config import SIZES, ConditionalUNetConfig
from generative.training.data import TrainingSet

N_TIMES = 1000


class Conditions(nn.Module):
    """What is asked, as one vector per crystal: (B, R) numbers, (B,) space groups, (B,) energies -> (B, E).

    An energy of 0 (standardised: the mean of the training set) stands for an open one.
    """

    properties: Tensor
    operations: Tensor | None

    def __init__(self, config: ConditionalUNetConfig, sizes: EncoderSizes, embedding: int, n_further: int = 0) -> None:
        """Args: n_further: width of what the system itself adds, as of a crystal to start from."""
        super().__init__()
        properties = element_properties(config.raw_properties)
        self.register_buffer("properties", properties, persistent=False)
        by_operations = config.spacegroup_as == "operations"
        self.register_buffer("operations", operations() if by_operations else None, persistent=False)
        self.spacegroup: nn.Module = OperationsEncoder(sizes) if by_operations else NumberEncoder(sizes)
        self.elements = ElementEncoder(MAX_Z + properties.shape[1], sizes, N_ROWS)
        self.join = nn.Linear(1 + 2 * sizes.width + n_further, embedding)

    def forward(self, numbers: Tensor, spacegroup: Tensor, energy: Tensor, *further: Tensor) -> Tensor:
        """(B, R) int64, 0 where no site is; (B,) int64, 0 where open; (B,); further vectors (B, n)."""
        asked = spacegroup if self.operations is None else self.operations[spacegroup]
        elements = self.elements(one_hot_with(self.properties, numbers))
        vector: Tensor = self.join(
            torch.cat([energy.unsqueeze(-1), self.spacegroup(asked), elements, *further], dim=-1)
        )
        return vector


class StructureMatrixSystem(Trainable):
    """A UNet over structure matrices with its conditions; subclasses say what it learns and how crystals come of it."""

    config: ConditionalUNetConfig
    energy_mean: Tensor
    energy_scale: Tensor
    units: Tensor

    def __init__(self, config: ConditionalUNetConfig, n_further: int = 0) -> None:
        """Args: config; n_further: width of what the subclass adds to the conditions."""
        super().__init__(config)
        sizes = SIZES[config.size]
        self.conditions = Conditions(config, sizes.encoders, sizes.network.embedding, n_further)
        self.network = UNet1d(sizes.network)
        self.alpha_bar = gaussian_diffusion.squared_cosine(N_TIMES)  # stays on the CPU, where the sampler reads it
        units = torch.ones(N_ROWS, 1)
        units[FIRST_LATTICE_ROW:] = config.lattice_unit_ang
        self.register_buffer("units", units, persistent=False)
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("energy_scale", torch.ones(()))

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal cannot be trained on; empty where it can."""
        numbers = crystal.atomic_numbers
        if problem := too_large(len(numbers)):
            return problem
        if numbers.min() < 1 or numbers.max() > MAX_Z:
            return f"it holds atomic numbers {numbers.min()} to {numbers.max()}: {self.name} knows 1 to {MAX_Z}"
        return ""

    def turned(self, crystal: Crystal) -> Crystal:
        """The crystal in the setting that the system knows; the cell may be a smaller one."""
        return in_standard_setting(crystal) if self.config.setting == "standard" else reduced(crystal)

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """Training crystals as the system takes them; those that come are Niggli-reduced already."""
        if self.config.setting == "niggli":
            return data
        turned = in_standard_settings(data.crystals, workers, cache)
        return TrainingSet(turned, data.spacegroups, data.energies, data.ids, data.bonds)

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set the scale of energies."""
        known = torch.tensor([e for e in energies_ev_per_atom if e is not None and np.isfinite(e)], dtype=torch.float64)
        if len(known) and not self.config.raw_energy:
            self.energy_mean.copy_(known.mean())
            self.energy_scale.copy_(known.std(correction=0).clamp_min(1e-5))

    def _noise(self, told: Tensor, here: Tensor, time: int) -> Tensor:
        """The noise in x_t that the network's answer says."""
        if self.config.predicts == "noise-velocity":
            return told
        alpha_bar = float(self.alpha_bar[time])
        return (here - math.sqrt(alpha_bar) * told) / math.sqrt(1 - alpha_bar)

    def _velocity(self, told: Tensor, here: Tensor, time: float) -> Tensor:
        """The velocity at x_t that the network's answer says; time below 1."""
        return told if self.config.predicts == "noise-velocity" else (told - here) / (1 - time)

    def _errors(self, wrong: Tensor, counted: Tensor, n_atoms: Tensor) -> Loss:
        """Half the errors of the sites, summed over rows per site, and half the lattice's, over three; mean over B.

        Args: wrong: absolute errors, (B, R, 3); counted: rows that count, (B, R, 1); n_atoms: (B,).
        """
        wrong = (wrong * counted).sum(-1)  # (B, R)
        sites = (wrong[:, :MAX_SITES].sum(1) / n_atoms).mean()
        lattice = (wrong[:, FIRST_LATTICE_ROW:].sum(1) / 3).mean()
        return Loss(0.5 * sites + 0.5 * lattice, {"sites": sites, "lattice": lattice})

    def _counted(self, n_atoms: Tensor) -> Tensor:
        """1 for rows that hold something, else 0, (B, R, 1); all ones but row 60 where padding is not masked."""
        rows = torch.arange(N_ROWS, device=n_atoms.device)
        n = n_atoms if self.config.mask_padding else torch.full_like(n_atoms, MAX_SITES)
        return ((rows < n[:, None]) | (rows >= FIRST_LATTICE_ROW)).unsqueeze(-1).float()

    def _told(self, matrix: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The network's answer for matrices: rows are its length, the three columns its channels."""
        told: Tensor = self.network(matrix.transpose(1, 2), time, condition).transpose(1, 2)
        return told
