"""ConditionCDVAE+: a property or a formula in, crystals out.

Method, beside what all latent models share (cdvae/latent_model.py):
    1. EquiformerV2 encodes a crystal over its bonds and tells the score of noisy atoms over their neighbours.
    2. A condition, none, one or several, is fused with the latent vector z (fusion.py); heads and denoiser hear the
       fused vector z_c. What is asked as a number is also read from z by a head of its own.
    3. Second phase: with all that frozen, a Wasserstein GAN learns to draw z for a condition (latent_gan.py).
    4. Sampling: the generator draws `screening` vectors for each crystal, of which the one is kept that by the heads
       comes nearest to the condition; it is fused, and decoded. What is asked beyond the conditions, such as a formula
       of a model for energies, moves z by Adam as in CDVAE.

The published code decodes the noise in the place of z_c, skips the fusion for energies, keeps one of ten, and never
steps its schedules; here it is as the paper says. Conditions that are not asked for are those of a training crystal
drawn at random; numbers that are not known of a crystal are those that the head reads.

Source: Gao et al., Sci. Rep. 2025, doi:10.1038/s41598-025-06432-9, and its published code.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from generative.crystal.batch import CrystalBatch
from generative.crystal.cell_parameters import cell_parameters, lattice_rows
from generative.processes.type_noise import N_TYPES
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.cdvae.config import LatentSampler
from generative.systems.cdvae.decoding import Cells
from generative.systems.cdvae.latent_model import LatentModel
from generative.systems.cdvae.latent_search import Wanted, misfit, search_latent
from generative.systems.cdvae.networks import multilayer
from generative.systems.condition_cdvae.config import (
    COMPOSITION,
    SIZES,
    ConditionCDVAEConfig,
    ConditionCDVAESampler,
    EnergyConditionConfig,
    FormulaConditionConfig,
)
from generative.systems.condition_cdvae.fusion import Conditions, Embeddings, LowRankFusion, fractions_of
from generative.systems.condition_cdvae.latent_gan import LatentCritic, LatentGenerator, slope_penalty
from generative.systems.condition_cdvae.networks import Denoiser, Encoder, mean_degree
from generative.systems.condition_cdvae.training_set import ConditionedCrystals, ConditionedSet
from generative.systems.interface import CardNotes
from generative.systems.trainable import Loss, Objective, Phase
from storage.settings import RoomConfig

if TYPE_CHECKING:
    from generative.training.data import TrainingSet

logger = logging.getLogger(__name__)

N_EXAMPLES = 256
"""Training crystals whose conditions are kept, for what is not asked."""

N_FOR_DEGREE = 256
"""Training crystals over which the edges of the denoiser's graphs are counted."""


@dataclass(frozen=True, eq=False)
class _Fused:
    """The heads as latent vectors are heard through these conditions; see latent_search.Heads."""

    system: ConditionCDVAE
    conditions: Conditions

    def count(self, z: Tensor) -> Tensor:
        """Logits of the number of atoms."""
        return self.system.count(self.system.fused(z, self.conditions))

    def composition(self, z: Tensor) -> Tensor:
        """Logits of the composition."""
        return self.system.composition(self.system.fused(z, self.conditions))

    def properties(self, z: Tensor) -> Tensor:
        """Numbers, of the latent vector itself."""
        return self.system.properties(z)


