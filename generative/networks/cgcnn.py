"""Crystal graph convolutional network: a small one, whose pooled vector is a fingerprint of a crystal.

Shape letters: B crystals, N atoms of all of them end to end, E edges, G Gaussians, W width, F features.

Atoms start as learned vectors by atomic number. A convolution adds to each atom what passes the gates of its edges:
v_i <- softplus(v_i + BN(sum_j w_ij sigmoid(z_ij A + a) * softplus(z_ij B + b))), z_ij = [v_i, v_j, u_ij], with batch
normalisation of z_ij's product as in the published code, u_ij the Gaussian expansion of the distance and w_ij the
edge's weight. One hidden layer per atom (L1 = 1 in the paper's figure 1), the mean over atoms, and one linear layer
(L2 = 0): the pooled vector is the layer before the last.

Source: Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), arXiv:1710.10324, eq. 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.networks.crystal_graph import CUTOFF_ANG, Z_MAX, CrystalGraph


@dataclass(frozen=True)
class CGCNNConfig:
    """Sizes of the network.

    Attributes:
        width: of an atom's vector.
        n_convolutions: convolutions.
        n_features: of the pooled vector.
        step_ang: between the centres of the Gaussians, and their width, angstrom.
    """

    width: int = 64
    n_convolutions: int = 3
    n_features: int = 64
    step_ang: float = 0.2


class GraphBatch(NamedTuple):
    """Graphs end to end.

    Attributes:
        atomic_numbers: (N,), int64.
        crystal: index of each atom's crystal, (N,), int64.
        n_crystals: B.
        source, target: atom indices, (E,), int64.
        distance_ang: (E,), angstrom.
        weight: part of a neighbour that an edge counts for, (E,).
    """

    atomic_numbers: Tensor
    crystal: Tensor
    n_crystals: int
    source: Tensor
    target: Tensor
    distance_ang: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> GraphBatch:
        """The same on another device."""
        return self._replace(
            atomic_numbers=self.atomic_numbers.to(device),
            crystal=self.crystal.to(device),
            source=self.source.to(device),
            target=self.target.to(device),
            distance_ang=self.distance_ang.to(device),
            weight=self.weight.to(device),
        )


def pack(graphs: Sequence[CrystalGraph], dtype: torch.dtype = torch.float32) -> GraphBatch:
    """Graphs as one batch; distances and weights as `dtype`.

    Raises: ValueError: if there is no graph.
    """
    if not graphs:
        raise ValueError("no graphs to pack: expected at least one")
    n_atoms = [len(graph.atomic_numbers) for graph in graphs]
    n_edges = [len(graph.source) for graph in graphs]
    first = np.repeat(np.cumsum([0, *n_atoms[:-1]]), n_edges)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(graph, name) for graph in graphs])

    return GraphBatch(
        torch.from_numpy(joined("atomic_numbers")),
        torch.from_numpy(np.repeat(np.arange(len(graphs)), n_atoms)),
        len(graphs),
        torch.from_numpy(joined("source") + first),
        torch.from_numpy(joined("target") + first),
        torch.from_numpy(joined("distance_ang")).to(dtype),
        torch.from_numpy(joined("weight")).to(dtype),
    )


class GaussianDistance(nn.Module):
    """Distances as overlaps with Gaussians at 0, step, ..., 8 A: exp(-((d - c) / step)^2). (E,) -> (E, G)."""

    centres_ang: Tensor

    def __init__(self, step_ang: float) -> None:
        super().__init__()
        self.step_ang = step_ang
        n_centres = round(CUTOFF_ANG / step_ang) + 1
        centres = torch.linspace(0.0, CUTOFF_ANG, n_centres, dtype=torch.float64)
        self.register_buffer("centres_ang", centres.float(), persistent=False)

    def forward(self, distance_ang: Tensor) -> Tensor:
        """(E,) -> (E, G)."""
        scaled = (distance_ang.unsqueeze(-1) - self.centres_ang) / self.step_ang
        return torch.exp(-scaled.square())


class Convolution(nn.Module):
    """One gated convolution. (N, W) -> (N, W)."""

    def __init__(self, width: int, n_gaussians: int) -> None:
        super().__init__()
        # z A with z = [v_i, v_j, u_ij], in three parts: those of atoms are computed once per atom, not per edge.
        self.own = nn.Linear(width, 2 * width)
        self.neighbour = nn.Linear(width, 2 * width, bias=False)
        self.edge = nn.Linear(n_gaussians, 2 * width, bias=False)
        self.norm_edge = nn.BatchNorm1d(2 * width)
        self.norm_atom = nn.BatchNorm1d(width)

    def forward(self, atoms: Tensor, gaussians: Tensor, batch: GraphBatch) -> Tensor:
        """(N, W), (E, G) -> (N, W)."""
        mixed = self.edge(gaussians)
        mixed = mixed + self.own(atoms).index_select(0, batch.source)
        mixed = mixed + self.neighbour(atoms).index_select(0, batch.target)  # (E, 2W)
        gate, core = self.norm_edge(mixed).chunk(2, dim=1)
        message = torch.sigmoid(gate) * functional.softplus(core) * batch.weight.unsqueeze(1)  # (E, W)
        summed = torch.zeros_like(atoms).index_add(0, batch.source, message)
        return functional.softplus(atoms + self.norm_atom(summed))


class CGCNN(nn.Module):
    """Formation energy of a crystal from its graph, by way of the pooled vector."""

    mean_ev_per_atom: Tensor
    spread_ev_per_atom: Tensor

    def __init__(self, config: CGCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(Z_MAX + 1, config.width)
        self.gaussians = GaussianDistance(config.step_ang)
        n_gaussians = len(self.gaussians.centres_ang)
        self.convolutions = nn.ModuleList(Convolution(config.width, n_gaussians) for _ in range(config.n_convolutions))
        self.hidden = nn.Linear(config.width, config.n_features)
        self.last = nn.Linear(config.n_features, 1)
        self.register_buffer("mean_ev_per_atom", torch.zeros(()))
        self.register_buffer("spread_ev_per_atom", torch.ones(()))

    def features(self, batch: GraphBatch) -> Tensor:
        """The pooled vectors, (B, F)."""
        atoms = self.embedding(batch.atomic_numbers)  # (N, W)
        gaussians = self.gaussians(batch.distance_ang)
        for convolution in self.convolutions:
            atoms = convolution(atoms, gaussians, batch)
        hidden = functional.softplus(self.hidden(atoms))  # (N, F)
        summed = hidden.new_zeros(batch.n_crystals, hidden.shape[1]).index_add(0, batch.crystal, hidden)
        n_atoms = torch.bincount(batch.crystal, minlength=batch.n_crystals)
        return summed / n_atoms.unsqueeze(1)

    def energies_ev_per_atom(self, features: Tensor) -> Tensor:
        """From pooled vectors to formation energies: (B, F) -> (B,), eV/atom."""
        energies: Tensor = self.last(features).squeeze(1) * self.spread_ev_per_atom + self.mean_ev_per_atom
        return energies

    def forward(self, batch: GraphBatch) -> Tensor:
        """Formation energies, (B,), eV/atom."""
        return self.energies_ev_per_atom(self.features(batch))
