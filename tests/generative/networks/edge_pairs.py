"""Pairs of edges as lists, for networks written out: GemNet's own code never lists them."""

from __future__ import annotations

import torch
from torch import Tensor

from generative.networks.periodic_graph import Edges, entries_per_atom, places_in_group


def triplets_into(edges: Edges, n_atoms_total: int) -> tuple[Tensor, Tensor]:
    """Ordered pairs of different edges to the same atom, (edge b -> a, edge c -> a): those of GemNet's angles.

    Args:
        edges: in any order.
        n_atoms_total: A.
    Returns: indices of edges, 2 of (T,), int64; by atom, then by the second edge.
    """
    order = torch.argsort(edges.target, stable=True)
    counts, atom = entries_per_atom(edges.target, n_atoms_total), edges.target[order]
    others = counts[atom] - 1  # (E,)
    second = torch.arange(len(others), device=others.device).repeat_interleave(others)
    into = (counts.cumsum(0) - counts)[atom[second]] + places_in_group(others, second)
    into += into >= second  # the place of the edge itself is passed over
    return order[into], order[second]