class ConditionCDVAE(LatentModel):
    """The model without a condition, or with those of its settings."""

    name = "condition-cdvae"
    config_type = ConditionCDVAEConfig
    sampler_type = ConditionCDVAESampler
    config: ConditionCDVAEConfig
    encoder: Encoder
    denoiser: Denoiser

    property_mean: Tensor
    property_scale: Tensor
    example_fractions: Tensor
    example_values: Tensor

    def __init__(self, config: ConditionCDVAEConfig) -> None:
        sizes = SIZES[config.size]
        super().__init__(config, sizes.latent, sizes.hidden)
        self.heeds = self.heeds_with(config)
        n_values, n_examples = len(config.properties), N_EXAMPLES if config.conditions else 0
        self.register_buffer("property_mean", torch.zeros(n_values))
        self.register_buffer("property_scale", torch.ones(n_values))
        self.register_buffer("example_fractions", torch.zeros(n_examples, N_TYPES))
        self.register_buffer("example_values", torch.zeros(n_examples, n_values))

    @classmethod
    def heeds_with(cls, config: RoomConfig) -> frozenset[str]:
        """Besides compositions the columns it was conditioned on."""
        assert isinstance(config, ConditionCDVAEConfig)
        return cls.heeds | frozenset(config.conditions)

    def new_encoder(self) -> Encoder:
        """EquiformerV2 over bonds."""
        return Encoder(self.config)

    def add_heads(self, latent: int, hidden: int) -> None:
        """The fusion, the head of numbers, and the GAN."""
        config, sizes = self.config, SIZES[self.config.size]

        def embeddings() -> Embeddings:
            return Embeddings(config, sizes.element)

        self.fusion = LowRankFusion(embeddings(), latent, config.rank) if config.conditions else None
        self.to_properties = multilayer([latent, hidden, len(config.properties)]) if config.properties else None
        self.generator: LatentGenerator | None = None
        self.critic: LatentCritic | None = None
        if self.has_gan:
            self.generator = LatentGenerator(embeddings(), latent, sizes.generator)
            self.critic = LatentCritic(embeddings(), latent, sizes.critic, config.critic_dropout)

    def new_denoiser(self) -> Denoiser:
        """EquiformerV2 over the neighbours of noisy atoms."""
        return Denoiser(self.config)

    @property
    def has_gan(self) -> bool:
        """Whether latent vectors are drawn by a generator of their own."""
        return bool(self.config.conditions) and self.config.gan_share > 0

    def card_notes(self) -> CardNotes:
        """What it draws, and where its method is described."""
        asked = f", for {' and '.join(self.config.conditions)}" if self.config.conditions else ""
        return CardNotes(f"crystal structures from a latent space{asked}", "docs/condition-cdvae.md")

    # --- what it learns from ------------------------------------------------------------------------------------------

    @classmethod
    def columns(cls, config: RoomConfig) -> tuple[str, ...]:
        """Numbers that conditions name, but for the one that is told as energy."""
        assert isinstance(config, ConditionCDVAEConfig)
        return tuple(name for name in config.properties if name != FORMATION_ENERGY)

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """The crystals with their numbers."""
        return ConditionedSet(data, self.config.properties)

    def measure(self, data: TrainingSet) -> None:
        """Scales of lattices and numbers, edges per atom, and what stands in for conditions that are not asked."""
        super().measure(data)
        assert isinstance(data, ConditionedSet)
        known = data.values.double()
        mean = known.nanmean(0).nan_to_num()
        spread = (known - mean).square().nanmean(0).sqrt().nan_to_num()
        self.property_mean.copy_(mean)
        self.property_scale.copy_(torch.where(spread > 1e-5, spread, 1.0))
        sizes = [len(crystal.atomic_numbers) for crystal in data.crystals]
        self.encoder.atoms_per_crystal.fill_(float(np.mean(sizes)))
        if data.bonds is not None:
            n_bonds = sum(len(bonds.source) for bonds in data.bonds)
            self.encoder.equiformer.trunk.mean_degree.fill_(max(1.0, n_bonds / sum(sizes)))
        some = data.crystals[:: -(-len(data) // N_FOR_DEGREE)]
        lattice = torch.stack([torch.as_tensor(crystal.lattice_ang, dtype=torch.float32) for crystal in some])
        frac = [torch.as_tensor(crystal.frac, dtype=torch.float32) for crystal in some]
        degree = mean_degree(self.denoiser, lattice_rows(*cell_parameters(lattice)), frac)
        self.denoiser.equiformer.trunk.mean_degree.fill_(max(1.0, degree))
        if self.config.conditions:
            rows = (np.arange(N_EXAMPLES) * max(1, len(data) // N_EXAMPLES)) % len(data)
            batch = CrystalBatch.pack([data.crystals[i] for i in rows])
            crystal = batch.n_atoms.new_tensor(np.repeat(np.arange(len(rows)), batch.n_atoms.numpy()))
            self.example_fractions.copy_(fractions_of(batch.atomic_numbers, crystal, batch.n_atoms))
            self.example_values.copy_(((known[rows] - mean) / self.property_scale).nan_to_num())

    # --- training -----------------------------------------------------------------------------------------------------

    def features(self, batch: CrystalBatch, cells: Cells, rng: torch.Generator | None) -> Tensor:
        """The encoder's, (B, H)."""
        features: Tensor = self.encoder(batch, cells, rng)
        return features

    def moved_back(
        self, heard: Tensor, frac: Tensor, types: Tensor, cells: Cells, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The denoiser's vectors and logits; parts of it are dropped while training."""
        search = self.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)
        dropping = rng if self.training else None
        told: tuple[Tensor, Tensor] = self.denoiser(heard, frac, types, cells.crystal, search, rng=dropping)
        return told

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Of encoder, fusion, heads and denoiser; see LatentModel.losses."""
        latent = self.encode(batch, rng if self.training else None)
        z = latent.draw(rng)
        return self.losses(batch, latent, z, self.fused(z, self.conditions_of(batch, z)), rng, epoch)

    def head_losses(self, batch: CrystalBatch, z: Tensor) -> Mapping[str, tuple[float, Tensor]]:
        """Mean squared error of the numbers that are known, in variances of the training set."""
        if self.to_properties is None or not isinstance(batch, ConditionedCrystals):
            return {}
        wanted = (batch.values - self.property_mean) / self.property_scale
        known = ~wanted.isnan()
        squared = (self.properties(z) - wanted.nan_to_num()).square() * known
        return {"property": (self.config.property_weight, squared.sum() / known.sum().clamp_min(1))}

    def phases(self) -> tuple[Phase, ...]:
        """Encoder, fusion, heads and denoiser; then generator and critic."""
        apart = {
            id(p) for network in (self.generator, self.critic) if network is not None for p in network.parameters()
        }
        rest = [p for p in self.parameters() if id(p) not in apart]
        first = Phase((Objective(type(self).loss, rest),), name="autoencoder")
        if self.generator is None or self.critic is None:
            return (first,)

        def adam(network: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
            return (torch.optim.Adam(network.parameters(), lr=self.config.gan_rate, betas=(0.5, 0.999)),)

        objectives = (
            Objective(type(self).critic_loss, list(self.critic.parameters()), "critic", 1, adam(self.critic), False),
            Objective(
                type(self).generator_loss, list(self.generator.parameters()), "generator", self.config.critic_steps,
                adam(self.generator), False,
            ),
        )  # fmt: skip
        return (first, Phase(objectives, self.config.gan_share, "latent generator"))

    def _real_and_fake(self, batch: CrystalBatch, rng: torch.Generator) -> tuple[Tensor, Tensor, Conditions]:
        """The encoder's vectors, without a slope; generated ones; conditions of both."""
        assert self.generator is not None
        with torch.no_grad():
            z = self.encode(batch, rng if self.training else None).draw(rng)
            conditions = self.conditions_of(batch, z)
        if len(z) == 1:  # the mean of one is itself: nothing would be left of it by batch normalisation
            z, conditions = z.repeat(2, 1), conditions.repeated(2)
        return z, self.generator(self.prior(len(z), rng), conditions), conditions

    def critic_loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Mean score of generated vectors less that of the encoder's, plus the penalty on the slope."""
        assert self.critic is not None
        with torch.no_grad():
            real, fake, conditions = self._real_and_fake(batch, rng)
        dropping = rng if self.training else None
        distance = (self.critic(real, conditions, dropping) - self.critic(fake, conditions, dropping)).mean()
        penalty = slope_penalty(self.critic, real, fake, conditions, rng, self.training)
        return Loss(self.config.gradient_penalty * penalty - distance, {"distance": distance, "penalty": penalty})

    def generator_loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Less the mean score of generated vectors, plus the error of the numbers that the heads read from them.

        `validation`: how far mean and deviation of the vectors' entries are from the encoder's, plus that error.
        """
        assert self.critic is not None
        real, fake, conditions = self._real_and_fake(batch, rng)
        score = self.critic(fake, conditions, rng if self.training else None).mean()
        moments = (real.mean(0) - fake.mean(0)).square().mean() + (real.std(0) - fake.std(0)).square().mean()
        parts = {"score": score, "moments": moments, "validation": moments.detach()}
        total = -score
        if self.to_properties is not None:
            error = (self.properties(fake) - conditions.values).square().mean()
            parts |= {"property": error, "validation": moments.detach() + error.detach()}
            counts = error.detach() >= self.config.generator_property_floor
            total = total + self.config.generator_property_weight * counts * error
        return Loss(total, parts)

    # --- conditions ---------------------------------------------------------------------------------------------------

    def properties(self, z: Tensor) -> Tensor:
        """Numbers that the head reads from latent vectors, in standard deviations of the training set, (B, P)."""
        if self.to_properties is None:
            return z.new_zeros(len(z), 0)
        read: Tensor = self.to_properties(z)
        return read

    def fused(self, z: Tensor, conditions: Conditions) -> Tensor:
        """z_c, (B, L); z itself where there is no condition."""
        fused: Tensor = z if self.fusion is None else self.fusion(z, conditions)
        return fused

    def conditions_of(self, batch: CrystalBatch, z: Tensor) -> Conditions:
        """Of known crystals with these latent vectors, which stand in for numbers that are not known."""
        crystal = torch.repeat_interleave(batch.n_atoms, output_size=len(batch.atomic_numbers))
        values = self.properties(z).detach()
        if isinstance(batch, ConditionedCrystals):
            stated = (batch.values - self.property_mean) / self.property_scale
            values = torch.where(stated.isnan(), values, stated)
        return Conditions(fractions_of(batch.atomic_numbers, crystal, batch.n_atoms).to(z), values)

    def heard_of(self, batch: CrystalBatch, z: Tensor) -> Tensor:
        """The fused vectors of known crystals."""
        return self.fused(z, self.conditions_of(batch, z))

    def wanted(self, requests: Sequence[Request]) -> Wanted:
        """What is asked, numbers in standard deviations of the training set."""
        asked = Wanted.of(requests, self.config.properties, self.lattice_shift.device)
        return asked.standardised(self.property_mean, self.property_scale)

    def _completed(self, wanted: Wanted, rng: torch.Generator) -> Conditions:
        """What is asked, and where it is open what some training crystal has."""
        fractions, values = wanted.fractions, wanted.properties
        if not self.config.conditions:
            return Conditions(fractions, values)
        drawn = torch.randint(N_EXAMPLES, (len(fractions),), generator=rng, device=rng.device).to(fractions.device)
        open_formula = (wanted.n_atoms == 0).unsqueeze(1)
        return Conditions(
            torch.where(open_formula, self.example_fractions[drawn], fractions),
            torch.where(values.isnan(), self.example_values[drawn], values),
        )

    # --- sampling -----------------------------------------------------------------------------------------------------

    def answers(self, requests: Sequence[Request], rng: torch.Generator, how: LatentSampler) -> Tensor:
        """Fused vectors: drawn, screened, and moved to where the heads read what no condition says."""
        assert isinstance(how, ConditionCDVAESampler)
        wanted = self.wanted(requests)
        conditions = self._completed(wanted, rng)
        told = COMPOSITION in self.config.conditions
        asked = wanted if told else wanted._replace(n_atoms=torch.zeros_like(wanted.n_atoms))
        n = how.screening if self.config.conditions and not bool(asked.is_open.all()) else 1
        z = self._nearest(self._drawn(conditions, n, rng, how), conditions, asked, n)
        if not told and bool((wanted.n_atoms > 0).any()):
            z = search_latent(_Fused(self, conditions), z, wanted, how)
        return self.fused(z, conditions)

    def _drawn(self, conditions: Conditions, n: int, rng: torch.Generator, how: ConditionCDVAESampler) -> Tensor:
        """n latent vectors for each, (B n, L)."""
        noise = self.prior(n * len(conditions.fractions), rng)
        if self.generator is None or how.latents == "prior":
            return noise
        drawn: Tensor = self.generator(noise, conditions.repeated(n))
        return drawn

    def _nearest(self, z: Tensor, conditions: Conditions, asked: Wanted, n: int) -> Tensor:
        """Of n vectors for each the one whose readings are nearest to what is asked, (B, L)."""
        if n == 1:
            return z
        every = Wanted(*(part.repeat_interleave(n, 0) for part in asked))
        away = misfit(_Fused(self, conditions.repeated(n)), z, every).detach().view(-1, n)
        best = away.argmin(1)
        nearest = away.gather(1, best.unsqueeze(1))
        logger.info(
            "%s: %d of %d latent vectors accepted; median misfit %.3g, of all drawn %.3g",
            self.name, len(best), len(z), float(nearest.median()), float(away.median()),
        )  # fmt: skip
        return z.view(len(best), n, -1)[torch.arange(len(best), device=z.device), best]


class ConditionCDVAEEnergy(ConditionCDVAE):
    """The model for an energy."""

    name, config_type = "condition-cdvae-energy", EnergyConditionConfig
    heeds = frozenset({"composition", FORMATION_ENERGY})


class ConditionCDVAEFormula(ConditionCDVAE):
    """The model for a formula."""

    name, config_type = "condition-cdvae-formula", FormulaConditionConfig


VARIANTS: tuple[type[ConditionCDVAE], ...] = (ConditionCDVAE, ConditionCDVAEEnergy, ConditionCDVAEFormula)
