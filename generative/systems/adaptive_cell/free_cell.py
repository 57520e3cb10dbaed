"""Conventional cells by their free lengths, as unconstrained numbers; how these stretch an edge.

Angles are fixed by the crystal system, and so is which edges are equal: one to three numbers are free. A number p
stands for the length k log(1 + exp(p / k)), so whatever a random walk makes of it is a cell.

Conventions: lattice vectors are rows, angstrom, in the orientation of generative/crystal/cell_parameters.py; B
crystals, E edges. Source: arXiv:2310.10695, section 4.3, and its code (k = 10 A, which the paper does not name).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from generative.crystal.cell_parameters import lattice_rows

SOFTNESS_ANG = 10.0
"""k: below it lengths bend away from zero; far above it a number is its length."""

LOWEST_GROUP = 16
"""The first whose angles are all fixed; below stand the triclinic and monoclinic groups."""

GUARD = 1e-3
"""Added to the squared slope of an edge: one that no free number stretches says nothing of them."""


def length_of(number: Tensor) -> Tensor:
    """Length of an edge in angstrom from its unconstrained number."""
    return functional.softplus(number, beta=1 / SOFTNESS_ANG, threshold=100)


def number_of(length_ang: Tensor) -> Tensor:
    """Inverse of length_of; lengths above 0."""
    return length_ang + SOFTNESS_ANG * torch.log(-torch.expm1(-length_ang / SOFTNESS_ANG))


def owners(group: Tensor) -> Tensor:
    """Which number each of a, b and c has, (B,) -> (B, 3): 0 1 2, of tetragonal and hexagonal cells 0 0 1, of cubic
    ones 0 0 0.
    """
    rows = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 0, 0]], device=group.device)
    return rows[(group > 74).long() + (group > 194).long()]


def n_free(group: Tensor) -> Tensor:
    """How many numbers are free, (B,); 0 below group 16, whose angles would have to be free too."""
    return torch.where(group < LOWEST_GROUP, 0, owners(group).amax(1) + 1)


def is_free(group: Tensor) -> Tensor:
    """Which of three numbers are free, (B, 3)."""
    return torch.arange(3, device=group.device) < n_free(group)[:, None]


def angles_deg(group: Tensor) -> Tensor:
    """alpha, beta and gamma that the crystal system fixes, (B, 3), float64; of groups 16 and above."""
    right = torch.full((len(group), 3), 90.0, dtype=torch.float64, device=group.device)
    right[(group > 142) & (group < 195), 2] = 120.0
    return right


def numbers_of_cell(lengths_ang: Tensor, group: Tensor) -> Tensor:
    """The numbers of cells with these lengths, (B, 3) -> (B, 3); those that stand for no edge are 0."""
    own = owners(group)
    first = (own.unsqueeze(1) == torch.arange(3, device=group.device)[:, None]).long().argmax(2)  # an edge of each
    numbers = number_of(lengths_ang).gather(1, first)
    return torch.where(torch.arange(3, device=group.device) <= own.amax(1, keepdim=True), numbers, 0.0)


def lattice_of(numbers: Tensor, group: Tensor, angles: Tensor) -> Tensor:
    """Rows of the conventional cells, (B, 3), (B,), (B, 3) in degrees -> (B, 3, 3), angstrom."""
    return lattice_rows(length_of(numbers).gather(1, owners(group)), angles.to(numbers.dtype))


def slopes(
    frac: Tensor, numbers: Tensor, group: Tensor, angles: Tensor, crystal: Tensor, step_ang: float | None = None
) -> Tensor:
    """How the lengths of edges change with the free numbers while fractional coordinates stay, (E, 3).

    Args:
        frac: displacements along the edges in the conventional cell, (E, 3).
        numbers: (B, 3).
        group: (B,).
        angles: degrees, (B, 3).
        crystal: of each edge, (E,).
        step_ang: of the published central differences; None: the derivative itself.
    """
    if step_ang is not None:
        shifts = torch.eye(3, dtype=numbers.dtype, device=numbers.device) * step_ang
        lengths = [
            (frac.unsqueeze(1) @ lattice_of(numbers + sign * shift, group, angles)[crystal]).squeeze(1).norm(dim=1)
            for sign in (1, -1)
            for shift in shifts
        ]
        found = (torch.stack(lengths[:3], 1) - torch.stack(lengths[3:], 1)) / (2 * step_ang)
        return found * is_free(group)[crystal]
    lattice = lattice_of(numbers, group, angles)
    vector = (frac.unsqueeze(1) @ lattice[crystal]).squeeze(1)
    # d |v| / d l_k = f_k u_k . v / |v|, with u_k the direction of the k-th edge of the cell.
    along = (functional.normalize(lattice, dim=2)[crystal] @ vector.unsqueeze(2)).squeeze(2)
    by_length = frac * along / vector.norm(dim=1, keepdim=True)
    own = owners(group)
    by_length = by_length * torch.sigmoid(numbers.gather(1, own) / SOFTNESS_ANG)[crystal]
    return torch.zeros_like(by_length).scatter_add(1, own[crystal], by_length) * is_free(group)[crystal]


def noise_of_stretches(stretch: Tensor, slope: Tensor, crystal: Tensor, n_crystals: int) -> Tensor:
    """The change of the free numbers that stretches of single edges speak for: the mean of s G / (|G|^2 + GUARD).

    Args:
        stretch: s of each edge, (E,).
        slope: G of each edge, (E, 3).
        crystal: of each edge, (E,).
        n_crystals: B.

    Returns: (B, 3).
    """
    each = stretch.unsqueeze(1) * slope / (slope.square().sum(1, keepdim=True) + GUARD)
    n_edges = torch.bincount(crystal, minlength=n_crystals).clamp_min(1)
    return each.new_zeros(n_crystals, 3).index_add(0, crystal, each) / n_edges.unsqueeze(1)
