"""Denoising diffusion of fractional coordinates: schedule, noisy coordinates, three reverse steps, the sampler.

r_t = sqrt(abar_t) r_0 + sqrt(1 - abar_t) eps with eps of zero mean in each crystal; a network that sees r_t wrapped
into the cell predicts eps. Coordinates are fractional throughout; the state r_t is not wrapped. Knows no network:
`denoise` takes a function of time, coordinates and types.

The published schedule ends at abar_999 = 0.023: r_T keeps 15 % of the crystal, although sampling starts from noise.

Shape letters: B crystals, A atoms of all crystals end to end, T time steps; t is 1 ... T - 1 in tables of length T.
Source: DP-CDVAE, Sci. Rep. 14, 1275 (2024), eqs. 5-7; DDPM, arXiv:2006.11239; DDIM, arXiv:2010.02502 (eq. 12, eta 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from generative.processes.annealed_langevin import Point
from generative.processes.torus_flow import wrap

Kind = Literal["eq6", "eq7", "ddim"]
"""eq6: DDPM's posterior step. eq7: the paper's own, clean estimate and a little noise. ddim: no noise, few steps."""


class Schedule(NamedTuple):
    """Noise by time step, both (T,), float64, on the CPU: the sampler reads single numbers of them.

    Attributes:
        beta: variance added at t.
        alpha_bar: share of the crystal's variance left at t. As published the product skips index 0, which only stands
            for itself: alpha_bar[0] = 1 - beta[0], alpha_bar[t] = (1 - beta[1]) ... (1 - beta[t]).
    """

    beta: Tensor
    alpha_bar: Tensor


def sigmoid_schedule(n: int = 1000) -> Schedule:
    """DP-CDVAE's: beta = sigmoid(x) * (0.01 - 1e-10) + 1e-10 with x from -10 to 6.

    Raises: ValueError: if n < 2, which leaves no time to step from.
    """
    if n < 2:
        raise ValueError(f"a schedule of {n} time steps: expected at least 2, since t = 0 is the clean end")
    beta = torch.linspace(-10, 6, n, dtype=torch.float64).sigmoid() * (0.01 - 1e-10) + 1e-10
    return Schedule(beta, torch.cat([1 - beta[:1], (1 - beta[1:]).cumprod(0)]))


def centred(vectors: Tensor, crystal: Tensor, n_crystals: int) -> Tensor:
    """Vectors less their arithmetic mean in each crystal, (A, 3)."""
    sums = vectors.new_zeros(n_crystals, vectors.shape[1]).index_add(0, crystal, vectors)
    counts = vectors.new_zeros(n_crystals).index_add(0, crystal, vectors.new_ones(len(vectors)))
    return vectors - (sums / counts[:, None])[crystal]


def centred_noise(crystal: Tensor, n_crystals: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Standard normal less its mean in each crystal, (A, 3), on crystal's device; zero for a lone atom.

    The variance of each number is 1 - 1/N in a crystal of N atoms.
    """
    noise = torch.randn(len(crystal), 3, generator=rng, device=rng.device, dtype=dtype).to(crystal.device)
    return centred(noise, crystal, n_crystals)


