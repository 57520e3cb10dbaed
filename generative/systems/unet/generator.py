"""Generation conditioned on composition, space group and formation energy: a UNet over the structure matrix.

Method, from top to bottom of this file:
    1. A crystal is a matrix of 64 rows (generative/crystal/structure_matrix.py): sites, then the lattice.
    2. Elements by row, the space group's operations and the energy become one vector, added to the embedded time.
    3. Training: the network tells the crystal from its noisy matrix, or as published the noise of a diffusion
       (squared-cosine schedule, 1000 times) or the velocity of a straight flow; mean absolute errors of sites and of
       lattice, half and half.
    4. Sampling: 100 ancestral (DDPM) or deterministic (DDIM) steps, or Euler steps of the flow, from normal or uniform
       noise. Sites and lattice are read off; nothing is symmetrised or repaired.

The network knows no symmetry: not of rotation, of translation, of order. It learns the settings of its training data,
so crystals are brought into one setting before they are matrices (generative/crystal/standard_setting.py).

Shape letters: B crystals, R = 64 rows.
Source: conditional generation and modification of crystals by diffusion and flow matching (AIRI), generation task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.structure_matrix import (
    MAX_SITES,
    N_ROWS,
    from_matrix,
    in_row_order,
    number_rows,
    sorted_sites,
    to_matrix,
)
from generative.processes import gaussian_diffusion, straight_flow
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.baselines.stored import in_order
from generative.systems.interface import CardNotes, Generator, Progress, batch_of, of_steps, own_settings, require_cells
from generative.systems.trainable import Loss
from generative.systems.unet.config import ConditionalUNetConfig, UNetSampler, Way
from generative.systems.unet.structure_matrix_system import N_TIMES, StructureMatrixSystem


class ConditionalUNet(StructureMatrixSystem, Generator):
    """The generators: loss and sampler; `way` tells the four apart."""

    way: ClassVar[Way]
    config_type = ConditionalUNetConfig
    sampler_type = UNetSampler
    heeds = frozenset({"composition", "spacegroup", FORMATION_ENERGY})

    def card_notes(self) -> CardNotes:
        """What it draws, and where its method is described."""
        return CardNotes("crystals of a given composition, space group and energy", "docs/conditional-unet.md")

    # --- training -----------------------------------------------------------------------------------------------------

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int = 0) -> Loss:
        """Absolute errors of the crystal, or of noise or velocity; the same in every epoch.

        The mean over the batch stands in the place of the published sum.
        """
        batch = sorted_sites(batch)
        numbers, counted = number_rows(batch), self._counted(batch.n_atoms)
        end = to_matrix(batch) / self.units
        start = self._start(len(batch), rng).to(end) * counted
        condition = self._condition(batch, numbers, rng)
        if self.way.process == "diffusion":
            t = torch.randint(N_TIMES, (len(batch),), generator=rng, device=rng.device).to(end.device)
            here = gaussian_diffusion.noisy(end, start, self.alpha_bar[t.cpu()].to(end.device))
            time, motion = t.to(end.dtype), start
        else:
            time = torch.rand(len(batch), generator=rng, device=rng.device).to(end)
            here, motion = straight_flow.between(start, end, time), end - start
            time = time * self.config.time_scale
        told = self._told(here, time, condition)
        target = end if self.config.predicts == "crystal" else motion
        return self._errors((told - target).abs(), counted, batch.n_atoms)

    def _start(self, n: int, rng: torch.Generator) -> Tensor:
        draw = torch.randn if self.way.start == "normal" else torch.rand
        return draw(n, N_ROWS, 3, generator=rng, device=rng.device)

    def _condition(self, batch: CrystalBatch, numbers: Tensor, rng: torch.Generator | None) -> Tensor:
        """What is asked; with a generator, hidden at random as in training."""
        spacegroup = batch.spacegroup
        energy = (batch.energy_ev_per_atom - self.energy_mean) / self.energy_scale
        if rng is not None:
            hide = torch.rand(2, len(batch), generator=rng, device=rng.device).to(energy.device)
            spacegroup = torch.where(hide[0] < self.config.drop_spacegroup, 0, spacegroup)
            energy = torch.where(hide[1] < self.config.drop_energy, torch.nan, energy)
        vector: Tensor = self.conditions(numbers, spacegroup, energy.nan_to_num(0.0))
        return vector

    # --- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample.

        Raises: ValueError: if a request names no composition, or one of more than 60 atoms.
        """
        how = own_settings(UNetSampler, settings)
        require_cells(requests, MAX_SITES)
        if not requests:
            return []
        cells = [request.atomic_numbers for request in requests]
        rows = [[cell[i] for i in in_row_order(cell)] for cell in cells]
        asked = batch_of(requests, rows).to(self.energy_mean.device)
        numbers, counted = number_rows(asked), self._counted(asked.n_atoms)
        condition = self._condition(asked, numbers, None)
        start = self._start(len(asked), rng).to(condition) * counted

        told_steps = of_steps(progress, how.n_steps)

        def told(time: float, matrix: Tensor) -> Tensor:
            return self._told(matrix, condition.new_full((len(asked),), time), condition) * counted

        if self.way.process == "diffusion":
            deterministic = self.way.deterministic or how.deterministic
            sampler: gaussian_diffusion.Sampler = "deterministic" if deterministic else "ancestral"

            def noise(time: int, matrix: Tensor) -> Tensor:
                return self._noise(told(time, matrix), matrix, time)

            end = gaussian_diffusion.denoise(noise, start, self.alpha_bar, how.n_steps, sampler, rng, told_steps)
        else:

            def velocity(time: float, matrix: Tensor) -> Tensor:
                return self._velocity(told(time * self.config.time_scale, matrix), matrix, time)

            end = straight_flow.integrate(velocity, start, how.n_steps, told_steps)
        drawn = from_matrix(end * self.units, numbers)
        return [in_order(crystal, cell) for crystal, cell in zip(drawn, cells, strict=True)]


class UNetDDPM(ConditionalUNet):
    """Diffusion, ancestral steps."""

    name, way = "unet-ddpm", Way("diffusion")


class UNetDDIM(ConditionalUNet):
    """The same diffusion, walked without noise."""

    name, way = "unet-ddim", Way("diffusion", deterministic=True)


class UNetFlowNormal(ConditionalUNet):
    """Flow matching from normal noise."""

    name, way = "unet-flow-normal", Way("flow", "normal")


class UNetFlowUniform(ConditionalUNet):
    """Flow matching from noise uniform in [0, 1), where coordinates live."""

    name, way = "unet-flow-uniform", Way("flow", "uniform")


GENERATORS: tuple[type[ConditionalUNet], ...] = (UNetDDPM, UNetDDIM, UNetFlowNormal, UNetFlowUniform)
