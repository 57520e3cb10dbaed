"""The two learned ends of the CDVAE family: crystal to latent vector, and noisy crystal to what the noise was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from generative.crystal.batch import CrystalBatch
from generative.networks.dimenet import DimeNetConfig, DimeNetPlusPlus
from generative.networks.fourier_features import FourierFeatures
from generative.networks.gemnet import GemNetConfig, GemNetT
from generative.networks.gine import GINE
from generative.networks.periodic_graph import NeighbourSearch, measured
from generative.networks.time_embedding import TimeEmbedding
from generative.processes.type_noise import N_TYPES
from generative.systems.cdvae.config import SIZES, CDVAEConfig


def multilayer(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers between these widths, ReLU between them."""
    layers: list[nn.Module] = []
    for inner, outer in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """A crystal with its bonds to H features, (B, H): DimeNet++, and GINE and the number of atoms where configured."""

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__()
        sizes = SIZES[config.size]
        h = sizes.hidden
        self.dimenet = DimeNetPlusPlus(DimeNetConfig(**sizes.dimenet), h)
        self.gine = GINE(width=h, out_width=h) if config.encode_gine else None
        count = config.atom_count_width * h // 256
        self.atom_count = nn.Embedding(config.max_atoms + 1, count) if config.encode_atom_count else None
        joined = h * (2 if config.encode_gine else 1) + (count if config.encode_atom_count else 0)
        self.join: nn.Module = nn.Identity()
        if config.encode_gine:
            inner = sizes.join or joined
            self.join = multilayer([joined, inner, inner, h])
        elif config.encode_atom_count:
            self.join = multilayer([joined, sizes.join or 4 * h, h])

    def forward(self, batch: CrystalBatch, lattice_ang: Tensor, crystal: Tensor) -> Tensor:
        """Features of each crystal, (B, H). The batch needs its bonds."""
        bonds = batch.bonds
        assert bonds is not None, "a batch without bonds: pack it from a TrainingSet with bonds, or by CDVAE.pack"
        edges = measured(batch.frac, lattice_ang, crystal, bonds.source, bonds.target, bonds.image)
        parts = [self.dimenet(batch.atomic_numbers, crystal, len(batch), edges)]
        if self.gine is not None:
            parts.append(self.gine(batch.atomic_numbers, crystal, len(batch), edges))
        if self.atom_count is not None:
            parts.append(self.atom_count(batch.n_atoms))
        joined: Tensor = self.join(torch.cat(parts, dim=-1))
        return joined


class DenoiserNetwork(nn.Module, ABC):
    """A noisy crystal and its latent vector to one Cartesian vector per atom and 100 logits of its type."""

    @abstractmethod
    def neighbours(self, lattice_ang: Tensor, n_atoms: Tensor) -> NeighbourSearch:
        """The search for neighbours in these cells, made once for as long as they stay."""

    @abstractmethod
    def forward(
        self,
        latent: Tensor,
        frac: Tensor,
        types: Tensor,
        crystal: Tensor,
        search: NeighbourSearch,
        time: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One evaluation.

        Args:
            latent: (B, L).
            frac: (A, 3); need not be wrapped.
            types: atomic numbers 1 to 100, (A,).
            crystal: (A,).
            search: of the cells.
            time: t / T of each crystal, (B,); diffusion only.

        Returns: vectors (A, 3) and logits of types (A, 100).
        """


class Denoiser(DenoiserNetwork):
    """A noisy crystal and its latent vector to one Cartesian vector per atom and 100 logits of its type.

    CDVAE's atoms begin as one linear layer of [type, latent], those of DP-CDVAE as a perceptron of
    [type, latent, time, Fourier features], which at the published size stays as wide as all of these together.
    """

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__()
        sizes = SIZES[config.size]
        self.types = nn.Embedding(N_TYPES, sizes.atom)
        self.fourier = FourierFeatures() if config.fourier else None
        self.time = TimeEmbedding(sizes.time, 4 * sizes.time) if config.process == "ddpm" else None
        joined = sizes.atom + sizes.latent
        joined += self.fourier.out_width if self.fourier is not None else 0
        joined += sizes.time if self.time is not None else 0
        width = joined if config.process == "ddpm" and sizes.wide else sizes.atom
        self.join = multilayer([joined, width, width] if config.process == "ddpm" else [joined, width])
        self.gemnet = GemNetT(GemNetConfig(images=config.images, **sizes.gemnet), width)
        self.naming = sizes.naming is not None
        self.to_types: nn.Module = (
            nn.Linear(width, N_TYPES)
            if sizes.naming is None
            else multilayer([width + sizes.latent, sizes.naming, N_TYPES])
        )

    def neighbours(self, lattice_ang: Tensor, n_atoms: Tensor) -> NeighbourSearch:
        """The search for neighbours in these cells, made once for as long as they stay."""
        return self.gemnet.config.search(lattice_ang, n_atoms)

    def forward(
        self,
        latent: Tensor,
        frac: Tensor,
        types: Tensor,
        crystal: Tensor,
        search: NeighbourSearch,
        time: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See DenoiserNetwork; coordinates are wrapped for the neighbours, as for the Fourier features by nature."""
        parts = [self.types(types - 1), latent.index_select(0, crystal)]
        if self.time is not None:
            assert time is not None
            parts.append(self.time(time).index_select(0, crystal))
        if self.fourier is not None:
            parts.append(self.fourier(frac))
        out = self.gemnet(self.join(torch.cat(parts, dim=-1)), search(frac - frac.floor()))
        states = out.atoms
        if self.naming:
            states = torch.cat([states, latent.index_select(0, crystal)], dim=-1)
        return out.vector, self.to_types(states)
