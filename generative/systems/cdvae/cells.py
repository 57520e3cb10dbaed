"""Cells in which the CDVAE family places atoms, and the six numbers it knows a lattice by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from generative.crystal.cell_parameters import cell_parameters


class Cells(NamedTuple):
    """The cells in which atoms are denoised.

    Attributes:
        lattice_ang: rows in pymatgen's orientation, (B, 3, 3).
        n_atoms: (B,).
        crystal: index of each atom's crystal, (A,).
    """

    lattice_ang: Tensor
    n_atoms: Tensor
    crystal: Tensor

    @classmethod
    def of(cls, lattice_ang: Tensor, n_atoms: Tensor, n_atoms_total: int) -> Cells:
        """Cells with these atoms; the total is asked for because reading it from a tensor would stall a GPU."""
        rows = torch.arange(len(n_atoms), device=n_atoms.device)
        return cls(lattice_ang, n_atoms, rows.repeat_interleave(n_atoms, output_size=n_atoms_total))

    def mean(self, per_atom: Tensor) -> Tensor:
        """Mean over atoms of each crystal, then over crystals: (A,) -> scalar."""
        summed = per_atom.new_zeros(len(self.n_atoms)).index_add(0, self.crystal, per_atom)
        return (summed / self.n_atoms).mean()

    def centred(self, frac: Tensor) -> Tensor:
        """Coordinates minus their plain mean in each crystal, (A, 3)."""
        summed = frac.new_zeros(len(self.n_atoms), 3).index_add(0, self.crystal, frac)
        return frac - (summed / self.n_atoms.unsqueeze(-1))[self.crystal]


def lattice_numbers(lattice_ang: Tensor, n_atoms: Tensor) -> Tensor:
    """Lengths / N^(1/3) in angstrom and angles in degrees, (B, 6)."""
    lengths, angles = cell_parameters(lattice_ang)
    return torch.cat([lengths / n_atoms.to(lengths).pow(1 / 3).unsqueeze(-1), angles], dim=-1)
