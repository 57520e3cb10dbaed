"""Schedule, marginals and reverse steps against the paper's numbers, closed forms and perfect predictions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from generative.processes.annealed_langevin import Point, nearest_displacement_ang
from generative.processes.coordinate_ddpm import (
    Kind,
    alpha_between,
    centred,
    centred_noise,
    clean_estimate,
    denoise,
    noisy,
    posterior_std,
    reverse_step,
    sigmoid_schedule,
    time_steps,
)
from generative.processes.torus_flow import wrap
from tests.generative.processes.packed_cells import Cells

SCHEDULE = sigmoid_schedule()
KINDS: tuple[Kind, ...] = ("eq6", "eq7", "ddim")


def off_by(frac: Tensor, truth: Tensor) -> Tensor:
    """Fractional distance of each coordinate to the nearest image of the truth."""
    return ((frac - truth) - (frac - truth).round()).abs()


def time_of(t_over_t: float) -> int:
    return round(t_over_t * len(SCHEDULE.beta))


def perfect_epsilon(truth: Tensor, types: Tensor, kind: Kind) -> Callable[..., tuple[Tensor, Tensor]]:
    """The noise that separates the coordinates each step starts from (wrapped, but for eq6) from the crystal."""

    def predict(t_over_t: float, frac: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = float(SCHEDULE.alpha_bar[time_of(t_over_t)])
        seen = frac if kind == "eq6" else wrap(frac)
        return (seen - math.sqrt(alpha_bar) * truth) / math.sqrt(1 - alpha_bar), types

    return predict


def expected_epsilon(truth: Tensor, types: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """What training converges to for one crystal: E[eps | wrapped r_t], over all images the wrapping may have taken.

    (Zero mean of the noise left aside.) It cannot know the image, so early steps are uncertain, as a network's are.
    """
    images = torch.arange(-8, 9, dtype=truth.dtype)

    def predict(t_over_t: float, frac: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = float(SCHEDULE.alpha_bar[time_of(t_over_t)])
        epsilons = (wrap(frac)[..., None] + images - math.sqrt(alpha_bar) * truth[..., None]) / math.sqrt(1 - alpha_bar)
        return (torch.softmax(-epsilons.square() / 2, dim=-1) * epsilons).sum(-1), types

    return predict


def from_noise(cells: Cells, rng: torch.Generator) -> Point:
    noise = centred_noise(cells.crystal, len(cells.n_atoms), rng, torch.float64)
    return Point(noise, cells.types % 100 + 1)


def test_alpha_bar_has_the_values_of_the_published_schedule() -> None:
    expected = {100: 0.99989, 250: 0.99847, 500: 0.92270, 625: 0.64467, 750: 0.26107, 900: 0.06207, 999: 0.02309}
    for t, alpha_bar in expected.items():
        assert float(SCHEDULE.alpha_bar[t]) == pytest.approx(alpha_bar, abs=6e-6)
    assert SCHEDULE.beta.dtype == SCHEDULE.alpha_bar.dtype == torch.float64
    assert float(SCHEDULE.beta[0]) == pytest.approx(0.01 / (1 + math.exp(10)), rel=1e-3)


def test_the_noise_of_published_steps_has_the_published_size() -> None:
    expected = {999: 0.0999, 750: 0.094, 500: 0.034, 1: 6.7e-4}
    for t, sigma in expected.items():
        assert posterior_std(SCHEDULE, t, t - 1) == pytest.approx(sigma, rel=1.5e-2)  # printed with two digits


def test_single_steps_take_the_beta_of_the_table_down_to_the_last() -> None:
    for t in (1, 2, 17, 500, 999):
        beta, alpha_bar = SCHEDULE.beta, SCHEDULE.alpha_bar
        assert 1 - alpha_between(SCHEDULE, t, t - 1) == pytest.approx(float(beta[t]), rel=1e-9)
        printed = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t]
        assert posterior_std(SCHEDULE, t, t - 1) ** 2 == pytest.approx(float(printed), rel=1e-9)


def test_the_product_skips_index_0_and_is_off_by_less_than_a_millionth() -> None:
    full = (1 - SCHEDULE.beta).cumprod(0)
    assert float(SCHEDULE.alpha_bar[0]) == 1 - float(SCHEDULE.beta[0])
    assert float(SCHEDULE.alpha_bar[1]) == 1 - float(SCHEDULE.beta[1])
    assert (SCHEDULE.alpha_bar - full).abs().max() < 1e-6


def test_noise_has_no_mean_in_any_crystal_and_none_at_all_on_a_lone_atom(rng: torch.Generator) -> None:
    n_atoms = torch.tensor([1, 2, 5, 20_000])
    crystal = torch.arange(4).repeat_interleave(n_atoms)
    noise = centred_noise(crystal, 4, rng, torch.float64)
    for index in range(4):
        assert noise[crystal == index].mean(0).abs().max() < 1e-12
    assert (noise[0] == 0).all()
    torch.testing.assert_close(noise[crystal == 3].T.cov(), torch.eye(3, dtype=torch.float64), atol=0.05, rtol=0)
    assert centred_noise(crystal, 4, rng, torch.float32).dtype == torch.float32


def test_centring_takes_the_mean_of_each_crystal() -> None:
    crystal = torch.tensor([0, 0, 1])
    frac = torch.tensor([[0.0, 0.2, 0.4], [0.2, 0.4, 0.8], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(
        centred(frac, crystal, 2), torch.tensor([[-0.1, -0.1, -0.2], [0.1, 0.1, 0.2], [0.0, 0.0, 0.0]])
    )


@pytest.mark.parametrize("t", [1, 500, 999])
def test_noisy_coordinates_have_the_mean_and_variance_of_the_marginal(t: int, rng: torch.Generator) -> None:
    n_crystals, n = 8000, 4
    crystal = torch.arange(n_crystals).repeat_interleave(n)
    frac = torch.tensor([[0.1, 0.9, 0.5]], dtype=torch.float64).expand(len(crystal), 3)
    alpha_bar = SCHEDULE.alpha_bar[t]
    r = noisy(frac, centred_noise(crystal, n_crystals, rng, torch.float64), alpha_bar.expand(len(crystal)))
    # Less the mean of N: variance (1 - 1/N)(1 - abar), and the crystal's own mean is exact.
    expected = float(1 - alpha_bar) * (1 - 1 / n)
    torch.testing.assert_close(r.var(0) / expected, torch.ones(3, dtype=torch.float64), atol=0.05, rtol=0)
    torch.testing.assert_close(r.mean(0), alpha_bar.sqrt() * frac[0])


def test_the_marginal_is_what_a_walk_of_single_noisings_arrives_at(rng: torch.Generator) -> None:
    n = 20_000
    r = torch.full((n,), 0.7, dtype=torch.float64)
    for t in range(1, 701):
        beta = SCHEDULE.beta[t]
        r = (1 - beta).sqrt() * r + beta.sqrt() * torch.randn(n, generator=rng, dtype=torch.float64)
    alpha_bar = SCHEDULE.alpha_bar[700]
    assert r.mean().item() == pytest.approx(math.sqrt(alpha_bar) * 0.7, abs=5 / n**0.5)
    assert r.var().item() == pytest.approx(float(1 - alpha_bar), rel=0.05)


def test_noise_of_single_precision_data_is_not_lost_at_the_first_time(rng: torch.Generator) -> None:
    frac, epsilon = torch.zeros(100, 3), torch.randn(100, 3, generator=rng)
    r = noisy(frac, epsilon, SCHEDULE.alpha_bar[1].expand(100))
    assert r.dtype == torch.float32
    torch.testing.assert_close(r, epsilon * math.sqrt(float(SCHEDULE.beta[1])), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("t", "s"), [(999, 998), (999, 979), (500, 1), (2, 1), (750, 400)])
def test_eq6_is_the_gaussian_posterior_between_two_times(t: int, s: int, rng: torch.Generator) -> None:
    # By Bayes: N(r_s; sqrt(abar_s) r_0, 1 - abar_s) times N(r_t; sqrt(alpha) r_s, 1 - alpha), precisions added.
    r_0, r_t = torch.rand(2, 40, 3, generator=rng, dtype=torch.float64)
    abar_t, abar_s = (float(SCHEDULE.alpha_bar[time]) for time in (t, s))
    alpha = abar_t / abar_s
    precision = 1 / (1 - abar_s) + alpha / (1 - alpha)
    mean = (math.sqrt(abar_s) * r_0 / (1 - abar_s) + math.sqrt(alpha) * r_t / (1 - alpha)) / precision
    epsilon = (r_t - math.sqrt(abar_t) * r_0) / math.sqrt(1 - abar_t)
    torch.testing.assert_close(reverse_step("eq6", r_t, epsilon, None, t, s, SCHEDULE), mean, rtol=1e-7, atol=1e-8)
    assert posterior_std(SCHEDULE, t, s) ** 2 == pytest.approx(1 / precision, rel=1e-8)


def test_eq6_and_eq7_at_single_steps_are_the_printed_formulas(rng: torch.Generator) -> None:
    t = 600
    r, epsilon, noise = torch.randn(3, 10, 3, generator=rng, dtype=torch.float64)
    beta, abar = SCHEDULE.beta[t], SCHEDULE.alpha_bar[t]
    sigma = ((1 - SCHEDULE.alpha_bar[t - 1]) / (1 - abar) * beta).sqrt()
    eq6 = (r - beta / (1 - abar).sqrt() * epsilon) / (1 - beta).sqrt() + sigma * noise
    eq7 = (r - r.floor()) / abar.sqrt() - (1 / abar - 1).sqrt() * epsilon + sigma * noise
    torch.testing.assert_close(reverse_step("eq6", r, epsilon, noise, t, t - 1, SCHEDULE), eq6)
    torch.testing.assert_close(reverse_step("eq7", r, epsilon, noise, t, t - 1, SCHEDULE), eq7)


def test_ddim_moves_exact_noise_from_one_level_to_another(rng: torch.Generator) -> None:
    r_0 = torch.rand(40, 3, generator=rng, dtype=torch.float64)
    # Noise that keeps r_t inside the cell, where the wrapped coordinates are r_t itself.
    epsilon = (0.5 - math.sqrt(SCHEDULE.alpha_bar[500]) * r_0) / math.sqrt(1 - SCHEDULE.alpha_bar[500])
    r_t = noisy(r_0, epsilon, SCHEDULE.alpha_bar[500].expand(40))
    r_s = reverse_step("ddim", r_t, epsilon, None, 500, 300, SCHEDULE)
    torch.testing.assert_close(r_s, noisy(r_0, epsilon, SCHEDULE.alpha_bar[300].expand(40)))
    torch.testing.assert_close(reverse_step("ddim", r_t, epsilon, None, 500, 0, SCHEDULE), r_0)
    torch.testing.assert_close(clean_estimate(r_t, epsilon, float(SCHEDULE.alpha_bar[500])), r_0)


def test_ddim_noises_a_crystal_that_lies_in_its_cell_as_training_does(rng: torch.Generator) -> None:
    # At t = 999 the clean estimate is 6.6 times a wrapped coordinate: far outside, unless it is put back.
    r, epsilon = torch.rand(40, 3, generator=rng, dtype=torch.float64), torch.zeros(40, 3, dtype=torch.float64)
    kept = math.sqrt(SCHEDULE.alpha_bar[800])
    clean = reverse_step("ddim", r, epsilon, None, 999, 800, SCHEDULE) / kept
    assert ((clean >= 0) & (clean < 1)).all()
    assert off_by(clean, r / math.sqrt(SCHEDULE.alpha_bar[999])).max() < 1e-9


@pytest.mark.parametrize("kind", ["eq7", "ddim"])
def test_steps_that_wrap_do_not_care_which_image_they_are_given(kind: Kind, rng: torch.Generator) -> None:
    r, epsilon = torch.rand(2, 40, 3, generator=rng, dtype=torch.float64)
    cells_away = torch.randint(-3, 4, (40, 3), generator=rng)
    there, here = (reverse_step(kind, frac, epsilon, None, 700, 650, SCHEDULE) for frac in (r + cells_away, r))
    torch.testing.assert_close(there, here, atol=1e-12, rtol=1e-12)


def test_ancestral_steps_of_a_gaussian_reach_its_mean_and_spread(rng: torch.Generator) -> None:
    # Data N(m, v) has a known best prediction; from the true marginal at T - 1 all of eq6's steps must end at it.
    mean, spread, n = 0.3, 0.2, 6000
    abar_end = float(SCHEDULE.alpha_bar[-1])
    scale = math.sqrt(abar_end * spread**2 + 1 - abar_end)
    r = math.sqrt(abar_end) * mean + scale * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    for t, s in time_steps(1000, 1):
        abar = float(SCHEDULE.alpha_bar[t])
        epsilon = math.sqrt(1 - abar) * (r - math.sqrt(abar) * mean) / (abar * spread**2 + 1 - abar)
        noise = torch.randn(n, 1, generator=rng, dtype=torch.float64)
        r = reverse_step("eq6", r, epsilon, noise, t, s, SCHEDULE)
    assert r.mean().item() == pytest.approx(mean, abs=5 * spread / n**0.5)
    assert r.std().item() == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("stride", [1, 20, 333])
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_recovers_real_crystals(
    benchmark_cells: Cells, kind: Kind, stride: int, rng: torch.Generator
) -> None:
    c = benchmark_cells
    predict = perfect_epsilon(c.frac, c.types, kind)
    end = denoise(predict, from_noise(c, rng), c.crystal, len(c.n_atoms), SCHEDULE, rng, kind, stride)
    last_t = time_steps(1000, stride)[-1][0]
    noise_left = 0.0 if kind == "ddim" else posterior_std(SCHEDULE, last_t, 0)
    assert off_by(end.frac, c.frac).max() < 5 * noise_left + 1e-9
    distance_ang = nearest_displacement_ang(c.frac, end.frac, c.lattice_ang, c.crystal).norm(dim=1)
    assert distance_ang.max() < 0.05
    assert torch.equal(end.types, c.types)
    assert ((end.frac >= 0) & (end.frac < 1)).all()


@pytest.mark.parametrize("stride", [1, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_sees_only_wrapped_coordinates_recovers_the_crystal_it_knows(
    cells: Cells, kind: Kind, stride: int, rng: torch.Generator
) -> None:
    c = cells
    predict = expected_epsilon(c.frac, c.types)
    end = denoise(predict, from_noise(c, rng), c.crystal, len(c.n_atoms), SCHEDULE, rng, kind, stride)
    assert off_by(end.frac, c.frac).max() < 5e-3


@pytest.mark.parametrize("kind", ["eq7", "ddim"])
def test_a_recentred_crystal_is_recovered_up_to_a_shift_of_all_its_atoms(
    cells: Cells, kind: Kind, rng: torch.Generator
) -> None:
    c, n_crystals = cells, len(cells.n_atoms)
    truth = centred(c.frac, c.crystal, n_crystals)

    def predict(t_over_t: float, frac: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        # Zero-mean noise between the recentred coordinates and the crystal moved to the same centre.
        alpha_bar = float(SCHEDULE.alpha_bar[time_of(t_over_t)])
        seen = centred(wrap(frac), c.crystal, n_crystals)
        return (seen - math.sqrt(alpha_bar) * truth) / math.sqrt(1 - alpha_bar), c.types

    end = denoise(predict, from_noise(c, rng), c.crystal, n_crystals, SCHEDULE, rng, kind, stride=9, recentre=True)
    first = torch.cat([torch.zeros(1, dtype=torch.int64), c.n_atoms.cumsum(0)[:-1]])[c.crystal]
    relative, expected = end.frac - end.frac[first], c.frac - c.frac[first]
    assert off_by(relative, expected).max() < 0.02  # two atoms' noise of the last step, stride 9
    if kind == "eq7":  # the centre itself stays where recentring puts it
        assert off_by(end.frac, truth).max() < 0.02


def test_recentring_leaves_the_step_without_a_drift(cells: Cells, rng: torch.Generator) -> None:
    c, n_crystals = cells, len(cells.n_atoms)
    r, epsilon = (centred_noise(c.crystal, n_crystals, rng, torch.float64) for _ in range(2))

    def place(frac: Tensor) -> Tensor:
        return centred(wrap(frac), c.crystal, n_crystals)

    for kind in ("eq7", "ddim"):
        moved = reverse_step(kind, r, epsilon, None, 400, 399, SCHEDULE, place)
        torch.testing.assert_close(moved - centred(moved, c.crystal, n_crystals), torch.zeros_like(moved))


def test_times_run_from_the_last_to_zero_as_published_and_in_strides() -> None:
    published = time_steps(1000, 1)
    assert published == [(t, t - 1) for t in range(999, 0, -1)]
    assert len(time_steps(1000, 20)) == 50
    for stride in (7, 20, 333, 999):
        steps = time_steps(1000, stride)
        assert len(steps) == math.ceil(999 / stride)
        assert steps[0][0] == 999
        assert steps[-1][1] == 0
        assert all(earlier[1] == later[0] for earlier, later in zip(steps, steps[1:], strict=False))
    for stride in (0, 1000):
        with pytest.raises(ValueError, match="expected 1 to 999"):
            time_steps(1000, stride)


def test_the_network_is_told_its_time_and_progress_counts_its_calls(cells: Cells, rng: torch.Generator) -> None:
    times, done = [], []

    def predict(t_over_t: float, frac: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        times.append(t_over_t)
        return torch.zeros_like(frac), types

    c = cells
    denoise(predict, from_noise(c, rng), c.crystal, 4, SCHEDULE, rng, stride=250, progress=done.append)
    assert times == [0.999, 0.749, 0.499, 0.249]
    assert done == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_repeat_with_the_seed_and_leave_their_start_as_it_was(cells: Cells, kind: Kind) -> None:
    c = cells
    start = from_noise(c, torch.Generator().manual_seed(0))
    before = start.frac.clone()

    def draw(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        predict = expected_epsilon(c.frac, c.types)
        return denoise(predict, start, c.crystal, 4, SCHEDULE, rng, kind, 100).frac

    assert torch.equal(draw(1), draw(1))
    assert torch.equal(draw(1), draw(2)) == (kind == "ddim")
    assert torch.equal(start.frac, before)


def test_single_precision_stays_single(cells: Cells, rng: torch.Generator) -> None:
    c, truth = cells, cells.frac.float()
    start = Point(centred_noise(c.crystal, 4, rng, torch.float32), c.types)
    for kind in KINDS:
        end = denoise(perfect_epsilon(truth, c.types, kind), start, c.crystal, 4, SCHEDULE, rng, kind, 20)
        assert end.frac.dtype == torch.float32
        assert off_by(end.frac, truth).max() < 0.03


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (5, 5), (3, -1)])
def test_times_outside_the_schedule_are_refused(t: int, s: int) -> None:
    r = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="expected 0 <= s < t < 1000"):
        reverse_step("eq7", r, r, None, t, s, SCHEDULE)


def test_an_unknown_step_and_an_empty_schedule_are_refused() -> None:
    r = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="'eq6', 'eq7' or 'ddim'"):
        reverse_step("eq8", r, r, None, 2, 1, SCHEDULE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least 2"):
        sigmoid_schedule(1)
