"""What CDVAE and its descendants share: a crystal becomes a latent vector, a latent vector a crystal.

    1. An encoder gives features of a crystal, two linear layers mean and log-variance of its latent vector z;
       z = mu + exp(log_var / 2) n. (DP-CDVAE's Eq. 8 prints exp(log_var); both codes halve it.)
    2. Heads read how many atoms there are, six numbers of the lattice (lengths / N^(1/3), angles), the composition.
    3. Training moves atoms by noise and exchanges types by noise; the denoiser is told z and says what the noise was.
    4. Decoding: number, lattice and composition once; then atoms are placed in that cell by the denoiser, and the types
       named anew at every step.

A system says what its encoder and its denoiser are, which latent vectors answer a request, and what heads and denoiser
hear of z: CDVAE z itself, ConditionCDVAE+ what z and a condition make together.

Sources: Xie et al., arXiv:2110.06197 (CDVAE); Pakornchote et al., Sci. Rep. 14, 1275 (2024) (DP-CDVAE).
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import Bonds, crystal_nn_bonds, pack_bonds
from generative.crystal.cell_parameters import cell_parameters, lattice_rows
from generative.crystal.crystals import Crystal, reduced
from generative.processes import annealed_langevin, coordinate_ddpm
from generative.processes.type_noise import N_TYPES, corrupted
from generative.requests import Request
from generative.systems.baselines.stored import failed_sample
from generative.systems.cdvae.config import LatentModelConfig, LatentSampler
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
from generative.systems.cdvae.latent import Latent
from generative.systems.cdvae.networks import DenoiserNetwork, multilayer
from generative.systems.interface import Generator, Progress, own_settings, require_cells
from generative.systems.trainable import Loss, Trainable

logger = logging.getLogger(__name__)

N_LEVELS = 50

KL_START = 0.01
"""Share of the prior's weight at which a warm-up begins."""


