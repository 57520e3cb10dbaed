"""Noise, minimum images and Langevin steps against closed forms, wide searches and perfect scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from generative.processes.annealed_langevin import (
    Point,
    displaced,
    geometric_levels,
    langevin,
    langevin_step,
    levels_down_to,
    nearest_displacement_ang,
    step_size_ang2,
)
from tests.generative.processes.packed_cells import Cells


class PerfectScore:
    """Knows the crystal and counts its calls, since the level is not told.

    Each atom has its own site; identical atoms are told apart. As the training target, the score of a level is the
    displacement to the nearest image of the site over sigma^2, so the output is that over sigma.
    """

    def __init__(self, cells: Cells, sigmas_ang: Tensor, steps_per_level: int = 100) -> None:
        self.cells, self.sigmas_ang, self.steps_per_level = cells, sigmas_ang.tolist(), steps_per_level
        self.n_calls = 0

    def __call__(self, frac: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        sigma_ang = self.sigmas_ang[self.n_calls // self.steps_per_level]
        self.n_calls += 1
        c = self.cells
        return nearest_displacement_ang(c.frac, frac, c.lattice_ang, c.crystal) / sigma_ang, c.types


def anywhere(cells: Cells, rng: torch.Generator) -> Point:
    """Uniform coordinates, and types that are all wrong."""
    return Point(torch.rand(cells.frac.shape, generator=rng, dtype=torch.float64), cells.types % 100 + 1)


def distances_ang(cells: Cells, frac: Tensor) -> Tensor:
    return nearest_displacement_ang(cells.frac, frac, cells.lattice_ang, cells.crystal).norm(dim=1)


def shortest_by_wide_search(delta: Tensor, lattice_ang: Tensor, reach: int) -> Tensor:
    """Length of the shortest image of each difference, (n,), over every image up to `reach` cells away."""
    images = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=3)), dtype=torch.float64)
    return ((delta[:, None] + images) @ lattice_ang).norm(dim=-1).min(dim=1).values


def test_published_levels_are_a_geometric_series_with_exact_ends() -> None:
    levels = geometric_levels(10, 0.01, 50)
    assert levels.dtype == torch.float64
    assert levels[0] == 10
    assert levels[-1] == 0.01
    ratio = 1e-3 ** (1 / 49)
    torch.testing.assert_close(levels[1:] / levels[:-1], torch.full((49,), ratio, dtype=torch.float64))
    torch.testing.assert_close(geometric_levels(0.01, 5, 1000).flip(0), geometric_levels(5, 0.01, 1000))


@pytest.mark.parametrize(("first", "last", "n"), [(0.0, 1.0, 5), (1.0, -1.0, 5), (1.0, 0.1, 1)])
def test_levels_that_are_no_series_are_refused(first: float, last: float, n: int) -> None:
    with pytest.raises(ValueError, match="expected positive ends"):
        geometric_levels(first, last, n)


def test_noise_has_the_asked_cartesian_covariance_in_every_crystal(cells: Cells, rng: torch.Generator) -> None:
    n = 20_000
    sigma_ang = torch.tensor([0.01, 0.05, 0.1, 0.02], dtype=torch.float64)  # far below half a cell: no wrapping
    crystal = torch.arange(4).repeat_interleave(n)
    middle = torch.full((4 * n, 3), 0.5, dtype=torch.float64)
    moved = displaced(middle, cells.lattice_ang, crystal, sigma_ang, rng) - middle
    for index, sigma in enumerate(sigma_ang.tolist()):
        cart_ang = moved[crystal == index] @ cells.lattice_ang[index]
        expected = sigma**2 * torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(cart_ang.T.cov() / sigma**2, expected / sigma**2, atol=0.05, rtol=0)  # 5 sigma
        assert cart_ang.mean(0).abs().max() < 5 * sigma / math.sqrt(n)


def test_noise_at_the_cell_border_is_wrapped(cells: Cells, rng: torch.Generator) -> None:
    frac = torch.zeros_like(cells.frac, dtype=torch.float32)
    sigma_ang = geometric_levels(10, 0.01, 4)
    noisy = displaced(frac, cells.lattice_ang.float(), cells.crystal, sigma_ang, rng)
    assert noisy.dtype == torch.float32  # though the levels are double
    assert ((noisy >= 0) & (noisy < 1)).all()
    assert (noisy > 0.5).any()


def test_a_flat_cell_does_not_stop_the_noise_or_the_walk(rng: torch.Generator) -> None:
    lattice = torch.tensor([[[3.0, 0, 0], [0, 4.0, 0], [3.0, 4.0, 0]]], dtype=torch.float64)
    frac, crystal = torch.full((5, 3), 0.5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    sigma = torch.tensor([0.1], dtype=torch.float64)
    assert displaced(frac, lattice, crystal, sigma, rng).isfinite().all()
    start = Point(frac, torch.full((5,), 6))
    end = langevin(lambda f, t: (torch.zeros_like(f), t), start, lattice, crystal, sigma, rng, steps_per_level=3)
    assert end.frac.isfinite().all()


def test_nearest_image_is_the_nearest_of_a_wide_search_in_reduced_cells(
    benchmark_cells: Cells, rng: torch.Generator
) -> None:
    for lattice in benchmark_cells.lattice_ang:
        to, start = torch.rand(2, 300, 3, generator=rng, dtype=torch.float64)
        crystal = torch.zeros(300, dtype=torch.int64)
        found = nearest_displacement_ang(to, start, lattice[None], crystal)
        expected = shortest_by_wide_search(to - start, lattice, reach=3)
        torch.testing.assert_close(found.norm(dim=1), expected, rtol=1e-12, atol=1e-12)
        cells_apart = torch.linalg.solve(lattice.T, found.T).T - (to - start)
        torch.testing.assert_close(cells_apart, cells_apart.round(), atol=1e-9, rtol=0)


def test_27_images_are_not_enough_in_a_skewed_cell(rng: torch.Generator) -> None:
    # The second vector leans over by 4.6 lengths of the first, so the shortest image can be two cells away.
    skewed = torch.tensor([[2.0, 0, 0], [9.2, 2.0, 0], [0, 0, 5.0]], dtype=torch.float64)
    to, start = torch.rand(2, 500, 3, generator=rng, dtype=torch.float64)
    found = nearest_displacement_ang(to, start, skewed[None], torch.zeros(500, dtype=torch.int64)).norm(dim=1)
    true = shortest_by_wide_search(to - start, skewed, reach=6)
    assert (found >= true - 1e-12).all()
    assert (found > true + 0.1).sum() > 10


def test_displacement_goes_to_the_place_and_shares_its_gradient(cells: Cells, rng: torch.Generator) -> None:
    start = torch.rand(cells.frac.shape, generator=rng, dtype=torch.float64).requires_grad_()
    vector_ang = nearest_displacement_ang(cells.frac, start, cells.lattice_ang, cells.crystal)
    (gradient,) = torch.autograd.grad(vector_ang.sum(), start)
    torch.testing.assert_close(gradient, -cells.lattice_ang.sum(2)[cells.crystal])


@pytest.mark.parametrize("step_ang2", [1e-4, 0.02, 0.1])
def test_langevin_on_a_gaussian_reaches_the_variance_theory_gives_its_steps(
    step_ang2: float, rng: torch.Generator
) -> None:
    # x' = (1 - a / v) x + sqrt(2 a) n rests at the variance v / (1 - a / 2v): v for short steps, 2 v for a = v.
    variance, n = 0.1, 4000
    lattice = torch.tensor([[40.0, 0, 0], [3.0, 38.0, 0], [-2.0, 5.0, 42.0]], dtype=torch.float64)
    inverse = lattice.inverse().expand(n, 3, 3)
    frac = torch.full((n, 3), 0.5, dtype=torch.float64)
    middle_ang = frac[0] @ lattice
    if step_ang2 < 1e-3:  # short steps take too long from rest: start at the variance, see that it stays
        frac = frac + variance**0.5 * torch.randn(n, 3, generator=rng, dtype=torch.float64) @ lattice.inverse()
    sigma_ang = 0.3
    for _ in range(100):
        score = -(frac @ lattice - middle_ang) / variance
        noise = torch.randn(n, 3, generator=rng, dtype=torch.float64)
        frac = langevin_step(frac, score * sigma_ang, noise, sigma_ang, step_ang2, inverse)
    measured = ((frac - 0.5) @ lattice).T.cov()
    expected = variance / (1 - step_ang2 / (2 * variance)) * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(measured, expected, atol=5 * 1.42 * expected[0, 0].item() / n**0.5, rtol=0)


def test_published_steps_are_as_long_as_the_level_squared() -> None:
    assert step_size_ang2(10) == pytest.approx(100)
    assert step_size_ang2(0.01) == pytest.approx(1e-4)
    assert step_size_ang2(0.1, step_scale=5e-5, sigma_last_ang=0.05) == pytest.approx(2e-4)


@pytest.mark.parametrize("every", [1, 7])
def test_a_perfect_score_recovers_real_crystals_from_atoms_anywhere(
    benchmark_cells: Cells, rng: torch.Generator, every: int
) -> None:
    # As published a step is as long as sigma^2, where the last level rests at sqrt(2) * 0.01 A along each axis.
    sigmas_ang = geometric_levels(10, 0.01, 50)[::every]  # 7 divides 49: the finest level stays
    oracle = PerfectScore(benchmark_cells, sigmas_ang)
    start = anywhere(benchmark_cells, rng)
    c = benchmark_cells
    end = langevin(oracle, start, c.lattice_ang, c.crystal, sigmas_ang, rng)
    assert oracle.n_calls == 100 * len(sigmas_ang)
    distance_ang = distances_ang(c, end.frac)
    assert distance_ang.max() < 6 * math.sqrt(2) * 0.01
    assert (distance_ang.square().mean() / 3).sqrt().item() == pytest.approx(math.sqrt(2) * 0.01, rel=0.15)
    assert torch.equal(end.types, c.types)
    assert ((end.frac >= 0) & (end.frac < 1)).all()


def test_a_coarser_ladder_takes_the_same_steps_at_the_levels_it_keeps(cells: Cells, rng: torch.Generator) -> None:
    levels = geometric_levels(10, 0.01, 50)
    sigmas_ang, c = levels[[0, 30, 40]], cells  # ends at 0.036 A: the reference of the step size is not among them
    end = langevin(PerfectScore(c, sigmas_ang), anywhere(c, rng), c.lattice_ang, c.crystal, sigmas_ang, rng)
    rms_ang = (distances_ang(c, end.frac).square().mean() / 3).sqrt().item()
    assert rms_ang == pytest.approx(math.sqrt(2) * levels[40].item(), rel=0.4)  # 45 numbers


def test_small_steps_rest_at_the_final_level_itself(cells: Cells, rng: torch.Generator) -> None:
    sigmas_ang, c = geometric_levels(10, 0.05, 8), cells
    n_steps = 100
    oracle = PerfectScore(c, sigmas_ang, n_steps)
    end = langevin(
        oracle, anywhere(c, rng), c.lattice_ang, c.crystal, sigmas_ang, rng, steps_per_level=n_steps, step_scale=2e-5
    )
    rms_ang = (distances_ang(c, end.frac).square().mean() / 3).sqrt().item()
    assert rms_ang == pytest.approx(0.05 / math.sqrt(0.9), rel=0.4)


def test_the_walk_ends_before_levels_under_the_bound(cells: Cells, rng: torch.Generator) -> None:
    sigmas_ang, c, seen = geometric_levels(10, 0.01, 7), cells, []
    oracle = PerfectScore(c, sigmas_ang, 4)
    start = anywhere(c, rng)
    langevin(
        oracle,
        start,
        c.lattice_ang,
        c.crystal,
        sigmas_ang,
        rng,
        steps_per_level=4,
        stop_below_ang=0.1,
        progress=seen.append,
    )
    assert seen == list(range(1, 4 * 5 + 1))  # 10, 3.2, 1, 0.32 and 0.1 A itself
    assert levels_down_to(sigmas_ang.float(), 0.01) == sigmas_ang.float().tolist()
    assert levels_down_to(sigmas_ang, 0.0) == sigmas_ang.tolist()


def test_the_walk_repeats_with_the_seed_and_leaves_its_start_as_it_was(cells: Cells) -> None:
    sigmas_ang, c = geometric_levels(10, 0.01, 3), cells
    start = anywhere(c, torch.Generator().manual_seed(0))
    before = start.frac.clone()

    def walk(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        oracle = PerfectScore(c, sigmas_ang, 5)
        return langevin(oracle, start, c.lattice_ang, c.crystal, sigmas_ang, rng, steps_per_level=5).frac

    assert torch.equal(walk(1), walk(1))
    assert not torch.equal(walk(1), walk(2))
    assert torch.equal(start.frac, before)


def test_shifting_an_atom_by_whole_cells_changes_nothing(cells: Cells) -> None:
    sigmas_ang, c = geometric_levels(1, 0.01, 3), cells
    start = anywhere(c, torch.Generator().manual_seed(0))
    shifted = Point(start.frac + torch.tensor([1.0, -2.0, 3.0]), start.types)
    ends = [
        langevin(
            PerfectScore(c, sigmas_ang, 5),
            point,
            c.lattice_ang,
            c.crystal,
            sigmas_ang,
            torch.Generator().manual_seed(2),
            steps_per_level=5,
        )
        for point in (start, shifted)
    ]
    apart = ends[0].frac - ends[1].frac
    torch.testing.assert_close(apart - apart.round(), torch.zeros_like(apart), atol=1e-9, rtol=0)
