"""The symmetry-consistent multigraph against loops over images, and against other choices of the same crystal."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import spglib
import torch

from generative.crystal.wyckoff import space_group
from generative.systems.adaptive_cell.multigraph import GraphError, Multigraph, multigraph
from generative.systems.adaptive_cell.noise import CellState
from generative.systems.adaptive_cell.operations import group_operations
from tests.generative.systems.adaptive_cells import cell_of, random_sites, state_of

GROUPS = [(19, 3), (38, 2), (63, 2), (72, 2), (123, 1), (166, 2), (186, 2), (206, 1), (225, 2)]
"""P, A, C, I, R and F; orthorhombic to cubic."""

Edge = tuple[int, int, bool, tuple[float, ...]]
"""Source, target, whether it is an own image, vector."""


def graph_of(state: CellState, n_neighbours: int = 80) -> Multigraph:
    return multigraph(state.frac, state.lattice_ang, state.sites, n_neighbours)


def rounded(vector: np.ndarray) -> tuple[float, ...]:
    return tuple((np.round(vector, 5) + 0.0).tolist())


def looped(spacegroup: int, frac: np.ndarray, lattice: np.ndarray, n_neighbours: int, box: int = 3) -> Counter[Edge]:
    """Every edge and its inverse, image by image; operations from spglib's own tables."""
    found = spglib.get_symmetry_from_database(space_group(spacegroup).hall_number)
    assert found is not None
    operations = list(zip(found["rotations"], found["translations"], strict=True))
    cells = np.array(np.meshgrid(*[np.arange(-box, box + 1)] * 3)).reshape(3, -1).T
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    edges: set[Edge] = set()
    for i, here in enumerate(frac):
        near = []
        for j, there in enumerate(frac):
            for rotation, translation in operations:
                away = rotation @ there + translation - here
                away = (away - np.floor(away) + cells) @ lattice
                turn = lattice.T @ rotation @ np.linalg.inv(lattice.T)
                is_own = i == j and not np.array_equal(rotation, np.eye(3))
                near += [(np.linalg.norm(v), j, is_own, v, turn) for v in away if np.linalg.norm(v) > 0.15]
        near.sort(key=lambda one: one[0])
        assert near[n_neighbours][0] < (box - 0.5) * heights.min(), "the box is too small to be the truth"
        last = near[n_neighbours - 1][0] + 1e-4
        for _, j, is_own, vector, turn in (one for one in near if one[0] <= last):
            edges.add((i, j, is_own, rounded(vector)))
            edges.add((j, i, is_own, rounded(-turn.T @ vector)))
    return Counter(edges)


def edges_of(graph: Multigraph, first: int = 0, last: int | None = None) -> Counter[Edge]:
    """Those of the sites from first to last, counted from first."""
    rows = (
        range(len(graph.source)) if last is None else ((graph.source >= first) & (graph.source < last)).nonzero()[:, 0]
    )
    return Counter(
        (
            int(graph.source[e]) - first,
            int(graph.target[e]) - first,
            bool(graph.own_image[e]),
            rounded(graph.vector_ang[e].numpy()),
        )
        for e in rows
    )


def test_the_graph_of_a_batch_is_what_loops_over_images_find_in_each_crystal() -> None:
    crystals = [(number, random_sites(n, number)) for number, n in GROUPS]
    state = state_of([number for number, _ in crystals], [sites for _, sites in crystals])
    graph = graph_of(state, 40)
    first = 0
    for (number, sites), lattice in zip(crystals, state.lattice_ang.numpy(), strict=True):
        assert edges_of(graph, first, first + len(sites)) == looped(number, sites, lattice, 40), number
        first += len(sites)


