"""DimeNet++ against torch-geometric's on molecules and against a loop, its basis against SciPy, its symmetries."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor
from torch_geometric.nn.models import dimenet as theirs

from generative.crystal.bonds import crystal_nn_bonds, pack_bonds
from generative.crystal.crystals import Crystal, wrap_unit
from generative.networks.dimenet import DimeNetConfig, DimeNetPlusPlus, SphericalBasis, spherical_bessel_zeros
from generative.networks.periodic_graph import Edges, NeighbourSearch, measured, triplets_through

SMALL = DimeNetConfig(
    edge_width=12, n_blocks=2, triplet_width=6, basis_width=4, atom_width=10, n_spherical=4, n_radial=3, cutoff_ang=5.0
)
COPPER = Crystal.from_structure(Structure(Lattice([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]), ["Cu"], [[0, 0, 0]]))
PEROVSKITE = Crystal.from_structure(
    Structure.from_spacegroup(221, Lattice.cubic(3.91), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]])
)
RUTILE = Crystal.from_structure(
    Structure.from_spacegroup(136, Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
)
RNG = np.random.default_rng(5)
SKEWED = Crystal(
    3.2 * np.eye(3) + RNG.uniform(-0.8, 0.8, (3, 3)), RNG.random((3, 3)), np.array([8, 26, 57], dtype=np.int16)
)
CRYSTALS = (COPPER, PEROVSKITE, RUTILE, SKEWED)


def network(config: DimeNetConfig = SMALL, out_width: int = 5) -> DimeNetPlusPlus:
    """With weights at random everywhere, the last layers too, which a new network has at zero."""
    torch.manual_seed(0)
    made = DimeNetPlusPlus(config, out_width).double()
    for output in made.outputs:
        torch.nn.init.normal_(output.lin.weight)
    return made


def with_bonds(crystals: tuple[Crystal, ...]) -> tuple[Tensor, Tensor, Edges]:
    """Atomic numbers, crystal of each atom, and CrystalNN's bonds as edges, float64."""
    n_atoms = [len(c.frac) for c in crystals]
    found = [bonds for bonds in crystal_nn_bonds(crystals) if bonds is not None]
    packed = pack_bonds(found, n_atoms)
    crystal = torch.repeat_interleave(torch.arange(len(crystals)), torch.tensor(n_atoms))
    frac = torch.tensor(np.concatenate([c.frac for c in crystals]))
    lattice_ang = torch.tensor(np.stack([c.lattice_ang for c in crystals]))
    numbers = torch.tensor(np.concatenate([c.atomic_numbers for c in crystals]).astype(np.int64))
    return numbers, crystal, measured(frac, lattice_ang, crystal, packed.source, packed.target, packed.image)


def answer(made: DimeNetPlusPlus, *crystals: Crystal) -> Tensor:
    numbers, crystal, edges = with_bonds(crystals)
    return made(numbers, crystal, len(crystals), edges).detach()


def test_it_is_torch_geometrics_network_on_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(2)
    n_atoms, batch = torch.tensor([7, 9]), torch.repeat_interleave(torch.arange(2), torch.tensor([7, 9]))
    frac = 0.4 + 0.2 * torch.rand(16, 3, generator=rng, dtype=torch.float64)
    numbers = torch.randint(1, 95, (16,), generator=rng)
    edges = NeighbourSearch(30.0 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1), n_atoms, 5.0)(frac)
    source, target = edges.source, edges.target
    pairs = [(a, b) for a, b in itertools.product(range(len(source)), repeat=2) if target[a] == source[b]]
    into, out = torch.tensor([(a, b) for a, b in pairs if source[a] != target[b]]).T
    # Its own neighbour search and its list of triplets need two libraries that are compiled for each release of torch.
    monkeypatch.setattr(theirs, "radius_graph", lambda *_, **__: torch.stack([source, target]))
    triplets = (target, source, target[out], source[out], source[into], into, out)
    monkeypatch.setattr(theirs, "triplets", lambda *_, **__: triplets)
    torch.manual_seed(1)
    published = theirs.DimeNetPlusPlus(12, 5, 2, 6, 4, 10, 4, 3, cutoff=5.0, output_initializer="glorot_orthogonal")
    published = published.double()
    made = DimeNetPlusPlus(replace(SMALL, readout="sum"), 5).double()
    names = {"rbf": "radial", "emb": "embedding", "interaction_blocks": "interactions", "output_blocks": "outputs"}
    weights = {name.replace(p := name.split(".")[0], names[p], 1): w for name, w in published.state_dict().items()}
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert missing == [f"outputs.{i}.lin_up.bias" for i in range(3)]
    assert not unexpected
    for output in made.outputs:
        torch.nn.init.zeros_(output.lin_up.bias)
    expected = published(numbers, 30 * frac, batch)
    assert expected.abs().max() > 1
    # torch-geometric keeps the zeros of the Bessel functions in single precision.
    torch.testing.assert_close(made(numbers, batch, 2, edges), expected, rtol=1e-5, atol=1e-5)


