"""A crystal as a matrix of 64 rows: up to 60 sites, a row of zeros, three lattice rows. Exact both ways.

Rows 0 ... 59 hold fractional coordinates, sites by element in alphabetic order of the symbols, within an element as
stored, zeros after the last; row 60 is zero; rows 61 ... 63 are the lattice in angstrom, turned so that a lies along x
and b in the xy plane. The matrix knows no symmetry: another order of the sites, origin or cell is another matrix.

Shape letters: B crystals, A atoms of all crystals end to end.
Source: conditional generation and modification of crystals by diffusion and flow matching (AIRI), section on data
representation; the order of the sites is ours to fix, since the paper leaves it to its database.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from generative.config import ELEMENTS
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal, wrap_unit

N_ROWS = 64
MAX_SITES = 60
FIRST_LATTICE_ROW = 61

_ALPHABETIC = np.argsort(np.argsort(np.array(ELEMENTS)))
"""Place of the element of atomic number z + 1 among all symbols in alphabetic order."""


def too_large(n_atoms: int) -> str:
    """Why a crystal of so many atoms has no matrix, one sentence; empty where it has one."""
    if 1 <= n_atoms <= MAX_SITES:
        return ""
    return f"it has {n_atoms} atoms: a structure matrix has {MAX_SITES} rows for sites"


def in_row_order(atomic_numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Indices that bring sites into the order of the rows, (n,): by symbol, then as they come."""
    return np.argsort(_ALPHABETIC[np.asarray(atomic_numbers, dtype=np.int64) - 1], kind="stable")


def sorted_sites(batch: CrystalBatch) -> CrystalBatch:
    """The batch with the sites of every crystal in the order of the rows."""
    n_atoms, numbers = batch.n_atoms, batch.atomic_numbers
    rank = torch.as_tensor(_ALPHABETIC, device=numbers.device)[numbers - 1]
    rows = torch.arange(len(n_atoms), device=numbers.device)
    crystal = rows.repeat_interleave(n_atoms, output_size=len(numbers))
    order = torch.argsort(crystal * len(_ALPHABETIC) + rank, stable=True)
    return batch.replace(frac=batch.frac[order], atomic_numbers=numbers[order])


def upright(lattice_ang: Tensor) -> Tensor:
    """The same cells with a along x and b in the xy plane, right-handed, (B, 3, 3)."""
    turned: Tensor = torch.linalg.cholesky(lattice_ang @ lattice_ang.transpose(-1, -2))
    return turned


def to_matrix(batch: CrystalBatch) -> Tensor:
    """(B, 64, 3) of a batch whose sites are sorted (sorted_sites).

    Raises: ValueError: if a crystal has more than 60 atoms.
    """
    largest = int(batch.n_atoms.max())
    if problem := too_large(largest):
        raise ValueError(f"a crystal of the batch cannot become a matrix: {problem}")
    matrix = batch.frac.new_zeros(len(batch), N_ROWS, 3)
    matrix[:, :MAX_SITES][batch.mask(MAX_SITES)] = batch.frac
    matrix[:, FIRST_LATTICE_ROW:] = upright(batch.lattice_ang)
    return matrix


def number_rows(batch: CrystalBatch) -> Tensor:
    """Atomic numbers by row of a batch whose sites are sorted, 0 where no site is, (B, 64), int64."""
    rows = batch.atomic_numbers.new_zeros(len(batch), N_ROWS)
    rows[:, :MAX_SITES][batch.mask(MAX_SITES)] = batch.atomic_numbers
    return rows


def from_matrix(matrix: Tensor, numbers: Tensor) -> list[Crystal]:
    """Crystals of matrices, coordinates wrapped into [0, 1); padding and row 60 are not read.

    Args:
        matrix: (B, 64, 3).
        numbers: atomic numbers by row, (B, 64), as number_rows gives them.
    """
    values, kinds = matrix.detach().double().cpu().numpy(), numbers.cpu().numpy()
    crystals = []
    for one, kind in zip(values, kinds, strict=True):
        n = int((kind > 0).sum())
        crystals.append(Crystal(one[FIRST_LATTICE_ROW:].copy(), wrap_unit(one[:n]), kind[:n].astype(np.int16)))
    return crystals
