"""M3GNet's energy from edge vectors, with matgl's weights and a three-body term that never lists a triplet.

matgl builds one row per pair of bonds that share an atom, some ten times more rows than bonds. The sum over the third
atom k of  c_k P_l(cos theta_jik)  needs none of them: by the addition theorem P_l(u.v) = sum_m Y_lm(u) Y_lm(v) (here in
the traceless Cartesian form of l = 0, 1, 2), so the sum over k is one moment per atom, contracted with the bond's own
direction, minus the bond's own share (k = j), for which P_l(1) = 1. Exact up to rounding.

The first layers of the gated networks act on [v_source, v_target, edge]; they are applied to atoms and to edges apart
and added, which saves two thirds of their multiplications.

Source: Chen and Ong, Nat. Comput. Sci. 2, 718 (2022), eqs. 2-6; layer by layer as in matgl 4.1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dft.potentials.aggregation import Aggregation
from dft.potentials.graph_model import EnergyNetwork
from dft.potentials.neighbours import EdgeBatch

MAX_L = 3
"""Angular orders 0, 1, 2 have their moments written out here."""


def can_be_fused(potential: Any) -> bool:
    """Whether M3GNetEnergy reproduces this matgl potential: no global state, no azimuth, energies summed over atoms."""
    model = potential.model
    return (
        type(model).__name__ == "M3GNet"
        and not model.include_state
        and not model.is_intensive
        and model.max_l == MAX_L
        and not model.basis_expansion.use_phi
        and not getattr(potential, "calc_repuls", False)
    )


class GatedLayers(nn.Module):
    """matgl's GatedMLP, value and gate side by side. (E, in) -> (E, out).

    The first layer is split by input: `parts` names the columns of the input that belong to source atom, target atom
    and edge; with one part it is an ordinary layer.
    """

    def __init__(self, gated: nn.Module, parts: tuple[int, ...]) -> None:
        super().__init__()
        values = [layer for layer in gated.layers if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
        gates = [layer for layer in gated.gates if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
        self.last_is_active: bool = gated.activate_last  # type: ignore[assignment]
        self.depth = len(values)
        first = torch.cat([values[0].weight, gates[0].weight]).detach()
        bias = None if values[0].bias is None else torch.cat([values[0].bias, gates[0].bias]).detach()
        self.parts = nn.ParameterList([nn.Parameter(w.clone()) for w in torch.split(first, list(parts), dim=1)])
        self.bias = None if bias is None else nn.Parameter(bias)
        self.values, self.gates = nn.ModuleList(values[1:]), nn.ModuleList(gates[1:])

    def forward(self, edge: Tensor, ends: Tensor | None = None) -> Tensor:
        """Edge features (E, in); `ends` is the first layer's part from the atoms at both ends, (E, 2 hidden)."""
        hidden = functional.linear(edge, self.parts[-1], self.bias)
        if ends is not None:
            hidden = hidden + ends
        if self.depth == 1:
            value, gate = torch.chunk(hidden, 2, dim=1)  # chunks go back as one concatenation, slices as padded sums
        else:
            value, gate = torch.chunk(functional.silu(hidden), 2, dim=1)
            for i, (value_layer, gate_layer) in enumerate(zip(self.values, self.gates, strict=True)):
                value, gate = value_layer(value), gate_layer(gate)
                if i < self.depth - 2:
                    value, gate = functional.silu(value), functional.silu(gate)
        if self.last_is_active:
            value = functional.silu(value)
        return value * torch.sigmoid(gate)


