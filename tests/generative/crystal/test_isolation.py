"""Atoms without a neighbour in reach of a network. Truth: pymatgen's neighbour lists."""

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.crystal.isolation import REACH_ANG, isolated_atoms, isolation_reason
from generative.networks.crystal_graph import CUTOFF_ANG, NoGraphError, crystal_graph
from generative.networks.dimenet import DimeNetConfig
from generative.networks.gemnet import GemNetConfig
from generative.networks.pair_transformer import PairGeometry
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig
from generative.training.data import TrainingSet
from generative.training.loop import trainable_part


def drawn_structure(rng: np.random.Generator) -> Structure:
    """One to four atoms in a sheared cell of 5 to 14 A."""
    n_atoms = int(rng.integers(1, 5))
    matrix = rng.uniform(5, 14) * (np.eye(3) + rng.normal(scale=0.15, size=(3, 3)))
    return Structure(Lattice(matrix), ["Na"] * n_atoms, rng.uniform(-1, 2, size=(n_atoms, 3)))


def truly_nearest_ang(structure: Structure) -> np.ndarray:
    reach = max(structure.lattice.abc) + 1.0
    return np.array([min(site.nn_distance for site in near) for near in structure.get_all_neighbors(reach)])


def test_isolated_atoms_are_those_without_neighbours_in_pymatgens_list() -> None:
    rng = np.random.default_rng(0)
    n_isolated = n_partly = 0
    for _ in range(200):
        structure = drawn_structure(rng)
        alone = np.flatnonzero(truly_nearest_ang(structure) > REACH_ANG)
        found = isolated_atoms(Crystal.from_structure(structure))
        assert found.tolist() == alone.tolist()
        assert bool(isolation_reason(Crystal.from_structure(structure))) == (len(alone) > 0)
        n_isolated += len(alone) > 0
        n_partly += 0 < len(alone) < len(structure)
    assert 20 < n_isolated < 180
    assert n_partly > 3


def test_the_reach_is_the_shortest_of_the_networks() -> None:
    reaches = (GemNetConfig().cutoff_ang, DimeNetConfig().cutoff_ang, PairGeometry().cutoff_ang, CUTOFF_ANG)
    assert min(reaches) == REACH_ANG


def test_crystals_with_isolated_atoms_are_left_out_of_the_training_with_their_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    structures = [drawn_structure(rng) for _ in range(30)]
    names = [f"c{i}" for i in range(30)]
    data = TrainingSet([Crystal.from_structure(s) for s in structures], [1] * 30, [None] * 30, names)
    kept, left_out = trainable_part(data, CrystalFlow(CrystalFlowConfig()), tmp_path, 1)
    expected = {n for n, s in zip(names, structures, strict=True) if truly_nearest_ang(s).max() > REACH_ANG}
    assert left_out.keys() == expected
    assert 3 < len(expected) < 27
    assert set(left_out.values()) == {
        f"it has an atom without a neighbour within {REACH_ANG:g} A, the reach of the networks"
    }
    assert set(kept.ids) == set(names) - expected


def test_a_crystal_graph_refuses_an_atom_that_it_cannot_join() -> None:
    box = Crystal.from_structure(Structure(Lattice.cubic(15.0), ["Mg"], [[0, 0, 0]]))
    with pytest.raises(NoGraphError, match="no neighbour within 8 A"):
        crystal_graph(box)
