"""The CDVAE family: a crystal becomes a latent vector, and a latent vector a crystal, atoms placed by denoising.

Method, from top to bottom of this file:
    1. Encoder: crystal -> 256 features -> mean and log-variance of the latent vector z; z = mu + exp(log_var / 2) n.
       (DP-CDVAE's Eq. 8 prints exp(log_var); both codes halve it.)
    2. Heads read z alone: how many atoms, six numbers of the lattice (lengths / N^(1/3), angles), the composition.
    3. Training moves atoms by noise and exchanges types by noise; the denoiser is told z and says what the noise was.
       CDVAE: Gaussian noise of one of 50 widths on Cartesian coordinates, score matching. DP-CDVAE: diffusion on
       fractional coordinates, 1000 steps of a sigmoid schedule.
    4. Decoding: number, lattice and composition from z once; then atoms are placed in that cell by annealed Langevin
       dynamics or by the reverse diffusion (Eq. 7; Eq. 6 on request), and the types named anew at every step.
    5. Asked for a composition or an energy, z is first moved to where the heads say what was asked (Adam on z): the
       family's own way of inverse design.

Sources: Xie et al., arXiv:2110.06197 (CDVAE); Pakornchote et al., Sci. Rep. 14, 1275 (2024) (DP-CDVAE). What differs
between the six members is in config.py; how a composition is turned into atoms in processes/type_noise.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import Bonds, crystal_nn_bonds, pack_bonds
from generative.crystal.cell_parameters import cell_parameters, lattice_rows
from generative.crystal.crystals import Crystal, reduced
from generative.networks.dimenet import Z_MAX
from generative.processes import annealed_langevin, coordinate_ddpm
from generative.processes.type_noise import N_TYPES, corrupted
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.baselines.stored import failed_sample
from generative.systems.cdvae.config import SIZES, CDVAEConfig, CDVAESampler
from generative.systems.cdvae.decoding import (
    FINEST_ANG,
    FINEST_TYPE,
    N_TIMES,
    WIDEST_ANG,
    WIDEST_TYPE,
    Cells,
    decode,
    lattice_numbers,
)
from generative.systems.cdvae.latent_search import Wanted, search_latent
from generative.systems.cdvae.networks import Denoiser, Encoder, multilayer
from generative.systems.interface import CardNotes, Generator, Progress, own_settings, require_cells
from generative.systems.trainable import Loss, Trainable

logger = logging.getLogger(__name__)

N_LEVELS = 50

KL_START = 0.01
"""Share of the prior's weight at which a warm-up begins."""