def noisy(frac: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """r_t, not wrapped, (A, 3), in frac's precision.

    Args:
        frac: r_0, (A, 3); less its mean in each crystal where the model is trained on recentred coordinates.
        epsilon: (A, 3).
        alpha_bar: at each atom's time, (A,); float64, since 1 - alpha_bar is 5e-7 at t = 1.
    """
    signal, noise = alpha_bar.sqrt().to(frac.dtype), (1 - alpha_bar).sqrt().to(frac.dtype)
    return signal[:, None] * frac + noise[:, None] * epsilon


def alpha_between(schedule: Schedule, t: int, s: int) -> float:
    """Share of variance kept from s to t: the product of 1 - beta over s + 1 ... t; alpha_t of the paper where one."""
    return _kept(schedule, t) / _kept(schedule, s)


def posterior_std(schedule: Schedule, t: int, s: int) -> float:
    """Standard deviation of r_s given r_t and r_0.

    sigma^2 = (1 - abar_s) / (1 - abar_t) * (1 - alpha_between); for s = t - 1 the last factor is beta_t, as published.
    """
    share = float(1 - schedule.alpha_bar[s]) / float(1 - schedule.alpha_bar[t])
    return math.sqrt(share * (1 - alpha_between(schedule, t, s)))


def clean_estimate(frac: Tensor, epsilon: Tensor, alpha_bar: float) -> Tensor:
    """The r_0 that r_t and its noise belong to, (A, 3)."""
    return (frac - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar)


def reverse_step(
    kind: Kind,
    frac: Tensor,
    epsilon: Tensor,
    noise: Tensor | None,
    t: int,
    s: int,
    schedule: Schedule,
    place: Callable[[Tensor], Tensor] = wrap,
) -> Tensor:
    """r_s from r_t, (A, 3), not wrapped.

    Published with s = t - 1. For longer steps alpha_t becomes alpha_between(t, s) and the variance that of the Gaussian
    posterior between t and s, so that any grid of times ends at the same marginals where the prediction is perfect.

    eq6: (r_t - (1 - alpha) / sqrt(1 - abar_t) eps) / sqrt(alpha) + sigma n; never wraps.
    eq7: (pi(r_t) - sqrt(1 - abar_t) eps) / sqrt(abar_t) + sigma n. That is the clean estimate with noise of s at most
        0.1 (stride 1), at every t: no posterior sample, but a projection onto clean crystals that is repeated.
    ddim: the clean estimate of eq7, put in the cell, with the predicted noise at the level of s; at s = 0 without any.

    Args:
        kind: which step.
        frac: r_t, (A, 3).
        epsilon: predicted noise, (A, 3).
        noise: standard normal, zero mean in each crystal, (A, 3); None for the step's mean. ddim has no use for it.
        t: time of frac, 1 ... T - 1.
        s: time to arrive at, below t.
        schedule: noise by time.
        place: puts coordinates in the cell: pi, or pi less the crystal's mean for a model on recentred coordinates.
    Raises: ValueError: on an unknown kind, or times that are not 0 <= s < t < T.
    """
    if not 0 <= s < t < len(schedule.alpha_bar):
        raise ValueError(f"a step from t = {t} to {s}: expected 0 <= s < t < {len(schedule.alpha_bar)}")
    alpha_bar = float(schedule.alpha_bar[t])
    if kind == "eq6":
        alpha = alpha_between(schedule, t, s)
        mean = (frac - (1 - alpha) / math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha)
    elif kind == "eq7":
        mean = clean_estimate(place(frac), epsilon, alpha_bar)
    elif kind == "ddim":
        kept = _kept(schedule, s)
        clean = place(clean_estimate(place(frac), epsilon, alpha_bar))
        return math.sqrt(kept) * clean + math.sqrt(1 - kept) * epsilon
    else:
        raise ValueError(f"reverse step {kind!r}: expected 'eq6', 'eq7' or 'ddim'")
    return mean if noise is None else mean + posterior_std(schedule, t, s) * noise


def time_steps(n: int, stride: int) -> list[tuple[int, int]]:
    """Pairs (t, s) from T - 1 down to 0; ceil((T - 1) / stride) of them, the last one shorter where need be.

    Raises: ValueError: if stride is not in 1 ... T - 1.
    """
    if not 1 <= stride < n:
        raise ValueError(f"a stride of {stride} through {n} time steps: expected 1 to {n - 1}")
    return [(t, max(t - stride, 0)) for t in range(n - 1, 0, -stride)]


@torch.no_grad()
def denoise(
    predict: Callable[[float, Tensor, Tensor], tuple[Tensor, Tensor]],
    start: Point,
    crystal: Tensor,
    n_crystals: int,
    schedule: Schedule,
    rng: torch.Generator,
    kind: Kind = "eq7",
    stride: int = 1,
    recentre: bool = False,
    progress: Callable[[int], None] | None = None,
    shown: Callable[[Tensor, int], Tensor] | None = None,
) -> Point:
    """Walk from t = T - 1 to 0; coordinates of the answer are wrapped into [0, 1).

    Args:
        predict: (t / T, r_t (A, 3) not wrapped, types (A,)) -> (epsilon (A, 3), new types (A,)).
        start: the paper: coordinates from centred_noise, types drawn from the predicted composition.
        crystal: index of each atom's crystal, (A,).
        n_crystals: B.
        schedule: noise by time, on the CPU.
        rng: draws the noise, on its own device; eq6 and eq7 add some at the last step too, as published.
        kind: the reverse step.
        stride: times between network calls; 1 as published, 999 calls.
        recentre: subtract each crystal's mean from coordinates put in the cell (DP-CDVAE's base model). eq6 puts none.
        progress: called with the number of finished network calls.
        shown: (types, time) -> the types that the network is given; None gives them as they are.
    """
    place = partial(_centred_in_cell, crystal=crystal, n_crystals=n_crystals) if recentre else wrap
    point, n_times = start, len(schedule.alpha_bar)
    for done, (t, s) in enumerate(time_steps(n_times, stride), start=1):
        given = point.types if shown is None else shown(point.types, t)
        epsilon, types = predict(t / n_times, point.frac, given)
        # Noise without drift, as in training: a network that a shift of all atoms does not change cannot tell a mean.
        noise = None if kind == "ddim" else centred_noise(crystal, n_crystals, rng, point.frac.dtype)
        point = Point(reverse_step(kind, point.frac, epsilon, noise, t, s, schedule, place), types)
        if progress is not None:
            progress(done)
    # Only here: what the network predicts is the noise before wrapping, of which a wrapped state has lost whole cells.
    return Point(wrap(point.frac), point.types)


def _centred_in_cell(frac: Tensor, crystal: Tensor, n_crystals: int) -> Tensor:
    return centred(wrap(frac), crystal, n_crystals)


def _kept(schedule: Schedule, t: int) -> float:
    """alpha_bar, with 1 at t = 0: the published product skips index 0, so the step from 1 to 0 is alpha_1 itself."""
    return float(schedule.alpha_bar[t]) if t > 0 else 1.0
