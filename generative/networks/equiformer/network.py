"""EquiformerV2: atoms and their edges to features that turn with the crystal, a vector and scalars of each atom.

Method, per block: features of both ends of an edge are turned into its frame; an SO(2) convolution weighted by the
edge's length and ends; a nonlinearity on the sphere; a second convolution; turned back and summed over the neighbours
with attention weights, which are re-normalised (LayerNorm before the activation). Then every atom's feature is
transformed on the sphere by a perceptron. Scalars take a path of their own past the sphere.

The network has no parity: it is made for rotations, not for reflections. It is equivariant as exactly as the grids on
the sphere are fine.

Shape letters: B crystals, A atoms, E edges, n = (l_max + 1)^2 components, K of them in frames, C channels.
Source: Liao et al., EquiformerV2, arXiv:2306.12059; sizes and the latent vector's ways in: ConditionCDVAE+, Sci. Rep.
2025, doi:10.1038/s41598-025-06432-9, and its published code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.networks.equiformer.frames import XYZ, EdgeFrames, Frames, framed
from generative.networks.equiformer.layers import (
    DegreeLinear,
    RadialWeights,
    SeparableNorm,
    SO2Convolution,
    Told,
    kept,
    linear,
)
from generative.networks.equiformer.sphere_grid import SphereGrid
from generative.networks.periodic_graph import Edges

N_ELEMENTS = 100
"""Rows of the tables of elements: 1 (H) to 100 (Fm)."""


@dataclass(frozen=True)
class EquiformerConfig:
    """Sizes; the defaults are those of ConditionCDVAE+, which both its networks have.

    Attributes:
        n_blocks: attention and perceptron, so many times.
        l_max, m_max: highest degree, and highest order in the frames of edges.
        channels: per component.
        attention_hidden: channels between the two convolutions.
        n_heads, alpha_width, value_width: of the attention: heads, and per head what its weight is read from, and what
            is summed.
        feed_hidden: channels on the sphere.
        edge_width: hidden layers of what edges are told, and embedded elements at their ends.
        n_distances: Gaussian functions of the length.
        cutoff_ang: where their centres end, angstrom.
        n_polar: points of the grid on the sphere, from pole to pole and around.
        drop_alpha, drop_path: part of attention weights, and of crystals, that a block passes by while training.
    """

    n_blocks: int = 8
    l_max: int = 4
    m_max: int = 2
    channels: int = 128
    attention_hidden: int = 64
    n_heads: int = 8
    alpha_width: int = 64
    value_width: int = 16
    feed_hidden: int = 128
    edge_width: int = 128
    n_distances: int = 600
    cutoff_ang: float = 7.0
    n_polar: int = 18
    drop_alpha: float = 0.1
    drop_path: float = 0.1


class Grids(NamedTuple):
    """On the sphere: of features in the frames of edges, and of those of atoms."""

    frame: SphereGrid
    sphere: SphereGrid

    @classmethod
    def of(cls, config: EquiformerConfig) -> Grids:
        """Both, of the configured number of points."""
        l_max, m_max, n = config.l_max, config.m_max, config.n_polar
        return cls(SphereGrid(l_max, n, m_max, framed(l_max, m_max)), SphereGrid(l_max, n))


class _Radial(NamedTuple):
    """Makes the radial weights of a network's layers."""

    config: EquiformerConfig
    latent: int

    def weights(self, n_out: int) -> RadialWeights:
        """For a layer that wants so many of each edge."""
        hidden = [self.latent] * 2 * (self.latent > 0) + [self.config.edge_width] * 2
        return RadialWeights(self.config.n_distances, self.latent, N_ELEMENTS, hidden, n_out)


class Distances(nn.Module):
    """Lengths to Gaussians about equidistant centres, each twice as wide as their spacing: (E,) -> (E, D)."""

    centres: Tensor

    def __init__(self, n: int, cutoff_ang: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, cutoff_ang, n), persistent=False)
        self.factor = -0.5 / (2 * cutoff_ang / (n - 1)) ** 2

    def forward(self, length_ang: Tensor) -> Tensor:
        """(E,), angstrom."""
        return torch.exp(self.factor * (length_ang.unsqueeze(1) - self.centres.to(length_ang.dtype)).square())


class Around(NamedTuple):
    """Edges with all that blocks want of them."""

    told: Told
    frames: Frames


class EdgeDegree(nn.Module):
    """What an atom knows of its neighbourhood at first: radial functions on order 0 of its edges, turned and summed."""

    def __init__(self, config: EquiformerConfig, radial: RadialWeights) -> None:
        super().__init__()
        self.shape, self.radial = (config.l_max + 1, config.channels), radial

    def forward(self, around: Around) -> Tensor:
        """(A, n, C), a plain sum."""
        told, frames = around
        weights = self.radial(told).view(len(told.distances), *self.shape)
        turned = torch.bmm(frames.back[:, :, : self.shape[0]], weights)
        return turned.new_zeros(len(told.element), *turned.shape[1:]).index_add(0, told.edge_target, turned)


