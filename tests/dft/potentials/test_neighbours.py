"""Neighbour lists against ASE's, and their reuse against a fresh search."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from dft.potentials.neighbours import CrystalEdges, EdgeBatch, NeighbourLists, TooDenseError

CUTOFF_ANG = 5.0


def random_crystal(rng: np.random.Generator, n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    cell = np.eye(3) * (n_atoms * 18.0) ** (1 / 3) + rng.normal(scale=0.5, size=(3, 3))
    return rng.uniform(size=(n_atoms, 3)) @ cell, cell


def edges_of(lists: NeighbourLists, geometries: list[tuple[np.ndarray, np.ndarray]]) -> EdgeBatch:
    cart = torch.from_numpy(np.concatenate([cart for cart, _ in geometries]))
    cell = torch.from_numpy(np.stack([cell for _, cell in geometries]))
    return lists.edges(cart, cell, [len(cart) for cart, _ in geometries], torch.float64)


def as_rows(source: np.ndarray, target: np.ndarray, vector: np.ndarray) -> np.ndarray:
    rows = np.column_stack([source, target, np.round(vector, 6) + 0.0])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("n_atoms", [1, 2, 7])
def test_edges_of_a_batch_are_those_ase_finds_one_by_one(n_atoms: int) -> None:
    rng = np.random.default_rng(n_atoms)
    geometries = [random_crystal(rng, n_atoms), random_crystal(rng, 3)]
    lists = NeighbourLists(CUTOFF_ANG)
    lists.extend(2)
    edges = edges_of(lists, geometries)
    expected, start = [], 0
    for cart, cell in geometries:
        source, target, vector = neighbor_list("ijD", Atoms("H" * len(cart), cart, cell=cell, pbc=True), CUTOFF_ANG)
        expected.append(as_rows(source + start, target + start, vector))
        start += len(cart)
    found = as_rows(edges.source.numpy(), edges.target.numpy(), edges.vector_ang.numpy())
    all_expected = np.concatenate(expected)
    np.testing.assert_allclose(found, all_expected[np.lexsort(all_expected.T)], atol=2e-6)


def test_reverse_of_every_edge_runs_back() -> None:
    lists = NeighbourLists(CUTOFF_ANG)
    lists.extend(1)
    edges = edges_of(lists, [random_crystal(np.random.default_rng(0), 5)])
    assert torch.equal(edges.source[edges.reverse], edges.target)
    torch.testing.assert_close(edges.vector_ang[edges.reverse], -edges.vector_ang)
    assert torch.equal(edges.reverse[edges.reverse], torch.arange(len(edges.source)))


def test_list_kept_through_strain_and_motion_equals_a_fresh_search() -> None:
    rng = np.random.default_rng(1)
    cart, cell = random_crystal(rng, 6)
    kept = NeighbourLists(CUTOFF_ANG)
    kept.extend(1)
    for _ in range(40):
        strain = np.eye(3) + rng.normal(scale=0.006, size=(3, 3))
        cart, cell = (cart + rng.normal(scale=0.03, size=cart.shape)) @ strain, cell @ strain
        fresh = NeighbourLists(CUTOFF_ANG, skin_ang=0.0)
        fresh.extend(1)
        a, b = edges_of(kept, [(cart, cell)]), edges_of(fresh, [(cart, cell)])
        assert len(a.source) == len(b.source)
        np.testing.assert_allclose(
            as_rows(a.source.numpy(), a.target.numpy(), a.vector_ang.numpy()),
            as_rows(b.source.numpy(), b.target.numpy(), b.vector_ang.numpy()),
            atol=2e-6,
        )
    assert 1 < kept.n_searches < 20, "the list should be reused, and renewed when the crystal has moved far"


def test_crystals_that_leave_and_enter_keep_the_lists_of_the_others() -> None:
    rng = np.random.default_rng(2)
    geometries = [random_crystal(rng, n) for n in (3, 4, 5)]
    lists = NeighbourLists(CUTOFF_ANG)
    lists.extend(3)
    edges_of(lists, geometries)
    lists.keep([0, 2])
    lists.extend(1)
    edges_of(lists, [geometries[0], geometries[2], geometries[1]])
    assert lists.n_searches == 4


def test_collapsed_cell_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(TooDenseError, match="more than .* neighbours per atom"):
        CrystalEdges.search(np.zeros((2, 3)), np.eye(3) * 0.1, CUTOFF_ANG)
