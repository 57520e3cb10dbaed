"""The multigraph and its network as the authors compute them: one crystal at a time, the graph in Python, all triplets.

What a faithful implementation does at every step (arXiv:2310.10695 and its code): for each site a search over images
that grows until there are 80, edge by edge the inverse and a comparison with those that are there; then a line graph of
all pairs of edges of a site. Loops over images of one operation are NumPy's, so it is no slower than it must be.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.nn.models.dimenet import InteractionPPBlock

from generative.networks.edge_dimenet import EdgeDimeNet
from generative.systems.adaptive_cell.multigraph import Multigraph
from generative.systems.adaptive_cell.operations import group_operations

FIRST_ANG, WIDER_ANG = 5.5, 1.0
"""Radius that a search begins with, and by how much it grows."""


def looped_graph(spacegroup: int, frac: np.ndarray, lattice: np.ndarray, n_neighbours: int = 80) -> Multigraph:
    """The graph of one crystal."""
    maps = group_operations(spacegroup)
    rotations, translations = maps.rotation.numpy(), maps.translation.numpy()
    edges: list[tuple[int, int, int, np.ndarray]] = []
    for i in range(len(frac)):
        reach = FIRST_ANG
        while len(near := _within(i, frac, lattice, rotations, translations, reach)) < n_neighbours:
            reach += WIDER_ANG
        near.sort(key=lambda one: one[0])
        for _, j, g, displacement in near[:n_neighbours]:
            back = -rotations[maps.inverse[g]] @ displacement
            for edge in ((i, j, g, displacement), (j, i, int(maps.inverse[g]), back)):
                if not _is_there(edge, edges, lattice):
                    edges.append(edge)
    edges.sort(key=lambda edge: edge[0])
    reverse = [_place((j, i, 0, -rotations[maps.inverse[g]] @ f), edges, lattice) for i, j, g, f in edges]
    source, target, operation = (torch.tensor([edge[k] for edge in edges]) for k in range(3))
    displacement = torch.from_numpy(np.array([edge[3] for edge in edges]))
    vector = displacement @ torch.from_numpy(lattice)
    n_edges = torch.bincount(source, minlength=len(frac))
    width = int(n_edges.max())
    column = torch.arange(len(edges)) - (n_edges.cumsum(0) - n_edges)[source]
    turned = (maps.rotation - torch.eye(3)).abs().amax((1, 2)) > 0.5
    own_image = (source == target) & turned[operation]
    row = source * width + column
    return Multigraph(
        source, target, displacement, vector, vector.norm(dim=1), own_image, torch.tensor(reverse), row, width
    )


def _within(
    i: int, frac: np.ndarray, lattice: np.ndarray, rotations: np.ndarray, translations: np.ndarray, reach: float
) -> list[tuple[float, int, int, np.ndarray]]:
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    sides = [np.arange(-n, n + 1) for n in np.ceil(reach / heights + 0.5).astype(int)]
    cells = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 3)
    found = []
    for j in range(len(frac)):
        for g in range(len(rotations)):
            away = rotations[g] @ frac[j] + translations[g] - frac[i]
            away = away - np.rint(away) + cells
            distance = np.linalg.norm(away @ lattice, axis=1)
            near = (distance > 0.15) & (distance < reach)
            found += [(float(d), j, g, f) for d, f in zip(distance[near], away[near], strict=True)]
    return found


def _is_there(
    edge: tuple[int, int, int, np.ndarray], edges: list[tuple[int, int, int, np.ndarray]], lattice: np.ndarray
) -> bool:
    alike = [other[3] for other in edges if other[:2] == edge[:2]]
    return bool(alike) and bool((np.linalg.norm((np.array(alike) - edge[3]) @ lattice, axis=1) < 1e-4).any())


def _place(
    edge: tuple[int, int, int, np.ndarray], edges: list[tuple[int, int, int, np.ndarray]], lattice: np.ndarray
) -> int:
    for place, other in enumerate(edges):
        if other[:2] == edge[:2] and np.abs((other[3] - edge[3]) @ lattice).max() < 1e-4:
            return place
    raise AssertionError("an edge has no inverse")


def by_triplets(net: EdgeDimeNet, atomic_numbers: Tensor, level: Tensor, graph: Multigraph) -> Tensor:
    """The network's answers, by torch-geometric's blocks over all pairs of edges."""
    told, by = (graph.target.unsqueeze(1) == graph.source.unsqueeze(0)).nonzero().unbind(1)
    unit = graph.vector_ang / graph.distance_ang.unsqueeze(1)
    cosine = (unit[graph.reverse[told]] * unit[by]).sum(1)
    basis = net.spherical(graph.distance_ang, cosine, by)
    radial = net.radial(graph.distance_ang)
    messages = net.embedding(atomic_numbers, level, radial, graph)
    found: Tensor = net.outputs[0](messages, radial)
    for interaction, output in zip(net.interactions, net.outputs[1:], strict=True):
        assert isinstance(interaction, InteractionPPBlock)
        messages = InteractionPPBlock.forward(interaction, messages, radial, basis, by, told)
        found = found + output(messages, radial)
    return found
