"""CHGNet's energy from edge vectors, with the weights inside the chgnet wheel.

The package's converter builds Python objects per bond; here bonds and angles are tensors made for the whole batch. Its
layers are followed with their weights, but the first layer of each gated network, which acts on a concatenation of
atoms, bonds and angles, is applied to atoms, to bonds and to angles apart and then added: there are far fewer of them
than rows of the concatenation. The last angle update, whose result nothing reads, is left out.

Source: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); chgnet 0.4, model 0.3.0.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dft.potentials.graph_model import EnergyNetwork, GraphModel
from dft.potentials.interface import Asked, Reading, fingerprint_of
from dft.potentials.neighbours import EdgeBatch
from dft.results import EnergyScheme

CHGNET_ELEMENTS = tuple(z for z in range(1, 95) if z not in (84, 85, 86, 87, 88))
"""The 89 elements of MPtrj, which CHGNet was trained on; its tables have rows for Po to Ra that were never trained."""


def load_chgnet() -> Any:
    """chgnet's pretrained model 0.3.0 on the CPU, in evaluation mode."""
    from chgnet.model.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself with print
        return CHGNet.load(use_device="cpu", verbose=False).eval()


def readings(asked: Asked) -> Iterator[Reading]:
    """See dft.potentials.interface.Loader."""
    pretrained = load_chgnet()
    network = CHGNetEnergy(pretrained)
    yield Reading(
        GraphModel(network, asked.device),
        method=f"CHGNet {pretrained.version}",
        fingerprint=fingerprint_of(network.atomic_numbers, "as stored", network.state_dict()),
        licence="modified BSD (the Regents of the University of California)",
        scheme=EnergyScheme.MP2020,
    )


class NormedGate(nn.Module):
    """chgnet's GatedMLP with layer norms, value and gate side by side, its first layer split by input.

    Args:
        gated: chgnet's layer.
        n_parts: equal parts of the input, such as 3 for [center, bond, neighbour].
    """

    def __init__(self, gated: Any, n_parts: int) -> None:
        super().__init__()
        value, gate = ([m for m in mlp.layers if isinstance(m, nn.Linear)] for mlp in (gated.mlp_core, gated.mlp_gate))
        first = torch.cat([value[0].weight, gate[0].weight]).detach()
        self.parts = nn.ParameterList([nn.Parameter(w.clone()) for w in torch.chunk(first, n_parts, dim=1)])
        self.bias = nn.Parameter(torch.cat([value[0].bias, gate[0].bias]).detach())
        self.value, self.gate = nn.ModuleList(value[1:]), nn.ModuleList(gate[1:])
        self.value_norm, self.gate_norm = gated.bn1, gated.bn2

    def part(self, i: int, features: Tensor) -> Tensor:
        """What the first layer makes of the i-th part of its input."""
        return functional.linear(features, self.parts[i])

    def forward(self, summed: Tensor) -> Tensor:
        """The rest of the network, from the sum of all parts, (rows, 2 hidden)."""
        hidden = summed + self.bias
        if len(self.value):
            value, gate = torch.chunk(functional.silu(hidden), 2, dim=1)
            value, gate = self.value[0](value), self.gate[0](gate)
        else:
            value, gate = torch.chunk(hidden, 2, dim=1)
        return functional.silu(self.value_norm(value)) * torch.sigmoid(self.gate_norm(gate))