class LatentModel(Generator, Trainable):
    """Encoder, heads, denoiser; the loss and both ways down: reconstruction of a crystal, generation from noise.

    Attributes:
        process, recentre: see decoding.Decoder.
        z_encoded: largest atomic number that the encoder knows.
    """

    sampler_type: ClassVar[type[LatentSampler]] = LatentSampler
    needs_bonds = True
    z_max = N_TYPES
    z_encoded: ClassVar[int] = N_TYPES
    config: LatentModelConfig
    process: Literal["langevin", "ddpm"] = "langevin"
    recentre: bool = False

    lattice_shift: Tensor
    lattice_scale: Tensor
    levels_ang: Tensor
    type_levels: Tensor
    type_times: Tensor

    def __init__(self, config: LatentModelConfig, latent: int, hidden: int) -> None:
        """Draw the weights.

        Args: config; latent: width of z; hidden: of the encoder's features and of the heads.
        """
        super().__init__(config)
        self.latent_width = latent
        self.encoder = self.new_encoder()
        self.to_mean = nn.Linear(hidden, latent)
        self.to_log_variance = nn.Linear(hidden, latent)
        self.to_count = multilayer([latent, hidden, config.max_atoms + 1])
        self.to_lattice = multilayer([latent, hidden, 6])
        self.to_composition = multilayer([latent, hidden, N_TYPES])
        self.add_heads(latent, hidden)
        self.denoiser = self.new_denoiser()
        self.register_buffer("lattice_shift", torch.zeros(6))
        self.register_buffer("lattice_scale", torch.ones(6))
        self.schedule = coordinate_ddpm.sigmoid_schedule(N_TIMES)
        levels = annealed_langevin.geometric_levels
        self.register_buffer("levels_ang", levels(WIDEST_ANG, FINEST_ANG, N_LEVELS), persistent=False)
        self.register_buffer("type_levels", levels(WIDEST_TYPE, FINEST_TYPE, N_LEVELS), persistent=False)
        # The diffusion's types grow noisier with time: the other order.
        self.register_buffer("type_times", levels(FINEST_TYPE, WIDEST_TYPE, N_TIMES), persistent=False)

    # --- what a system says of itself ---------------------------------------------------------------------------------

    @abstractmethod
    def new_encoder(self) -> nn.Module:
        """The encoder, with weights drawn; see `features`."""

    @abstractmethod
    def new_denoiser(self) -> DenoiserNetwork:
        """The denoiser, with weights drawn."""

    def add_heads(self, latent: int, hidden: int) -> None:
        """Further heads, of latent vectors; their weights are drawn between those of the others and the denoiser's."""

    @abstractmethod
    def answers(self, requests: Sequence[Request], rng: torch.Generator, how: LatentSampler) -> Tensor:
        """What heads and denoiser hear of latent vectors that answer these, (B, L)."""

    # --- what it may learn from ---------------------------------------------------------------------------------------

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal cannot be encoded, in one sentence; empty where it can."""
        numbers = crystal.atomic_numbers
        if not 1 <= len(numbers) <= self.config.max_atoms:
            return f"it has {len(numbers)} atoms, and max_atoms is {self.config.max_atoms}"
        if numbers.max() > self.z_encoded or numbers.min() < 1:
            odd = int(numbers.max()) if numbers.max() > self.z_encoded else int(numbers.min())
            return f"it holds the atomic number {odd}, and the encoder knows 1 to {self.z_encoded}"
        return ""

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set the scaling of lattices from the training crystals."""
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

    def muon_parameters(self) -> list[nn.Parameter]:
        """All matrices but embeddings and those with a narrow side; the published recipe has Adam take them too."""
        embeddings = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return [p for p in self.parameters() if p.ndim == 2 and min(p.shape) >= 16 and id(p) not in embeddings]

    # --- training -----------------------------------------------------------------------------------------------------

    def encode(self, batch: CrystalBatch, rng: torch.Generator | None = None) -> Latent:
        """The latent distribution of each crystal of a batch with bonds; `rng` draws what a training drops."""
        cells = self._true_cells(batch)
        features = self.features(batch, cells, rng)
        return Latent(self.to_mean(features), self.to_log_variance(features))

    def features(self, batch: CrystalBatch, cells: Cells, rng: torch.Generator | None) -> Tensor:
        """The encoder's, (B, H)."""
        features: Tensor = self.encoder(batch, cells.lattice_ang, cells.crystal)
        return features

    def moved_back(
        self, heard: Tensor, frac: Tensor, types: Tensor, cells: Cells, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The denoiser's vectors and logits of types, while training."""
        search = self.denoiser.neighbours(cells.lattice_ang, cells.n_atoms)
        told: tuple[Tensor, Tensor] = self.denoiser(heard, frac, types, cells.crystal, search)
        return told

    def head_losses(self, batch: CrystalBatch, z: Tensor) -> Mapping[str, tuple[float, Tensor]]:
        """Name -> (weight, loss) of heads of the system's own."""
        return {}

    def losses(
        self,
        batch: CrystalBatch,
        latent: Latent,
        z: Tensor,
        heard: Tensor,
        rng: torch.Generator,
        epoch: int,
    ) -> Loss:
        """Sum of all weighted losses; `validation` among its parts is what the published codes watch.

        Args:
            batch: crystals with bonds.
            latent: their distributions.
            z: drawn from them, (B, L).
            heard: what heads and denoiser hear, (B, L).
            rng: of all noise.
            epoch: as of Trainable.loss.
        """
        config = self.config
        count, lattice, composition = self.to_count(heard), self.to_lattice(heard), self.to_composition(heard)
        cells = self._true_cells(batch)
        wanted = (lattice_numbers(cells.lattice_ang, batch.n_atoms) - self.lattice_shift) / self.lattice_scale
        types = batch.atomic_numbers - 1
        composition_loss = functional.cross_entropy(composition[cells.crystal], types, reduction="none")
        parts = {
            "count": functional.cross_entropy(count, batch.n_atoms),
            "lattice": functional.mse_loss(lattice, wanted),
            "composition": cells.mean(composition_loss),
            "kl": latent.kl(),
        }
        total = config.count_weight * parts["count"] + config.lattice_weight * parts["lattice"]
        total = total + config.composition_weight * parts["composition"] + self._kl_weight(epoch) * parts["kl"]
        for name, (weight, value) in self.head_losses(batch, z).items():
            parts[name] = value
            total = total + weight * value
        if self.training and epoch < config.denoiser_from_epoch * config.epochs_scale:
            return Loss(total, parts)
        # Seen from the true cell while it is forced, from the decoded one later and in validation.
        forced = self.training and epoch < config.teacher_forcing_epochs * config.epochs_scale
        inside = cells if forced else cells._replace(lattice_ang=self.lattice(lattice, batch.n_atoms))
        probabilities = composition.detach().softmax(-1)
        parts["coordinate"], parts["type"] = self.moved_losses(batch, heard, probabilities, cells, inside, rng)
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

    def moved_losses(
        self,
        batch: CrystalBatch,
        heard: Tensor,
        probabilities: Tensor,
        cells: Cells,
        inside: Cells,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Score matching: 0.5 sigma^2 |target - prediction|^2 on displacements, cross-entropy / sigma on types.

        The levels of both are drawn apart. The network is told neither; its output is the score times sigma.
        """
        sigma_ang = self.levels_ang.to(heard)[drawn(N_LEVELS, len(batch), 0, rng).to(heard.device)]
        sigma_type = self.type_levels.to(heard)[drawn(N_LEVELS, len(batch), 0, rng).to(heard.device)]
        crystal = cells.crystal
        types = corrupted(batch.atomic_numbers, probabilities[crystal], sigma_type[crystal], rng)
        frac = annealed_langevin.displaced(batch.frac, inside.lattice_ang, crystal, sigma_ang, rng)
        vector, logits = self.moved_back(heard, frac, types, inside, rng)
        # The way home is measured in the true cell, whichever one the atoms were moved in.
        home_ang = annealed_langevin.nearest_displacement_ang(batch.frac, frac, cells.lattice_ang, crystal)
        sigma = sigma_ang[crystal]
        squared = (home_ang / sigma.unsqueeze(-1) - vector).square().sum(-1)  # sigma^2 |d / sigma^2 - v / sigma|^2
        named = functional.cross_entropy(logits, batch.atomic_numbers - 1, reduction="none")
        return cells.mean(0.5 * squared), cells.mean(named / sigma_type[crystal])

    @torch.no_grad()
    def reconstruct(
        self,
        crystals: Sequence[Crystal],
        rng: torch.Generator,
        settings: LatentSampler | None = None,
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
        how = settings or self.sampler_type()
        for rows in _chunks(usable, batch_crystals):
            batch = self.pack([crystals[i] for i in rows], [bonds[i] for i in rows])
            heard = self.heard_of(batch, self.encode(batch).draw(rng))
            n_atoms = batch.n_atoms if how.force_atom_count or how.force_types else self._likeliest_counts(heard)
            fixed = batch.atomic_numbers if how.force_types else None
            for i, crystal in zip(rows, decode(self, heard, n_atoms, fixed, rng, how), strict=True):
                results[i] = crystal
        return results

    @torch.no_grad()
    def generate(
        self,
        n: int,
        rng: torch.Generator,
        settings: LatentSampler | None = None,
        batch_crystals: int = 64,
    ) -> list[Crystal]:
        """Decode n latent vectors of which nothing is asked.

        Args: n; rng of all draws; settings and batch_crystals as in reconstruct.
        """
        return self.answered([Request()] * n, rng, settings, batch_crystals)

    @torch.no_grad()
    def answered(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: LatentSampler | None = None,
        batch_crystals: int = 64,
    ) -> list[Crystal]:
        """Decode latent vectors drawn for requests: one crystal for each, in order.

        Unlike `sample` it forces nothing: atoms are as many, and of the elements, that the latent vector says. So it
        shows what a model has understood of a formula.

        Args: requests; rng of all draws; settings and batch_crystals as in reconstruct.
        """
        how = settings or self.sampler_type()
        results: list[Crystal] = []
        for rows in _chunks(range(len(requests)), batch_crystals):
            heard = self.answers([requests[i] for i in rows], rng, how)
            results += decode(self, heard, self._likeliest_counts(heard), None, rng, how)
        return results

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample. The cell is what the latent vector decodes to; atoms keep the asked types while they
        are placed.

        Raises: ValueError: if a composition is too large, or holds an atomic number that is not 1 to 100.
        """
        how = own_settings(self.sampler_type, settings)
        require_cells([r for r in requests if r.formula_counts], self.config.max_atoms, self.z_max)
        if not requests:
            return []
        asked = torch.tensor([request.n_atoms for request in requests], device=self.lattice_shift.device)
        heard = self.answers(requests, rng, how)
        n_atoms = torch.where(asked > 0, asked, self._likeliest_counts(heard))
        fixed = torch.cat(
            [
                torch.tensor(list(request.atomic_numbers) or [0] * int(n), dtype=torch.int64)
                for request, n in zip(requests, n_atoms.tolist(), strict=True)
            ]
        ).to(asked.device)
        return decode(self, heard, n_atoms, fixed, rng, how, progress)

    # --- small parts --------------------------------------------------------------------------------------------------

    def pack(self, crystals: Sequence[Crystal], bonds: Sequence[Bonds | None]) -> CrystalBatch:
        """A batch with bonds, on the system's device."""
        known = [bond for bond in bonds if bond is not None]
        packed = pack_bonds(known, [len(c.atomic_numbers) for c in crystals])
        return CrystalBatch.pack(crystals).replace(bonds=packed).to(self.lattice_shift.device)

    def prior(self, n: int, rng: torch.Generator) -> Tensor:
        """Latent vectors drawn from the prior, (n, L)."""
        return torch.randn(n, self.latent_width, generator=rng, device=rng.device).to(self.lattice_shift)

    def count(self, heard: Tensor) -> Tensor:
        """Logits of the number of atoms, (B, max_atoms + 1)."""
        logits: Tensor = self.to_count(heard)
        return logits

    def composition(self, heard: Tensor) -> Tensor:
        """Logits of the composition, (B, 100)."""
        logits: Tensor = self.to_composition(heard)
        return logits

    def heard_of(self, batch: CrystalBatch, z: Tensor) -> Tensor:
        """What heads and denoiser hear of the latent vectors of known crystals, (B, L)."""
        return z

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


def drawn(n: int, size: int, first: int, rng: torch.Generator) -> Tensor:
    """Whole numbers from `first` up to n, n itself left out, (size,)."""
    return torch.randint(first, n, (size,), generator=rng, device=rng.device)


def _chunks(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
