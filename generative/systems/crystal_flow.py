"""Hullward's own generator: flow matching on the torus and the log-Cholesky lattice, by a dense pair transformer.

Given a composition (and, if asked, a space group and a formation energy) it draws coordinates and a lattice. Method:
    1. The lattice becomes six standardised numbers (generative/crystal/lattice.py); coordinates stay fractional.
    2. Noise is uniform on the torus for coordinates and normal for the lattice; paths are geodesics
       (generative/processes/torus_flow.py).
    3. The network (generative/networks/pair_transformer.py) learns the velocity; the loss is the mean square error of
       both velocities, each in units of its variance under the prior.
    4. Sampling integrates the velocity from noise in a few dozen Euler steps.
Space group and energy are dropped at random in training, so that they may be left open or guided at sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from generative.config import MAX_ATOMS, SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.lattice import LATTICE_DIM, fit_atomic_volumes, from_log_cholesky, to_log_cholesky
from generative.crystal.species import MAX_Z, species_descriptors
from generative.networks.pair_transformer import PairTransformer
from generative.processes.torus_flow import FlowPoint, draw_prior, integrate, interpolate
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.interface import CardNotes, Generator, Progress, batch_of, of_steps, own_settings, require_cells
from generative.systems.trainable import Loss, Trainable
from storage.settings import RoomConfig

WRAPPED_VARIANCE = 1.0 / 12.0
"""Variance of a wrapped difference of two uniform coordinates: the unit of the coordinate loss."""


class CrystalFlowConfig(RoomConfig):
    """Size of the network and how conditions are dropped."""

    width: int = Field(128, ge=16, description="features per atom")
    n_layers: int = Field(6, ge=1, description="attention blocks")
    n_heads: int = Field(8, ge=1, description="attention heads; divides width")
    pair_width: int = Field(48, ge=8, description="features per pair of atoms")
    drop_spacegroup: float = Field(0.7, ge=0, le=1, description="probability that training hides the space group")
    drop_energy: float = Field(0.7, ge=0, le=1, description="probability that training hides the formation energy")
    lattice_weight: float = Field(0.5, gt=0, description="weight of the lattice velocity's loss beside coordinates")


class FlowSampler(SamplerSettings):
    """How the velocity is followed from noise to a crystal."""

    n_steps: int = Field(50, ge=1, le=1000, description="integration steps of the flow, network calls per crystal")
    velocity_slope: float = Field(
        5.0, ge=0, le=50, description="velocity of coordinates is scaled by 1 + slope * t (anti-annealing)"
    )
    churn: float = Field(
        0.1, ge=0, le=1, description="noise on coordinates early in the path, fractional units; separates equal atoms"
    )
    guidance: float = Field(
        1.0, ge=0, le=10, description="classifier-free guidance weight on space group and energy; 1 is plain"
    )


class CrystalFlow(Generator, Trainable):
    """The system: network, lattice statistics, loss and sampler."""

    atomic_volumes: Tensor
    lattice_mean: Tensor
    lattice_std: Tensor

    name = "crystal-flow"
    config_type = CrystalFlowConfig
    sampler_type = FlowSampler
    heeds = frozenset({"composition", "spacegroup", FORMATION_ENERGY})
    config: CrystalFlowConfig

    def __init__(self, config: CrystalFlowConfig) -> None:
        super().__init__(config)
        self.network = PairTransformer(
            species_descriptors(),
            width=config.width,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            pair_width=config.pair_width,
            lattice_dim=LATTICE_DIM,
        )
        self.register_buffer("atomic_volumes", torch.full((MAX_Z + 1,), 15.0))
        self.register_buffer("lattice_mean", torch.zeros(LATTICE_DIM))
        self.register_buffer("lattice_std", torch.ones(LATTICE_DIM))

    def card_notes(self) -> CardNotes:
        """What it draws, and where its method is described."""
        return CardNotes("crystal structures of a given composition", "docs/generator.md")

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal cannot be trained on; empty where it can."""
        numbers = crystal.atomic_numbers
        if not 1 <= len(numbers) <= MAX_ATOMS:
            return f"it has {len(numbers)} atoms: {self.name} takes at most {MAX_ATOMS}; see data.filters.n_atoms_max"
        if numbers.min() < 1 or numbers.max() > MAX_Z:
            return f"it holds atomic numbers {numbers.min()} to {numbers.max()}: {self.name} knows 1 to {MAX_Z}"
        return ""

    def muon_parameters(self) -> list[nn.Parameter]:
        """Matrices inside the attention blocks; those that a condition enters by start at zero and stay with AdamW."""
        blocks = self.network.blocks.named_parameters()
        return [p for name, p in blocks if p.ndim == 2 and "adapt" not in name]

    def fit_statistics(
        self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None] | None = None
    ) -> None:
        """Set atomic volumes and the lattice's mean and spread from the training crystals; energies need no scale."""
        counts = np.zeros((len(crystals), MAX_Z + 1))
        for i, crystal in enumerate(crystals):
            np.add.at(counts[i], crystal.atomic_numbers, 1)
        volumes = np.array([abs(np.linalg.det(c.lattice_ang)) for c in crystals])
        self.atomic_volumes.copy_(torch.as_tensor(fit_atomic_volumes(counts, volumes), dtype=torch.float32))
        scale = torch.as_tensor(counts @ self.atomic_volumes.double().numpy()) ** (1 / 3)
        lattice = torch.stack([torch.as_tensor(c.lattice_ang) for c in crystals])
        numbers = to_log_cholesky(lattice, scale)
        self.lattice_mean.copy_(numbers.mean(0))
        # Crystals of one shape, or a single crystal, have no spread: any unit serves, zero would not.
        self.lattice_std.copy_(numbers.std(0).nan_to_num(0.0).clamp_min(1e-3))

    def _cell_scale(self, atomic_numbers: Tensor) -> Tensor:
        """Expected cell length in angstrom, (B,); padding counts nothing."""
        volumes = torch.where(atomic_numbers > 0, self.atomic_volumes[atomic_numbers], 0.0)
        return volumes.sum(1) ** (1 / 3)

    def _rows(self, lattice: Tensor, scale: Tensor) -> Tensor:
        """Standardised lattice numbers to rows in angstrom, (B, 3, 3)."""
        return from_log_cholesky(lattice * self.lattice_std + self.lattice_mean, scale)

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int = 0) -> Loss:
        """Flow-matching loss of a batch; times are stratified over [0, 1) so that every batch sees all of them.

        Its parts, frac and lattice, are the mean square errors of the two velocities; it is the same in every epoch.
        """
        frac, atomic_numbers, mask = batch.dense()
        scale = self._cell_scale(atomic_numbers)
        numbers = (to_log_cholesky(batch.lattice_ang, scale) - self.lattice_mean) / self.lattice_std
        b, device = len(batch), frac.device
        start = draw_prior(mask, LATTICE_DIM, rng)
        t = (torch.randperm(b, generator=rng, device=rng.device) + torch.rand(b, generator=rng, device=rng.device)) / b
        hide = torch.rand(2, b, generator=rng, device=rng.device).to(device)
        t = t.to(device)
        spacegroup = torch.where(hide[0] < self.config.drop_spacegroup, 0, batch.spacegroup)
        energy = torch.where(hide[1] < self.config.drop_energy, torch.nan, batch.energy_ev_per_atom)
        point, target = interpolate(start, FlowPoint(frac, numbers), t, mask)
        v = self.network(
            t, point.frac, point.lattice, self._rows(point.lattice, scale), atomic_numbers, mask, spacegroup, energy
        )
        real = mask.unsqueeze(-1)
        frac_loss = ((v.frac - target.frac).square() * real).sum() / (3 * real.sum() * WRAPPED_VARIANCE)
        lattice_loss = (v.lattice - target.lattice).square().mean() / 2  # var(u) = 2 for two unit normals
        total = frac_loss + self.config.lattice_weight * lattice_loss
        return Loss(total, {"frac": frac_loss, "lattice": lattice_loss})

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample; `rng` draws prior and churn.

        Raises: ValueError: if a request names no composition, or one of more than MAX_ATOMS atoms.
        """
        how = own_settings(FlowSampler, settings)
        require_cells(requests, MAX_ATOMS)
        batch = batch_of(requests).to(self.lattice_mean.device)
        _, numbers, mask = batch.dense()
        scale = self._cell_scale(numbers)
        asked = (batch.spacegroup > 0) | ~batch.energy_ev_per_atom.isnan()
        guided = how.guidance != 1.0 and bool(asked.any())
        nothing = (torch.zeros_like(batch.spacegroup), torch.full_like(batch.energy_ev_per_atom, torch.nan))

        def call(t: Tensor, point: FlowPoint, spacegroup: Tensor, energy: Tensor) -> FlowPoint:
            rows = self._rows(point.lattice, scale)
            v = self.network(t, point.frac, point.lattice, rows, numbers, mask, spacegroup, energy)
            return FlowPoint(v.frac, v.lattice)

        def velocity(t: Tensor, point: FlowPoint) -> FlowPoint:
            v = call(t, point, batch.spacegroup, batch.energy_ev_per_atom)
            if not guided:
                return v
            free, w = call(t, point, *nothing), how.guidance
            return FlowPoint(free.frac + w * (v.frac - free.frac), free.lattice + w * (v.lattice - free.lattice))

        end = integrate(
            velocity,
            draw_prior(mask, LATTICE_DIM, rng),
            how.n_steps,
            rng,
            how.velocity_slope,
            how.churn,
            of_steps(progress, how.n_steps),
        )
        return batch.replace(frac=end.frac[mask], lattice_ang=self._rows(end.lattice, scale)).unpack()
