"""Cell lengths and angles, and the lattice rows that pymatgen gives them: c along z, a in the xz plane.

Fractional coordinates say nothing of a cell's orientation. Whoever predicts Cartesian vectors from lengths and angles
needs one orientation per cell, and this is CDVAE's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cell_parameters(lattice_ang: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, 3, 3) in angstrom -> lengths a, b, c (B, 3) in angstrom and angles alpha, beta, gamma (B, 3) in degrees.

    alpha lies between b and c, beta between a and c, gamma between a and b.
    """
    lengths = lattice_ang.norm(dim=-1)
    unit = lattice_ang / lengths.unsqueeze(-1)
    second, third = unit[:, (1, 0, 0)], unit[:, (2, 2, 1)]
    cosine = (second * third).sum(-1).clamp(-1.0, 1.0)
    return lengths, torch.rad2deg(torch.acos(cosine))


def lattice_rows(lengths_ang: Tensor, angles_deg: Tensor) -> Tensor:
    """Lengths (B, 3) and angles (B, 3) in degrees -> rows (B, 3, 3), angstrom, in pymatgen's orientation.

    Angles that no cell can have give a flat one (the angle between the projections of a and b is clamped), as in
    pymatgen's Lattice.from_parameters.
    """
    cosine, sine = torch.cos(torch.deg2rad(angles_deg)), torch.sin(torch.deg2rad(angles_deg))
    cos_alpha, cos_beta, cos_gamma = cosine.unbind(-1)
    sin_alpha, sin_beta, _ = sine.unbind(-1)
    tiny = torch.finfo(lengths_ang.dtype).tiny
    product = sin_alpha * sin_beta
    # acos has no finite slope at +-1: the bound keeps a flat cell from making the gradient infinite.
    bound = 1.0 - 1e-6
    cos_star = ((cos_alpha * cos_beta - cos_gamma) / product.where(product.abs() > tiny, tiny)).clamp(-bound, bound)
    sin_star = (1.0 - cos_star.square()).sqrt()
    a, b, c = lengths_ang.unbind(-1)
    zero = torch.zeros_like(a)
    rows = (
        torch.stack([a * sin_beta, zero, a * cos_beta], dim=-1),
        torch.stack([-b * sin_alpha * cos_star, b * sin_alpha * sin_star, b * cos_alpha], dim=-1),
        torch.stack([zero, zero, c], dim=-1),
    )
    return torch.stack(rows, dim=-2)
