"""The structure matrix: exact both ways for real and made crystals, sites in one order, too large ones refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.config import ELEMENTS
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.structure_matrix import (
    FIRST_LATTICE_ROW,
    MAX_SITES,
    N_ROWS,
    from_matrix,
    in_row_order,
    number_rows,
    sorted_sites,
    to_matrix,
    too_large,
    upright,
)


def random_crystals(n: int) -> list[Crystal]:
    rng = np.random.default_rng(0)
    made = []
    for n_atoms in np.linspace(1, MAX_SITES, n).astype(int):
        lattice = Lattice.from_parameters(*rng.uniform(4, 12, 3), *rng.uniform(65, 115, 3))
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        frac = rng.random((n_atoms, 3))
        made.append(Crystal(lattice.matrix @ turn, frac, rng.integers(1, 95, n_atoms).astype(np.int16)))
    return made


def test_crystals_come_back_from_their_matrices_as_the_same_crystals() -> None:
    crystals = random_crystals(12)
    batch = sorted_sites(CrystalBatch.pack(crystals))
    matrix = to_matrix(batch)
    assert matrix.shape == (12, N_ROWS, 3)
    matcher = StructureMatcher()
    for before, after in zip(crystals, from_matrix(matrix, number_rows(batch)), strict=True):
        assert sorted(after.atomic_numbers) == sorted(before.atomic_numbers)
        found = matcher.get_rms_dist(before.to_structure(), after.to_structure())
        assert found is not None
        assert found[0] < 1e-5


def test_sites_stand_by_symbol_and_what_is_left_is_zero() -> None:
    frac = [[0, 0, 0], [0, 0.5, 0.5], [0.5] * 3, [0.5, 0, 0.5], [0.5, 0.5, 0]]
    perovskite = Structure(Lattice.cubic(3.9), ["Sr", "O", "Ti", "O", "O"], frac)
    batch = sorted_sites(CrystalBatch.pack([Crystal.from_structure(perovskite)]))
    numbers, matrix = number_rows(batch)[0], to_matrix(batch)[0]
    assert [ELEMENTS[z - 1] for z in numbers[:5]] == ["O", "O", "O", "Sr", "Ti"]
    assert not numbers[5:].any()
    torch.testing.assert_close(matrix[:3], torch.tensor([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]))
    assert not matrix[5:FIRST_LATTICE_ROW].any()
    torch.testing.assert_close(matrix[FIRST_LATTICE_ROW:], 3.9 * torch.eye(3))


def test_the_order_of_rows_is_that_of_sorted_symbols() -> None:
    numbers = np.random.default_rng(1).integers(1, 104, 300)
    symbols = [ELEMENTS[z - 1] for z in numbers[in_row_order(numbers)]]
    assert symbols == sorted(symbols)


def test_cells_are_turned_so_that_a_lies_along_x_and_b_in_the_xy_plane() -> None:
    from ase.geometry import cellpar_to_cell

    for crystal in random_crystals(6):
        lattice = Lattice(crystal.lattice_ang)
        expected = cellpar_to_cell(lattice.parameters)
        turned = upright(torch.as_tensor(crystal.lattice_ang)[None])[0]
        np.testing.assert_allclose(turned.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("n_atoms", [0, 61, 200])
def test_crystals_beyond_sixty_sites_are_refused_with_both_numbers(n_atoms: int) -> None:
    assert str(n_atoms) in too_large(n_atoms)
    assert "60" in too_large(n_atoms)
    assert too_large(60) == ""


def test_a_batch_with_a_crystal_that_is_too_large_is_refused() -> None:
    crystal = Crystal(20 * np.eye(3), np.random.default_rng(0).random((61, 3)), np.full(61, 6, dtype=np.int16))
    with pytest.raises(ValueError, match="61 atoms"):
        to_matrix(CrystalBatch.pack([crystal]))
