"""EquiformerV2: what turns with the crystal does, nothing depends on how a crystal is written, sizes as published."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from generative.networks.equiformer.frames import XYZ, EdgeFrames, components, framed, wigner
from generative.networks.equiformer.layers import SO2Convolution, kept
from generative.networks.equiformer.network import EquiformerConfig, EquiformerEncoder, EquiformerScore
from generative.networks.equiformer.sphere_grid import SphereGrid
from generative.networks.periodic_graph import Edges, NeighbourSearch
from generative.networks.spherical_harmonics import RealSphericalHarmonics

SMALL = EquiformerConfig(
    n_blocks=2, l_max=3, m_max=2, channels=16, attention_hidden=8, n_heads=2, alpha_width=8, value_width=4,
    feed_hidden=16, edge_width=16, n_distances=32, n_polar=10,
)  # fmt: skip
LATENT = 6
N_ATOMS = torch.tensor([5, 3])
NUMBERS = torch.tensor([38, 22, 8, 8, 8, 31, 34, 16])
CRYSTAL = torch.tensor([0] * 5 + [1] * 3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turns(n: int) -> Tensor:
    return torch.from_numpy(Rotation.random(n, random_state=0).as_matrix())


@pytest.fixture(scope="module")
def crystals() -> tuple[Tensor, Tensor]:
    """Lattices, (2, 3, 3), and fractional coordinates, (8, 3), of no symmetry."""
    lattice = 4.2 * torch.eye(3, dtype=torch.float64) + 0.5 * torch.randn(
        2, 3, 3, generator=rng(1), dtype=torch.float64
    )
    return lattice, torch.rand(8, 3, generator=rng(2), dtype=torch.float64)


def score(config: EquiformerConfig = SMALL) -> EquiformerScore:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EquiformerScore(config, LATENT).double()
    network.trunk.mean_degree.fill_(20.0)
    return network


def edges_of(lattice: Tensor, frac: Tensor, n_atoms: Tensor = N_ATOMS) -> Edges:
    """All within the cut-off: which of an atom's neighbours a limit keeps depends on the order of atoms."""
    return NeighbourSearch(lattice, n_atoms, 4.5)(frac)


def latent() -> Tensor:
    return torch.randn(2, LATENT, generator=rng(3), dtype=torch.float64)


def test_wigner_matrices_are_orthogonal_multiply_like_turns_and_turn_a_vector_as_x_y_z() -> None:
    q = turns(3)
    d = wigner(q, 4)
    torch.testing.assert_close(d @ d.transpose(1, 2), torch.eye(25, dtype=torch.float64).expand(3, 25, 25))
    torch.testing.assert_close(wigner(q[:1] @ q[1:2], 4), d[:1] @ d[1:2])
    torch.testing.assert_close(d[:, XYZ][:, :, XYZ], q)