class CHGNetEnergy(EnergyNetwork):
    """chgnet's CHGNet as an EnergyNetwork.

    Raises:
        ValueError: if the model is built otherwise than the released 0.3.0.
    """

    offset_ev: Tensor
    row_of_species: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not (
            model.mlp_first and model.is_intensive and all(layer.atom_norm is None for layer in model.atom_conv_layers)
        ):
            raise ValueError(
                f"CHGNet {model.version} is not built like 0.3.0, the model this adapter follows: load 0.3.0"
            )
        self.version = model.version
        self.cutoff_ang = float(model.graph_converter.atom_graph_cutoff)
        self.bond_cutoff_ang = float(model.graph_converter.bond_graph_cutoff)
        self.atomic_numbers = CHGNET_ELEMENTS
        self.atom_embedding, self.bond_embedding = model.atom_embedding.embedding, model.bond_embedding
        self.angle_embedding, self.angle_basis = model.angle_embedding, model.angle_basis_expansion
        self.radial_atoms = model.bond_basis_expansion.rbf_expansion_ag
        self.radial_bonds = model.bond_basis_expansion.rbf_expansion_bg
        self.weights_atoms, self.weights_bonds = model.bond_weights_ag, model.bond_weights_bg
        self.atom_gates = nn.ModuleList(NormedGate(layer.twoBody_atom, 3) for layer in model.atom_conv_layers)
        self.atom_outs = nn.ModuleList(layer.mlp_out for layer in model.atom_conv_layers)
        self.bond_gates = nn.ModuleList(NormedGate(layer.twoBody_bond, 4) for layer in model.bond_conv_layers)
        self.bond_outs = nn.ModuleList(layer.mlp_out for layer in model.bond_conv_layers)
        self.angle_gates = nn.ModuleList(NormedGate(layer.twoBody_bond, 4) for layer in model.angle_layers[:-1])
        self.readout_norm, self.readout = model.readout_norm, model.mlp
        row = torch.tensor(CHGNET_ELEMENTS) - 1  # the tables begin with hydrogen
        self.register_buffer("row_of_species", row)
        self.register_buffer("offset_ev", model.composition_model.fc.weight.detach().double().view(-1)[row])

    def forward(self, species: Tensor, edges: EdgeBatch, crystal: Tensor, n_crystals: int) -> Tensor:
        """See EnergyNetwork."""
        distance = torch.linalg.vector_norm(edges.vector_ang, dim=1)
        place = torch.arange(len(distance), device=distance.device)
        is_first = place < edges.reverse
        bond_of_first = torch.cumsum(is_first, dim=0) - 1
        bond_of_edge = bond_of_first[torch.minimum(place, edges.reverse)]  # each bond is two edges
        length = distance[is_first]
        left, right = _edge_pairs(edges.source, distance.detach() < self.bond_cutoff_ang, len(species))
        direction = edges.vector_ang / distance.unsqueeze(1)
        center, bond_i, bond_j = edges.source[left], bond_of_edge[left], bond_of_edge[right]

        radial = self.radial_atoms(length)
        atom, bond = self.atom_embedding(self.row_of_species[species]), self.bond_embedding(radial)
        weight = self.weights_atoms(radial).index_select(0, bond_of_edge)
        if len(left):
            angle = self.angle_embedding(
                self.angle_basis(direction.index_select(0, left), direction.index_select(0, right))
            )
            bond_weight = self.weights_bonds(self.radial_bonds(length))
            angle_weight = bond_weight.index_select(0, bond_i) * bond_weight.index_select(0, bond_j)
        for i, (gate, out) in enumerate(zip(self.atom_gates, self.atom_outs, strict=True)):
            rows = _gathered(gate, [(atom, edges.source), (bond, bond_of_edge), (atom, edges.target)])
            message = gate(rows) * weight
            atom = atom + out(torch.zeros_like(atom).index_add(0, edges.source, message))
            if i == len(self.bond_gates) or not len(left):
                continue
            inputs = [(bond, bond_i), (bond, bond_j), (angle, None), (atom, center)]
            update = self.bond_gates[i](_gathered(self.bond_gates[i], inputs)) * angle_weight
            bond = bond + self.bond_outs[i](torch.zeros_like(bond).index_add(0, bond_i, update))
            if i < len(self.angle_gates):
                inputs = [(bond, bond_i), (bond, bond_j), (angle, None), (atom, center)]
                angle = angle + self.angle_gates[i](_gathered(self.angle_gates[i], inputs))
        per_atom = self.readout(self.readout_norm(atom)).view(-1).double() + self.offset_ev[species]
        return torch.zeros(n_crystals, dtype=per_atom.dtype, device=per_atom.device).index_add(0, crystal, per_atom)


def _gathered(gate: Any, inputs: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """The first layer's sum over its inputs: features of each part and the row of them that each output row reads."""
    parts = [gate.part(i, features) for i, (features, _) in enumerate(inputs)]
    rows = [part if row is None else part.index_select(0, row) for part, (_, row) in zip(parts, inputs, strict=True)]
    total: Tensor = sum(rows[1:], start=rows[0])
    return total


def _edge_pairs(source: Tensor, is_short: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different short edges from one atom; `source` is sorted. Two index tensors of one length."""
    short = is_short.nonzero().squeeze(1)
    atom = source[short]
    count = torch.bincount(atom, minlength=n_atoms)
    first = torch.cumsum(count, dim=0) - count
    others = count[atom] - 1
    left = torch.repeat_interleave(torch.arange(len(short), device=source.device), others)
    start = torch.cumsum(others, dim=0) - others
    k = torch.arange(len(left), device=source.device) - start[left]
    own = left - first[atom[left]]
    right = first[atom[left]] + k + (k >= own)
    return short[left], short[right]
