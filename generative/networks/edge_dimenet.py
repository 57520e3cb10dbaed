"""DimeNet++ that answers for every edge, by sums over directions instead of over triplets.

In DimeNet++ an edge is told of the edges of the atom it comes from, each weighted by the angle between the two: a sum
over all pairs of edges of an atom. The angle enters as Legendre polynomials, and by the addition theorem each is a sum
of products of spherical harmonics of the two edges. So the edges of an atom are first summed, weighted by their own
harmonics, and what an edge is told is that sum weighted by its own: the same numbers (a test holds them to
torch-geometric's block over triplets), at a cost that rises with the edges and not with their square.

Beside the published form for molecules (generative/networks/dimenet.py): outputs are per edge, not per atom; edges know
the level of noise and whether they join images of one atom; an edge is told of the way back too.

Shape letters: N sites, E edges, S degrees, R radial functions, W width of a message, C width of a triplet.
Sources: DimeNet, arXiv:2003.03123; DimeNet++, arXiv:2011.14115; output per edge and embeddings: arXiv:2310.10695.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn.inits import glorot_orthogonal
from torch_geometric.nn.models.dimenet import BesselBasisLayer, InteractionPPBlock

from generative.networks.atomic_numbers import refuse_unknown_elements
from generative.networks.dimenet import SphericalBasis
from generative.networks.spherical_harmonics import RealSphericalHarmonics

Z_MAX = 95
"""Elements with a vector: the published table has 96 rows, the first of them unused."""


class EdgeGraph(Protocol):
    """What the network reads of a graph; see Multigraph, which is one."""

    @property
    def source(self) -> Tensor:
        """Site that an edge leaves, (E,)."""

    @property
    def target(self) -> Tensor:
        """Site it leads to, (E,)."""

    @property
    def vector_ang(self) -> Tensor:
        """From the source, (E, 3)."""

    @property
    def distance_ang(self) -> Tensor:
        """Length, (E,)."""

    @property
    def own_image(self) -> Tensor:
        """Whether it joins images of one site, (E,)."""

    @property
    def reverse(self) -> Tensor:
        """Place of the edge back, (E,)."""

    @property
    def row(self) -> Tensor:
        """Place in the table of `dense`, (E,)."""

    def dense(self, values: Tensor, n_sites: int) -> Tensor:
        """Values by site, (E, ...) -> (N, K, ...), zero where there is no edge."""


@dataclass(frozen=True)
class EdgeDimeNetConfig:
    """Sizes of the network; the defaults are those of the published main model. As in DimeNetConfig, and:

    Attributes:
        output_width: of the hidden layers of an output block.
        n_levels: rows of the table of noise levels.
        turned: whether angles are taken in the frame of the site that an edge leads to.
    """

    message_width: int = 64
    output_width: int = 64
    triplet_width: int = 32
    basis_width: int = 8
    n_blocks: int = 4
    n_spherical: int = 7
    n_radial: int = 6
    cutoff_ang: float = 5.0
    envelope_exponent: int = 5
    n_before_skip: int = 1
    n_after_skip: int = 2
    n_output_layers: int = 3
    n_levels: int = 20
    turned: bool = True


class DirectionSums(nn.Module):
    """For every edge e: sum over the edges e' of its target of x(e') times F_l(e') P_l(cos of their angle), over l."""

    def __init__(self, n_spherical: int) -> None:
        super().__init__()
        self.harmonics = RealSphericalHarmonics(n_spherical - 1)
        # P_l = 4 pi / (2l + 1) sum_m Y_lm Y_lm, half of the factor on either side.
        factors = [math.sqrt(4 * math.pi / (2 * degree + 1)) for degree in range(n_spherical)]
        self.factors = [factor for degree, factor in enumerate(factors) for _ in range(2 * degree + 1)]

    def directions(self, unit: Tensor) -> Tensor:
        """Harmonics such that products, summed over the orders of a degree, are Legendre polynomials: (E, S^2)."""
        found: Tensor = self.harmonics(unit)
        return found * found.new_tensor(self.factors)

    def forward(self, weighted: Tensor, leaving: Tensor, arriving: Tensor, graph: EdgeGraph, n_sites: int) -> Tensor:
        """The sums.

        Args:
            weighted: x F_l of each edge, (E, S, C).
            leaving: harmonics by site of the edges that leave it, (N, K, S^2).
            arriving: of the edges that arrive, each in the place of its reverse, seen from the site, (N, K, S^2).
            graph: the edges.
            n_sites: N.

        Returns: (E, C).
        """
        by_site = graph.dense(weighted, n_sites)  # (N, K, S, C)
        told = by_site.new_zeros(n_sites, by_site.shape[1], by_site.shape[3])
        for degree in range(weighted.shape[1]):
            orders = slice(degree**2, (degree + 1) ** 2)
            gathered = leaving[:, :, orders].transpose(1, 2) @ by_site[:, :, degree]  # (N, 2l + 1, C)
            told = torch.baddbmm(told, arriving[:, :, orders], gathered)
        return told.flatten(0, 1)[graph.row[graph.reverse]]


class DirectionalInteraction(InteractionPPBlock):  # type: ignore[misc]
    """torch-geometric's block with its weights, given sums over directions for those over triplets."""

    def forward(
        self,
        x: Tensor,
        radial: Tensor,
        spherical: Tensor,
        directions: tuple[Tensor, Tensor],
        graph: EdgeGraph,
        sums: DirectionSums,
    ) -> Tensor:
        """Messages after the block.

        Args:
            x: messages, (E, W).
            radial: (E, R).
            spherical: radial parts of the angular basis, (E, S, R).
            directions: harmonics of leaving and of arriving edges, as of DirectionSums.
            graph: the edges.
            sums: over directions.

        Returns: (E, W).
        """
        straight = self.act(self.lin_ji(x))
        around = self.act(self.lin_kj(x)) * self.lin_rbf2(self.lin_rbf1(radial))
        around = self.act(self.lin_down(around))  # (E, C)
        n_spherical, n_radial = spherical.shape[1:]
        by_degree = self.lin_sbf1.weight.reshape(-1, n_spherical, n_radial)
        weight = torch.einsum("esr,bsr->esb", spherical, by_degree) @ self.lin_sbf2.weight.T  # (E, S, C)
        around = sums(around.unsqueeze(1) * weight, *directions, graph, len(directions[0]))
        h = straight + self.act(self.lin_up(around))
        for layer in self.layers_before_skip:
            h = layer(h)
        h = self.act(self.lin(h)) + x
        for layer in self.layers_after_skip:
            h = layer(h)
        found: Tensor = h
        return found


class EdgeOutput(nn.Module):
    """Messages to numbers of each edge, (E, W) -> (E, out)."""

    def __init__(self, config: EdgeDimeNetConfig, out_width: int) -> None:
        super().__init__()
        self.radial = nn.Linear(config.n_radial, config.message_width, bias=False)
        self.up = nn.Linear(config.message_width, config.output_width)
        self.norm = nn.LayerNorm(config.output_width)
        self.layers = nn.ModuleList(
            nn.Linear(config.output_width, config.output_width) for _ in range(config.n_output_layers)
        )
        self.last = nn.Linear(config.output_width, out_width, bias=False)
        # It starts at zero, so a new network answers that there is no noise: a loss of 1, where the published start
        # (orthogonal, sums over a hundred edges) begins at some 20.
        nn.init.zeros_(self.last.weight)
        for layer in (self.radial, self.up, *self.layers):
            assert isinstance(layer, nn.Linear)
            glorot_orthogonal(layer.weight, scale=2.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, radial: Tensor) -> Tensor:
        """Args: messages (E, W); radial functions (E, R)."""
        x = self.norm(self.up(self.radial(radial) * x))
        for layer in self.layers:
            x = functional.silu(layer(x))
        found: Tensor = self.last(x)
        return found


class EdgeEmbedding(nn.Module):
    """The first messages: of both elements, the length, the level of noise, and whether it is an own image."""

    def __init__(self, config: EdgeDimeNetConfig) -> None:
        super().__init__()
        width = config.message_width
        self.element = nn.Embedding(Z_MAX + 1, width)
        self.level = nn.Embedding(config.n_levels, width)
        self.own_image = nn.Embedding(2, width)
        self.radial = nn.Linear(config.n_radial, width)
        self.join = nn.Linear(5 * width, width)
        nn.init.uniform_(self.element.weight, -math.sqrt(3), math.sqrt(3))
        for layer in (self.level, self.own_image, self.radial, self.join):
            glorot_orthogonal(layer.weight, scale=2.0)

    def forward(self, atomic_numbers: Tensor, level: Tensor, radial: Tensor, graph: EdgeGraph) -> Tensor:
        """Args: of sites atomic numbers and levels, (N,); radial functions, (E, R); the edges. Returns: (E, W)."""
        element = self.element(atomic_numbers)
        parts = [
            element[graph.source],
            element[graph.target],
            functional.silu(self.radial(radial)),
            self.level(level)[graph.source],
            self.own_image(graph.own_image.long()),
        ]
        return functional.silu(self.join(torch.cat(parts, dim=1)))


class EdgeDimeNet(nn.Module):
    """Graphs to numbers of each edge, (E, out_width), invariant to rotation and to which image a site is named by."""

    def __init__(self, config: EdgeDimeNetConfig, out_width: int) -> None:
        super().__init__()
        self.config = c = config
        self.radial = BesselBasisLayer(c.n_radial, c.cutoff_ang, c.envelope_exponent)
        self.spherical = SphericalBasis(c.n_spherical, c.n_radial, c.cutoff_ang, c.envelope_exponent)
        self.sums = DirectionSums(c.n_spherical)
        self.embedding = EdgeEmbedding(c)
        self.interactions = nn.ModuleList(
            DirectionalInteraction(
                c.message_width,
                c.triplet_width,
                c.basis_width,
                c.n_spherical,
                c.n_radial,
                c.n_before_skip,
                c.n_after_skip,
                functional.silu,
            )
            for _ in range(c.n_blocks)
        )
        self.outputs = nn.ModuleList(EdgeOutput(c, out_width) for _ in range(c.n_blocks + 1))

    def forward(self, atomic_numbers: Tensor, level: Tensor, graph: EdgeGraph) -> Tensor:
        """Numbers of each edge.

        Args:
            atomic_numbers: of the sites, 1 to 95, (N,), int64.
            level: of noise at each site, from 0 for the finest, (N,), int64.
            graph: every edge has its reverse in it; edges beyond the cut-off say nothing.

        Returns: (E, out_width).
        Raises: ValueError: if an atomic number is outside 1-95.
        """
        refuse_unknown_elements(atomic_numbers, Z_MAX, "the network of edges")
        n_sites = len(atomic_numbers)
        radial = self.radial(graph.distance_ang)  # (E, R)
        shape = (-1, self.config.n_spherical, self.config.n_radial)
        spherical = self.spherical.radial(graph.distance_ang).reshape(shape)
        harmonics = self.sums.directions(graph.vector_ang / graph.distance_ang.unsqueeze(1))
        leaving = arriving = graph.dense(harmonics, n_sites)
        if not self.config.turned:  # the way back as it lies at the other end, not as it is seen from here
            back = graph.vector_ang / graph.distance_ang.unsqueeze(1)
            arriving = graph.dense(self.sums.directions(-back[graph.reverse]), n_sites)
        messages = self.embedding(atomic_numbers, level, radial, graph)
        found = self.outputs[0](messages, radial)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            messages = interaction(messages, radial, spherical, (leaving, arriving), graph, self.sums)
            found = found + output(messages, radial)
        answer: Tensor = found
        return answer
