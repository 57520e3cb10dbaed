"""Bonds against pymatgen's CrystalNN and StructureGraph, on real crystals and on those that are hard to place."""

from __future__ import annotations

import logging
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from pymatgen.analysis.graphs import StructureGraph
from pymatgen.analysis.local_env import CrystalNN
from pymatgen.core.lattice import Lattice

from generative.crystal import bonds
from generative.crystal.bonds import Bonds, crystal_nn_bonds, pack_bonds
from generative.crystal.crystals import Crystal
from generative.datasets.bilayers import monolayers, start_of
from generative.native import voronoi as kernel
from tests.real_crystals import built, in_space_group, real_crystals

STRATEGY = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)


def by_pymatgen(crystal: Crystal) -> Counter[tuple[int, ...]]:
    """Edges (source, target, image) as CDVAE reads them off pymatgen's graph, with how often each is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = StructureGraph.from_local_env_strategy(crystal.to_structure(), STRATEGY)
    edges: Counter[tuple[int, ...]] = Counter()
    for i, j, bond in graph.graph.edges(data=True):
        image = tuple(int(k) for k in bond["to_jimage"])
        edges[j, i, *image] += 1
        edges[i, j, *(-k for k in image)] += 1
    return edges


def edges_of(found: Bonds | None) -> Counter[tuple[int, ...]]:
    assert found is not None
    return Counter(map(tuple, np.column_stack([found.source, found.target, found.image]).tolist()))


def one(crystal: Crystal) -> Counter[tuple[int, ...]]:
    return edges_of(crystal_nn_bonds([crystal])[0])


SPECIAL = {
    "copper, one atom": in_space_group(225, Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]]),
    "tungsten, one atom": in_space_group(229, Lattice.cubic(3.16), ["W"], [[0, 0, 0]]),
    "simple cubic": built(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]]),
    "magnesium": in_space_group(194, Lattice.hexagonal(3.21, 5.21), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
    "salt": in_space_group(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "diamond": in_space_group(227, Lattice.cubic(3.57), ["C"], [[0, 0, 0]]),
    "rutile": in_space_group(136, Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "perovskite": in_space_group(
        221, Lattice.cubic(3.91), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    ),
    "a nitrogen molecule in a box": built(Lattice.cubic(9), ["N", "N"], [[0, 0, 0], [0.122, 0, 0]]),
    "an atom that nothing is near": built(Lattice.cubic(12), ["Na"], [[0.2, 0.3, 0.4]]),
    "a sheet of graphene": built(Lattice.hexagonal(2.46, 16), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]),
    "two atoms at one place": built(Lattice.cubic(4), ["Na", "Cl", "Cl"], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5]]),
    "an element without a radius": built(Lattice.cubic(3), ["Og"], [[0, 0, 0]]),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_crystals_have_the_bonds_of_pymatgen(name):
    assert one(SPECIAL[name]) == by_pymatgen(SPECIAL[name])


@pytest.mark.parametrize(("name", "atoms_max"), [("perov_5_val", 5), ("carbon_24_val", 6), ("mp_20_biternary_val", 12)])
def test_real_crystals_have_the_bonds_of_pymatgen(name, atoms_max):
    crystals = real_crystals(name, 70, atoms_max)
    assert [edges_of(found) for found in crystal_nn_bonds(crystals)] == [by_pymatgen(c) for c in crystals]


def test_sites_at_the_faces_of_slabs_have_the_bonds_of_pymatgen_and_are_placed_here():
    """Where vacuum leaves a Voronoi cell open, the search radius grows as pymatgen's does."""
    slabs = list(real_crystals("c2db_val", 12, 8))
    layers = monolayers(("Ga", "In"), ("S", "Se"))
    for number, height_ang in enumerate((12.0, 20.0, 35.0)):
        made = start_of(layers[number], height_ang)
        slabs.append(Crystal(made.lattice.matrix, made.frac_coords, np.array(made.atomic_numbers, dtype=np.int16)))
    assert [edges_of(found) for found in crystal_nn_bonds(slabs)] == [by_pymatgen(slab) for slab in slabs]
    left = sum(len(bonds._compiled_bonds(slab)[1]) for slab in slabs)
    assert left < 0.1 * sum(len(slab.frac) for slab in slabs)