def by_loops(made: DimeNetPlusPlus, numbers: Tensor, crystal: Tensor, n_crystals: int, edges: Edges) -> Tensor:
    """Eqs. 4 to 10 of DimeNet with the projections of DimeNet++, triplet by triplet."""
    c, n_edges, act = made.config, len(edges.source), torch.nn.functional.silu
    source, target, image = edges.source.tolist(), edges.target.tolist(), edges.image.tolist()
    zeros = spherical_bessel_zeros(c.n_spherical, c.n_radial)

    def envelope(x: float) -> float:
        p = c.envelope_exponent + 1
        end = -(p + 1) * (p + 2) / 2 * x ** (p - 1) + p * (p + 2) * x**p - p * (p + 1) / 2 * x ** (p + 1)
        return 1 / x + end if x < 1 else 0.0

    def triplet_basis(distance: float, angle: float) -> Tensor:
        x, row = distance / c.cutoff_ang, []
        for degree, zero in ((order, z) for order in range(c.n_spherical) for z in zeros[order]):
            radial = envelope(x) * math.sqrt(2) / abs(spherical_jn(degree + 1, zero)) * spherical_jn(degree, zero * x)
            row.append(radial * math.sqrt((2 * degree + 1) / (4 * math.pi)) * eval_legendre(degree, math.cos(angle)))
        return torch.tensor(row, dtype=torch.float64)

    def summed(rows: list[Tensor], width: int) -> Tensor:
        return torch.stack([*rows, torch.zeros(width, dtype=torch.float64)]).sum(0)

    radial = torch.stack(
        [
            torch.tensor([envelope(d / c.cutoff_ang) * math.sin(n * math.pi * d / c.cutoff_ang) for n in (1, 2, 3)])
            for d in edges.distance_ang.tolist()
        ]
    ).double()
    into: list[list[tuple[int, Tensor]]] = [[] for _ in range(n_edges)]
    for a, b in itertools.product(range(n_edges), repeat=2):
        returns = source[a] == target[b]
        if c.triplets == "by_edge":
            returns = returns and all(k + m == 0 for k, m in zip(image[a], image[b], strict=True))
        if target[a] == source[b] and not returns:
            u, v = edges.vector_ang[a], edges.vector_ang[b]
            angle = math.atan2(torch.linalg.cross(u, v).norm().item(), torch.dot(u, v).item())
            into[b].append((a, triplet_basis(edges.distance_ang[a].item(), angle)))

    atoms = made.embedding.emb.weight[numbers]
    start = torch.cat([atoms[target], atoms[source], act(made.embedding.lin_rbf(radial))], dim=1)
    messages = act(made.embedding.lin(start))

    def read(output: torch.nn.Module, messages: Tensor) -> Tensor:
        gated = output.lin_rbf(radial) * messages
        heard = [[gated[e] for e in range(n_edges) if target[e] == a] for a in range(len(numbers))]
        hidden = output.lin_up(torch.stack([summed(rows, c.edge_width) for rows in heard]))
        for layer in output.lins:
            hidden = act(layer(hidden))
        return output.lin(hidden)

    total = read(made.outputs[0], messages)
    for block, output in zip(made.interactions, made.outputs[1:], strict=True):
        gated = act(block.lin_kj(messages)) * block.lin_rbf2(block.lin_rbf1(radial))
        narrow = act(block.lin_down(gated))
        heard = [[narrow[a] * block.lin_sbf2(block.lin_sbf1(basis)) for a, basis in row] for row in into]
        turned = torch.stack([summed(rows, c.triplet_width) for rows in heard])
        hidden = act(block.lin_ji(messages)) + act(block.lin_up(turned))
        for layer in block.layers_before_skip:
            hidden = hidden + act(layer.lin2(act(layer.lin1(hidden))))
        hidden = act(block.lin(hidden)) + messages
        for layer in block.layers_after_skip:
            hidden = hidden + act(layer.lin2(act(layer.lin1(hidden))))
        messages = hidden
        total = total + read(output, messages)
    return torch.stack([total[crystal.eq(b)].mean(0) for b in range(n_crystals)])