class GraphAttention(nn.Module):
    """What its neighbours tell each atom: (A, n, C) -> (A, n, out)."""

    def __init__(self, config: EquiformerConfig, radial: _Radial, grid: SphereGrid, n_out: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        heads, hidden = config.n_heads, config.attention_hidden
        self.n_alpha = heads * config.alpha_width
        self.first = SO2Convolution(
            2 * config.channels, hidden, config.l_max, config.m_max, extra=self.n_alpha + hidden
        )
        self.radial = radial.weights(self.first.n_weights)
        self.alpha_norm = nn.LayerNorm(config.alpha_width)
        bound = 1 / math.sqrt(config.alpha_width)
        self.alpha_dot = nn.Parameter(torch.empty(heads, config.alpha_width).uniform_(-bound, bound))
        self.second = SO2Convolution(hidden, heads * config.value_width, config.l_max, config.m_max)
        self.out = DegreeLinear(heads * config.value_width, n_out, config.l_max)

    def forward(self, x: Tensor, around: Around, rng: torch.Generator | None = None) -> Tensor:
        """With a generator some attention weights are dropped."""
        told, frames = around
        both = torch.cat([x.index_select(0, told.edge_source), x.index_select(0, told.edge_target)], dim=2)
        message, scalars = self.first(torch.bmm(frames.into, both), self.radial(told))
        alpha, gate = scalars[:, : self.n_alpha], scalars[:, self.n_alpha :]
        on_sphere = self.grid.features(functional.silu(self.grid.values(message)))
        message = torch.cat([functional.silu(gate).unsqueeze(1), on_sphere[:, 1:]], dim=1)
        message, _ = self.second(message)
        weight = self._attention(alpha, told, len(x))
        mask = kept((len(weight), self.config.n_heads), self.config.drop_alpha, weight, rng)
        weight = weight if mask is None else weight * mask
        spread = weight.repeat_interleave(self.config.value_width, dim=1).unsqueeze(1)
        turned = torch.bmm(frames.back, message * spread)
        summed = turned.new_zeros(len(x), *turned.shape[1:]).index_add(0, told.edge_target, turned)
        out: Tensor = self.out(summed)
        return out

    def _attention(self, alpha: Tensor, told: Told, n_atoms: int) -> Tensor:
        """Softmax over the edges to an atom, (E, heads)."""
        normal = self.alpha_norm(alpha.view(-1, self.config.n_heads, self.config.alpha_width))
        # SmoothLeakyReLU of slope 0.2 below zero.
        active = 0.6 * normal + 0.4 * normal * (2 * torch.sigmoid(normal) - 1)
        logits = (active * self.alpha_dot).sum(2)
        rows = told.edge_target.unsqueeze(1).expand_as(logits)
        low = logits.new_full((n_atoms, logits.shape[1]), -torch.inf)
        highest = low.scatter_reduce(0, rows, logits.detach(), "amax")
        raised = (logits - highest.index_select(0, told.edge_target)).exp()
        total = torch.zeros_like(low).index_add(0, told.edge_target, raised)
        weights: Tensor = raised / total.index_select(0, told.edge_target)
        return weights


class FeedForward(nn.Module):
    """A perceptron of three layers at every point of the sphere, scalars past it: (A, n, C) -> the same."""

    def __init__(self, config: EquiformerConfig, grid: SphereGrid) -> None:
        super().__init__()
        hidden = config.feed_hidden
        self.grid = grid
        self.into = DegreeLinear(config.channels, hidden, config.l_max)
        self.scalars = nn.Sequential(linear(config.channels, hidden), nn.SiLU())
        self.points = nn.Sequential(
            linear(hidden, hidden, bias=False), nn.SiLU(), linear(hidden, hidden, bias=False), nn.SiLU(),
            linear(hidden, hidden, bias=False),
        )  # fmt: skip
        self.out = DegreeLinear(hidden, config.channels, config.l_max)

    def forward(self, x: Tensor) -> Tensor:
        """Each atom by itself."""
        on_sphere = self.grid.features(self.points(self.grid.values(self.into(x))))
        out: Tensor = self.out(torch.cat([self.scalars(x[:, :1]), on_sphere[:, 1:]], dim=1))
        return out


class Block(nn.Module):
    """Attention, then perceptron, both beside a path that goes around them."""

    def __init__(self, config: EquiformerConfig, radial: _Radial, grids: Grids) -> None:
        super().__init__()
        self.drop_path = config.drop_path
        self.before_attention = SeparableNorm(config.channels, config.l_max)
        self.attention = GraphAttention(config, radial, grids.frame, config.channels)
        self.before_feed = SeparableNorm(config.channels, config.l_max)
        self.feed = FeedForward(config, grids.sphere)

    def forward(self, x: Tensor, around: Around, n_crystals: int, rng: torch.Generator | None) -> Tensor:
        """With a generator each of the two is left out for some crystals."""
        x = x + self._kept(self.attention(self.before_attention(x), around, rng), around, n_crystals, rng)
        return x + self._kept(self.feed(self.before_feed(x)), around, n_crystals, rng)

    def _kept(self, change: Tensor, around: Around, n_crystals: int, rng: torch.Generator | None) -> Tensor:
        mask = kept((n_crystals, 1, 1), self.drop_path, change, rng)
        return change if mask is None else change * mask.index_select(0, around.told.crystal)


class Equiformer(nn.Module):
    """Atoms and edges, and a latent vector per crystal where there is one, to features (A, n, C)."""

    mean_degree: Tensor

    def __init__(self, config: EquiformerConfig, latent: int = 0) -> None:
        """Draw the weights.

        Args: config; latent: width of the latent vector that atoms and edges are told of, 0 for none.
        """
        super().__init__()
        self.config = config
        self.radial, self.grids = _Radial(config, latent), Grids.of(config)
        self.elements = nn.Embedding(N_ELEMENTS, config.channels)
        self.join = linear(config.channels + latent, config.channels) if latent else None
        self.distances = Distances(config.n_distances, config.cutoff_ang)
        self.frames = EdgeFrames(config.l_max, config.m_max)
        self.degree = EdgeDegree(config, self.radial.weights((config.l_max + 1) * config.channels))
        self.blocks = nn.ModuleList(Block(config, self.radial, self.grids) for _ in range(config.n_blocks))
        self.norm = SeparableNorm(config.channels, config.l_max)
        # Published: 3.946251, a number of one data set's CrystalNN graphs, in the encoder and in the decoder.
        self.register_buffer("mean_degree", torch.tensor(1.0))

    def around(self, atomic_numbers: Tensor, crystal: Tensor, edges: Edges, latent: Tensor | None) -> Around:
        """Frames and what edges are told.

        Args: atomic numbers 1 to 100, (A,); crystal of each atom, (A,); edges; latent (B, L).
        """
        direction = edges.vector_ang / edges.distance_ang.unsqueeze(1)
        told = Told(self.distances(edges.distance_ang), edges.source, edges.target, atomic_numbers - 1, crystal, latent)
        return Around(told, self.frames(direction))

    def forward(self, around: Around, n_crystals: int, rng: torch.Generator | None = None) -> Tensor:
        """Features, normalised; with a generator as while training, when parts are dropped."""
        told = around.told
        scalars = self.elements(told.element)
        if self.join is not None:
            assert told.latent is not None
            scalars = self.join(torch.cat([scalars, told.latent.index_select(0, told.crystal)], dim=1))
        x = self.degree(around) / self.mean_degree
        x = torch.cat([x[:, :1] + scalars.unsqueeze(1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, around, n_crystals, rng)
        normal: Tensor = self.norm(x)
        return normal


def scalar_head(config: EquiformerConfig, n_out: int) -> nn.Sequential:
    """Scalars of an atom to others: the published perceptron on the sphere, less all that its scalars do not see."""
    hidden = config.feed_hidden
    return nn.Sequential(linear(config.channels, hidden), nn.SiLU(), linear(hidden, n_out))


class EquiformerEncoder(nn.Module):
    """A crystal to H scalars, (B, H): features of its atoms, summed."""

    def __init__(self, config: EquiformerConfig, n_out: int) -> None:
        super().__init__()
        self.trunk = Equiformer(config)
        self.out = scalar_head(config, n_out)

    def forward(
        self, atomic_numbers: Tensor, crystal: Tensor, n_crystals: int, edges: Edges, rng: torch.Generator | None = None
    ) -> Tensor:
        """Sums over the atoms of each crystal; what they are divided by is the caller's matter."""
        x = self.trunk(self.trunk.around(atomic_numbers, crystal, edges, None), n_crystals, rng)
        scalars: Tensor = self.out(x[:, 0])
        return scalars.new_zeros(n_crystals, scalars.shape[1]).index_add(0, crystal, scalars)


class EquiformerScore(nn.Module):
    """A crystal and its latent vector to a Cartesian vector per atom, (A, 3), and logits of its element, (A, 100)."""

    def __init__(self, config: EquiformerConfig, latent: int) -> None:
        super().__init__()
        self.trunk = Equiformer(config, latent)
        self.scalars = scalar_head(config, config.channels)
        self.vector = GraphAttention(config, self.trunk.radial, self.trunk.grids.frame, 1)
        # As e3nn's Linear, in which weights of variance one are divided by the root of the inputs.
        self.to_types = nn.Parameter(torch.randn(N_ELEMENTS, config.channels))

    def forward(
        self,
        latent: Tensor,
        atomic_numbers: Tensor,
        crystal: Tensor,
        edges: Edges,
        rng: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Args: latent (B, L); atomic numbers 1 to 100, (A,); crystal (A,); edges; rng as in Equiformer."""
        around = self.trunk.around(atomic_numbers, crystal, edges, latent)
        x = self.trunk(around, len(latent), rng)
        vector = self.vector(x, around)[:, XYZ, 0]
        states = self.scalars(x[:, 0]) / math.sqrt(self.to_types.shape[1])
        return vector, functional.linear(states, self.to_types)
