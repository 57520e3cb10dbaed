"""One torch-sim model for every graph network: energies, forces and stresses of many crystals in one pass.

The network sees edge vectors only. Forces and stress follow from dE/d(vector): each edge pulls its two atoms, and the
virial is the sum of vector (x) gradient; no strain tensor has to pass through the network.
Units: eV, eV/A, eV/A^3; stress is positive under tension (dE/d(strain) / V), as torch-sim and ASE have it.
Positions and cells are float64; the network runs in its own dtype, on vectors subtracted in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch_sim.state import SimState

from dft.potentials.interface import CrystalModel, as_state
from dft.potentials.neighbours import EdgeBatch, NeighbourLists


class EnergyNetwork(nn.Module, ABC):
    """A network that maps species and edges to one energy per crystal.

    Attributes:
        cutoff_ang: longest edge it sees, angstrom.
        atomic_numbers: elements it knows; the species index of an element is its place here.
    """

    cutoff_ang: float
    atomic_numbers: tuple[int, ...]

    @abstractmethod
    def forward(self, species: Tensor, edges: EdgeBatch, crystal: Tensor, n_crystals: int) -> Tensor:
        """Energies in eV, (B,), from species indices (N,), edges, and each atom's crystal (N,)."""


class GraphModel(CrystalModel):
    """An EnergyNetwork as a torch-sim model."""

    derives_forces = True

    def __init__(self, network: EnergyNetwork, device: torch.device) -> None:
        super().__init__()
        self.network = network.to(device).eval().requires_grad_(False)
        self._device, self._dtype = device, torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms_x_density"
        self._network_dtype = next(
            (p.dtype for p in [*network.parameters(), *network.buffers()] if p.is_floating_point()), torch.float32
        )
        index = torch.full((119,), -1, dtype=torch.long, device=device)
        index[list(network.atomic_numbers)] = torch.arange(len(network.atomic_numbers), device=device)
        self._species_of_number = index

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements the network knows; the species index of an element is its place here."""
        return self.network.atomic_numbers

    @property
    def cutoff_ang(self) -> float:
        """Longest edge the network sees, angstrom."""
        return self.network.cutoff_ang

    def forward(
        self, state: SimState | dict[str, Any], neighbours: NeighbourLists | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """See CrystalModel.forward.

        Raises:
            ValueError: if an element is unknown to the network.
            dft.potentials.neighbours.TooDenseError: if a cell has collapsed.
        """
        state = as_state(state)
        crystal, n_crystals = state.system_idx, state.n_systems
        counts = torch.bincount(crystal, minlength=n_crystals).tolist()
        species = self._species_of_number[state.atomic_numbers.long()]
        if bool((species < 0).any()):
            unknown = sorted(set(state.atomic_numbers[species < 0].tolist()))
            raise ValueError(
                f"atomic numbers {unknown} are not among the {len(self.network.atomic_numbers)} known ones"
            )
        cell = state.row_vector_cell.detach()
        if neighbours is None:
            neighbours = self.neighbour_lists()
            neighbours.extend(n_crystals)
        edges = neighbours.edges(state.positions.detach(), cell, counts, self._network_dtype)
        edges.vector_ang.requires_grad_(True)
        with torch.enable_grad():
            energy = self.network(species, edges, crystal, n_crystals)
            (gradient,) = torch.autograd.grad(energy.sum(), edges.vector_ang)
        gradient, vector = gradient.double(), edges.vector_ang.detach().double()
        forces = torch.zeros_like(state.positions)
        forces.index_add_(0, edges.source, gradient)
        forces.index_add_(0, edges.target, -gradient)
        virial = torch.zeros_like(cell)
        virial.index_add_(0, crystal[edges.source], vector.unsqueeze(2) * gradient.unsqueeze(1))
        virial = 0.5 * (virial + virial.transpose(1, 2))  # symmetric up to rounding, by rotation invariance
        stress = virial / torch.linalg.det(cell).abs().view(-1, 1, 1)
        n_neighbours = torch.bincount(edges.source, minlength=len(species))
        return {"energy": energy.detach().double(), "forces": forces, "stress": stress, "n_neighbours": n_neighbours}