@pytest.mark.parametrize("triplets", ["published", "by_edge"])
def test_it_is_what_a_loop_over_triplets_computes(triplets: str) -> None:
    made = network(replace(SMALL, triplets=triplets))
    numbers, crystal, edges = with_bonds((COPPER, SKEWED))
    expected = by_loops(made, numbers, crystal, 2, edges)
    torch.testing.assert_close(made(numbers, crystal, 2, edges), expected, rtol=1e-6, atol=1e-6)


def test_zeros_of_spherical_bessel_functions_are_those_of_the_tables() -> None:
    zeros = spherical_bessel_zeros(7, 6)
    assert zeros[1, :3] == pytest.approx([4.493409457909064, 7.725251836937707, 10.904121659428899], rel=1e-13)
    assert zeros[2, 0] == pytest.approx(5.763459196894550, rel=1e-13)
    for degree, row in enumerate(zeros):  # none is left out: the sign changes once between two
        grid = np.linspace(0.1, row[-1] + 0.1, 20_000)
        assert (np.diff(np.sign(spherical_jn(degree, grid))) != 0).sum() == 6


def test_the_basis_is_that_of_scipys_functions() -> None:
    rng = np.random.default_rng(0)
    made = SphericalBasis(7, 6, 7.0, 5)
    distance_ang, angle, first = rng.uniform(0.3, 7.5, 500), rng.uniform(0, np.pi, 900), rng.integers(0, 500, 900)
    found = made(torch.tensor(distance_ang), torch.tensor(angle).cos(), torch.tensor(first)).numpy()
    x, zeros = distance_ang[first] / 7.0, spherical_bessel_zeros(7, 6)
    envelope = np.where(x < 1, 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7, 0)
    column = 0
    for degree, row in enumerate(zeros):
        for zero in row:
            radial = np.sqrt(2 / spherical_jn(degree + 1, zero) ** 2) * spherical_jn(degree, zero * x)
            angular = np.sqrt((2 * degree + 1) / (4 * np.pi)) * eval_legendre(degree, np.cos(angle))
            np.testing.assert_allclose(found[:, column], envelope * radial * angular, rtol=0, atol=1e-8)
            column += 1
    assert column == found.shape[1]


def test_the_radial_functions_are_orthonormal_in_the_ball() -> None:
    made = SphericalBasis(4, 3, 5.0, 5)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x = torch.tensor((nodes + 1) / 2)
    waves = (made.radial(5.0 * x) / made.envelope(x).unsqueeze(1)).reshape(-1, 4, 3)
    overlaps = torch.einsum("q,qsn,qsm->snm", torch.tensor(weights / 2) * x**2, waves, waves)
    expected = torch.eye(3, dtype=torch.float64) * ((2 * torch.arange(4) + 1) / (4 * math.pi)).view(4, 1, 1)
    torch.testing.assert_close(overlaps, expected, rtol=0, atol=1e-8)


def test_gradients_by_positions_are_finite_and_right_where_bonds_lie_in_line() -> None:
    made = network()
    packed = pack_bonds([bonds for bonds in crystal_nn_bonds([PEROVSKITE]) if bonds is not None], [5])
    numbers, crystal = torch.tensor(PEROVSKITE.atomic_numbers.astype(np.int64)), torch.zeros(5, dtype=torch.int64)
    lattice_ang = torch.tensor(PEROVSKITE.lattice_ang)[None]

    def energy(frac: Tensor) -> Tensor:
        return made(numbers, crystal, 1, measured(frac, lattice_ang, crystal, *packed))[0, 0]

    (straight,) = torch.autograd.grad(energy(at := torch.tensor(PEROVSKITE.frac).requires_grad_()), at)
    assert straight.isfinite().all()
    frac = torch.tensor(PEROVSKITE.frac) + 0.03 * torch.tensor(np.random.default_rng(1).normal(size=(5, 3)))
    (slope,) = torch.autograd.grad(energy(at := frac.requires_grad_()), at)
    with torch.no_grad():
        steps = 1e-4 * torch.eye(15, dtype=torch.float64).reshape(15, 5, 3)
        differences = torch.stack([energy(frac + step) - energy(frac - step) for step in steps]).reshape(5, 3) / 2e-4
    torch.testing.assert_close(slope, differences, rtol=0, atol=1e-5 * slope.abs().max().item())


