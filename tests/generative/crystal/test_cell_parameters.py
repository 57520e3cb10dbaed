"""Cell lengths and angles against pymatgen's, there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice

from generative.crystal.cell_parameters import cell_parameters, lattice_rows


def possible_cells(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths of 2 to 10 A and angles that a cell can have, away from flat ones."""
    rng = torch.Generator().manual_seed(0)
    lengths = 2 + 8 * torch.rand(n, 3, generator=rng, dtype=torch.float64)
    return lengths, 65 + 50 * torch.rand(n, 3, generator=rng, dtype=torch.float64)


def test_rows_are_those_of_pymatgen() -> None:
    lengths, angles = possible_cells(100)
    for rows, abc, degrees in zip(lattice_rows(lengths, angles), lengths.tolist(), angles.tolist(), strict=True):
        np.testing.assert_allclose(rows.numpy(), Lattice.from_parameters(*abc, *degrees).matrix, atol=1e-10)


def test_lengths_and_angles_survive_any_rotation_of_the_rows() -> None:
    lengths, angles = possible_cells(100)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    found = cell_parameters(lattice_rows(lengths, angles) @ turn)
    torch.testing.assert_close(found[0], lengths)
    torch.testing.assert_close(found[1], angles)


def test_angles_that_no_cell_can_have_give_a_flat_cell_with_a_slope() -> None:
    angles = torch.tensor([[30.0, 30.0, 120.0]], dtype=torch.float64, requires_grad=True)
    rows = lattice_rows(torch.tensor([[3.0, 3.0, 3.0]], dtype=torch.float64), angles)
    assert float(torch.linalg.det(rows)) == pytest.approx(0.0, abs=0.02)
    rows.sum().backward()
    assert angles.grad is not None
    assert angles.grad.isfinite().all()
