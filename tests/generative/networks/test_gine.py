"""GINE against a loop over atoms and edges, and its symmetries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from generative.networks.gine import GINE
from generative.networks.periodic_graph import Edges, NeighbourSearch, measured

N_ATOMS = torch.tensor([2, 3, 1])
CRYSTAL = torch.repeat_interleave(torch.arange(3), N_ATOMS)


def network(width: int = 8, out_width: int = 6, n_layers: int = 3) -> GINE:
    torch.manual_seed(0)
    return GINE(width, out_width, n_layers).double()


def crystals() -> tuple[Tensor, Tensor, Edges]:
    """Atomic numbers, coordinates and edges of three crystals; the last one's atom has no neighbour."""
    rng = torch.Generator().manual_seed(1)
    cell = torch.eye(3, dtype=torch.float64) + 0.2 * torch.rand(3, 3, 3, generator=rng, dtype=torch.float64)
    lattice_ang = cell * torch.tensor([3.0, 4.0, 9.0]).view(3, 1, 1)
    frac = torch.rand(6, 3, generator=rng, dtype=torch.float64)
    return torch.randint(1, 101, (6,), generator=rng), frac, NeighbourSearch(lattice_ang, N_ATOMS, 3.5)(frac)


def layers_of(perceptron: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    first, second = (layer for layer in perceptron.children() if isinstance(layer, nn.Linear))
    return first, second


def applied(perceptron: nn.Module, x: Tensor) -> Tensor:
    first, second = layers_of(perceptron)
    return second.weight @ (first.weight @ x + first.bias).clamp(min=0) + second.bias


@pytest.mark.parametrize("n_layers", [1, 3])
def test_it_is_what_a_loop_over_atoms_and_edges_computes(n_layers: int) -> None:
    made = network(n_layers=n_layers)
    numbers, _, edges = crystals()
    x = [made.atoms.weight[z - 1] for z in numbers.tolist()]
    for layer, update in enumerate(made.updates):
        new = []
        for i in range(len(x)):
            heard = x[i]
            for s, t, d in zip(edges.source.tolist(), edges.target.tolist(), edges.distance_ang, strict=True):
                if t == i:
                    heard = heard + torch.log1p(torch.exp(x[s] + applied(made.edges, d.view(1))))
            changed = applied(update, heard)
            new.append(x[i] + (changed if layer == n_layers - 1 else changed.clamp(min=0)))
        x = new
    expected = torch.stack([applied(made.head, torch.stack(rows).amax(0)) for rows in (x[:2], x[2:5], x[5:])])
    assert len(edges.source) > 20
    assert 5 not in edges.target
    torch.testing.assert_close(made(numbers, CRYSTAL, 3, edges), expected)


def test_it_is_torch_geometrics_convolution_with_softplus_for_relu() -> None:
    from torch_geometric.nn import GINEConv

    class Softplus(GINEConv):
        def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
            return nn.functional.softplus(x_j + edge_attr)

    made = network()
    numbers, _, edges = crystals()
    pairs = torch.stack([edges.source, edges.target])
    x = made.atoms(numbers - 1)
    for layer, update in enumerate(made.updates):
        heard = Softplus(update)(x, pairs, made.edges(edges.distance_ang.unsqueeze(1)))
        x = x + (heard.relu() if layer < 2 else heard)
    expected = made.head(torch.stack([x[CRYSTAL.eq(b)].amax(0) for b in range(3)]))
    torch.testing.assert_close(made(numbers, CRYSTAL, 3, edges), expected)


def test_rotation_translation_and_images_change_nothing_and_a_length_does() -> None:
    made, rng = network(), torch.Generator().manual_seed(2)
    numbers, frac, edges = crystals()
    lattice_ang = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1) * 3.3
    turn, _ = torch.linalg.qr(torch.rand(3, 3, generator=rng, dtype=torch.float64))
    cells = torch.randint(-2, 3, (6, 3), generator=rng)
    image = edges.image - cells[edges.source] + cells[edges.target]
    before = measured(frac, lattice_ang, CRYSTAL, edges.source, edges.target, edges.image)
    after = measured(frac + cells + 0.3, lattice_ang @ turn, CRYSTAL, edges.source, edges.target, image)
    longer = before._replace(distance_ang=before.distance_ang + 0.1 * (edges.target == 0))
    expected = made(numbers, CRYSTAL, 3, before)
    torch.testing.assert_close(made(numbers, CRYSTAL, 3, after), expected)
    assert (made(numbers, CRYSTAL, 3, longer)[0] - expected[0]).abs().max() > 1e-4
    torch.testing.assert_close(made(numbers, CRYSTAL, 3, longer)[1:], expected[1:])


def test_the_order_of_atoms_and_edges_changes_nothing() -> None:
    made = network()
    numbers, _, edges = crystals()
    order = torch.tensor([1, 0, 4, 2, 3, 5])
    place = torch.argsort(order)
    shuffled = torch.randperm(len(edges.source), generator=torch.Generator().manual_seed(3))
    moved = edges._replace(
        source=place[edges.source][shuffled],
        target=place[edges.target][shuffled],
        distance_ang=edges.distance_ang[shuffled],
    )
    torch.testing.assert_close(made(numbers[order], CRYSTAL, 3, moved), made(numbers, CRYSTAL, 3, edges))


def test_it_has_the_published_number_of_weights() -> None:
    assert sum(p.numel() for p in GINE().parameters()) == 618_240


@pytest.mark.parametrize("odd", [0, 101, -3])
def test_an_element_without_a_vector_is_named(odd: int) -> None:
    numbers, _, edges = crystals()
    numbers[4] = odd
    with pytest.raises(ValueError, match=f"atom 4 has the atomic number {odd}: GINE knows 1 to 100"):
        network()(numbers, CRYSTAL, 3, edges)