@pytest.mark.parametrize("seed", range(3))
def test_rotation_translation_order_and_images_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = network()
    moved = []
    for crystal in CRYSTALS:
        order = rng.permutation(len(crystal.frac))
        turn = Rotation.random(random_state=seed).as_matrix() * (-1) ** seed  # reflections too
        frac = wrap_unit(crystal.frac + rng.random(3))[order] + rng.integers(-1, 2, crystal.frac.shape)
        moved.append(Crystal(crystal.lattice_ang @ turn, frac, crystal.atomic_numbers[order]))
    expected = answer(made, *CRYSTALS)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(answer(made, *moved), expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("triplets", ["published", "by_edge"])
def test_a_supercell_is_the_same_crystal_where_triplets_are_told_by_edges(triplets: str) -> None:
    made = network(replace(SMALL, triplets=triplets))
    double = COPPER.to_structure().make_supercell([[2, 0, 0], [0, 1, 0], [0, 0, 1]], in_place=False)
    apart = (answer(made, COPPER) - answer(made, Crystal.from_structure(double))).abs().max()
    assert (apart < 1e-6) == (triplets == "by_edge")


def test_published_triplets_leave_nothing_of_a_crystal_of_one_atom() -> None:
    _, _, edges = with_bonds((COPPER,))
    assert len(triplets_through(edges, 1, keep_returning=False)[0]) == 0
    assert len(triplets_through(edges, 1, keep_returning=True)[0]) == 12 * 11


def test_crystals_of_a_batch_do_not_see_each_other() -> None:
    made = network()
    together = answer(made, *CRYSTALS)
    torch.testing.assert_close(together, torch.cat([answer(made, crystal) for crystal in CRYSTALS]))


def test_a_crystal_without_bonds_has_an_answer_that_knows_no_distance() -> None:
    made = network()
    numbers, crystal, edges = with_bonds((COPPER, PEROVSKITE))
    alone = torch.cat([numbers, torch.tensor([3, 5])]), torch.cat([crystal, torch.tensor([2, 2])])
    found = made(*alone, 3, edges)
    torch.testing.assert_close(found[:2], made(numbers, crystal, 2, edges))
    no_edges = Edges(*(part[:0] for part in edges[:5]))
    nothing = made(torch.tensor([3]), torch.tensor([0]), 1, no_edges)
    assert nothing.isfinite().all()
    torch.testing.assert_close(found[2:], nothing)


def test_bonds_longer_than_the_cutoff_carry_nothing() -> None:
    made = network()
    wide = Crystal(COPPER.lattice_ang * 2.5, COPPER.frac, COPPER.atomic_numbers)  # 6.4 A; the cut-off is 5
    wider = Crystal(COPPER.lattice_ang * 3, COPPER.frac, COPPER.atomic_numbers)
    torch.testing.assert_close(answer(made, wide), answer(made, wider))


def test_readout_is_the_mean_or_the_sum_over_atoms() -> None:
    made, total = network(), network(replace(SMALL, readout="sum"))
    torch.testing.assert_close(answer(total, PEROVSKITE), 5 * answer(made, PEROVSKITE))


@pytest.mark.parametrize(("out_width", "n_weights"), [(256, 2_213_510), (1, 1_887_110)])
def test_it_has_the_published_number_of_weights_and_starts_at_zero(out_width: int, n_weights: int) -> None:
    made = DimeNetPlusPlus(DimeNetConfig(), out_width).double()
    assert sum(p.numel() for p in made.parameters()) == n_weights
    found = answer(made, PEROVSKITE, RUTILE)
    assert found.shape == (2, out_width)
    assert (found == 0).all()


def test_tables_of_the_basis_are_not_kept_with_the_weights() -> None:
    assert not [name for name in network().state_dict() if name.startswith("spherical")]


@pytest.mark.parametrize("odd", [0, 95, -1])
def test_an_element_without_a_vector_is_named(odd: int) -> None:
    numbers, crystal, edges = with_bonds((PEROVSKITE,))
    numbers[3] = odd
    with pytest.raises(ValueError, match=rf"atom 3 has the atomic number {odd}: DimeNet\+\+ knows 1 to 94"):
        network()(numbers, crystal, 1, edges)


@pytest.mark.parametrize("given", [{"readout": "max"}, {"triplets": "all"}])
def test_an_option_that_is_none_is_named(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        replace(SMALL, **given)