class Convolution(nn.Module):
    """One M3GNet block after its three-body part: edges, then atoms (eqs. 4 and 5)."""

    def __init__(self, conv: Any, dim_node: int, dim_edge: int) -> None:
        super().__init__()
        parts = (dim_node, dim_node, dim_edge)
        self.edge_update = GatedLayers(conv.edge_update_func, parts)
        self.node_update = GatedLayers(conv.node_update_func, parts)
        self.edge_weight, self.node_weight = conv.edge_weight_func, conv.node_weight_func
        self.width = self.edge_update.parts[0].shape[0]

    def forward(
        self, node: Tensor, edge: Tensor, radial: Tensor, source: Tensor, target: Tensor, receiver: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Node (N, d), edge (E, d), radial basis (E, r) -> updated node and edge features."""
        at_source = functional.linear(node, torch.cat([self.edge_update.parts[0], self.node_update.parts[0]]))
        at_target = functional.linear(node, torch.cat([self.edge_update.parts[1], self.node_update.parts[1]]))
        ends = at_source.index_select(0, source) + at_target.index_select(0, target)
        edge_ends, node_ends = torch.split(ends, [self.width, ends.shape[1] - self.width], dim=1)
        edge = edge + self.edge_update(edge, edge_ends) * self.edge_weight(radial)
        message = self.node_update(edge, node_ends) * self.node_weight(radial)
        return torch.index_add(node, 0, receiver, message), edge


class M3GNetEnergy(EnergyNetwork):
    """matgl's M3GNet potential as an EnergyNetwork.

    Args:
        potential: matgl Potential for which can_be_fused holds; its modules are reused, its weights not copied twice.
        aggregation: the end of an edge that receives its message.
        atomic_numbers: of the potential's element_types, in their order.
    """

    offset_ev: Tensor
    scale_ev: Tensor
    shift_ev: Tensor
    harmonic_scale: Tensor

    def __init__(self, potential: Any, aggregation: Aggregation, atomic_numbers: tuple[int, ...]) -> None:
        super().__init__()
        model = potential.model
        self.cutoff_ang, self.atomic_numbers = float(model.cutoff), atomic_numbers
        self.aggregation = aggregation
        self.threebody_cutoff_ang = float(model.threebody_cutoff)
        self.bond_expansion, self.angular_radial = model.bond_expansion, model.basis_expansion.sbf
        self.same_radial_basis = not model.basis_expansion.use_smooth
        self.max_n = int(model.max_n)
        self.node_embedding = model.embedding.layer_node_embedding
        self.edge_embedding = model.embedding.layer_edge_embedding
        self.three_body_atoms = nn.ModuleList(m.update_network_atom for m in model.three_body_interactions)
        self.three_body_bonds = nn.ModuleList(
            GatedLayers(m.update_network_bond, (m.update_network_bond.in_feats,)) for m in model.three_body_interactions
        )
        dim_node, dim_edge = model.embedding.dim_node_embedding, model.embedding.dim_edge_embedding
        self.convolutions = nn.ModuleList(Convolution(layer.conv, dim_node, dim_edge) for layer in model.graph_layers)
        self.readout = model.final_layer
        offset = torch.zeros(len(atomic_numbers), dtype=torch.float64)
        if potential.element_refs is not None:
            offset = potential.element_refs.property_offset.detach().double().flatten()[: len(atomic_numbers)].clone()
        self.register_buffer("offset_ev", offset)
        self.register_buffer("scale_ev", potential.data_std.detach().double().clone())
        self.register_buffer("shift_ev", potential.data_mean.detach().double().clone())
        legendre = [math.sqrt((2 * l + 1) / (4 * math.pi)) for l in range(MAX_L) for _ in range(self.max_n)]  # noqa: E741
        self.register_buffer("harmonic_scale", torch.tensor(legendre, dtype=torch.float32))

    def forward(self, species: Tensor, edges: EdgeBatch, crystal: Tensor, n_crystals: int) -> Tensor:
        """See EnergyNetwork."""
        vector, source, target = edges.vector_ang, edges.source, edges.target
        distance = torch.linalg.vector_norm(vector, dim=1)
        # bonds that take part in the three-body term first: the others are left alone by slicing, not by masks
        is_short = distance.detach() <= self.threebody_cutoff_ang
        order = torch.cat([is_short.nonzero().squeeze(1), (~is_short).nonzero().squeeze(1)])
        n_short = int(is_short.sum())
        vector, distance = vector.index_select(0, order), distance.index_select(0, order)
        source, target = source.index_select(0, order), target.index_select(0, order)
        receiver = target if self.aggregation is Aggregation.DESTINATION else source

        radial = self.bond_expansion(distance)
        angular = radial[:n_short] if self.same_radial_basis else self.angular_radial(distance[:n_short])
        direction = vector[:n_short] / distance[:n_short].unsqueeze(1)
        envelope = _envelope(distance[:n_short], self.threebody_cutoff_ang).unsqueeze(1)
        supplied = angular * self.harmonic_scale * envelope
        quadrupole = _quadrupole(direction)

        node = self.node_embedding(species)
        edge = self.edge_embedding(radial)
        for atoms, bonds, convolution in zip(
            self.three_body_atoms, self.three_body_bonds, self.convolutions, strict=True
        ):
            share = supplied * atoms(node).index_select(0, target[:n_short])
            summed = _sum_over_third_atoms(share, direction, quadrupole, source[:n_short], len(species), self.max_n)
            short, long = torch.split(edge, [n_short, len(edge) - n_short])
            edge = torch.cat([short + bonds(summed * envelope), long])
            node, edge = convolution(node, edge, radial, source, target, receiver)
        per_atom = self.readout(node).view(-1).double() * self.scale_ev + self.offset_ev[species]
        energy = torch.zeros(n_crystals, dtype=per_atom.dtype, device=per_atom.device)
        return energy.index_add(0, crystal, per_atom) + self.shift_ev


def _sum_over_third_atoms(
    share: Tensor, direction: Tensor, quadrupole: Tensor, source: Tensor, n_atoms: int, n: int
) -> Tensor:
    """sum over k != j of share_ik P_l(cos theta_jik), (e, 3 n), from the shares (e, 3 n) of all bonds ik."""
    dipole = (direction.unsqueeze(2) * share[:, None, n : 2 * n]).flatten(1)
    tensor = (quadrupole.unsqueeze(2) * share[:, None, 2 * n :]).flatten(1)
    moments = torch.cat([share[:, :n], dipole, tensor], dim=1)
    total = torch.zeros(n_atoms, moments.shape[1], dtype=moments.dtype, device=moments.device)
    others = total.index_add(0, source, moments).index_select(0, source) - moments
    isotropic, first, second = torch.split(others, [n, 3 * n, 6 * n], dim=1)
    first = (direction.unsqueeze(2) * first.view(-1, 3, n)).sum(dim=1)
    second = (quadrupole.unsqueeze(2) * second.view(-1, 6, n)).sum(dim=1)
    return torch.cat([isotropic, first, second], dim=1)


def _quadrupole(direction: Tensor) -> Tensor:
    """Six components q(u) with q(u).q(v) = P_2(u.v), (e, 3) -> (e, 6)."""
    x, y, z = direction.unbind(1)
    third = 1.0 / 3.0
    diagonal = math.sqrt(1.5) * (direction.square() - third)
    return torch.cat([diagonal, math.sqrt(3.0) * torch.stack([x * y, y * z, z * x], dim=1)], dim=1)


def _envelope(distance: Tensor, cutoff: float) -> Tensor:
    """1 - 10 x^3 + 15 x^4 - 6 x^5 with x = distance / cutoff: value and two derivatives vanish at the cutoff."""
    x = distance / cutoff
    return 1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x))
