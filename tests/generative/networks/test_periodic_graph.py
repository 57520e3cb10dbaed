"""Neighbours against brute force, pymatgen and ASE on real crystals; symmetries; strange cells; triplets."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from scipy.spatial.transform import Rotation
from torch import Tensor

from generative.crystal.crystals import Crystal
from generative.networks.periodic_graph import (
    SELF_ANG2,
    Edges,
    NeighbourSearch,
    measured,
    triplets_through,
)
from tests.cifs import parse_cif
from tests.generative.networks.edge_pairs import triplets_into

DATA = Path(os.environ.get("HULLWARD_ASSETS") or Path(__file__).resolve().parents[4] / "shared") / "data"
CUTOFF_ANG = 7.0
Images = Literal["all", "paper"]


def packed(crystals: list[Crystal]) -> tuple[Tensor, Tensor, Tensor]:
    """frac (A, 3), lattice (B, 3, 3), atoms per crystal (B,), float64."""
    return (
        torch.tensor(np.concatenate([c.frac for c in crystals])),
        torch.tensor(np.stack([c.lattice_ang for c in crystals])),
        torch.tensor([len(c.frac) for c in crystals]),
    )


def made(seed: int, n_crystals: int = 6, skew: float = 1.0) -> list[Crystal]:
    """Crystals of 1 to 6 atoms at random in random, skewed cells of either hand."""
    rng = np.random.default_rng(seed)
    cells = rng.uniform(2.5, 6.0, (n_crystals, 1, 1)) * (np.eye(3) + skew * rng.uniform(-0.5, 0.5, (n_crystals, 3, 3)))
    cells[0] = -cells[0]
    return [
        Crystal(cell, rng.random((1 + i % 6, 3)), np.ones(1 + i % 6, dtype=np.int16)) for i, cell in enumerate(cells)
    ]


@pytest.fixture(scope="module")
def real() -> list[Crystal]:
    """Some of each benchmark set, an atom or two moved off its site so that no two distances are equal."""
    crystals = []
    for name in ("perov_5_val", "carbon_24_val", "mp_20_biternary_val"):
        path = DATA / f"{name}.csv.gz"
        if not path.is_file():
            pytest.skip(f"{path.name} not found: set HULLWARD_ASSETS to the folder that holds data/")
        crystals += [parse_cif(text, 30) for text in pd.read_csv(path, nrows=8)["cif"]]
    rng = np.random.default_rng(4)
    return [
        Crystal(c.lattice_ang, (c.frac + rng.normal(0, 0.01, c.frac.shape)) % 1.0, c.atomic_numbers) for c in crystals
    ]


def by_brute_force(
    frac: Tensor, lattice_ang: Tensor, n_atoms: Tensor, cutoff_ang: float, reach: int
) -> list[tuple[float, int, int, tuple[int, ...]]]:
    """(squared distance, source, target, image) of every pair with offsets up to +-reach, atoms in [0, 1)."""
    found, first = [], 0
    for cell, n in zip(lattice_ang.numpy(), n_atoms.tolist(), strict=True):
        offsets = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
        atoms = frac[first : first + n].numpy()
        for target, source in itertools.product(range(n), repeat=2):
            squared = (((atoms[source] - atoms[target] + offsets) @ cell) ** 2).sum(1)
            for k in np.flatnonzero((squared > SELF_ANG2) & (squared <= cutoff_ang**2)):
                found.append((squared[k], first + source, first + target, tuple(offsets[k].tolist())))
        first += n
    return found


def named(edges: Edges) -> list[tuple[int, int, tuple[int, ...]]]:
    return list(
        zip(edges.source.tolist(), edges.target.tolist(), [tuple(i) for i in edges.image.tolist()], strict=True)
    )


@pytest.mark.parametrize(("images", "reach"), [("paper", 1), ("all", 6)])
def test_it_finds_what_a_search_through_every_image_finds(images: Images, reach: int) -> None:
    frac, lattice_ang, n_atoms = packed(made(0, 8))
    edges = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, images=images)(frac)
    expected = by_brute_force(frac, lattice_ang, n_atoms, CUTOFF_ANG, reach)
    assert sorted(named(edges)) == sorted(pair[1:] for pair in expected)
    assert len(set(named(edges))) == len(edges.source)


def test_real_crystals_have_the_neighbours_that_ase_and_pymatgen_find(real: list[Crystal]) -> None:
    edges = NeighbourSearch(*packed(real)[1:], CUTOFF_ANG)(packed(real)[0])
    found, first, lengths = set(named(edges)), 0, 0
    for crystal in real:
        atoms = Atoms(numbers=crystal.atomic_numbers, cell=crystal.lattice_ang, scaled_positions=crystal.frac, pbc=True)
        target, source, image, _ = neighbor_list("ijSd", atoms, CUTOFF_ANG)
        named_by_ase = zip(source + first, target + first, map(tuple, image), strict=True)
        assert {(int(s), int(t), tuple(map(int, i))) for s, t, i in named_by_ase} <= found
        structure = Structure(Lattice(crystal.lattice_ang), crystal.atomic_numbers, crystal.frac)
        _, _, _, distance = structure.get_neighbor_list(CUTOFF_ANG)
        inside = (edges.target >= first) & (edges.target < first + len(atoms))
        torch.testing.assert_close(
            edges.distance_ang[inside].sort().values, torch.tensor(np.sort(distance)), rtol=0, atol=1e-9
        )
        first, lengths = first + len(atoms), lengths + len(target)
    assert lengths == len(edges.source)


@pytest.mark.parametrize("images", ["all", "paper"])
def test_at_most_the_nearest_are_kept_and_no_nearer_one_is_lost(images: Images, real: list[Crystal]) -> None:
    frac, lattice_ang, n_atoms = packed(made(1, 12) + real)
    everything = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, images=images)(frac)
    nearest = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20, images)(frac)
    assert set(named(nearest)) <= set(named(everything))
    for atom in range(len(frac)):
        expected = everything.distance_ang[everything.target == atom].sort().values[:20]
        torch.testing.assert_close(nearest.distance_ang[nearest.target == atom].sort().values, expected)


def test_atoms_far_from_even_get_all_their_nearest_neighbours() -> None:
    # One atom alone among a cluster: the sphere that an even spread would fill holds nothing.
    cluster = 0.02 * torch.rand(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frac = torch.cat([cluster, torch.tensor([[0.5, 0.5, 0.5]], dtype=torch.float64)])
    edges = NeighbourSearch(11.0 * torch.eye(3).double()[None], torch.tensor([10]), 10.0, 6)(frac)
    assert torch.bincount(edges.target).tolist() == [6] * 10
    everything = NeighbourSearch(11.0 * torch.eye(3).double()[None], torch.tensor([10]), 10.0)(frac)
    expected = everything.distance_ang[everything.target == 9].sort().values[:6]
    torch.testing.assert_close(edges.distance_ang[edges.target == 9].sort().values, expected)


def test_equally_near_neighbours_are_taken_by_source_and_then_by_image() -> None:
    # Rock salt's first twelve are six of the other kind and twelve of the own, of which six have a place.
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.0), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    lattice_ang = torch.tensor(np.array(structure.lattice.matrix))[None]
    edges = NeighbourSearch(lattice_ang, torch.tensor([8]), CUTOFF_ANG, 12)(torch.tensor(structure.frac_coords))
    everything = NeighbourSearch(lattice_ang, torch.tensor([8]), CUTOFF_ANG)(torch.tensor(structure.frac_coords))
    for atom in range(8):
        second = [
            name
            for name, distance in zip(named(everything), everything.distance_ang.tolist(), strict=True)
            if name[1] == atom and math.isclose(distance, math.sqrt(8.0))
        ]
        taken = [
            name
            for name, distance in zip(named(edges), edges.distance_ang.tolist(), strict=True)
            if name[1] == atom and distance > 2.5
        ]
        assert len(second) == 12
        assert taken == sorted(second, key=lambda name: (name[0], name[2]))[:6]


@pytest.mark.parametrize("images", ["all", "paper"])
def test_the_symmetric_graph_is_half_of_the_nearest_and_its_reverse(images: Images, real: list[Crystal]) -> None:
    frac, lattice_ang, n_atoms = packed(made(2, 12) + real)
    nearest = named(NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20, images)(frac))
    half = {(s, t, i) for s, t, i in nearest if s < t or (s == t and i < (0, 0, 0))}
    edges = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20, images, symmetric=True)(frac)
    assert sorted(named(edges)) == sorted(half | {(t, s, (-i[0], -i[1], -i[2])) for s, t, i in half})
    assert edges.reverse is not None
    assert (edges.target.diff() >= 0).all()
    torch.testing.assert_close(edges.source[edges.reverse], edges.target)
    torch.testing.assert_close(edges.image[edges.reverse], -edges.image)
    torch.testing.assert_close(edges.vector_ang[edges.reverse], -edges.vector_ang)
    torch.testing.assert_close(edges.reverse[edges.reverse], torch.arange(len(edges.source)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_moving_or_turning_the_crystal_or_choosing_other_images_changes_no_edge(symmetric: bool) -> None:
    frac, lattice_ang, n_atoms = packed(made(3))
    edges = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20, symmetric=symmetric)(frac)
    rng = torch.Generator().manual_seed(5)
    shift = torch.rand(len(n_atoms), 3, generator=rng, dtype=torch.float64).repeat_interleave(n_atoms, 0)
    whole = torch.randint(-3, 4, frac.shape, generator=rng)
    turn = torch.tensor(Rotation.random(random_state=1).as_matrix())
    other = NeighbourSearch(lattice_ang @ turn.T, n_atoms, CUTOFF_ANG, 20, symmetric=symmetric)(frac + shift + whole)
    back = other.image + whole[other.source] - whole[other.target]
    assert sorted(named(other._replace(image=back))) == sorted(named(edges))
    vectors = dict(zip(named(edges), edges.vector_ang @ turn.T, strict=True))
    for name, vector in zip(named(other._replace(image=back)), other.vector_ang, strict=True):
        torch.testing.assert_close(vector, vectors[name], rtol=0, atol=1e-9)


def test_offsets_of_the_paper_count_from_the_wrapped_coordinates() -> None:
    frac, lattice_ang, n_atoms = packed(made(3))
    search = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, images="paper")
    whole = torch.randint(-3, 4, frac.shape, generator=torch.Generator().manual_seed(5))
    edges, other = search(frac), search(frac + whole)
    torch.testing.assert_close(other.vector_ang, edges.vector_ang)
    assert named(other._replace(image=other.image + whole[other.source] - whole[other.target])) == named(edges)


def test_a_crystal_in_another_order_of_atoms_or_batch_has_the_same_edges() -> None:
    crystals = made(4)
    frac, lattice_ang, n_atoms = packed(crystals)
    edges = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20)(frac)
    order = [np.random.default_rng(i).permutation(len(c.frac)) for i, c in enumerate(crystals)]
    turned = [
        Crystal(c.lattice_ang, c.frac[o], c.atomic_numbers) for c, o in zip(crystals[::-1], order[::-1], strict=True)
    ]
    other = NeighbourSearch(*packed(turned)[1:], CUTOFF_ANG, 20)(packed(turned)[0])
    firsts = np.cumsum([0, *n_atoms.tolist()])
    name = np.concatenate([firsts[i] + order[i] for i in reversed(range(len(crystals)))])
    renamed = [(int(name[s]), int(name[t]), i) for s, t, i in named(other)]
    assert sorted(renamed) == sorted(named(edges))


def test_single_precision_finds_the_same_neighbours(real: list[Crystal]) -> None:
    frac, lattice_ang, n_atoms = packed(real)
    edges = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20)(frac)
    single = NeighbourSearch(lattice_ang.float(), n_atoms, CUTOFF_ANG, 20)(frac.float())
    # Which of an atom's own images, equally far, are among the twenty depends on rounding; how far they are does not.
    torch.testing.assert_close(single.distance_ang.sort().values, edges.distance_ang.float().sort().values)


def test_large_batches_are_searched_in_portions_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    frac, lattice_ang, n_atoms = packed(made(6))
    whole = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20)(frac)
    monkeypatch.setattr("generative.networks.periodic_graph._N_ROWS_AT_A_TIME", 7)
    search = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG, 20)
    assert len(search._portions) > 5
    assert named(search(frac)) == named(whole)


@pytest.mark.parametrize("images", ["all", "paper"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_crystals_without_a_neighbour_in_reach_have_no_edges(images: Images, symmetric: bool) -> None:
    wide = torch.stack([20.0 * torch.eye(3), 3.0 * torch.eye(3), 30.0 * torch.eye(3)]).double()
    frac = torch.zeros(3, 3, dtype=torch.float64)
    some = NeighbourSearch(wide, torch.ones(3, dtype=torch.int64), CUTOFF_ANG, 20, images, symmetric)(frac)
    assert set(some.target.tolist()) == {1}
    none = NeighbourSearch(wide[::2], torch.ones(2, dtype=torch.int64), CUTOFF_ANG, 20, images, symmetric)(frac[:2])
    assert [tuple(t.shape) for t in none[:5]] == [(0,), (0,), (0, 3), (0, 3), (0,)]
    for pairs in (triplets_into(none, 2), triplets_through(none, 2, False), triplets_through(none, 2, True)):
        assert [len(t) for t in pairs] == [0, 0]


def test_a_cell_of_one_atom_has_its_own_images_as_neighbours() -> None:
    edges = NeighbourSearch(3.0 * torch.eye(3).double()[None], torch.tensor([1]), 3.5)(torch.full((1, 3), 0.3).double())
    assert sorted(tuple(i) for i in edges.image.tolist()) == sorted(
        tuple(sign * int(k == axis) for k in range(3)) for axis in range(3) for sign in (-1, 1)
    )


def test_atoms_on_the_same_spot_or_without_coordinates_share_no_edge() -> None:
    frac = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + 1e-4], [math.nan, 0.0, 0.0], [0.6, 0.2, 0.3]]).double()
    edges = NeighbourSearch(5.0 * torch.eye(3).double()[None], torch.tensor([4]), 4.0)(frac)
    assert {(s, t) for s, t, _ in named(edges)} == {(0, 3), (3, 0), (1, 3), (3, 1)}


def flat_cells() -> dict[str, Tensor]:
    return {
        "without volume": torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]]),
        "all zero": torch.zeros(3, 3),
        "flat as a sheet": torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 1e-3]]),
        "thin as a needle": torch.tensor([[0.05, 0, 0], [0, 0.05, 0], [0, 0, 9.0]]),
        "collapsed": 0.5 * torch.eye(3),
    }


@pytest.mark.parametrize("name", flat_cells())
def test_a_cell_with_too_many_images_is_searched_to_the_next_ones_only(name: str) -> None:
    frac, lattice_ang, n_atoms = packed(made(7, 3))
    cells = torch.stack([lattice_ang[0], flat_cells()[name].double(), lattice_ang[2]])
    edges = NeighbourSearch(cells, n_atoms, CUTOFF_ANG)(frac)
    strange = n_atoms[0] <= edges.target
    strange &= edges.target < n_atoms[:2].sum()
    assert edges.distance_ang.isfinite().all()
    assert int(strange.sum()) <= 27 * 4
    sound = NeighbourSearch(lattice_ang, n_atoms, CUTOFF_ANG)(frac)
    crystal = torch.arange(3).repeat_interleave(n_atoms)
    for b in (0, 2):  # the others' neighbours are as they were
        mine = [
            [n for n, t in zip(named(e), e.target.tolist(), strict=True) if crystal[t] == b] for e in (edges, sound)
        ]
        assert mine[0] == mine[1]


def test_a_skewed_cell_of_ordinary_volume_is_searched_in_full() -> None:
    # Rows of a 3 A cube's lattice in a far from reduced basis, so hundreds of offsets lie in the box that holds all.
    basis = torch.tensor([[1, 0, 0], [3, 1, 0], [-2, 2, 1]]).double()
    frac = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    skewed = NeighbourSearch(3.0 * basis[None], torch.tensor([2]), CUTOFF_ANG)(frac)
    cube = NeighbourSearch(3.0 * torch.eye(3).double()[None], torch.tensor([2]), CUTOFF_ANG)(frac @ basis)
    torch.testing.assert_close(skewed.distance_ang.sort().values, cube.distance_ang.sort().values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_lattice_that_is_not_finite_is_refused_by_number(value: float) -> None:
    lattice_ang = torch.eye(3).repeat(3, 1, 1)
    lattice_ang[2, 1, 1] = value
    with pytest.raises(ValueError, match="lattice of crystal 2 of 3 is not finite"):
        NeighbourSearch(lattice_ang, torch.ones(3, dtype=torch.int64), 7.0)


def test_limits_that_make_no_sense_are_refused() -> None:
    cell, one = 3.0 * torch.eye(3)[None], torch.ones(1, dtype=torch.int64)
    for cutoff_ang, most in ((0.0, 20), (math.nan, None), (7.0, 0)):
        with pytest.raises(ValueError, match="expected a length above zero"):
            NeighbourSearch(cell, one, cutoff_ang, most)
    with pytest.raises(ValueError, match='expected "all" or "paper"'):
        NeighbourSearch(cell, one, 7.0, images="some")  # type: ignore[arg-type]


@pytest.mark.parametrize(("edge_ang", "n_in_reach"), [(2.52, 134), (2.0, 248), (1.6, 530)])
def test_a_cell_as_dense_as_any_crystal_or_twice_that_is_searched_in_full(edge_ang: float, n_in_reach: int) -> None:
    # Diamond's primitive cell has an edge of 2.52 A; the counts are of lattice points of an fcc lattice in a sphere.
    cell = Lattice.from_parameters(edge_ang, edge_ang, edge_ang, 60, 60, 60).matrix
    offsets = np.array(list(itertools.product(range(-9, 10), repeat=3)))
    assert (np.linalg.norm(offsets @ cell, axis=1) <= CUTOFF_ANG).sum() - 1 == n_in_reach
    search = NeighbourSearch(torch.tensor(np.array(cell))[None], torch.tensor([1]), CUTOFF_ANG)
    assert len(search(torch.zeros(1, 3).double()).source) == n_in_reach


def test_lengths_and_vectors_have_the_gradients_of_their_definition() -> None:
    frac, lattice_ang, n_atoms = packed(made(8, 3))
    frac.requires_grad_()
    lattice_ang.requires_grad_()
    edges = NeighbourSearch(lattice_ang.detach(), n_atoms, 4.0, 6)(frac.detach())
    crystal = torch.arange(3).repeat_interleave(n_atoms)

    def lengths(frac: Tensor, lattice_ang: Tensor) -> tuple[Tensor, Tensor]:
        again = measured(frac, lattice_ang, crystal, edges.source, edges.target, edges.image)
        return again.vector_ang, again.distance_ang

    assert torch.autograd.gradcheck(lengths, (frac, lattice_ang))
    through = NeighbourSearch(lattice_ang, n_atoms, 4.0, 6)(frac)
    expected = torch.autograd.grad(lengths(frac, lattice_ang)[1].sum(), (frac, lattice_ang))
    for found, wanted in zip(
        torch.autograd.grad(through.distance_ang.sum(), (frac, lattice_ang)), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted)


def shuffled(edges: Edges) -> Edges:
    order = torch.randperm(len(edges.source), generator=torch.Generator().manual_seed(0))
    return Edges(*(t[order] for t in edges[:5]))


def test_triplets_at_an_atom_are_all_pairs_of_different_edges_to_it() -> None:
    frac, lattice_ang, n_atoms = packed(made(9, 4))
    edges = shuffled(NeighbourSearch(lattice_ang, n_atoms, 5.0, 8)(frac))
    first, second = triplets_into(edges, len(frac))
    target = edges.target.tolist()
    expected = [(b, c) for c, b in itertools.product(range(len(target)), repeat=2) if b != c and target[b] == target[c]]
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == sorted(expected)


@pytest.mark.parametrize("keep_returning", [False, True])
def test_triplets_through_an_atom_are_all_paths_of_two_edges_that_do_not_return(keep_returning: bool) -> None:
    frac, lattice_ang, n_atoms = packed(made(9, 4))
    edges = shuffled(NeighbourSearch(lattice_ang, n_atoms, 5.0, 8)(frac))
    expected = []
    for one, other in itertools.product(range(len(edges.source)), repeat=2):
        if edges.target[one] != edges.source[other]:
            continue
        same_atom = edges.source[one] == edges.target[other]
        same_place = same_atom and (edges.image[one] + edges.image[other] == 0).all()
        if not (same_place if keep_returning else same_atom):
            expected.append((one, other))
    first, second = triplets_through(edges, len(frac), keep_returning)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == sorted(expected)
    assert (second.diff() >= 0).all()


def test_an_atom_alone_in_its_cell_keeps_paths_between_its_images_if_asked() -> None:
    edges = NeighbourSearch(3.0 * torch.eye(3).double()[None], torch.tensor([1]), 3.5)(torch.zeros(1, 3).double())
    assert len(triplets_through(edges, 1, keep_returning=False)[0]) == 0
    assert len(triplets_through(edges, 1, keep_returning=True)[0]) == 6 * 5
