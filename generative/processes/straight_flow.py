"""Flow matching along straight lines between plain tensors, whatever the start is drawn from.

x_t = (1 - t) x_0 + t x_1 with the velocity x_1 - x_0. Knows no network and no crystal.
Source: conditional flow matching, arXiv:2302.00482, in the form of the conditional crystal generation paper (AIRI),
where x_0 is the source (noise, or the crystal to be modified) and x_1 the data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def between(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """The place at time t on the way, of their shape (B, ...); t (B,)."""
    t = t.to(start).view(-1, *[1] * (start.ndim - 1))
    return (1 - t) * start + t * end


@torch.no_grad()
def integrate(
    velocity: Callable[[float, Tensor], Tensor],
    start: Tensor,
    n_steps: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Euler steps from t = 0 to 1, the velocity taken at the beginning of each.

    Args:
        velocity: (t, x) -> velocity there.
        start: x_0.
        n_steps: network calls.
        progress: called with the number of finished steps.

    Raises: ValueError: if there is no step to take.
    """
    if n_steps < 1:
        raise ValueError(f"{n_steps} steps: expected at least 1")
    x = start
    for step in range(n_steps):
        # At the beginning of a step, so never at t = 1, where a network that tells the end leaves (end - x) / 0.
        x = x + velocity(step / n_steps, x) / n_steps
        if progress is not None:
            progress(step + 1)
    return x
