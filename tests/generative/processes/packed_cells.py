"""Crystals end to end in double precision, without the room's own batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pymatgen.core.structure import Structure
from torch import Tensor


class Cells(NamedTuple):
    """Crystals end to end: frac (A, 3), types (A,), lattice_ang (B, 3, 3), crystal (A,), n_atoms (B,)."""

    frac: Tensor
    types: Tensor
    lattice_ang: Tensor
    crystal: Tensor
    n_atoms: Tensor


def packed(structures: list[Structure]) -> Cells:
    """Niggli-reduced, as the models' data are."""
    reduced = [structure.get_reduced_structure() for structure in structures]
    n_atoms = torch.tensor([len(s) for s in reduced])
    return Cells(
        frac=torch.cat([torch.tensor(s.frac_coords, dtype=torch.float64) % 1.0 for s in reduced]),
        types=torch.tensor([site.specie.Z for s in reduced for site in s]),
        lattice_ang=torch.stack([torch.tensor(s.lattice.matrix.copy(), dtype=torch.float64) for s in reduced]),
        crystal=torch.arange(len(reduced)).repeat_interleave(n_atoms),
        n_atoms=n_atoms,
    )
