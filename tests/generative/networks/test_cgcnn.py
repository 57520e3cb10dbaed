"""Crystal graphs against pymatgen's neighbour lists, and the network's symmetries and arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from scipy.special import expit

from generative.crystal.crystals import Crystal, wrap_unit
from generative.networks.cgcnn import CGCNN, CGCNNConfig, GraphBatch, pack
from generative.networks.crystal_graph import (
    CUTOFF_ANG,
    N_NEIGHBOURS,
    SHELL_ANG,
    CrystalGraph,
    NoGraphError,
    crystal_graph,
    pairs_within,
)
from tests.servers.real import real_records

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.91), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
)
TUNGSTEN = Structure.from_spacegroup("Im-3m", Lattice.cubic(3.16), ["W"], [[0, 0, 0]])
DIBORIDE = Structure.from_spacegroup(
    "P6/mmm", Lattice.hexagonal(3.03, 3.23), ["Ti", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
)
MADE = (ROCK_SALT, PEROVSKITE, TUNGSTEN, DIBORIDE)


@pytest.fixture(scope="module")
def network() -> CGCNN:
    """A network with random weights and moved statistics, so that nothing cancels."""
    torch.manual_seed(3)
    made = CGCNN(CGCNNConfig(width=16, n_convolutions=3, n_features=12)).double()
    with torch.no_grad():
        for name, value in made.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0.0, 0.2)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    made.mean_ev_per_atom.fill_(-1.3)
    made.spread_ev_per_atom.fill_(0.7)
    return made.eval()


def features(network: CGCNN, *structures: Structure) -> np.ndarray:
    graphs = [crystal_graph(Crystal.from_structure(structure)) for structure in structures]
    with torch.inference_mode():
        return network.features(pack(graphs, torch.float64)).numpy()


def real_structures(n: int) -> list[Structure]:
    return [record.structure for record in real_records(n)]


def as_set(source: np.ndarray, target: np.ndarray, image: np.ndarray) -> set[tuple[int, ...]]:
    return set(zip(source.tolist(), target.tolist(), *np.rint(image).astype(int).T.tolist(), strict=True))


@pytest.mark.parametrize("reach_ang", [2.5, 4.1, 8.0])
def test_pairs_and_their_images_are_pymatgens_on_real_crystals(reach_ang: float) -> None:
    n_edges = 0
    for structure in real_structures(40):
        crystal = Crystal.from_structure(structure)
        found = pairs_within(crystal.frac, crystal.lattice_ang, reach_ang)
        source, target, image, distance = crystal.to_structure().get_neighbor_list(reach_ang)
        assert as_set(found.source, found.target, found.image) == as_set(source, target, image)
        np.testing.assert_allclose(np.sort(found.distance_ang), np.sort(distance), atol=1e-9)
        n_edges += len(distance)
    assert n_edges > 100


def test_pairs_of_a_needle_cell_with_atoms_outside_it_are_pymatgens() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        cell = np.array([[1.9, 0.0, 0.0], [14.0, 5.0, 0.0], [-9.0, 3.0, 11.0]]) + rng.normal(scale=0.3, size=(3, 3))
        frac = rng.uniform(-2, 2, size=(4, 3))
        found = pairs_within(frac, cell, 6.0)
        source, target, image, _ = Structure(cell, ["Na"] * 4, frac).get_neighbor_list(6.0)
        assert as_set(found.source, found.target, found.image) == as_set(source, target, image)


def test_a_search_in_blocks_is_the_search_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    crystal = Crystal.from_structure(PEROVSKITE * (2, 2, 1))
    whole = pairs_within(crystal.frac, crystal.lattice_ang, 6.0)
    monkeypatch.setattr("generative.networks.crystal_graph._BLOCK", 1500)
    parts = pairs_within(crystal.frac, crystal.lattice_ang, 6.0)
    assert as_set(whole.source, whole.target, whole.image) == as_set(parts.source, parts.target, parts.image)


def test_edges_are_the_twelve_nearest_by_pymatgen_and_the_whole_last_shell() -> None:
    shared = 0
    for structure in [*real_structures(40), *MADE]:
        crystal = Crystal.from_structure(structure)
        graph = crystal_graph(crystal)
        source, _, _, distance = crystal.to_structure().get_neighbor_list(CUTOFF_ANG)
        for atom in range(len(structure)):
            near = np.sort(distance[source == atom])
            last = near[N_NEIGHBOURS - 1]
            mine = graph.source == atom
            np.testing.assert_allclose(graph.distance_ang[mine], near[near <= last + SHELL_ANG], atol=1e-9)
            assert graph.weight[mine].sum() == pytest.approx(N_NEIGHBOURS)
            inside = graph.distance_ang[mine] < last - SHELL_ANG
            assert (graph.weight[mine][inside] == 1).all()
            shared += int(inside.sum() < N_NEIGHBOURS < mine.sum())
    assert shared > 50


def test_rock_salt_counts_six_whole_neighbours_and_half_of_each_of_the_next_twelve() -> None:
    graph = crystal_graph(Crystal.from_structure(ROCK_SALT.get_primitive_structure()))
    first = graph.source == 0
    np.testing.assert_allclose(graph.distance_ang[first], [4.21 / 2] * 6 + [4.21 / math.sqrt(2)] * 12)
    np.testing.assert_allclose(graph.weight[first], [1.0] * 6 + [0.5] * 12)


def test_an_atom_with_few_neighbours_within_the_cut_off_keeps_those() -> None:
    chain = Structure(Lattice.orthorhombic(3.0, 20.0, 20.0), ["C"], [[0, 0, 0]])
    graph = crystal_graph(Crystal.from_structure(chain))
    assert graph.distance_ang.tolist() == [3.0, 3.0, 6.0, 6.0]
    assert graph.weight.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("cell", "numbers", "said"),
    [
        (np.eye(3) * 9.0, [11], "atom 0 has no neighbour within 8 A"),
        (np.eye(3) * 4.0, [104], "atomic number 104: expected 1 to 103"),
        (np.eye(3) * 4.0, [0], "atomic number 0"),
        (np.eye(3) * 4.0, [], "no atoms"),
        (np.full((3, 3), np.nan), [11], "not finite"),
        (np.diag([4.0, 4.0, 0.0]), [11], "volume is 0"),
        (np.diag([1e-4, 1e-3, 1e3]), [11], "images of the cell"),
    ],
)
def test_what_is_no_graph_says_why(cell: np.ndarray, numbers: list[int], said: str) -> None:
    crystal = Crystal(cell, np.zeros((len(numbers), 3)), np.array(numbers, dtype=np.int16))
    with pytest.raises(NoGraphError, match=said):
        crystal_graph(crystal)


def rotation(rng: np.random.Generator) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return turn * np.sign(np.linalg.det(turn))


def test_features_do_not_change_with_orientation_origin_or_order(network: CGCNN) -> None:
    rng = np.random.default_rng(0)
    for structure in [*real_structures(30), *MADE]:
        crystal = Crystal.from_structure(structure)
        order = rng.permutation(len(structure))
        moved = Crystal(
            crystal.lattice_ang @ rotation(rng).T,
            wrap_unit(crystal.frac + rng.uniform(size=3))[order],
            crystal.atomic_numbers[order],
        )
        graphs = [crystal_graph(crystal), crystal_graph(moved)]
        with torch.inference_mode():
            one, other = network.features(pack(graphs, torch.float64)).numpy()
        np.testing.assert_allclose(other, one, atol=1e-9)


def test_features_of_a_supercell_are_those_of_the_cell(network: CGCNN) -> None:
    for structure in [*real_structures(20), *MADE]:
        sheared = structure.copy()
        sheared.make_supercell([[1, 1, 0], [0, 1, 0], [0, -1, 2]])
        one, two, three = features(network, structure, structure * (2, 1, 2), sheared)
        np.testing.assert_allclose(two, one, atol=1e-8)
        np.testing.assert_allclose(three, one, atol=1e-8)


def test_features_tell_real_crystals_apart(network: CGCNN) -> None:
    made = features(network, *real_structures(30))
    apart = np.linalg.norm(made[:, None] - made[None], axis=-1)[np.triu_indices(30, 1)]
    assert apart.min() > 1e-4


def test_a_batch_gives_the_features_energies_and_gradients_of_its_crystals_alone(network: CGCNN) -> None:
    graphs = [crystal_graph(Crystal.from_structure(s)) for s in [*real_structures(6), *MADE]]
    together = network(pack(graphs, torch.float64))
    together.sum().backward()
    of_batch = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    for graph, energy in zip(graphs, together.tolist(), strict=True):
        alone = network(pack([graph], torch.float64))
        assert alone.item() == pytest.approx(energy, abs=1e-11)
        alone.sum().backward()  # gradients add up
    for parameter, whole in zip(network.parameters(), of_batch, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), whole.numpy(), atol=1e-10)
    network.zero_grad()


def test_autograd_by_distance_agrees_with_finite_differences(network: CGCNN) -> None:
    batch = pack([crystal_graph(Crystal.from_structure(DIBORIDE))], torch.float64)

    def energy(distance_ang: torch.Tensor) -> torch.Tensor:
        return network(GraphBatch(*batch[:5], distance_ang, batch.weight))

    assert torch.autograd.gradcheck(energy, batch.distance_ang.clone().requires_grad_())


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def by_loops(network: CGCNN, graph: CrystalGraph) -> float:
    """The published equation edge by edge, with the weights of atom, neighbour and edge as one matrix."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        spread = np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return (x - state[f"{name}.running_mean"]) / spread * state[f"{name}.weight"] + state[f"{name}.bias"]

    atoms = state["embedding.weight"][graph.atomic_numbers]
    width = atoms.shape[1]
    for i in range(network.config.n_convolutions):
        at = f"convolutions.{i}"
        matrix = np.concatenate([state[f"{at}.{part}.weight"] for part in ("own", "neighbour", "edge")], axis=1)
        summed = np.zeros_like(atoms)
        for s, t, d, w in zip(graph.source, graph.target, graph.distance_ang, graph.weight, strict=True):
            gaussians = np.exp(-(((d - np.arange(0.0, 8.0001, 0.2)) / 0.2) ** 2))
            mixed = matrix @ np.concatenate([atoms[s], atoms[t], gaussians]) + state[f"{at}.own.bias"]
            mixed = normed(mixed, f"{at}.norm_edge")
            summed[s] += w * expit(mixed[:width]) * softplus(mixed[width:])
        atoms = softplus(atoms + normed(summed, f"{at}.norm_atom"))
    pooled = softplus(atoms @ state["hidden.weight"].T + state["hidden.bias"]).mean(axis=0)
    energy = pooled @ state["last.weight"][0] + state["last.bias"][0]
    return float(energy * state["spread_ev_per_atom"] + state["mean_ev_per_atom"])


def test_the_network_computes_the_published_equation(network: CGCNN) -> None:
    for structure in MADE:
        graph = crystal_graph(Crystal.from_structure(structure.get_primitive_structure()))
        with torch.inference_mode():
            found = network(pack([graph], torch.float64)).item()
        assert found == pytest.approx(by_loops(network, graph), abs=1e-6)  # centres are stored in float32


def test_no_graphs_are_no_batch() -> None:
    with pytest.raises(ValueError, match="no graphs"):
        pack([])
