"""Any torch-sim model as one that relaxations can use: float64, checked shapes, neighbours counted, errors of one kind.

The model brings its own neighbour list, precision and exceptions. Positions are wrapped into the cell before they are
cut to its precision: atoms that drifted far in a long relaxation would lose digits otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pymatgen.core.periodic_table import Element
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from dft.potentials.interface import CrystalModel, as_state
from dft.potentials.neighbours import NeighbourLists, refuse_if_too_dense

ASSUMED_REACH_ANG = 6.0
"""Within which neighbours are estimated where the cut-off is unknown, so that a collapsed cell never reaches the model:
what most networks see."""


class ForeignModel(CrystalModel):
    """A torch-sim model that states neither its elements nor its cut-off itself.

    Forces and stress are the model's own, so `dft.potentials.check.check_derivatives` holds them against its energy.
    """

    derives_forces = False

    def __init__(self, model: ModelInterface, elements: Sequence[str], cutoff_ang: float | None) -> None:
        """Nothing is computed yet.

        Args:
            model: computes energy, forces and stress in eV, eV/A, eV/A^3.
            elements: symbols of those it knows.
            cutoff_ang: how far an atom sees its neighbours, angstrom; with None no atom is ever found isolated.

        Raises:
            ValueError: if the model gives no forces or no stress, or an element is none.
        """
        super().__init__()
        if not (model.compute_forces and model.compute_stress):
            raise ValueError(
                f"{type(model).__name__} is set to give no forces or no stress, which a relaxation needs: make it with "
                "compute_forces=True and compute_stress=True"
            )
        self.model = model
        self._atomic_numbers = tuple(sorted({Element(symbol).Z for symbol in elements}))
        self._cutoff_ang = cutoff_ang
        self._device, self._dtype = model.device, torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = model.memory_scales_with
        known = torch.zeros(119, dtype=torch.bool, device=model.device)
        known[list(self._atomic_numbers)] = True
        self._is_known = known

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements it knows, in order."""
        return self._atomic_numbers

    @property
    def cutoff_ang(self) -> float | None:
        """As stated when it was made."""
        return self._cutoff_ang

    def forward(
        self, state: SimState | dict[str, Any], neighbours: NeighbourLists | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """See CrystalModel.forward; whatever the model raises is a RuntimeError here, or what it was if it is one.

        Raises:
            ValueError: if an element is unknown to it, or it gives tensors of other shapes than torch-sim's models do.
            dft.potentials.neighbours.TooDenseError: if a cell has collapsed.
        """
        state = as_state(state)
        numbers = state.atomic_numbers.long()
        if not bool(self._is_known[numbers].all()):
            unknown = sorted(set(numbers[~self._is_known[numbers]].tolist()))
            raise ValueError(f"atomic numbers {unknown} are not among the {len(self._atomic_numbers)} known ones")
        n_neighbours = self._counted(state, neighbours)
        try:
            output = self.model(self._handed_on(state))
        except (RuntimeError, ValueError, IndexError):
            raise
        except Exception as error:  # calculators raise whatever their packages do: KeyError, ZeroDivisionError, OSError
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        n_atoms, n_crystals = len(numbers), state.n_systems
        stress = _shaped(output, "stress", (n_crystals, 3, 3))
        return {
            "energy": _shaped(output, "energy", (n_crystals,)),
            "forces": _shaped(output, "forces", (n_atoms, 3)),
            "stress": 0.5 * (stress + stress.transpose(1, 2)),
            "n_neighbours": n_neighbours,
        }

    def _counted(self, state: SimState, neighbours: NeighbourLists | None) -> Tensor:
        """Neighbours of each atom within the cut-off, (N,); -1 where it is unknown."""
        cart, cell, crystal = state.positions.detach(), state.row_vector_cell.detach(), state.system_idx
        counts = torch.bincount(crystal, minlength=state.n_systems).tolist()
        if self._cutoff_ang is None:
            for n_atoms, one in zip(counts, cell.cpu().numpy(), strict=True):
                refuse_if_too_dense(n_atoms, one, ASSUMED_REACH_ANG)
            return torch.full((len(cart),), -1, dtype=torch.long, device=cart.device)
        if neighbours is None:
            neighbours = self.neighbour_lists()
            neighbours.extend(state.n_systems)
        edges = neighbours.edges(cart, cell, counts, torch.float32)
        return torch.bincount(edges.source, minlength=len(cart))

    def _handed_on(self, state: SimState) -> SimState:
        """The state in the model's precision, all atoms inside their cells."""
        cell = state.row_vector_cell.detach()
        of_atom = cell.index_select(0, state.system_idx)
        frac = torch.linalg.solve(of_atom, state.positions.detach().unsqueeze(1), left=False)
        cart = torch.bmm(frac - torch.floor(frac), of_atom).squeeze(1)
        dtype = self.model.dtype
        return SimState(
            positions=cart.to(dtype),
            masses=state.masses.to(dtype),
            cell=cell.transpose(1, 2).contiguous().to(dtype),
            pbc=True,
            atomic_numbers=state.atomic_numbers,
            system_idx=state.system_idx,
        )


def _shaped(output: dict[str, Tensor], key: str, shape: tuple[int, ...]) -> Tensor:
    """One of the model's tensors in float64.

    Raises: ValueError: if it is not there, or of another shape.
    """
    found = output.get(key)
    if found is None or tuple(found.shape) != shape:
        got = "nothing" if found is None else f"shape {tuple(found.shape)}"
        raise ValueError(f"the model gives {got} as {key}: expected shape {shape}, as torch-sim's models do")
    return found.detach().double()
