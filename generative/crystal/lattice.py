"""Six unconstrained numbers for a lattice: log-Cholesky, in units of an expected cell length.

The lower-triangular rows L (a along x, b in the xy plane) of a right-handed cell are unique up to rotation. With
s = (V_expected)^(1/3), where V_expected sums atomic volumes fitted to the training data, the numbers are
(log L11/s, log L22/s, log L33/s, L21/s, L31/s, L32/s): any six reals are a valid cell, and composition has already
told the scale. Source of the form: Crystalite and OMatG-flash use the same log-Cholesky factor; the scale is ours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LATTICE_DIM = 6
_ROW, _COLUMN = (1, 2, 2), (0, 0, 1)


def to_log_cholesky(lattice_ang: Tensor, scale_ang: Tensor) -> Tensor:
    """(B, 3, 3) rows in angstrom, (B,) expected cell length in angstrom -> (B, 6)."""
    lower = torch.linalg.cholesky(lattice_ang @ lattice_ang.transpose(-1, -2)) / scale_ang[:, None, None]
    return torch.cat([lower.diagonal(dim1=-2, dim2=-1).log(), lower[:, _ROW, _COLUMN]], dim=-1)


def from_log_cholesky(numbers: Tensor, scale_ang: Tensor) -> Tensor:
    """(B, 6), (B,) -> rows (B, 3, 3) in angstrom, lower triangular, positive volume. Inverse of to_log_cholesky.

    Logarithms are clamped to +-5 (a factor of 148 either way) so that a wild network cannot overflow a cell.
    """
    lattice = torch.diag_embed(numbers[:, :3].clamp(-5, 5).exp())
    lattice[:, _ROW, _COLUMN] = numbers[:, 3:]
    return lattice * scale_ang[:, None, None]


def fit_atomic_volumes(counts: np.ndarray, volumes_ang3: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Atomic volumes whose sum predicts a cell's volume, by ridge least squares on volume per atom.

    Args:
        counts: atoms of each element (by atomic number) in each crystal, (n, Z_max + 1).
        volumes_ang3: cell volumes, (n,), A^3.
        ridge: pull toward the mean volume per atom, in crystals' weight; an element never seen gets the mean.
    Returns: (Z_max + 1,), A^3, at least 2.
    """
    n_atoms = counts.sum(1)
    fraction = counts / n_atoms[:, None]
    per_atom = volumes_ang3 / n_atoms
    mean = per_atom.mean()
    gram = fraction.T @ fraction + ridge * np.eye(counts.shape[1])
    fitted = mean + np.linalg.solve(gram, fraction.T @ (per_atom - mean))
    return np.asarray(np.maximum(fitted, 2.0))
