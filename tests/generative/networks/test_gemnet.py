"""GemNet-T against its published equations written out over triplets, its symmetries, sizes and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre
from torch import Tensor, nn

from generative.networks.gemnet import GemNetConfig, GemNetOutput, GemNetT, ScaleFactors
from generative.networks.periodic_graph import Edges, NeighbourSearch, measured
from tests.benchmarks.plain_gemnet import triplets_into

SMALL = GemNetConfig(
    n_blocks=2,
    edge_width=12,
    triplet_width=6,
    bilinear_width=5,
    radial_width=4,
    circular_width=3,
    n_radial=10,
    n_spherical=4,
    max_neighbours=7,
    images="all",
)
ODD = GemNetConfig(
    n_blocks=1,
    edge_width=8,
    triplet_width=7,
    bilinear_width=9,
    n_radial=20,
    n_before_skip=2,
    n_after_skip=0,
    n_concat=3,
    n_atom=1,
    cutoff_ang=4.0,
    max_neighbours=30,
    images="all",
)


def made(config: GemNetConfig, atom_width: int = 9, seed: int = 0) -> GemNetT:
    torch.manual_seed(seed)
    return GemNetT(config, atom_width).double()


def crystals(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """frac (A, 3), lattice (B, 3, 3), atoms per crystal (B,): skewed cells, of one atom too, and one without edges."""
    rng = np.random.default_rng(seed)
    n_atoms = [3, 1, 5, 1, 2]
    cells = rng.uniform(3.0, 5.0, (5, 1, 1)) * (np.eye(3) + rng.uniform(-0.3, 0.3, (5, 3, 3)))
    cells[3] = 40 * np.eye(3)
    return torch.tensor(rng.random((sum(n_atoms), 3))), torch.tensor(cells), torch.tensor(n_atoms)


def states(n_atoms: int, width: int = 9) -> Tensor:
    return torch.randn(n_atoms, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(network: GemNetT, frac: Tensor, lattice_ang: Tensor, n_atoms: Tensor) -> GemNetOutput:
    with torch.no_grad():
        edges = network.config.search(lattice_ang, n_atoms)(frac)
        return network(states(len(frac)), edges)


def published(network: GemNetT, atoms: Tensor, edges: Edges) -> GemNetOutput:
    """The same map, as the papers and CDVAE's settings state it: over triplets, nothing rearranged."""
    config, scales = network.config, network.config.scale_factors
    assert edges.reverse is not None
    source, target, unit = edges.source, edges.target, edges.vector_ang / edges.distance_ang[:, None]

    def silu(x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-x)) / 0.6

    def dense(layer: nn.Module, x: Tensor) -> Tensor:
        return silu(x @ layer.weight.T)

    def residuals(layers: nn.Module, x: Tensor) -> Tensor:
        for layer in layers:
            x = (x + silu(silu(x @ layer.first.T) @ layer.second.T)) / math.sqrt(2)
        return x

    def summed(values: Tensor, at: Tensor, n: int) -> Tensor:
        return torch.stack([values[at == i].sum(0) for i in range(n)])

    d = edges.distance_ang / config.cutoff_ang
    envelope = torch.where(d < 1, 1 - 21 * d**5 + 35 * d**6 - 15 * d**7, torch.zeros_like(d))
    centres = torch.linspace(0, 1, config.n_radial, dtype=torch.float64)
    radial = envelope[:, None] * torch.exp(-0.5 * ((d[:, None] - centres) / (centres[1] - centres[0])) ** 2)
    first, second = triplets_into(edges, len(atoms))
    cosine = (unit[first] * unit[second]).sum(1).clamp(-1, 1).numpy()
    angular = torch.tensor(
        np.stack(
            [
                math.sqrt((2 * degree + 1) / (4 * math.pi)) * eval_legendre(degree, cosine)
                for degree in range(config.n_spherical)
            ],
            axis=1,
        )
    )  # (T, L)
    circular = torch.einsum("er,lri->eil", radial, network.circular)
    radial_triplet, radial_atom, radial_vector = (
        radial @ layer.weight.T for layer in (network.radial_triplet, network.radial_atom, network.radial_vector)
    )

    def along_edges(output: nn.Module, m: Tensor, scale: float) -> Tensor:
        x = residuals(output.layers[1], dense(output.layers[0], m))
        return (x * (radial_vector @ output.gate.weight.T) * scale) @ output.out.weight.T

    m = silu(torch.cat([atoms[source], atoms[target], radial], dim=1) @ network.edge_embedding.weight.T)
    along = along_edges(network.outputs[0], m, scales.vector_gate[0])
    for i, block in enumerate(network.blocks):
        triplets = block.triplets
        x = dense(triplets.dense, m) * (radial_triplet @ triplets.gate.weight.T) * scales.triplet_gate[i]
        x = dense(triplets.down, x)[first]  # (T, triplet_width)
        x = summed((angular[:, :, None] * x[:, None, :]).flatten(1), second, len(m)).unflatten(
            1, angular.shape[1:] + x.shape[1:]
        )
        x = torch.einsum("eil,eld,ido->eo", circular, x, triplets.bilinear) * scales.triplet_sum[i]
        x = (dense(triplets.up_forward, x) + dense(triplets.up_reverse, x)[edges.reverse]) / math.sqrt(2)
        x = (dense(block.dense, m) + x) / math.sqrt(2)
        m = residuals(block.after_skip, (m + residuals(block.before_skip, x)) / math.sqrt(2))
        update = block.atom_update
        new = summed(m * (radial_atom @ update.gate.weight.T), target, len(atoms)) * scales.atom_sum[i]
        atoms = (atoms + residuals(update.residuals, dense(update.first, new))) / math.sqrt(2)
        x = silu(torch.cat([atoms[source], atoms[target], m], dim=1) @ block.concat.weight.T)
        m = (m + residuals(block.after_concat, x)) / math.sqrt(2)
        along = along + along_edges(network.outputs[i + 1], m, scales.vector_gate[i + 1])
    return GemNetOutput(summed(along * unit, target, len(atoms)), atoms)


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
def test_it_computes_the_published_equations(config: GemNetConfig) -> None:
    network, (frac, lattice_ang, n_atoms) = made(config), crystals()
    with torch.no_grad():
        edges = config.search(lattice_ang, n_atoms)(frac)
        expected = published(network, states(len(frac)), edges)
        found = network(states(len(frac)), edges)
    assert expected.vector.abs().mean() > 1e-2
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.atoms, expected.atoms, rtol=1e-10, atol=1e-10)


