"""DimeNet++ per edge: sums over directions against torch-geometric's sums over triplets; what the answers hang on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn.models.dimenet import InteractionPPBlock

from generative.networks.edge_dimenet import DirectionalInteraction, DirectionSums, EdgeDimeNet, EdgeDimeNetConfig
from generative.systems.adaptive_cell.multigraph import Multigraph, multigraph
from generative.systems.adaptive_cell.operations import group_operations
from tests.generative.systems.adaptive_cells import random_sites, state_of

SMALL = EdgeDimeNetConfig(
    message_width=16, output_width=12, triplet_width=8, basis_width=4, n_blocks=2, n_spherical=5, n_radial=4
)
STATE = state_of([62, 225], [random_sites(2, 5), random_sites(2, 6)])
NUMBERS, LEVEL = torch.tensor([11, 17, 22, 8]), torch.tensor([0, 0, 3, 3])


def graph_of(frac: Tensor = STATE.frac) -> Multigraph:
    return multigraph(frac, STATE.lattice_ang, STATE.sites, 20)


def network(config: EdgeDimeNetConfig = SMALL, seed: int = 0) -> EdgeDimeNet:
    torch.manual_seed(seed)
    made = EdgeDimeNet(config, 2).double().eval()
    for output in made.outputs:
        torch.nn.init.normal_(output.last.weight)
    return made


def test_sums_over_directions_are_sums_over_all_triplets() -> None:
    graph, n_sites = graph_of(), len(STATE.frac)
    n_spherical, n_radial = 5, 4
    torch.manual_seed(1)
    plain = InteractionPPBlock(16, 8, 4, n_spherical, n_radial, 1, 2, functional.silu).double()
    ours = DirectionalInteraction(16, 8, 4, n_spherical, n_radial, 1, 2, functional.silu).double()
    ours.load_state_dict(plain.state_dict())
    n_edges = len(graph.source)
    x, radial = torch.randn(n_edges, 16).double(), torch.randn(n_edges, n_radial).double()
    spherical = torch.randn(n_edges, n_spherical, n_radial).double()

    # Every pair of an edge e and one that leaves its target, e itself seen from there: its reverse.
    told, by = (graph.target.unsqueeze(1) == graph.source.unsqueeze(0)).nonzero().unbind(1)
    unit = (graph.vector_ang / graph.distance_ang.unsqueeze(1)).numpy()
    cosine = (unit[graph.reverse[told]] * unit[by]).sum(1)
    legendre = np.stack(
        [np.polynomial.legendre.legval(cosine, np.eye(n_spherical)[degree]) for degree in range(n_spherical)], axis=1
    )
    basis = (spherical[by] * torch.from_numpy(legendre).unsqueeze(2)).flatten(1)
    expected = plain(x, radial, basis, by, told)

    sums = DirectionSums(n_spherical).double()
    leaving = graph.dense(sums.directions(torch.from_numpy(unit)), n_sites)
    found = ours(x, radial, spherical, (leaving, leaving), graph, sums)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_answers_do_not_change_when_a_site_is_named_by_another_image() -> None:
    maps = group_operations(62)
    moved = STATE.frac.clone()
    moved[0] = maps.rotation[5] @ moved[0] + maps.translation[5]
    net = network()
    answers = [net(NUMBERS, LEVEL, graph) for graph in (graph_of(), graph_of(moved))]
    for column in range(2):
        a, b = (answer[:, column].sort().values for answer in answers)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_with_the_authors_angles_they_do() -> None:
    maps = group_operations(225)
    moved = STATE.frac.clone()
    moved[2] = maps.rotation[17] @ moved[2] + maps.translation[17]
    net = network(replace(SMALL, turned=False))
    a, b = (net(NUMBERS, LEVEL, graph)[:, 0].sort().values for graph in (graph_of(), graph_of(moved)))
    assert (a - b).abs().max() > 1e-4


def test_the_authors_angles_are_those_between_vectors_as_they_lie() -> None:
    # In a group without rotations the two are the same; see that the sign of the way back is right.
    state = state_of([16], [random_sites(1, 2)])
    graph = multigraph(state.frac, state.lattice_ang, state.sites, 20)
    unit = graph.vector_ang / graph.distance_ang.unsqueeze(1)
    translation = ~graph.own_image
    assert torch.allclose(unit[graph.reverse][translation], -unit[translation], atol=1e-12)


def test_an_edge_beyond_the_cutoff_says_nothing_to_others() -> None:
    net = network(replace(SMALL, cutoff_ang=2.5))
    graph = graph_of()
    far = graph.distance_ang > 2.5
    longer = replace(graph, distance_ang=torch.where(far, graph.distance_ang + 1, graph.distance_ang))
    assert 0 < int(far.sum()) < len(far)
    a, b = (net(NUMBERS, LEVEL, one)[~far] for one in (graph, longer))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("what", ["element", "level"])
def test_answers_hang_on_element_and_level(what: str) -> None:
    net, graph = network(), graph_of()
    numbers = NUMBERS + 1 if what == "element" else NUMBERS
    level = LEVEL + 1 if what == "level" else LEVEL
    assert (net(NUMBERS, LEVEL, graph) - net(numbers, level, graph)).abs().max() > 1e-3


def test_published_sizes_have_the_published_tables() -> None:
    made = EdgeDimeNet(EdgeDimeNetConfig(), 2)
    assert made.embedding.element.weight.shape == (96, 64)
    assert made.embedding.element.weight.abs().max() <= math.sqrt(3)
    assert made.embedding.level.weight.shape == (20, 64)
    assert len(made.outputs) == 5


def test_an_element_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="atomic number 96"):
        network()(NUMBERS.where(NUMBERS != 8, torch.tensor(96)), LEVEL, graph_of())