def test_a_frame_lays_its_edge_on_z_at_the_poles_too() -> None:
    random = nn.functional.normalize(torch.randn(20, 3, generator=rng(), dtype=torch.float64))
    poles = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1e-9, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=torch.float64)
    direction = torch.cat([random, poles])
    harmonics = RealSphericalHarmonics(4)
    frames = EdgeFrames(4, 4)(direction)
    on_z = harmonics(torch.tensor([[0.0, 0, 1]], dtype=torch.float64))[0, framed(4, 4)]
    found = torch.bmm(frames.into, harmonics(direction).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(found, on_z.expand_as(found), atol=1e-8, rtol=0)
    torch.testing.assert_close(
        torch.bmm(frames.back, frames.into), torch.eye(25, dtype=torch.float64).expand(25, 25, 25), atol=1e-12, rtol=0
    )


def test_mixed_precision_does_not_bend_the_frames() -> None:
    direction = nn.functional.normalize(torch.randn(5, 3, generator=rng()))
    frames = EdgeFrames(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = frames(direction)
    assert torch.equal(mixed.into, frames(direction).into)


def test_what_an_edge_does_in_its_frame_commutes_with_every_turn_though_orders_are_left_out() -> None:
    """Another frame with the same z differs by a turn about it, which the convolution must not see."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = SO2Convolution(3, 2, 4, 2).double()
    frames = EdgeFrames(4, 2)
    direction = nn.functional.normalize(torch.randn(6, 3, generator=rng(), dtype=torch.float64))
    x = torch.randn(6, 25, 3, generator=rng(1), dtype=torch.float64)

    def heard(direction: Tensor, x: Tensor) -> Tensor:
        into, back = frames(direction)
        told: Tensor = back @ convolution(into @ x)[0]
        return told

    for q, d in zip(turns(4), wigner(turns(4), 4), strict=True):
        torch.testing.assert_close(heard(direction @ q.T, d @ x), d @ heard(direction, x))


def test_a_grid_gives_back_what_it_was_given_and_values_of_variance_one() -> None:
    grid = SphereGrid(4, 18).double()
    x = torch.randn(2000, 25, 1, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(grid.features(grid.values(x)), x, atol=1e-5, rtol=0)  # kept in single precision
    assert float(grid.values(x).var()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(("l_max", "n_polar", "tolerance"), [(2, 10, 2e-3), (2, 18, 1e-6), (4, 18, 1e-3)])
@torch.no_grad()
def test_vectors_turn_with_the_crystal_and_scalars_stay_as_exactly_as_the_grid_is_fine(
    crystals: tuple[Tensor, Tensor], l_max: int, n_polar: int, tolerance: float
) -> None:
    """Root mean square of the difference over that of the output; degrees up to 4 on 18 are the published grid."""
    lattice, frac = crystals
    network = score(EquiformerConfig(**{**vars(SMALL), "n_polar": n_polar, "l_max": l_max}))
    vector, logits = network(latent(), NUMBERS, CRYSTAL, edges_of(lattice, frac))
    for q in turns(4):
        turned, named = network(latent(), NUMBERS, CRYSTAL, edges_of(lattice @ q.T, frac))
        assert float((turned - vector @ q.T).square().mean() / vector.square().mean()) ** 0.5 < tolerance
        assert float((named - logits).square().mean() / logits.square().mean()) ** 0.5 < tolerance


def test_nothing_depends_on_order_cell_image_or_origin(crystals: tuple[Tensor, Tensor]) -> None:
    lattice, frac = crystals
    network = score()
    vector, logits = network(latent(), NUMBERS, CRYSTAL, edges_of(lattice, frac))
    order = torch.tensor([3, 0, 4, 1, 2, 7, 5, 6])
    shift = torch.rand(1, 3, generator=rng(5), dtype=torch.float64)
    image = torch.randint(-2, 3, (8, 3), generator=rng(6))
    other = (frac + shift + image)[order]
    turned, named = network(latent(), NUMBERS[order], CRYSTAL, edges_of(lattice, other))
    torch.testing.assert_close(turned, vector[order], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(named, logits[order], atol=1e-9, rtol=1e-9)
    # The same crystal by other cell vectors: b + a in the place of b.
    skewed = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.float64)
    turned, _ = network(latent(), NUMBERS, CRYSTAL, edges_of(skewed @ lattice, frac @ torch.linalg.inv(skewed)))
    torch.testing.assert_close(turned, vector, atol=1e-9, rtol=1e-9)


def test_crystals_of_a_batch_do_not_see_each_other_and_twice_the_cell_is_twice_the_sum(
    crystals: tuple[Tensor, Tensor],
) -> None:
    lattice, frac = crystals
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = EquiformerEncoder(SMALL, 7).double()
    both = encoder(NUMBERS, CRYSTAL, 2, edges_of(lattice, frac))
    one = encoder(NUMBERS[5:], CRYSTAL[5:] - 1, 1, edges_of(lattice[1:], frac[5:], N_ATOMS[1:]))
    torch.testing.assert_close(both[1:], one)
    double = lattice[1:] * torch.tensor([[2.0], [1], [1]], dtype=torch.float64)
    half = frac[5:] / torch.tensor([2.0, 1, 1], dtype=torch.float64)
    stacked = torch.cat([half, half + torch.tensor([0.5, 0, 0], dtype=torch.float64)])
    doubled = encoder(
        NUMBERS[5:].repeat(2), torch.zeros(6, dtype=torch.long), 1, edges_of(double, stacked, 2 * N_ATOMS[1:])
    )
    torch.testing.assert_close(doubled, 2 * one)


def test_atoms_without_edges_have_scalars_and_no_direction() -> None:
    lattice = torch.eye(3, dtype=torch.float64).expand(2, 3, 3) * 40
    frac = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.6, 0.6]], dtype=torch.float64)
    network = score()
    vector, logits = network(
        latent(), torch.tensor([3, 9]), torch.tensor([0, 1]), edges_of(lattice, frac, torch.ones(2, dtype=torch.long))
    )
    assert vector.abs().max() == 0
    assert logits.isfinite().all()


def test_dropping_is_seeded_keeps_the_mean_and_is_off_without_a_generator(crystals: tuple[Tensor, Tensor]) -> None:
    mask = kept((20_000,), 0.1, torch.zeros(1), rng())
    assert mask is not None
    assert float(mask.mean()) == pytest.approx(1, abs=4 * math.sqrt(0.1 / 0.9 / 20_000))
    assert kept((4,), 0.1, torch.zeros(1), None) is None
    network, edges = score(), edges_of(*crystals)
    drawn = [network(latent(), NUMBERS, CRYSTAL, edges, rng(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    first, second = (network.train(mode)(latent(), NUMBERS, CRYSTAL, edges)[0] for mode in (True, False))
    assert torch.equal(first, second)


def test_every_weight_has_a_slope_but_those_of_the_vector_that_only_other_degrees_see(
    crystals: tuple[Tensor, Tensor],
) -> None:
    network = score()
    vector, logits = network(latent(), NUMBERS, CRYSTAL, edges_of(*crystals))
    (vector.square().sum() + logits.square().sum()).backward()
    flat = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert flat == ["vector.second.turning.1.weight", "vector.out.bias"]


def test_published_sizes_have_the_published_numbers_of_parameters() -> None:
    """Less what no output of the published networks depends on, in their last perceptrons on the sphere: its way to
    the sphere, what it does there, and what it makes of degrees above 0. And, in the encoder, a layer that joins
    elements with a latent vector and is never called.
    """

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    decoder, encoder = EquiformerScore(EquiformerConfig(), 256), EquiformerEncoder(EquiformerConfig(), 256)
    to_sphere, on_sphere, joining = 5 * 128 * 128 + 128, 3 * 128 * 128, (128 + 256) * 128 + 128
    assert count(decoder) + to_sphere + on_sphere + 4 * 128 * 128 == 34_633_857
    assert count(encoder) + to_sphere + on_sphere + 4 * 128 * 256 + joining == 28_166_400


def test_orders_left_out_are_made_up_for() -> None:
    assert [components(4)[i].order for i in framed(4, 2)] == [0] * 5 + [1] * 8 + [2] * 6
    assert EdgeFrames(4, 2).back_scale.square().tolist()[:5] == pytest.approx([1, 1, 1, 7 / 5, 9 / 5])
