"""GINE: a graph isomorphism network whose edges carry their length; the second encoder of DP-CDVAE.

Shape letters: B crystals, A atoms of all crystals end to end, E edges, W width.

Atoms start as learned vectors by atomic number, edges as a perceptron of their length in angstrom. One layer is
x_i <- MLP(x_i + sum_j softplus(x_j + e_ij)) (eps = 0, fixed), then ReLU in all layers but the last, then + x_i. The
crystal is the largest of each feature over its atoms, through a perceptron.

Sources: GIN, arXiv:1810.00826, eq. 4.1; edges in it, arXiv:1905.12265; sizes as in DP-CDVAE, Sci. Rep. 14, 1275 (2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.networks.atomic_numbers import refuse_unknown_elements
from generative.networks.periodic_graph import Edges

Z_MAX = 100
"""Elements with a vector: the published table has a row per type that CDVAE's denoiser names, 1 (H) to 100 (Fm)."""


def _perceptron(inner: int, width: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, width), nn.ReLU(), nn.Linear(width, outer))


class GINE(nn.Module):
    """Crystals with edges to one vector each, (B, out_width); 618,240 weights as published."""

    def __init__(self, width: int = 256, out_width: int = 256, n_layers: int = 3) -> None:
        super().__init__()
        self.atoms = nn.Embedding(Z_MAX, width)
        self.edges = _perceptron(1, width, width)
        self.updates = nn.ModuleList(_perceptron(width, width, width) for _ in range(n_layers))
        self.head = _perceptron(width, width, out_width)

    def forward(self, atomic_numbers: Tensor, crystal: Tensor, n_crystals: int, edges: Edges) -> Tensor:
        """One vector per crystal, invariant to everything that keeps elements, edges and their lengths.

        Args:
            atomic_numbers: 1 to 100, (A,), int64.
            crystal: index of each atom's crystal, (A,), int64.
            n_crystals: B; each has an atom.
            edges: an atom without edges hears nothing.

        Returns: (B, out_width).
        Raises: ValueError: if an atomic number is outside 1-100.
        """
        refuse_unknown_elements(atomic_numbers, Z_MAX, "GINE")
        x = self.atoms(atomic_numbers - 1)  # (A, W)
        lengths = self.edges(edges.distance_ang.unsqueeze(-1))  # (E, W)
        for layer, update in enumerate(self.updates, start=1):
            messages = functional.softplus(x.index_select(0, edges.source) + lengths)
            heard = update(x.index_add(0, edges.target, messages.to(x.dtype)))
            x = x + (functional.relu(heard) if layer < len(self.updates) else heard)
        largest = x.new_full((n_crystals, x.shape[1]), -torch.inf)
        largest = largest.scatter_reduce(0, crystal.unsqueeze(-1).expand_as(x), x, "amax")
        out: Tensor = self.head(largest)  # (B, out_width)
        return out
