"""An ASE calculator as a torch-sim model: the crystals of a batch, one after the other.

Units are ASE's own: energy in eV, forces in eV/A, stress in eV/A^3, positive under tension, as torch-sim has it. A
calculator that gives its stress in GPa, as matgl's does unless told otherwise, must be made to give eV/A^3. The energy
is `energy`, not the `free_energy` of smeared electrons.

The stress is the calculator's. One without any is refused: by finite differences it would take twelve energies per
crystal and step, and a network in float32 has no digits left for them.

A calculator runs one crystal at a time, so a batch saves nothing. Where it raises for one of them there is no batch;
the relaxation then asks for each alone, and fails the one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

NEEDED = ("energy", "forces", "stress")


class AseModel(ModelInterface):
    """An ASE calculator behind torch-sim's interface, in float64."""

    def __init__(self, calculator: Calculator, device: torch.device) -> None:
        """Nothing is computed yet.

        Args:
            calculator: computes energy, forces and stress of Atoms; on which device is its own affair.
            device: of the tensors that go in and come out.

        Raises:
            ValueError: if the calculator has no energy, forces or stress.
        """
        super().__init__()
        if lacking := [name for name in NEEDED if name not in calculator.implemented_properties]:
            raise ValueError(
                f"the ASE calculator {type(calculator).__name__} computes no {', '.join(lacking)}, which relaxing a "
                "crystal and its cell needs: choose one that does"
            )
        self._calculator: Any = calculator
        self._device, self._dtype = device, torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms"

    def forward(self, state: SimState, **kwargs: object) -> dict[str, Tensor]:
        """Energy (B,), forces (N, 3) and stress (B, 3, 3), float64; see the head of this module for units.

        Args:
            state: periodic crystals.
            **kwargs: ignored; torch-sim's models accept any.

        Raises: Exception: what the calculator raises for one of the crystals.
        """
        sizes = torch.bincount(state.system_idx, minlength=state.n_systems).tolist()
        carts, numbers = state.positions.detach().cpu().split(sizes), state.atomic_numbers.cpu().split(sizes)
        cells = state.row_vector_cell.detach().cpu()
        found = [
            self._computed(Atoms(z.numpy(), r.numpy(), cell=h.numpy(), pbc=True))
            for z, r, h in zip(numbers, carts, cells, strict=True)
        ]
        energy, forces, stress = zip(*found, strict=True)
        return {
            "energy": torch.tensor(energy, dtype=self._dtype, device=self._device),
            "forces": torch.from_numpy(np.concatenate(forces)).to(self._device, self._dtype),
            "stress": torch.from_numpy(np.stack(stress)).to(self._device, self._dtype),
        }

    def _computed(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
        asked: Any = atoms  # ASE has no annotations
        asked.calc = self._calculator
        try:
            return asked.get_potential_energy(), asked.get_forces(), asked.get_stress(voigt=False)
        finally:
            # A calculator keeps the crystal before, with neighbour lists and results that depend on it: without this a
            # crystal's numbers could depend, in their last digits, on what was computed before it.
            self._calculator.reset()
