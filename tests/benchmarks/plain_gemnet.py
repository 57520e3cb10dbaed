"""Plainer ways to what GemNet-T and its neighbour search give, for rates side by side: triplets in a list, a loop."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generative.networks.gemnet import GemNetOutput, GemNetT
from generative.networks.periodic_graph import SELF_ANG2, Edges, entries_per_atom, places_in_group


def triplets_into(edges: Edges, n_atoms_total: int) -> tuple[Tensor, Tensor]:
    """Ordered pairs of different edges to the same atom, (edge b -> a, edge c -> a): those of GemNet's angles.

    Args:
        edges: in any order.
        n_atoms_total: A.
    Returns: indices of edges, 2 of (T,), int64; by atom, then by the second edge, so that sums over the first run over
        what is contiguous where edges are by target.
    """
    order = torch.argsort(edges.target, stable=True)
    counts, atom = entries_per_atom(edges.target, n_atoms_total), edges.target[order]
    others = counts[atom] - 1  # (E,)
    second = torch.repeat_interleave(others)
    into = (counts.cumsum(0) - counts)[atom[second]] + places_in_group(others, second)
    into += into >= second  # the edge itself is passed over
    return order[into], order[second]


def listed_triplets(network: GemNetT, atoms: Tensor, edges: Edges) -> GemNetOutput:
    """The same network with the same weights, with plain layers and every triplet in a list.

    Sums over angles are made as GemNet's paper proposes (appendix on efficient bilinear layers): messages of an edge's
    triplets are laid out as a matrix padded to the edge that has most, and multiplied by its angular functions.
    """
    config, scales, reverse = network.config, network.config.scale_factors, edges.reverse
    assert reverse is not None
    source, target, unit = edges.source, edges.target, edges.vector_ang / edges.distance_ang[:, None]

    def silu(x: Tensor) -> Tensor:
        return functional.silu(x) / 0.6

    def dense(layer: Any, x: Tensor) -> Tensor:
        return silu(functional.linear(x, layer.weight))

    def residuals(layers: Any, x: Tensor) -> Tensor:
        for layer in layers:
            y = silu(functional.linear(silu(functional.linear(x, layer.first)), layer.second))
            x = (x + y) / math.sqrt(2)
        return x

    radial = network._radial(edges.distance_ang)
    first, second = triplets_into(edges, len(atoms))
    cosine = (unit[first] * unit[second]).sum(1).clamp(-1, 1)
    legendre = [torch.ones_like(cosine), cosine]
    for n in range(2, config.n_spherical):
        legendre.append(((2 * n - 1) * cosine * legendre[-1] - (n - 1) * legendre[-2]) / n)
    norms = [math.sqrt((2 * n + 1) / (4 * math.pi)) for n in range(config.n_spherical)]
    angular = torch.stack([norm * p for norm, p in zip(norms, legendre, strict=False)], dim=1)  # (T, L)
    counts = entries_per_atom(second, len(source))
    most = int(counts.max())
    slot = second * most + places_in_group(counts, second)
    waves = angular.new_zeros(len(source) * most, config.n_spherical).index_copy(0, slot, angular)
    waves = waves.view(len(source), most, -1).transpose(1, 2)  # (E, L, most)
    circular = torch.einsum("er,lri->eil", radial, network.circular)
    radial_triplet, radial_atom, radial_vector = (
        layer(radial) for layer in (network.radial_triplet, network.radial_atom, network.radial_vector)
    )

    def embedded(layer: Any, x: Tensor) -> Tensor:
        return silu(functional.linear(torch.cat([atoms[source], atoms[target], x], dim=1), layer.weight))

    def along_edges(output: Any, m: Tensor, scale: float) -> Tensor:
        x = residuals(output.layers[1], dense(output.layers[0], m))
        return functional.linear(x * output.gate(radial_vector) * scale, output.out.weight)

    m = embedded(network.edge_embedding, radial)
    along = along_edges(network.outputs[0], m, scales.vector_gate[0])
    for i, block in enumerate(network.blocks):
        triplets: Any = block.triplets
        x = dense(triplets.dense, m) * triplets.gate(radial_triplet) * scales.triplet_gate[i]
        x = dense(triplets.down, x)
        seen = x.new_zeros(len(source) * most, x.shape[1]).index_copy(0, slot, x[first]).view(len(source), most, -1)
        sums = circular @ (waves @ seen)  # (E, circular_width, triplet_width)
        x = torch.einsum("eid,ido->eo", sums, triplets.bilinear) * scales.triplet_sum[i]
        x = (dense(triplets.up_forward, x) + dense(triplets.up_reverse, x)[reverse]) / math.sqrt(2)
        x = (dense(block.dense, m) + x) / math.sqrt(2)
        m = residuals(block.after_skip, (m + residuals(block.before_skip, x)) / math.sqrt(2))
        gated = m * block.atom_update.gate(radial_atom)
        new = gated.new_zeros(len(atoms), gated.shape[1]).index_add(0, target, gated) * scales.atom_sum[i]
        atoms = (atoms + residuals(block.atom_update.residuals, dense(block.atom_update.first, new))) / math.sqrt(2)
        m = (m + residuals(block.after_concat, embedded(block.concat, m))) / math.sqrt(2)
        along = along + along_edges(network.outputs[i + 1], m, scales.vector_gate[i + 1])
    return GemNetOutput(unit.new_zeros(len(atoms), 3).index_add(0, target, along * unit), atoms)


def neighbours_by_loop(lattice_ang: Tensor, n_atoms: Tensor, frac: Tensor, cutoff_ang: float, wanted: int) -> int:
    """Edges of the symmetric graph of each crystal's nearest neighbours in 27 cells, one crystal at a time."""
    images = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), device=frac.device)
    earlier = torch.arange(27, device=images.device) < 13
    n_edges, first = 0, 0
    for rows, n in zip(lattice_ang, n_atoms.tolist(), strict=True):
        inside = frac[first : first + n]
        first += n
        steps = inside[None, :, None] - inside[:, None, None] + images  # (target, source, 27, 3)
        squared = (steps @ rows).square().sum(-1)
        squared = torch.where((squared > SELF_ANG2) & (squared <= cutoff_ang**2), squared, torch.inf).view(n, -1)
        order = squared.argsort(dim=1, stable=True)[:, :wanted]
        found = squared.gather(1, order).isfinite()
        source, image = order // 27, order % 27
        target = torch.arange(n, device=images.device)[:, None]
        kept = found & ((source < target) | ((source == target) & earlier[image]))
        target, source, image = target.expand_as(kept)[kept], source[kept], image[kept]
        ends = torch.stack([torch.cat([source, target]), torch.cat([target, source])])
        offsets = torch.cat([images[image], -images[image]])
        assert len(offsets) == ends.shape[1]
        n_edges += len(offsets)
    return n_edges