class Latent(NamedTuple):
    """Normal distribution of the latent vector of each crystal; both (B, L)."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, rng: torch.Generator) -> Tensor:
        """One vector per crystal, (B, L)."""
        noise = torch.randn(self.mean.shape, generator=rng, device=rng.device).to(self.mean)
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class CDVAE(Generator, Trainable):
    """Encoder, heads, denoiser; the loss and both ways down: reconstruction of a crystal, generation from noise."""

    name = "cdvae"
    config_type = CDVAEConfig
    sampler_type = CDVAESampler
    heeds = frozenset({"composition", FORMATION_ENERGY})
    z_max = N_TYPES
    needs_bonds = True
    config: CDVAEConfig

    lattice_shift: Tensor
    lattice_scale: Tensor
    energy_mean: Tensor
    energy_scale: Tensor
    alpha_bar: Tensor
    levels_ang: Tensor
    type_levels: Tensor
    type_times: Tensor

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__(config)
        sizes = SIZES[config.size]
        latent, hidden = sizes.latent, sizes.hidden
        self.latent_width = latent
        self.encoder = Encoder(config)
        self.to_mean = nn.Linear(hidden, latent)
        self.to_log_variance = nn.Linear(hidden, latent)
        self.to_count = multilayer([latent, hidden, config.max_atoms + 1])
        self.to_lattice = multilayer([latent, hidden, 6])
        self.to_composition = multilayer([latent, hidden, N_TYPES])
        self.to_energy = multilayer([latent, hidden, 1]) if config.predict_energy else None
        self.denoiser = Denoiser(config)
        self.register_buffer("lattice_shift", torch.zeros(6))
        self.register_buffer("lattice_scale", torch.ones(6))
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("energy_scale", torch.ones(()))
        self.schedule = coordinate_ddpm.sigmoid_schedule(N_TIMES)
        self.register_buffer("alpha_bar", self.schedule.alpha_bar, persistent=False)
        levels = annealed_langevin.geometric_levels
        self.register_buffer("levels_ang", levels(WIDEST_ANG, FINEST_ANG, N_LEVELS), persistent=False)
        self.register_buffer("type_levels", levels(WIDEST_TYPE, FINEST_TYPE, N_LEVELS), persistent=False)
        # The diffusion's types grow noisier with time: the other order.
        self.register_buffer("type_times", levels(FINEST_TYPE, WIDEST_TYPE, N_TIMES), persistent=False)

    # --- what it may learn from ---------------------------------------------------------------------------------------

    def card_notes(self) -> CardNotes:
        """What it draws, and where its method is described."""
        return CardNotes("crystal structures from a latent space, of a given composition if asked", "docs/dp-cdvae.md")

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal cannot be encoded, in one sentence; empty where it can."""
        numbers = crystal.atomic_numbers
        if not 1 <= len(numbers) <= self.config.max_atoms:
            return f"it has {len(numbers)} atoms, and max_atoms is {self.config.max_atoms}"
        if numbers.max() > Z_MAX or numbers.min() < 1:
            odd = int(numbers.max()) if numbers.max() > Z_MAX else int(numbers.min())
            return f"it holds the atomic number {odd}, and the encoder knows 1 to {Z_MAX}"
        return ""

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set the scaling of lattices and energies from the training crystals."""
        lattice = torch.stack([torch.as_tensor(c.lattice_ang, dtype=torch.float64) for c in crystals])
        n_atoms = torch.tensor([len(c.atomic_numbers) for c in crystals])
        numbers = lattice_numbers(lattice, n_atoms)
        if self.config.lattice_scaling == "standard":
            self.lattice_shift.copy_(numbers.mean(0))
            self.lattice_scale.copy_(numbers.std(0, correction=0) + 1e-5)
        else:
            low, high = numbers.amin(0), numbers.amax(0)
            self.lattice_shift.copy_(low)
            # One angle shared by all crystals has no range: any unit serves, zero would not.
            self.lattice_scale.copy_(torch.where(high - low > 1e-6, high - low, 1.0))
        known = torch.tensor(
            [e for e in energies_ev_per_atom if e is not None and math.isfinite(e)], dtype=torch.float64
        )
        if len(known):
            self.energy_mean.copy_(known.mean())
            self.energy_scale.copy_(known.std(correction=0).clamp_min(1e-5))

    def muon_parameters(self) -> list[nn.Parameter]:
        """All matrices but embeddings and those with a narrow side; the published recipe has Adam take them too."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return [p for p in self.parameters() if p.ndim == 2 and min(p.shape) >= 16 and id(p) not in embeddings]

    # --- training -----------------------------------------------------------------------------------------------------

    def encode(self, batch: CrystalBatch) -> Latent:
        """The latent distribution of each crystal of a batch with bonds."""
        cells = self._true_cells(batch)
        features = self.encoder(batch, cells.lattice_ang, cells.crystal)
        return Latent(self.to_mean(features), self.to_log_variance(features))

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Sum of all weighted losses; `validation` among its parts is what the published codes watch."""
        config = self.config
        latent = self.encode(batch)
        z = latent.draw(rng)
        count, lattice, composition = self.to_count(z), self.to_lattice(z), self.to_composition(z)
        cells = self._true_cells(batch)
        wanted = (lattice_numbers(cells.lattice_ang, batch.n_atoms) - self.lattice_shift) / self.lattice_scale
        types = batch.atomic_numbers - 1
        composition_loss = functional.cross_entropy(composition[cells.crystal], types, reduction="none")
        parts = {
            "count": functional.cross_entropy(count, batch.n_atoms),
            "lattice": functional.mse_loss(lattice, wanted),
            "composition": cells.mean(composition_loss),
            "kl": self._kl(latent),
        }
        total = config.count_weight * parts["count"] + config.lattice_weight * parts["lattice"]
        total = total + config.composition_weight * parts["composition"] + self._kl_weight(epoch) * parts["kl"]
        if self.to_energy is not None:
            parts["energy"] = self._energy_loss(z, batch.energy_ev_per_atom)
            total = total + config.energy_weight * parts["energy"]
        if self.training and epoch < config.denoiser_from_epoch * config.epochs_scale:
            return Loss(total, parts)
        # Seen from the true cell while it is forced, from the decoded one later and in validation.
        forced = self.training and epoch < config.teacher_forcing_epochs * config.epochs_scale
        inside = cells if forced else cells._replace(lattice_ang=self.lattice(lattice, batch.n_atoms))
        moved = self._langevin_losses if config.process == "langevin" else self._diffusion_losses
        parts["coordinate"], parts["type"] = moved(batch, z, composition.detach().softmax(-1), cells, inside, rng)
        coordinate_weight = config.coordinate_weight
        if epoch >= config.late_epoch * config.epochs_scale:
            coordinate_weight = coordinate_weight * config.late_coordinate_factor
        total = total + config.type_weight * parts["type"] + coordinate_weight * parts["coordinate"]
        parts["validation"] = config.coordinate_weight * parts["coordinate"] + config.type_weight * parts["type"]
        return Loss(total, parts)

    def _kl_weight(self, epoch: int) -> float:
        """During a warm-up the weight rises by equal factors per epoch, from KL_START of itself."""
        warm_up = self.config.kl_warmup_epochs * self.config.epochs_scale
        remaining = max(0.0, 1 - epoch / warm_up) if warm_up else 0.0
        return float(self.config.kl_weight * KL_START**remaining)

    @staticmethod
    def _kl(latent: Latent) -> Tensor:
        mean, log_variance = latent
        return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()

    def _energy_loss(self, z: Tensor, energy_ev_per_atom: Tensor) -> Tensor:
        known = ~energy_ev_per_atom.isnan()
        wanted = (energy_ev_per_atom.nan_to_num() - self.energy_mean) / self.energy_scale
        squared = (self.energy(z) - wanted).square() * known
        return squared.sum() / known.sum().clamp_min(1)

    def _langevin_losses(
        self, batch: CrystalBatch, z: Tensor, probabilities: Tensor, cells: Cells, inside: Cells, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Score matching: 0.5 sigma^2 |target - prediction|^2 on displacements, cross-entropy / sigma on types.

        The levels of both are drawn apart. The network is told neither; its output is the score times sigma.
        """
        sigma_ang = self.levels_ang.to(z)[_drawn(N_LEVELS, len(batch), 0, rng).to(z.device)]
        sigma_type = self.type_levels.to(z)[_drawn(N_LEVELS, len(batch), 0, rng).to(z.device)]
        crystal = cells.crystal
        types = corrupted(batch.atomic_numbers, probabilities[crystal], sigma_type[crystal], rng)
        frac = annealed_langevin.displaced(batch.frac, inside.lattice_ang, crystal, sigma_ang, rng)
        search = self.denoiser.neighbours(inside.lattice_ang, batch.n_atoms)
        vector, logits = self.denoiser(z, frac, types, crystal, search)
        # The way home is measured in the true cell, whichever one the atoms were moved in.
        home_ang = annealed_langevin.nearest_displacement_ang(batch.frac, frac, cells.lattice_ang, crystal)
        sigma = sigma_ang[crystal]
        squared = (home_ang / sigma.unsqueeze(-1) - vector).square().sum(-1)  # sigma^2 |d / sigma^2 - v / sigma|^2
        named = functional.cross_entropy(logits, batch.atomic_numbers - 1, reduction="none")
        return cells.mean(0.5 * squared), cells.mean(named / sigma_type[crystal])

    def _diffusion_losses(
        self, batch: CrystalBatch, z: Tensor, probabilities: Tensor, cells: Cells, inside: Cells, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """DDPM: |epsilon - prediction|^2 on fractional coordinates, cross-entropy / sigma on types.

        Times 1 to T - 1, drawn apart for coordinates and types. The target is the noise before wrapping; the network
        sees wrapped coordinates and gives a Cartesian vector, which is compared with the fractional noise as published.
        """
        crystal = cells.crystal
        t = _drawn(N_TIMES, len(batch), 1, rng).to(z.device)
        sigma_type = self.type_times.to(z)[_drawn(N_TIMES, len(batch), 1, rng).to(z.device)]
        types = corrupted(batch.atomic_numbers, probabilities[crystal], sigma_type[crystal], rng)
        start = cells.centred(batch.frac) if self.config.recentre else batch.frac
        epsilon = coordinate_ddpm.centred_noise(crystal, len(batch), rng, start.dtype)
        frac = coordinate_ddpm.noisy(start, epsilon, self.alpha_bar[t][crystal])
        search = self.denoiser.neighbours(inside.lattice_ang, batch.n_atoms)
        vector, logits = self.denoiser(z, frac, types, crystal, search, t.to(z.dtype) / N_TIMES)
        squared = (epsilon - vector).square().sum(-1)
        named = functional.cross_entropy(logits, batch.atomic_numbers - 1, reduction="none")
        return cells.mean(squared), cells.mean(named / sigma_type[crystal])

    # --- from latent vectors to crystals ------------------------------------------------------------------------------

    def energy(self, z: Tensor) -> Tensor:
        """Energy as the head predicts it, in standard deviations of the training set: (B, L) -> (B,)."""
        assert self.to_energy is not None
        predicted: Tensor = self.to_energy(z).squeeze(-1)
        return predicted

    @torch.no_grad()
    def reconstruct(
        self,
        crystals: Sequence[Crystal],
        rng: torch.Generator,
        settings: CDVAESampler | None = None,
        bonds: Sequence[Bonds | None] | None = None,
        batch_crystals: int = 64,
    ) -> list[Crystal]:
        """Encode each crystal, draw one latent vector, decode it: one crystal for each, in order.

        Args:
            crystals: what to reconstruct.
            rng: draws latent vectors and the noise of decoding.
            settings: how latent vectors are decoded; None takes the published way.
            bonds: CrystalNN's, of these cells; None reduces the cells (Niggli) and computes them.
            batch_crystals: how many are decoded at a time.

        Returns: crystals; a failed_sample where one cannot be encoded, or its decoded cell holds no atoms.
        """
        if bonds is None:
            crystals = [reduced(crystal) for crystal in crystals]
            bonds = crystal_nn_bonds(crystals)
        results = [failed_sample(crystal.atomic_numbers.tolist()) for crystal in crystals]
        usable = [i for i, bond in enumerate(bonds) if bond is not None and not self.refused(crystals[i])]
        if len(usable) < len(crystals):
            logger.warning("%d of %d crystals cannot be encoded", len(crystals) - len(usable), len(crystals))
        how = settings or CDVAESampler()
        for rows in _chunks(usable, batch_crystals):
            batch = self.pack([crystals[i] for i in rows], [bonds[i] for i in rows])
            z = self.encode(batch).draw(rng)
            n_atoms = batch.n_atoms if how.force_atom_count or how.force_types else self._likeliest_counts(z)
            fixed = batch.atomic_numbers if how.force_types else None
            for i, crystal in zip(rows, decode(self, z, n_atoms, fixed, rng, how), strict=True):
                results[i] = crystal
        return results

    @torch.no_grad()
    def generate(
        self,
        n: int,
        rng: torch.Generator,
        settings: CDVAESampler | None = None,
        batch_crystals: int = 64,
    ) -> list[Crystal]:
        """Decode n latent vectors drawn from the prior; nothing is asked of them.

        Args: n; rng of all draws; settings and batch_crystals as in reconstruct.
        """
        results: list[Crystal] = []
        for rows in _chunks(range(n), batch_crystals):
            z = self._prior(len(rows), rng)
            results += decode(self, z, self._likeliest_counts(z), None, rng, settings or CDVAESampler())
        return results

    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample. A latent vector from the prior is moved to where the heads read the asked number,
        composition and energy; the cell is what it then decodes to, and the atoms keep the asked types while they are
        placed. An energy is heeded where a head predicts it.

        Raises: ValueError: if a composition is too large, or holds an atomic number that is not 1 to 100.
        """
        how = own_settings(CDVAESampler, settings)
        require_cells([r for r in requests if r.formula_counts], self.config.max_atoms, self.z_max)
        if not requests:
            return []
        device = self.lattice_shift.device
        wanted = Wanted.of(requests, device)
        if self.to_energy is None and not wanted.energy_ev_per_atom.isnan().all():
            logger.warning("%s was trained without predict_energy: energies asked for are not heeded", self.name)
        z = search_latent(self, self._prior(len(requests), rng), wanted, how)
        with torch.no_grad():
            n_atoms = torch.where(wanted.n_atoms > 0, wanted.n_atoms, self._likeliest_counts(z))
            fixed = torch.cat(
                [
                    torch.tensor(list(request.atomic_numbers) or [0] * int(n), dtype=torch.int64)
                    for request, n in zip(requests, n_atoms.tolist(), strict=True)
                ]
            ).to(device)

            return decode(self, z, n_atoms, fixed, rng, how, progress)

    # --- small parts --------------------------------------------------------------------------------------------------

    def pack(self, crystals: Sequence[Crystal], bonds: Sequence[Bonds | None]) -> CrystalBatch:
        """A batch with bonds, on the system's device."""
        known = [bond for bond in bonds if bond is not None]
        packed = pack_bonds(known, [len(c.atomic_numbers) for c in crystals])
        return CrystalBatch.pack(crystals).replace(bonds=packed).to(self.lattice_shift.device)

    def _prior(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.latent_width, generator=rng, device=rng.device).to(self.lattice_shift)

    def _likeliest_counts(self, z: Tensor) -> Tensor:
        """The likeliest number of atoms but 0, (B,): the published head has a class for an empty cell."""
        counts: Tensor = self.to_count(z)[:, 1:].argmax(-1) + 1
        return counts

    def lattice(self, numbers: Tensor, n_atoms: Tensor) -> Tensor:
        """Decoded numbers of lattices to rows, (B, 6), (B,) -> (B, 3, 3) in angstrom."""
        parameters = numbers * self.lattice_scale + self.lattice_shift
        return lattice_rows(parameters[:, :3] * n_atoms.to(numbers).pow(1 / 3).unsqueeze(-1), parameters[:, 3:])

    def _true_cells(self, batch: CrystalBatch) -> Cells:
        return Cells.of(lattice_rows(*cell_parameters(batch.lattice_ang)), batch.n_atoms, len(batch.atomic_numbers))


def _drawn(n: int, size: int, first: int, rng: torch.Generator) -> Tensor:
    """Whole numbers from `first` up to n, n itself left out, (size,)."""
    return torch.randint(first, n, (size,), generator=rng, device=rng.device)


def _chunks(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
