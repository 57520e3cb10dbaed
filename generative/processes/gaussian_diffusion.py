"""Denoising diffusion of plain tensors with the squared-cosine schedule; ancestral and deterministic steps.

x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps with t = 0 ... T - 1, abar before step 0 taken as 1. Knows no network and no
crystal: `denoise` takes a function of time and state.

Source: DDPM, arXiv:2006.11239; DDIM, arXiv:2010.02502 (eta 0); schedule of arXiv:2102.09672, eq. 17, as used by the
conditional crystal generation paper (AIRI), which samples at every tenth of 1000 times ("leading" spacing).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Sampler = Literal["ancestral", "deterministic"]
BETA_MAX = 0.999
"""The cosine reaches zero at the last time: nothing of the crystal would be left to divide by (arXiv:2102.09672)."""


def squared_cosine(n_times: int = 1000) -> Tensor:
    """abar by time, (T,), float64; the variance added at a time is capped at 0.999.

    Raises: ValueError: if there are fewer than two times.
    """
    if n_times < 2:
        raise ValueError(f"a schedule of {n_times} times: expected at least 2")
    places = torch.arange(n_times + 1, dtype=torch.float64) / n_times
    # The offset of 0.008 keeps the first steps from adding next to no noise (arXiv:2102.09672).
    level = torch.cos((places + 0.008) / 1.008 * math.pi / 2).square()
    beta = (1 - level[1:] / level[:-1]).clamp(max=BETA_MAX)
    return (1 - beta).cumprod(0)


def noisy(x: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t, of x's shape (B, ...); alpha_bar (B,), float64."""
    shape = (-1, *[1] * (x.ndim - 1))
    signal, noise = alpha_bar.sqrt().to(x).view(shape), (1 - alpha_bar).sqrt().to(x).view(shape)
    return signal * x + noise * epsilon


def spaced_times(n_times: int, n_steps: int) -> list[int]:
    """The times of n_steps network calls, falling to 0: multiples of T // n_steps ("leading" spacing).

    Raises: ValueError: if there are more steps than times, or none.
    """
    if not 1 <= n_steps <= n_times:
        raise ValueError(f"{n_steps} steps through {n_times} times: expected 1 to {n_times}")
    return [(n_times // n_steps) * step for step in reversed(range(n_steps))]


def clean_estimate(x: Tensor, epsilon: Tensor, alpha_bar: float) -> Tensor:
    """The x that x_t and its noise belong to."""
    return (x - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar)


def ancestral_step(x: Tensor, epsilon: Tensor, noise: Tensor | None, alpha_bar: float, alpha_bar_next: float) -> Tensor:
    """A draw from the Gaussian posterior of the less noisy state, given x_t and the clean estimate.

    Args:
        x: x_t.
        epsilon: predicted noise.
        noise: standard normal, of x's shape; None gives the mean, as at the last step.
        alpha_bar: at t.
        alpha_bar_next: at the time to arrive at, larger; 1 for the clean end.
    """
    alpha = alpha_bar / alpha_bar_next
    clean = clean_estimate(x, epsilon, alpha_bar)
    of_clean = math.sqrt(alpha_bar_next) * (1 - alpha) / (1 - alpha_bar)
    of_x = math.sqrt(alpha) * (1 - alpha_bar_next) / (1 - alpha_bar)
    mean = of_clean * clean + of_x * x
    if noise is None:
        return mean
    return mean + math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha)) * noise


def deterministic_step(x: Tensor, epsilon: Tensor, alpha_bar: float, alpha_bar_next: float) -> Tensor:
    """DDIM's step without noise; arguments as of ancestral_step."""
    clean = clean_estimate(x, epsilon, alpha_bar)
    return math.sqrt(alpha_bar_next) * clean + math.sqrt(1 - alpha_bar_next) * epsilon


@torch.no_grad()
def denoise(
    predict: Callable[[int, Tensor], Tensor],
    start: Tensor,
    alpha_bar: Tensor,
    n_steps: int,
    sampler: Sampler,
    rng: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Walk from the noisiest of the spaced times to the clean end.

    Args:
        predict: (time, x_t) -> predicted noise.
        start: standard normal.
        alpha_bar: by time, (T,), on the CPU.
        n_steps: network calls.
        sampler: ancestral adds the posterior's noise at every step but the last, deterministic none.
        rng: draws that noise, on its own device.
        progress: called with the number of finished steps.
    """
    x, times = start, spaced_times(len(alpha_bar), n_steps)
    for done, (t, s) in enumerate(zip(times, [*times[1:], None], strict=True), start=1):
        here, there = float(alpha_bar[t]), 1.0 if s is None else float(alpha_bar[s])
        epsilon = predict(t, x)
        if sampler == "deterministic":
            x = deterministic_step(x, epsilon, here, there)
        else:
            noise = None
            if s is not None:
                noise = torch.randn(x.shape, generator=rng, device=rng.device, dtype=x.dtype).to(x.device)
            x = ancestral_step(x, epsilon, noise, here, there)
        if progress is not None:
            progress(done)
    return x
