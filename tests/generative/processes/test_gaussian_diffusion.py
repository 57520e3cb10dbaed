"""The squared-cosine diffusion and the straight flow against closed forms and Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from generative.processes.gaussian_diffusion import (
    ancestral_step,
    clean_estimate,
    denoise,
    deterministic_step,
    noisy,
    spaced_times,
    squared_cosine,
)
from generative.processes.straight_flow import between, integrate


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def test_the_schedule_falls_is_capped_and_has_the_published_value() -> None:
    alpha_bar = squared_cosine()
    assert float(alpha_bar[990]) == pytest.approx(1.9672e-4, rel=1e-4)
    assert (alpha_bar.diff() < 0).all()
    assert 1 - float(alpha_bar[-1] / alpha_bar[-2]) == pytest.approx(0.999)
    assert 1 - float(alpha_bar[0]) < 1e-4


def test_times_are_multiples_of_the_spacing_and_end_at_zero() -> None:
    assert spaced_times(1000, 100) == list(range(990, -1, -10))
    assert spaced_times(1000, 3) == [666, 333, 0]
    for n_steps in (0, 1001):
        with pytest.raises(ValueError, match=f"{n_steps} steps"):
            spaced_times(1000, n_steps)


def test_the_ancestral_step_is_the_posterior_of_bayes() -> None:
    """p(x_s | x_t, x) from the two Gaussians x_s | x and x_t | x_s, by completing the square."""
    here, there = 0.3, 0.8
    alpha = here / there
    x, noise = normal(5), normal(5, seed=1)
    clean = normal(5, seed=2)
    epsilon = (x - math.sqrt(here) * clean) / math.sqrt(1 - here)
    precision = alpha / (1 - alpha) + 1 / (1 - there)
    mean = (math.sqrt(alpha) * x / (1 - alpha) + math.sqrt(there) * clean / (1 - there)) / precision
    torch.testing.assert_close(ancestral_step(x, epsilon, None, here, there), mean)
    torch.testing.assert_close(ancestral_step(x, epsilon, noise, here, there), mean + noise / math.sqrt(precision))
    torch.testing.assert_close(ancestral_step(x, epsilon, None, here, 1.0), clean)


def test_the_deterministic_step_keeps_the_noise_and_moves_along_it() -> None:
    clean, epsilon = normal(4), normal(4, seed=1)
    x = noisy(clean[None], epsilon[None], torch.tensor([0.3], dtype=torch.float64))[0]
    torch.testing.assert_close(clean_estimate(x, epsilon, 0.3), clean)
    expected = noisy(clean[None], epsilon[None], torch.tensor([0.7], dtype=torch.float64))[0]
    torch.testing.assert_close(deterministic_step(x, epsilon, 0.3, 0.7), expected)


def test_a_network_that_says_zero_stretches_the_start_by_the_known_factor() -> None:
    start = normal(2, 64, 3)
    end = denoise(lambda t, x: torch.zeros_like(x), start, squared_cosine(), 100, "deterministic", rng())
    torch.testing.assert_close(end, start * 71.298, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ancestral", "deterministic"])
def test_perfect_predictions_of_a_gaussian_recover_its_mean_and_spread(sampler) -> None:
    """Data normal about 2 with deviation 0.5: the noise that the posterior mean names is known in closed form."""
    mean, spread, alpha_bar = 2.0, 0.5, squared_cosine()

    def predict(t: int, x: Tensor) -> Tensor:
        a = float(alpha_bar[t])
        variance = a * spread**2 + 1 - a
        return math.sqrt(1 - a) * (x - math.sqrt(a) * mean) / variance

    seen: list[int] = []
    end = denoise(predict, normal(20_000), alpha_bar, 250, sampler, rng(1), seen.append)
    assert float(end.mean()) == pytest.approx(mean, abs=0.02)
    assert float(end.std()) == pytest.approx(spread, abs=0.02)
    assert seen == list(range(1, 251))


def test_noise_of_the_ancestral_walk_comes_from_its_generator_alone() -> None:
    def walk(seed: int) -> Tensor:
        return denoise(lambda t, x: 0.1 * x, normal(3, 4), squared_cosine(), 20, "ancestral", rng(seed))

    assert torch.equal(walk(1), walk(1))
    assert not torch.equal(walk(1), walk(2))


def test_the_flow_starts_at_one_end_and_arrives_at_the_other() -> None:
    start, end = normal(3, 4), normal(3, 4, seed=1)
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    torch.testing.assert_close(between(start, end, t), start + t[:, None] * (end - start))
    torch.testing.assert_close(integrate(lambda t, x: end - start, start, 7), end)
    assert torch.equal(integrate(lambda t, x: torch.zeros_like(x), start, 5), start)
    with pytest.raises(ValueError, match="0 steps"):
        integrate(lambda t, x: x, start, 0)


def test_euler_steps_converge_with_order_one() -> None:
    """dx/dt = x from 1 ends at e; twice the steps, half the error."""
    errors = [abs(float(integrate(lambda t, x: x, torch.ones(1, dtype=torch.float64), n)) - math.e) for n in (50, 100)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)
