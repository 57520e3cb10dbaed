"""CHGNet's energy from edge vectors, with the weights inside the chgnet wheel.

The package's converter builds Python objects per bond; here bonds and angles are tensors made for the whole batch, and
chgnet's own layers run on them unchanged.

Source: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); chgnet 0.4, model 0.3.0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dft.neighbours import EdgeBatch
from dft.potential_model import EnergyNetwork

CHGNET_ELEMENTS = tuple(z for z in range(1, 95) if z not in (84, 85, 86, 87, 88))
"""The 89 elements of MPtrj, which CHGNet was trained on; its tables have rows for Po to Ra that were never trained."""


def load_chgnet() -> Any:
    """chgnet's pretrained model 0.3.0 on the CPU, in evaluation mode."""
    import contextlib
    import io

    from chgnet.model.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself with print
        return CHGNet.load(use_device="cpu", verbose=False).eval()


class CHGNetEnergy(EnergyNetwork):
    """chgnet's CHGNet as an EnergyNetwork."""

    number_of_species: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.cutoff_ang = float(model.graph_converter.atom_graph_cutoff)
        self.bond_cutoff_ang = float(model.graph_converter.bond_graph_cutoff)
        self.atomic_numbers = CHGNET_ELEMENTS
        self.register_buffer("number_of_species", torch.tensor(CHGNET_ELEMENTS))

    def forward(self, species: Tensor, edges: EdgeBatch, crystal: Tensor, n_crystals: int) -> Tensor:
        """See EnergyNetwork."""
        from chgnet.model.model import BatchedGraph

        numbers = self.number_of_species[species]
        distance = torch.linalg.vector_norm(edges.vector_ang, dim=1)
        place = torch.arange(len(distance), device=distance.device)
        is_first = place < edges.reverse
        bond_of_first = torch.cumsum(is_first, dim=0) - 1
        bond = bond_of_first[torch.minimum(place, edges.reverse)]  # undirected bond of each directed edge
        bond_length = distance[is_first]

        encoder = self.model.bond_basis_expansion
        left, right = _edge_pairs(edges.source, distance.detach() < self.bond_cutoff_ang, len(species))
        if len(left):
            direction = edges.vector_ang / distance.unsqueeze(1)
            angles = self.model.angle_basis_expansion(direction.index_select(0, left), direction.index_select(0, right))
            angle_graph = torch.stack([edges.source[left], bond[left], bond[right]], dim=1)
        else:
            angles, angle_graph = distance.new_zeros(0), bond.new_zeros(0)
        nothing: list[Tensor] = []  # positions, strains and volumes serve chgnet's own forces, which are not asked for
        graph = BatchedGraph(
            atomic_numbers=numbers,
            bond_bases_ag=encoder.rbf_expansion_ag(bond_length),
            bond_bases_bg=encoder.rbf_expansion_bg(bond_length),
            angle_bases=angles,
            batched_atom_graph=torch.stack([edges.source, edges.target], dim=1),
            batched_bond_graph=angle_graph,
            atom_owners=crystal,
            directed2undirected=bond,
            atom_positions=nothing,
            strains=nothing,
            volumes=nothing,
        )
        n_atoms = torch.bincount(crystal, minlength=n_crystals)
        energy: Tensor = self.model._compute(graph)["e"].double()
        if self.model.is_intensive:
            energy = energy * n_atoms
        if self.model.composition_model is not None:
            offset = self.model.composition_model.fc.weight.double().view(-1)[numbers - 1]
            energy = energy + torch.zeros_like(energy).index_add(0, crystal, offset)
        return energy


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
