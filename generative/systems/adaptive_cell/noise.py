"""Levels of noise, noisy crystals, and what the network's edges say of the noise.

A network answers two numbers per edge: what the edge says of its site's displacement, along its own direction, and by
how much the cell's noise has stretched it. Both estimates are of noise of unit variance. B crystals, N sites, E edges.
Source: arXiv:2310.10695 and its code, which has the levels (variances .001 to 36 A^2 and 0.1 to 36 A^2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from generative.processes.annealed_langevin import geometric_levels
from generative.processes.torus_flow import wrap
from generative.systems.adaptive_cell.config import AdaptiveCellConfig
from generative.systems.adaptive_cell.free_cell import is_free, lattice_of, noise_of_stretches, slopes
from generative.systems.adaptive_cell.multigraph import Multigraph
from generative.systems.adaptive_cell.operations import SiteTable

VOLUME_PER_SITE_MIN_ANG3 = 1.0
"""A cell with less for every site that is asked for has collapsed."""


EDGE_MIN_ANG, EDGE_MAX_ANG = 1.0, 200.0
"""Of conventional cells: beyond these no graph need be tried. Our own; no crystal of the data comes near."""


class Levels(NamedTuple):
    """Standard deviations, the finest first, angstrom: (L,) each, float64."""

    position_ang: Tensor
    cell_ang: Tensor

    @classmethod
    def of(cls, config: AdaptiveCellConfig) -> Levels:
        """The levels of these settings, evenly spaced in their logarithm."""
        c, n = config, config.n_levels
        return cls(
            geometric_levels(c.position_variance_min_ang2, c.position_variance_max_ang2, n).sqrt(),
            geometric_levels(c.cell_variance_min_ang2, c.cell_variance_max_ang2, n).sqrt(),
        )


@dataclass(frozen=True)
class CellState:
    """Crystals on their way.

    Attributes:
        frac: of the sites in the conventional cells, (N, 3).
        numbers: free numbers of the cells, (B, 3).
        group: international numbers, (B,).
        angles_deg: of the conventional cells, (B, 3).
        sites: which sites and operations they have.
    """

    frac: Tensor
    numbers: Tensor
    group: Tensor
    angles_deg: Tensor
    sites: SiteTable

    @property
    def lattice_ang(self) -> Tensor:
        """Rows of the conventional cells, (B, 3, 3)."""
        return lattice_of(self.numbers, self.group, self.angles_deg)

    def moved(self, step_ang: Tensor) -> CellState:
        """After Cartesian steps of the sites, (N, 3)."""
        inverse = torch.linalg.inv(self.lattice_ang)[self.sites.crystal]
        return replace(self, frac=wrap(self.frac + (step_ang.unsqueeze(1) @ inverse).squeeze(1)))

    def twice(self, frac: Tensor, numbers: Tensor) -> CellState:
        """The crystals and the same again behind them, with sites and cells of their own: (2N, 3) and (2B, 3)."""
        return CellState(frac, numbers, self.group.repeat(2), self.angles_deg.repeat(2, 1), self.sites.twice())

    def to(self, device: torch.device | str) -> CellState:
        """The crystals on another device."""
        return CellState(*(getattr(self, field.name).to(device) for field in fields(self)))

    def is_sound(self) -> Tensor:
        """Whether the cells are of finite size and have room for their sites, (B,)."""
        lattice = self.lattice_ang
        volume = torch.linalg.det(lattice).abs() / self.sites.n_centring  # of the primitive cell
        edges = lattice.norm(dim=2)
        bounded = (edges.amin(1) >= EDGE_MIN_ANG) & (edges.amax(1) <= EDGE_MAX_ANG)
        sound: Tensor = bounded & (volume >= VOLUME_PER_SITE_MIN_ANG3 * self.sites.n_sites)
        return sound


def site_noise(weight: Tensor, graph: Multigraph, n_sites: int, limit: float) -> Tensor:
    """Noise of the sites that their edges speak for, Cartesian, (E,) -> (N, 3).

    Args:
        weight: w of each edge.
        graph: the edges.
        n_sites: N.
        limit: w enters as limit tanh(w / limit).
    """
    each = (limit * torch.tanh(weight / limit) / graph.distance_ang).unsqueeze(1) * graph.vector_ang
    return each.new_zeros(n_sites, 3).index_add(0, graph.source, each)


def cell_noise(stretch: Tensor, graph: Multigraph, state: CellState, step_ang: float | None) -> Tensor:
    """Noise of the free numbers that stretches of the edges speak for, (E,) -> (B, 3); see free_cell."""
    crystal = state.sites.crystal[graph.source]
    slope = slopes(graph.frac, state.numbers, state.group, state.angles_deg, crystal, step_ang)
    return noise_of_stretches(stretch, slope, crystal, len(state.sites))


def normal(shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn on the generator's device."""
    return torch.randn(shape, generator=rng, device=rng.device, dtype=like.dtype).to(like.device)


def free_normal(group: Tensor, like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal noise of the free numbers, zero elsewhere, (B, 3)."""
    return normal((len(group), 3), like, rng) * is_free(group)