@pytest.mark.parametrize("seed", range(3))
def test_random_crystals_in_skewed_cells_have_the_bonds_of_pymatgen(seed):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        n_atoms = int(rng.integers(1, 7))
        lengths = (n_atoms * rng.uniform(8, 25)) ** (1 / 3) * rng.uniform(0.6, 1.6, 3)
        crystal = built(
            Lattice.from_parameters(*lengths, *rng.uniform(55, 120, 3)),
            ["C"] * n_atoms,
            rng.random((n_atoms, 3)).tolist(),
        )
        assert one(crystal) == by_pymatgen(crystal)


def test_few_sites_are_left_to_pymatgen():
    crystals = real_crystals("mp_20_biternary_val", 70, 20)
    left = sum(len(bonds._compiled_bonds(crystal)[1]) for crystal in crystals)
    assert left < 0.05 * sum(len(crystal.frac) for crystal in crystals)


def test_without_compiled_code_pymatgen_places_every_site(monkeypatch):
    compiled = one(SPECIAL["rutile"])
    monkeypatch.setattr(
        bonds, "_compiled_bonds", lambda crystal: (np.zeros((0, 5), np.int64), range(len(crystal.frac)))
    )
    assert one(SPECIAL["rutile"]) == compiled


def test_a_bond_that_only_one_of_its_sites_finds_is_one_bond():
    found = np.array([[0, 1, 0, 0, 1], [2, 2, 0, -1, 0], [1, 2, 0, 0, 0], [2, 1, 0, 0, 0]])
    expected = {(1, 0, 0, 0, 1), (0, 1, 0, 0, -1), (2, 2, 0, 1, 0), (2, 2, 0, -1, 0), (2, 1, 0, 0, 0), (1, 2, 0, 0, 0)}
    rows = bonds._both_ways(found)
    assert len(rows) == 6
    assert set(map(tuple, rows.tolist())) == expected


def test_edges_come_in_pairs_that_run_opposite_ways():
    found = crystal_nn_bonds([SPECIAL["perovskite"]])[0]
    assert found is not None
    assert (found.source[::2] == found.target[1::2]).all()
    assert (found.target[::2] == found.source[1::2]).all()
    assert (found.image[::2] == -found.image[1::2]).all()
    assert (found.source.dtype, found.target.dtype, found.image.dtype) == (np.int32, np.int32, np.int16)


def test_an_edge_of_copper_is_as_long_as_its_nearest_neighbours_are_far():
    copper = SPECIAL["copper, one atom"]
    found = crystal_nn_bonds([copper])[0]
    assert found is not None
    lengths = np.linalg.norm(found.image @ copper.lattice_ang, axis=1)
    np.testing.assert_allclose(lengths, np.full(12, 3.61 / np.sqrt(2)), rtol=1e-12)


def test_images_are_meant_for_the_coordinates_as_stored():
    crystal = SPECIAL["rutile"]
    moves = np.array([[0, 0, 0], [1, 0, -2], [0, 3, 0], [-1, -1, 1], [0, 0, 2], [4, 0, 0]])
    moved = Crystal(np.asfortranarray(crystal.lattice_ang), crystal.frac + moves, crystal.atomic_numbers)
    expected = Counter(
        (s, t, *(np.array(image) - moves[s] + moves[t]).tolist()) for (s, t, *image) in one(crystal).elements()
    )
    assert one(moved) == expected


@pytest.mark.parametrize("seed", range(20))
def test_the_coordination_number_is_the_most_probable_one(seed):
    rng = np.random.default_rng(seed)
    weights = np.sort(np.append(rng.integers(1, 1001, rng.integers(0, 12)), 1000))[::-1] / 1000
    edges = [*np.unique(weights)[::-1].tolist(), 0]
    probability = {(weights >= w).sum(): STRATEGY._semicircle_integral(edges, i) for i, w in enumerate(edges[:-1])}
    expected = max(probability, key=lambda number: probability[number])
    assert kernel.most_probable_coordination(weights) == (expected, kernel.PLACED)


