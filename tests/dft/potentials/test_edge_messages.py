"""SevenNet's sums in native code against the same sums by torch, whose slopes are autograd's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch_sim.io import structures_to_state

from dft.potentials.edge_messages import Neighbours
from dft.potentials.loading import load_potential
from dft.potentials.neighbours import EdgeBatch, NeighbourLists
from dft.potentials.sevennet import Convolution, SevenNetEnergy
from storage.native_code import is_installed

needs_numba = pytest.mark.skipif(not is_installed(), reason="numba is not installed")


def crystals() -> list[Structure]:
    """Three of unlike size and shape, atoms displaced at random; one of a single atom, its own neighbour."""
    rng = np.random.default_rng(5)
    rutile = [[0, 0, 0], [0.5, 0.5, 0.5], [0.3, 0.3, 0], [0.7, 0.7, 0], [0.2, 0.8, 0.5], [0.8, 0.2, 0.5]]
    made = [
        Structure(Lattice.tetragonal(4.6, 2.96), ["Ti", "Ti", *["O"] * 4], rutile),
        Structure(Lattice.cubic(3.3), ["Cs"], [[0, 0, 0]]),
        Structure(Lattice.orthorhombic(3.1, 3.3, 2.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ]
    for crystal in made:
        for i in range(len(crystal)):
            crystal.translate_sites([i], rng.normal(scale=0.05, size=3), frac_coords=False)
    return made


def graph_of(n_threads: int) -> tuple[EdgeBatch, torch.Tensor, Neighbours]:
    """Edges of the three within 5 A, the crystal of each atom, and who tells whom, for so many threads."""
    state = structures_to_state(crystals(), torch.device("cpu"), torch.float64)
    lists = NeighbourLists(5.0)
    lists.extend(3)
    edges = lists.edges(state.positions, state.row_vector_cell, [6, 1, 2], torch.float32)
    place = torch.arange(len(edges.source))
    bond = torch.unique(torch.minimum(place, edges.reverse), return_inverse=True)[1]
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    graph = Neighbours.of(edges, bond, state.system_idx)
    torch.set_num_threads(before)
    return edges, state.system_idx, graph


@needs_numba
@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("layer", [0, 1, 4])
def test_native_sums_and_their_slopes_are_those_of_torch(layer: int, n_threads: int) -> None:
    network = load_potential("SevenNet-l3i5", fallback=None, search=[]).model.network
    assert isinstance(network, SevenNetEnergy)
    convolution: Convolution = network.interactions[layer].convolution
    edges, _, graph = graph_of(n_threads)
    assert len(graph.parts) == min(n_threads, 3)
    rng = torch.Generator().manual_seed(layer)
    given = [torch.randn(9, 2 * g.degree + 1, g.channels, generator=rng) for g in convolution.groups]
    given += [torch.rand(len(edges.source) // 2, 8, generator=rng), torch.randn(len(edges.source), 16, generator=rng)]
    for one in given:
        one.requires_grad_(True)
    features = {group.degree: one for group, one in zip(convolution.groups, given, strict=False)}

    def told(dtype: torch.dtype) -> list[torch.Tensor]:
        """Sums, and their slopes against numbers at random; float64 is left to torch."""
        out = convolution.to(dtype)(
            {l1: x.to(dtype) for l1, x in features.items()}, *(x.to(dtype) for x in given[-2:]), graph
        )
        at_random = torch.Generator().manual_seed(7)
        total = sum((out[l3] * torch.randn(out[l3].shape, generator=at_random)).sum() for l3 in sorted(out))
        return [*(out[l3].detach() for l3 in sorted(out)), *torch.autograd.grad(total, given)]

    for found, expected in zip(told(torch.float32), told(torch.float64), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found.double() / scale, expected.double() / scale, rtol=0, atol=2e-6)


@needs_numba
def test_every_thread_has_whole_crystals_and_every_atom_is_told_once() -> None:
    for n_threads in range(1, 6):
        _, crystal, graph = graph_of(n_threads)
        atoms = [atom for first, last in graph.parts for atom in range(first, last)]
        assert atoms == list(range(9))
        assert all(last == 9 or crystal[last] != crystal[last - 1] for _, last in graph.parts)