@pytest.mark.parametrize(("edges", "box"), [((1.2, 9.0, 14.0), 8), ((11.0, 12.0, 2.1), 7), ((13.0, 14.0, 15.0), 2)])
def test_flat_and_wide_cells_lose_no_neighbour(edges: tuple[float, float, float], box: int) -> None:
    cell = cell_of(71, np.array(edges))
    state = state_of([71], [random_sites(1, 3)], [cell])
    n = 60 if min(edges) > 2 else 25
    assert edges_of(graph_of(state, n)) == looped(71, state.frac.numpy(), state.lattice_ang[0].numpy(), n, box=box)


def test_every_edge_has_its_reverse_which_leads_back_at_the_same_length() -> None:
    state = state_of([62, 227], [random_sites(3, 0), random_sites(2, 1)])
    graph = graph_of(state)
    assert torch.equal(graph.reverse[graph.reverse], torch.arange(len(graph.source)))
    assert torch.equal(graph.source[graph.reverse], graph.target)
    assert torch.allclose(graph.distance_ang[graph.reverse], graph.distance_ang, atol=1e-12)
    assert torch.bincount(graph.source).min() >= 80
    assert graph.distance_ang.min() > 0.15
    values = torch.arange(len(graph.source), dtype=torch.float64)
    assert torch.equal(graph.dense(values, 5).flatten()[graph.row], values)


def lengths_and_angles(graph: Multigraph, turned: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each pair of sites, sorted: lengths of edges, and cosines between an edge, seen from its target, and those
    that leave the target.
    """
    unit = graph.vector_ang / graph.distance_ang.unsqueeze(1)
    back = unit[graph.reverse] if turned else -unit
    found = []
    n = int(graph.source.max()) + 1
    for i in range(n):
        for j in range(n):
            there = (graph.source == i) & (graph.target == j)
            cosines = back[there] @ unit[graph.source == j].T
            found.append((graph.distance_ang[there].sort().values.numpy(), cosines.flatten().sort().values.numpy()))
    return found


@pytest.mark.parametrize(("spacegroup", "n_sites"), GROUPS)
def test_naming_a_site_by_another_image_changes_neither_lengths_nor_angles(spacegroup: int, n_sites: int) -> None:
    state = state_of([spacegroup], [random_sites(n_sites, spacegroup)])
    maps = group_operations(spacegroup)
    moved = state.frac.clone()
    for site in range(n_sites):
        g = 1 + (7 * site + spacegroup) % (len(maps.inverse) - 1)
        moved[site] = maps.rotation[g] @ moved[site] + maps.translation[g] + torch.tensor([1.0, -2.0, 3.0])
    before, after = (graph_of(one) for one in (state, replace(state, frac=moved)))
    for one, other in zip(lengths_and_angles(before, True), lengths_and_angles(after, True), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.shape == b.shape
            assert np.allclose(a, b, atol=1e-9)


def test_the_authors_angles_depend_on_which_image_was_named() -> None:
    state = state_of([225], [random_sites(2, 225)])
    maps = group_operations(225)
    moved = state.frac.clone()
    moved[0] = maps.rotation[17] @ moved[0] + maps.translation[17]
    before, after = (lengths_and_angles(graph_of(one), False) for one in (state, replace(state, frac=moved)))
    assert max(np.abs(one[1] - other[1]).max() for one, other in zip(before, after, strict=True)) > 0.01


def test_inverse_operations_undo_each_other_up_to_a_translation_of_the_cell() -> None:
    for number in (16, 41, 70, 98, 146, 167, 214, 227, 230):
        maps = group_operations(number)
        product = maps.rotation[maps.inverse] @ maps.rotation
        assert torch.equal(product, torch.eye(3, dtype=torch.float64).expand_as(product))
        shift = (maps.rotation[maps.inverse] @ maps.translation.unsqueeze(2)).squeeze(2) + maps.translation[
            maps.inverse
        ]
        assert torch.allclose(shift, shift.round(), atol=1e-9)


def test_numbers_that_are_none_are_refused() -> None:
    state = state_of([62], [random_sites(2, 0)])
    with pytest.raises(GraphError, match="not finite"):
        graph_of(replace(state, numbers=state.numbers * torch.nan))
