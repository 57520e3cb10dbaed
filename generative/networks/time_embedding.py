"""The time of a diffusion process as features: sinusoids of t / T, then a small perceptron.

Source: sinusoids of Vaswani et al., arXiv:1706.03762, section 3.5, as in DDPM (arXiv:2006.11239), but of t / T in
(0, 1] and not of the step's number: DP-CDVAE, Sci. Rep. 14, 1275 (2024), in its code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BASE = 10_000.0
"""Ratio of the highest frequency, 1, to the lowest. As published, times are t / T up to 1 and not multiplied by T, so
three in four of these waves turn by less than a tenth of a radian."""


class Sinusoids(nn.Module):
    """sin, then cos, of w t for `width` / 2 frequencies w from 1 down to 1 / BASE, log-spaced. (B,) -> (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        """Raises: ValueError: if the width is odd, or leaves fewer than two frequencies."""
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(
                f"a time embedding {width} wide: expected an even number from 4 on, half sines, half cosines"
            )
        steps = torch.arange(width // 2, dtype=torch.float64)
        frequencies = torch.exp(-math.log(BASE) / (width // 2 - 1) * steps)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t_over_T: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        phase = t_over_T.unsqueeze(-1) * self.frequencies.to(t_over_T.dtype)  # (B, width / 2)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids and two linear layers with ReLU between them. (B,) -> (B, width); 131,712 weights as published."""

    def __init__(self, width: int = 128, hidden: int = 512) -> None:
        super().__init__()
        self.sinusoids = Sinusoids(width)
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, t_over_T: Tensor) -> Tensor:
        """t / T of each crystal in (0, 1], (B,) -> (B, width)."""
        out: Tensor = self.perceptron(self.sinusoids(t_over_T))
        return out
