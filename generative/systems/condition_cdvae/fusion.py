"""Conditions as vectors, and their low-rank fusion with a latent vector.

A number is expanded in Gaussian functions of its standardised value; a formula is the mean of embedded elements, so
ratios alone count. With x_h = [1; x], the fused vector is a sum over ranks r of w_r times the elementwise product of
z_h A_r and, for each condition, c_h B_r; plus a bias. So z_c is bilinear in latent vector and condition.

Shape letters: B crystals, L latent width, P conditions that are numbers, R ranks.
Source: Liu et al., Low-rank Multimodal Fusion (ACL 2018), P18-1209, as ConditionCDVAE+ takes it (Sci. Rep. 2025,
doi:10.1038/s41598-025-06432-9; its eqs. 5 and 6 print the full tensor product).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from generative.processes.type_noise import N_TYPES
from generative.systems.condition_cdvae.config import COMPOSITION, ConditionCDVAEConfig


class Conditions(NamedTuple):
    """Of B crystals, all known.

    Attributes:
        fractions: share of each type among the atoms, (B, 100).
        values: numbers in standard deviations of the training set, (B, P).
    """

    fractions: Tensor
    values: Tensor

    def repeated(self, n: int) -> Conditions:
        """Each n times, one after the other."""
        return Conditions(self.fractions.repeat_interleave(n, 0), self.values.repeat_interleave(n, 0))


class Gaussians(nn.Module):
    """A standardised number, of the given column, in Gaussian functions: (B, P) -> (B, n)."""

    centres: Tensor
    widths: Tensor

    def __init__(self, column: int, config: ConditionCDVAEConfig) -> None:
        super().__init__()
        self.column, self.n_out = column, config.n_gaussians
        centres = torch.linspace(-config.gaussian_span, config.gaussian_span, config.n_gaussians)
        widths = torch.full_like(centres, float(centres[1] - centres[0]))
        if config.learn_gaussians:
            self.centres, self.widths = nn.Parameter(centres), nn.Parameter(widths)
        else:
            self.register_buffer("centres", centres, persistent=False)
            self.register_buffer("widths", widths, persistent=False)

    def forward(self, conditions: Conditions) -> Tensor:
        """(B, n)."""
        away = (conditions.values[:, self.column, None] - self.centres) / self.widths
        return torch.exp(-0.5 * away.square())


class MeanElement(nn.Module):
    """A formula as the mean of its elements' vectors: (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_out = width
        self.table = nn.Embedding(N_TYPES, width)
        nn.init.uniform_(self.table.weight, -math.sqrt(3), math.sqrt(3))

    def forward(self, conditions: Conditions) -> Tensor:
        """(B, width)."""
        return conditions.fractions @ self.table.weight


class Embeddings(nn.Module):
    """One vector for each of the conditions, in their order."""

    def __init__(self, config: ConditionCDVAEConfig, element_width: int) -> None:
        super().__init__()
        columns = {name: place for place, name in enumerate(config.properties)}
        self.parts = nn.ModuleList(
            MeanElement(element_width) if name == COMPOSITION else Gaussians(columns[name], config)
            for name in config.conditions
        )
        self.widths = [element_width if name == COMPOSITION else config.n_gaussians for name in config.conditions]

    def forward(self, conditions: Conditions) -> list[Tensor]:
        """(B, width) each."""
        return [part(conditions) for part in self.parts]


class LowRankFusion(nn.Module):
    """Latent vectors and conditions to fused vectors of the same width: (B, L) -> (B, L)."""

    def __init__(self, embeddings: Embeddings, latent: int, rank: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        widths = [latent, *embeddings.widths]
        # Xavier for each rank's matrix. Published: for the stack of them, which takes ranks for channels of a
        # convolution and begins with vectors of some 0.001.
        self.factors = nn.ParameterList(
            nn.Parameter(torch.randn(rank, width + 1, latent) * math.sqrt(2 / (width + 1 + latent))) for width in widths
        )
        self.weights = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, rank)))
        self.bias = nn.Parameter(torch.zeros(latent))

    def forward(self, z: Tensor, conditions: Conditions) -> Tensor:
        """(B, L)."""
        product: Tensor | None = None
        for part, factor in zip([z, *self.embeddings(conditions)], self.factors, strict=True):
            told = part @ factor[:, 1:] + factor[:, :1]  # (R, B, L): the first row goes with the one that is put before
            product = told if product is None else product * told
        assert product is not None
        return torch.einsum("rbl,r->bl", product, self.weights[0]) + self.bias


def fractions_of(atomic_numbers: Tensor, crystal: Tensor, n_atoms: Tensor) -> Tensor:
    """Share of each type among the atoms of known crystals, (A,), (A,), (B,) -> (B, 100)."""
    counts = torch.zeros(len(n_atoms), N_TYPES, device=n_atoms.device)
    counts.index_put_((crystal, atomic_numbers - 1), counts.new_ones(()), accumulate=True)
    return counts / n_atoms.unsqueeze(1)
