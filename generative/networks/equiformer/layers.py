"""The linear maps, norms and masks of EquiformerV2.

Features are (A, n, C): A atoms, n = (l_max + 1)^2 components, C channels; in the frames of edges (E, K, C).
Source: EquiformerV2, arXiv:2306.12059, in the form of its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """Weights uniform within 1 / sqrt(n_in), bias zero."""
    layer = nn.Linear(n_in, n_out, bias)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class DegreeLinear(nn.Module):
    """Channels are mixed, by one matrix per degree: (A, n, C) -> (A, n, C')."""

    def __init__(self, n_in: int, n_out: int, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(l_max + 1, n_out, n_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Scalars get a bias too."""
        parts = [x[:, k * k : (k + 1) ** 2] @ self.weight[k].T for k in range(self.l_max + 1)]
        return torch.cat([parts[0] + self.bias, *parts[1:]], dim=1)


class SeparableNorm(nn.Module):
    """LayerNorm of the scalars; all other degrees share a root mean square, in which every degree counts alike."""

    balance: Tensor
    degree: Tensor

    def __init__(self, channels: int, l_max: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scalars = nn.LayerNorm(channels, eps=eps)
        self.weight = nn.Parameter(torch.ones(l_max, channels))
        self.eps = eps
        degree = torch.tensor([k for k in range(1, l_max + 1) for _ in range(2 * k + 1)])
        self.register_buffer("degree", degree - 1, persistent=False)
        self.register_buffer("balance", 1 / (2 * degree + 1) / l_max, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(A, n, C)."""
        others = x[:, 1:]
        mean_square = torch.einsum("anc,n->a", others.square(), self.balance.to(x.dtype)) / x.shape[2]
        scale = (mean_square + self.eps).rsqrt()[:, None, None] * self.weight.index_select(0, self.degree)
        return torch.cat([self.scalars(x[:, :1]), others * scale], dim=1)


class Told(NamedTuple):
    """What all edges of a batch are told.

    Attributes:
        distances: functions of their lengths, (E, D).
        edge_source, edge_target: atoms, (E,).
        element: place of each atom's element in tables, (A,).
        crystal: of each atom, (A,).
        latent: of each crystal, (B, L); None where there is none.
    """

    distances: Tensor
    edge_source: Tensor
    edge_target: Tensor
    element: Tensor
    crystal: Tensor
    latent: Tensor | None


class RadialWeights(nn.Module):
    """What an edge is told of its length, its ends and their crystal, to numbers of its own: (E, out).

    A perceptron with LayerNorm and SiLU, of [distance functions, latent of the source, of the target, element of the
    source, of the target]. Its first layer is a sum over these, so what an edge has from its ends is computed per
    atom, and from its crystal, in which both ends are, per crystal.
    """

    def __init__(self, n_distances: int, latent: int, elements: int, hidden: Sequence[int], n_out: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(elements, hidden[-1]), nn.Embedding(elements, hidden[-1])
        for table in (self.source, self.target):
            nn.init.uniform_(table.weight, -1e-3, 1e-3)
        self.widths = [n_distances, latent, latent, hidden[-1], hidden[-1]]
        self.first = linear(sum(self.widths), hidden[0])
        layers: list[nn.Module] = [nn.LayerNorm(hidden[0]), nn.SiLU()]
        for inner, outer in zip(hidden[:-1], hidden[1:], strict=True):
            layers += [linear(inner, outer), nn.LayerNorm(outer), nn.SiLU()]
        self.rest = nn.Sequential(*layers, linear(hidden[-1], n_out))

    def forward(self, told: Told) -> Tensor:
        """Of all edges."""
        of_length, z_source, z_target, of_source, of_target = torch.split(self.first.weight, self.widths, dim=1)
        by_source = functional.embedding(told.element, self.source.weight @ of_source.T)
        by_target = functional.embedding(told.element, self.target.weight @ of_target.T)
        if told.latent is not None:
            by_crystal = told.latent @ (z_source + z_target).T
            by_target = by_target + by_crystal.index_select(0, told.crystal)
        summed = functional.linear(told.distances, of_length, self.first.bias)
        summed = summed + by_source.index_select(0, told.edge_source) + by_target.index_select(0, told.edge_target)
        weights: Tensor = self.rest(summed)
        return weights


class SO2Convolution(nn.Module):
    """A linear map in the frames of edges that commutes with turns about them: (E, K, C) -> (E, K, C').

    Components of one order are mixed with each other, over degrees and channels; cosine and sine of an order are the
    two parts of a complex number. `extra` more scalars come out of order 0.
    """

    def __init__(self, n_in: int, n_out: int, l_max: int, m_max: int, extra: int = 0) -> None:
        super().__init__()
        self.n_out, self.extra = n_out, extra
        self.sizes = [l_max - m + 1 for m in range(m_max + 1)]  # degrees that have the order
        self.scalar = linear(self.sizes[0] * n_in, self.sizes[0] * n_out + extra)
        self.turning = nn.ModuleList(linear(size * n_in, 2 * size * n_out, bias=False) for size in self.sizes[1:])
        self.n_weights = sum(self.sizes) * n_in
        with torch.no_grad():
            for layer in self.turning.parameters():
                layer.mul_(math.sqrt(0.5))

    def forward(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The map, and the further scalars (E, extra).

        Args:
            x: (E, K, C).
            weights: of all inputs, the same for cosine and sine, (E, n_weights); None leaves them as they are.
        """
        n_edges, _, channels = x.shape
        widths = [size * channels for size in self.sizes]
        of_order = [None] * len(widths) if weights is None else torch.split(weights, widths, dim=1)
        flat = x[:, : self.sizes[0]].flatten(1)
        scalar = self.scalar(flat if of_order[0] is None else flat * of_order[0])
        out = [scalar[:, self.extra :].view(n_edges, self.sizes[0], self.n_out)]
        first = self.sizes[0]
        for size, layer, weight in zip(self.sizes[1:], self.turning, of_order[1:], strict=True):
            pair = x[:, first : first + 2 * size].reshape(n_edges, 2, size * channels)
            mixed = layer(pair if weight is None else pair * weight.unsqueeze(1))
            real, imaginary = mixed.chunk(2, dim=2)
            cosine = real[:, 0] - imaginary[:, 1]
            sine = real[:, 1] + imaginary[:, 0]
            out.append(torch.stack([cosine, sine], dim=1).view(n_edges, 2 * size, self.n_out))
            first += 2 * size
        return torch.cat(out, dim=1), scalar[:, : self.extra]


def kept(shape: tuple[int, ...], rate: float, like: Tensor, rng: torch.Generator | None) -> Tensor | None:
    """A mask that drops at random and makes up for it; None where nothing is dropped, as without a generator."""
    if rng is None or rate == 0:
        return None
    drawn = torch.rand(shape, generator=rng, device=rng.device).to(like.device) >= rate
    return drawn.to(like.dtype) / (1 - rate)
