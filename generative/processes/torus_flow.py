"""Flow matching between noise and crystals: a flat torus for fractional coordinates, a vector space for the lattice.

Paths are geodesics, x_t = x_0 + t log_{x_0}(x_1), with constant velocity u = x_1 - x_0 (wrapped on the torus). The mean
drift of a crystal's atoms is removed from u, since a translation-invariant network cannot know it.
Source: Chen and Lipman, arXiv:2302.03660 (Riemannian flow matching); FlowMM, arXiv:2406.04713 (torus, mean drift);
CrystalFlow, arXiv:2412.11693 (velocity of coordinates scaled by 1 + slope * t at inference).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class FlowPoint(NamedTuple):
    """A place on the path: frac (B, N, 3) in [0, 1), lattice (B, 6) standardised."""

    frac: Tensor
    lattice: Tensor


def wrap_difference(delta: Tensor) -> Tensor:
    """The torus logarithm: a difference of fractional coordinates brought into [-0.5, 0.5]."""
    return delta - delta.round()


def wrap(frac: Tensor) -> Tensor:
    """Fractional coordinates brought into [0, 1)."""
    wrapped = frac - frac.floor()
    return torch.where(wrapped >= 1, torch.zeros_like(wrapped), wrapped)


def remove_drift(v: Tensor, mask: Tensor) -> Tensor:
    """v less its mean over the real atoms of each crystal; zero where padded. (B, N, 3), (B, N)."""
    real = mask.unsqueeze(-1).to(v.dtype)
    mean = (v * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return (v - mean) * real


def draw_prior(mask: Tensor, lattice_dim: int, rng: torch.Generator) -> FlowPoint:
    """Uniform coordinates and a standard normal lattice, on the mask's device, drawn by `rng` (any device)."""
    b, n = mask.shape
    frac = torch.rand(b, n, 3, generator=rng, device=rng.device)
    lattice = torch.randn(b, lattice_dim, generator=rng, device=rng.device)
    return FlowPoint(frac.to(mask.device), lattice.to(mask.device))


def interpolate(start: FlowPoint, end: FlowPoint, t: Tensor, mask: Tensor) -> tuple[FlowPoint, FlowPoint]:
    """The point at time t, (B,), and the velocity there (mean drift removed from coordinates)."""
    delta = wrap_difference(end.frac - start.frac)
    slope = end.lattice - start.lattice
    point = FlowPoint(wrap(start.frac + t[:, None, None] * delta), start.lattice + t[:, None] * slope)
    return point, FlowPoint(remove_drift(delta, mask), slope)


def integrate(
    velocity: Callable[[Tensor, FlowPoint], FlowPoint],
    start: FlowPoint,
    n_steps: int,
    rng: torch.Generator,
    velocity_slope: float = 0.0,
    churn: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> FlowPoint:
    """Euler steps from t = 0 to 1.

    Args:
        velocity: (t (B,), point) -> velocity there.
        start: a draw from the prior.
        n_steps: network calls.
        rng: draws the churn noise.
        velocity_slope: coordinates move with (1 + slope * t) v: anti-annealing, which sharpens positions.
        churn: standard deviation of coordinate noise added per unit time at t = 0, fractional units, falling as
            (1 - t)^2; noise separates atoms that a deterministic symmetric network would keep in equal states.
        progress: called with the number of finished steps.
    """
    point, dt = start, 1.0 / n_steps
    for step in range(n_steps):
        time = step * dt
        t = torch.full((len(point.frac),), time, device=point.frac.device)
        v = velocity(t, point)
        frac = point.frac + dt * (1 + velocity_slope * time) * v.frac
        if churn > 0:
            noise = torch.randn(frac.shape, generator=rng, device=rng.device).to(frac.device)
            # Variances of independent steps add up: by the root of dt the noise of a unit of time is the same in few
            # steps as in many.
            frac = frac + churn * (1 - time) ** 2 * dt**0.5 * noise
        point = FlowPoint(wrap(frac), point.lattice + dt * v.lattice)
        if progress is not None:
            progress(step + 1)
    return point