def test_what_is_no_crystal_has_no_bonds_and_a_reason_in_the_log(caplog):
    broken = Crystal(np.full((3, 3), np.nan), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    flat = Crystal(np.diag([4.0, 4.0, 0.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    thin = Crystal(np.diag([1e-4, 1e-4, 9.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    with caplog.at_level(logging.WARNING, logger="generative.crystal.bonds"):
        found = crystal_nn_bonds([broken, SPECIAL["salt"], flat, thin])
    assert [one is None for one in found] == [True, False, True, True]
    assert len(caplog.records) == 3
    assert "crystal 3 of 4 has no bonds: ValueError" in caplog.text
    assert "images of atoms" in caplog.text


def test_workers_give_the_same_bonds_and_progress_counts_to_the_end():
    crystals = list(SPECIAL.values())
    seen: list[tuple[int, int]] = []
    together = crystal_nn_bonds(crystals, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert list(map(edges_of, together)) == list(map(edges_of, crystal_nn_bonds(crystals)))
    assert seen == [(i + 1, len(crystals)) for i in range(len(crystals))]


def test_the_cache_gives_back_bonds_and_refusals_without_computing(tmp_path, monkeypatch):
    salt, copper = SPECIAL["salt"], SPECIAL["copper, one atom"]
    flat = Crystal(np.diag([4.0, 4.0, 0.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    first = crystal_nn_bonds([salt, flat, salt], cache=tmp_path / "kept")
    calls = []
    real = bonds._bonds_of
    monkeypatch.setattr(bonds, "_bonds_of", lambda crystal: calls.append(crystal) or real(crystal))
    again = crystal_nn_bonds([flat, copper, salt], cache=tmp_path / "kept")
    assert calls == [copper]
    assert again[0] is None
    assert edges_of(again[2]) == edges_of(first[0])


def test_another_version_of_pymatgen_finds_nothing_in_the_cache(tmp_path, monkeypatch):
    crystal_nn_bonds([SPECIAL["salt"]], cache=tmp_path)
    monkeypatch.setattr(bonds, "version", lambda name: "0.0.0")
    calls = []
    crystal_nn_bonds([SPECIAL["salt"]], cache=tmp_path, progress=lambda done, total: calls.append(total))
    assert calls == [1]


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / bonds.CACHE_FILE).write_bytes(b"something else, longer than a header of SQLite" * 100)
    with pytest.raises(ValueError, match="is not a cache of bonds"):
        crystal_nn_bonds([SPECIAL["salt"]], cache=tmp_path)


def test_packed_bonds_count_atoms_through():
    salt, copper = crystal_nn_bonds([SPECIAL["salt"], SPECIAL["copper, one atom"]])
    assert salt is not None
    assert copper is not None
    packed = pack_bonds([salt, copper, salt], [2, 1, 2])
    assert all(part.dtype == torch.int64 for part in packed)
    assert packed.source.tolist() == [*salt.source, *(copper.source + 2), *(salt.source + 3)]
    assert packed.target.tolist() == [*salt.target, *(copper.target + 2), *(salt.target + 3)]
    assert packed.image.tolist() == [*salt.image.tolist(), *copper.image.tolist(), *salt.image.tolist()]


def test_no_crystals_pack_to_no_edges():
    assert crystal_nn_bonds([]) == []
    packed = pack_bonds([], [])
    assert packed.source.shape == (0,)
    assert packed.image.shape == (0, 3)


def test_a_number_of_atoms_must_be_given_for_every_crystal():
    salt = crystal_nn_bonds([SPECIAL["salt"]])[0]
    assert salt is not None
    with pytest.raises(ValueError, match="expected as many"):
        pack_bonds([salt], [2, 2])
