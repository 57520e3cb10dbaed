"""The CDVAE family: a crystal becomes a latent vector, and a latent vector a crystal, atoms placed by denoising.

What all such systems share, losses and both ways down, is in latent_model.py. Here:
    1. Noise. CDVAE: Gaussian noise of one of 50 widths on Cartesian coordinates, score matching. DP-CDVAE: diffusion on
       fractional coordinates, 1000 steps of a sigmoid schedule, taken back by annealed Langevin dynamics or by the
       reverse diffusion (Eq. 7; Eq. 6 on request).
    2. Asked for a composition or an energy, z is first moved to where the heads say what was asked (Adam on z): the
       family's own way of inverse design.

Sources: Xie et al., arXiv:2110.06197 (CDVAE); Pakornchote et al., Sci. Rep. 14, 1275 (2024) (DP-CDVAE). What differs
between the six members is in config.py; how a composition is turned into atoms in processes/type_noise.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.networks.dimenet import Z_MAX
from generative.processes import coordinate_ddpm
from generative.processes.type_noise import corrupted
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.cdvae.config import SIZES, CDVAEConfig, CDVAESampler, LatentSampler
from generative.systems.cdvae.decoding import N_TIMES, Cells
from generative.systems.cdvae.latent_model import LatentModel, drawn
from generative.systems.cdvae.latent_search import Wanted, search_latent
from generative.systems.cdvae.networks import Denoiser, Encoder, multilayer
from generative.systems.interface import CardNotes
from generative.systems.trainable import Loss

logger = logging.getLogger(__name__)


class CDVAE(LatentModel):
    """DimeNet++ and GemNet-T around the latent vector."""

    name = "cdvae"
    config_type = CDVAEConfig
    sampler_type = CDVAESampler
    heeds = frozenset({"composition", FORMATION_ENERGY})
    z_encoded = Z_MAX
    config: CDVAEConfig

    energy_mean: Tensor
    energy_scale: Tensor
    alpha_bar: Tensor

    def __init__(self, config: CDVAEConfig) -> None:
        sizes = SIZES[config.size]
        super().__init__(config, sizes.latent, sizes.hidden)
        self.process, self.recentre = config.process, config.recentre
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("energy_scale", torch.ones(()))
        self.register_buffer("alpha_bar", self.schedule.alpha_bar, persistent=False)

    def new_encoder(self) -> Encoder:
        """DimeNet++, with what else is configured."""
        return Encoder(self.config)

    def new_denoiser(self) -> Denoiser:
        """GemNet-T."""
        return Denoiser(self.config)

    def add_heads(self, latent: int, hidden: int) -> None:
        """One of the energy, where configured."""
        self.to_energy = multilayer([latent, hidden, 1]) if self.config.predict_energy else None

    def card_notes(self) -> CardNotes:
        """What it draws, and where its method is described."""
        return CardNotes("crystal structures from a latent space, of a given composition if asked", "docs/dp-cdvae.md")

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set the scaling of lattices and energies from the training crystals."""
        super().fit_statistics(crystals, energies_ev_per_atom)
        known = torch.tensor(
            [e for e in energies_ev_per_atom if e is not None and math.isfinite(e)], dtype=torch.float64
        )
        if len(known):
            self.energy_mean.copy_(known.mean())
            self.energy_scale.copy_(known.std(correction=0).clamp_min(1e-5))

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """See LatentModel.losses."""
        latent = self.encode(batch)
        z = latent.draw(rng)
        return self.losses(batch, latent, z, z, rng, epoch)

    def head_losses(self, batch: CrystalBatch, z: Tensor) -> Mapping[str, tuple[float, Tensor]]:
        """Of the energy, where a head predicts it."""
        if self.to_energy is None:
            return {}
        return {"energy": (self.config.energy_weight, self._energy_loss(z, batch.energy_ev_per_atom))}

    def _energy_loss(self, z: Tensor, energy_ev_per_atom: Tensor) -> Tensor:
        known = ~energy_ev_per_atom.isnan()
        wanted = (energy_ev_per_atom.nan_to_num() - self.energy_mean) / self.energy_scale
        squared = (self.energy(z) - wanted).square() * known
        return squared.sum() / known.sum().clamp_min(1)

    def moved_losses(
        self,
        batch: CrystalBatch,
        heard: Tensor,
        probabilities: Tensor,
        cells: Cells,
        inside: Cells,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Score matching (see LatentModel), or DDPM: |epsilon - prediction|^2 on fractional coordinates,
        cross-entropy / sigma on types.

        Times 1 to T - 1, drawn apart for coordinates and types. The target is the noise before wrapping; the network
        sees wrapped coordinates and gives a Cartesian vector, which is compared with the fractional noise as published.
        """
        if self.process == "langevin":
            return super().moved_losses(batch, heard, probabilities, cells, inside, rng)
        crystal = cells.crystal
        t = drawn(N_TIMES, len(batch), 1, rng).to(heard.device)
        sigma_type = self.type_times.to(heard)[drawn(N_TIMES, len(batch), 1, rng).to(heard.device)]
        types = corrupted(batch.atomic_numbers, probabilities[crystal], sigma_type[crystal], rng)
        start = cells.centred(batch.frac) if self.recentre else batch.frac
        epsilon = coordinate_ddpm.centred_noise(crystal, len(batch), rng, start.dtype)
        frac = coordinate_ddpm.noisy(start, epsilon, self.alpha_bar[t][crystal])
        search = self.denoiser.neighbours(inside.lattice_ang, batch.n_atoms)
        vector, logits = self.denoiser(heard, frac, types, crystal, search, t.to(heard.dtype) / N_TIMES)
        squared = (epsilon - vector).square().sum(-1)
        named = functional.cross_entropy(logits, batch.atomic_numbers - 1, reduction="none")
        return cells.mean(squared), cells.mean(named / sigma_type[crystal])

    def energy(self, z: Tensor) -> Tensor:
        """Energy as the head predicts it, in standard deviations of the training set: (B, L) -> (B,)."""
        assert self.to_energy is not None
        predicted: Tensor = self.to_energy(z).squeeze(-1)
        return predicted

    def properties(self, z: Tensor) -> Tensor | None:
        """The energy where a head predicts it, in standard deviations of the training set, (B, 1)."""
        return None if self.to_energy is None else self.energy(z).unsqueeze(1)

    def wanted(self, requests: Sequence[Request]) -> Wanted:
        """What is asked, energies in standard deviations of the training set."""
        asked = Wanted.of(requests, [FORMATION_ENERGY], self.lattice_shift.device)
        return asked.standardised(self.energy_mean, self.energy_scale)

    def answers(self, requests: Sequence[Request], rng: torch.Generator, how: LatentSampler) -> Tensor:
        """Latent vectors from the prior, moved to where the heads read the asked number, composition and energy; an
        energy is heeded where a head predicts it.
        """
        wanted = self.wanted(requests)
        if self.to_energy is None and not wanted.properties.isnan().all():
            logger.warning("%s was trained without predict_energy: energies asked for are not heeded", self.name)
        return search_latent(self, self.prior(len(requests), rng), wanted, how)