def test_its_gradients_are_those_of_the_published_equations() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    edges = SMALL.search(lattice_ang, n_atoms)(frac)
    start = states(len(frac)).requires_grad_()
    weight = torch.randn(len(frac), 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves = [start, *network.parameters()]
    both = []
    for forward in (network, lambda a, e: published(network, a, e)):
        both.append(torch.autograd.grad((torch.cat([*forward(start, edges)], dim=1) * weight).sum(), leaves))
    for found, expected in zip(*both, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients_by_coordinates_are_right() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    frac, lattice_ang, n_atoms = frac[:4], lattice_ang[:2], n_atoms[:2]
    edges = SMALL.search(lattice_ang, n_atoms)(frac)
    crystal = torch.arange(2).repeat_interleave(n_atoms)

    def vectors(frac: Tensor) -> Tensor:
        again = measured(frac, lattice_ang, crystal, edges.source, edges.target, edges.image, edges.reverse)
        return network(states(4), again).vector.sum(0)

    assert torch.autograd.gradcheck(vectors, (frac.requires_grad_(),), atol=1e-6)


def test_a_large_graph_in_portions_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, made_of = made(SMALL), crystals()
    expected = run(network, *made_of)
    monkeypatch.setattr("generative.networks.gemnet._CACHED_ROWS", 5)
    torch.testing.assert_close(run(network, *made_of), expected)


def test_vectors_turn_with_the_crystal_and_states_do_not() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    turn = torch.tensor(Rotation.random(random_state=3).as_matrix())
    still, turned = run(network, frac, lattice_ang, n_atoms), run(network, frac, lattice_ang @ turn.T, n_atoms)
    torch.testing.assert_close(turned.vector, still.vector @ turn.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.atoms, still.atoms, rtol=0, atol=1e-10)
    mirrored = run(network, frac, -lattice_ang, n_atoms)
    torch.testing.assert_close(mirrored.vector, -still.vector, rtol=0, atol=1e-10)


def test_shifting_the_crystal_or_naming_other_images_changes_nothing() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    rng = torch.Generator().manual_seed(4)
    shift = torch.rand(len(n_atoms), 3, generator=rng, dtype=torch.float64).repeat_interleave(n_atoms, 0)
    whole = torch.randint(-2, 3, frac.shape, generator=rng)
    moved = run(network, frac + shift + whole, lattice_ang, n_atoms)
    torch.testing.assert_close(moved, run(network, frac, lattice_ang, n_atoms), rtol=0, atol=1e-9)


def test_another_order_of_atoms_is_the_same_network_where_no_neighbour_is_cut_off() -> None:
    # Which neighbours the symmetric graph keeps of the nearest depends on the order, as published; of all, it does not.
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    order = torch.cat([torch.tensor([2, 0, 1]), torch.tensor([3]), torch.tensor([8, 5, 7, 6, 4]), torch.arange(9, 12)])
    search = NeighbourSearch(lattice_ang, n_atoms, 5.0, symmetric=True)
    with torch.no_grad():
        expected = network(states(len(frac)), search(frac))
        found = network(states(len(frac))[order], search(frac[order]))
    torch.testing.assert_close(found.vector, expected.vector[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.atoms, expected.atoms[order], rtol=1e-10, atol=1e-10)


def test_the_order_of_edges_does_not_matter() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    edges = SMALL.search(lattice_ang, n_atoms)(frac)
    assert edges.reverse is not None
    order = torch.randperm(len(edges.source), generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)
    mixed = Edges(*(t[order] for t in edges[:5]), reverse=place[edges.reverse[order]])
    with torch.no_grad():
        torch.testing.assert_close(network(states(len(frac)), mixed), network(states(len(frac)), edges))


def test_crystals_of_a_batch_do_not_see_each_other() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    whole, edges = run(network, frac, lattice_ang, n_atoms), SMALL.search(lattice_ang[2:3], n_atoms[2:3])(frac[4:9])
    with torch.no_grad():
        alone = network(states(len(frac))[4:9], edges)
    torch.testing.assert_close(alone, GemNetOutput(whole.vector[4:9], whole.atoms[4:9]))


def test_an_atom_without_edges_has_no_vector_and_keeps_its_state_but_for_the_scale() -> None:
    network, (frac, lattice_ang, n_atoms) = made(SMALL), crystals()
    found = run(network, frac, lattice_ang, n_atoms)
    assert (found.vector[9] == 0).all()
    torch.testing.assert_close(found.atoms[9], states(len(frac))[9] / 2)  # 1 / sqrt 2 per block
    none = run(network, frac[9:10], lattice_ang[3:4], n_atoms[3:4])
    assert (none.vector == 0).all()
    torch.testing.assert_close(none.atoms, states(1) / 2)


def test_a_batch_without_any_edge_can_be_trained_on() -> None:
    network = made(SMALL)
    edges = SMALL.search(torch.eye(3).double()[None] * 40, torch.tensor([1]))(torch.zeros(1, 3).double())
    found = network(states(1), edges)
    (found.vector.sum() + found.atoms.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_straight_angles_coincident_atoms_and_long_edges_leave_everything_finite() -> None:
    # Simple cubic: every triplet has a cosine of -1, 0 or 1. Atoms 1 and 2 are on one spot and share an edge by hand.
    network = made(SMALL)
    cell = 3.0 * torch.eye(3).double()[None]
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]).double().requires_grad_()
    edges = SMALL.search(cell, torch.tensor([3]))(frac.detach())
    assert edges.reverse is not None
    n_edges = len(edges.source)
    ends, image = torch.tensor([1, 2]), torch.tensor([[0, 0, 0], [0, 0, 0]])
    far = torch.tensor([[5, 0, 0], [-5, 0, 0]])
    source = torch.cat([edges.source, ends, torch.tensor([0, 0])])
    target = torch.cat([edges.target, ends.flip(0), torch.tensor([0, 0])])
    reverse = torch.cat([edges.reverse, n_edges + torch.tensor([1, 0, 3, 2])])
    crystal = torch.zeros(3, dtype=torch.int64)
    strange = measured(frac, cell, crystal, source, target, torch.cat([edges.image, image, far]), reverse)
    found = network(states(3), strange)
    assert found.vector.isfinite().all()
    assert found.atoms.isfinite().all()
    (found.vector.square().sum() + found.atoms.square().sum()).backward()
    assert frac.grad is not None
    assert frac.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("atom_width", "around", "n_published"),
    [
        # types' embedding, with the latent to the atom width, types' logits
        (128, 100 * 128 + (128 + 256 + 1) * 128 + (128 + 1) * 100, 2_345_188),
        # types' embedding, two layers of 548, embedding of the time, types' logits
        (548, 100 * 128 + 2 * (548 + 1) * 548 + (128 + 1) * 512 + (512 + 1) * 128 + (548 + 1) * 100, 15_804_044),
    ],
    ids=["CDVAE", "DP-CDVAE"],
)
def test_with_the_layers_around_it_and_the_unread_energies_it_has_the_published_number_of_weights(
    atom_width: int, around: int, n_published: int
) -> None:
    network = GemNetT(GemNetConfig(), atom_width)
    n_weights = sum(p.numel() for p in network.parameters())
    # Per output block: gate, layer to atoms, three residual layers, energy.
    energies = 4 * (16 * 128 + 128 * atom_width + 3 * 2 * atom_width**2 + atom_width)
    assert n_weights + around + energies == n_published
    assert {128: 467_456, 548: 7_498_256}[atom_width] == energies


def test_messages_keep_their_size_through_the_published_network() -> None:
    # What the scale factors are for: with fresh weights nothing grows or dies over the blocks.
    torch.manual_seed(0)
    network = GemNetT(GemNetConfig(images="all"), 128)
    frac, lattice_ang, n_atoms = crystals()
    atoms = torch.randn(len(frac), 128)
    with torch.no_grad():
        edges = network.config.search(lattice_ang.float(), n_atoms)(frac.float())
        found = network(atoms, edges)
    has_edges = torch.bincount(edges.target, minlength=len(frac)) > 0
    assert 0.3 < float(found.atoms[has_edges].std()) < 3.0


def test_mixed_precision_keeps_the_graph_exact_and_the_result_near() -> None:
    network, (frac, lattice_ang, n_atoms) = made(GemNetConfig(images="all")).float(), crystals()
    frac, lattice_ang, atoms = frac.float(), lattice_ang.float(), states(len(frac)).float()
    edges = network.config.search(lattice_ang, n_atoms)(frac)
    expected = network(atoms, edges)
    with torch.autocast("cpu", torch.bfloat16):
        again = network.config.search(lattice_ang, n_atoms)(frac)
        found = network(atoms, again)
    assert torch.equal(again.vector_ang, edges.vector_ang)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).detach().norm() / other.detach().norm()) < 0.05
    parameters = list(network.parameters())
    gradients = [
        torch.autograd.grad(o.vector.square().sum() + o.atoms.square().sum(), parameters) for o in (found, expected)
    ]
    one, other = (torch.cat([g.flatten() for g in gradient]) for gradient in gradients)
    assert float((one - other).norm() / other.norm()) < 0.1


def test_edges_without_their_reverses_are_refused() -> None:
    frac, lattice_ang, n_atoms = crystals()
    with pytest.raises(ValueError, match="expected a symmetric graph"):
        made(SMALL)(states(len(frac)), NeighbourSearch(lattice_ang, n_atoms, 5.0)(frac))


def test_more_blocks_than_scale_factors_are_refused_and_more_factors_make_more_blocks() -> None:
    with pytest.raises(ValueError, match="n_blocks is 4, and there are scale factors for 3 blocks"):
        GemNetConfig(n_blocks=4)
    four = ScaleFactors(*((1.0,) * 4 for _ in range(3)), vector_gate=(1.0,) * 5)
    assert len(GemNetT(GemNetConfig(n_blocks=4, scale_factors=four), 8).blocks) == 4
