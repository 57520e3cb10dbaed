"""Fourier features of fractional coordinates: absolute position, periodic in the cell.

Source: Variational Diffusion Models, arXiv:2107.00630, for pixels; DP-CDVAE, Sci. Rep. 14, 1275 (2024), for atoms. Its
text prints the frequencies 2^n pi, its code takes 2^n 2 pi: `base` chooses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """sin and cos of 2^n * base * r for n = first ... last. (A, 3) -> (A, 6 * frequencies); no parameters.

    Order: all sines, then all cosines; within each x, y, z; within each the frequencies, rising. They tell absolute
    positions, so a network that reads them is not invariant to a shift of all atoms.
    """

    turns_per_cell: Tensor

    def __init__(self, first: int = 3, last: int = 8, base: float = 2 * math.pi) -> None:
        """Frequencies 2^first ... 2^last.

        Raises: ValueError: if there is no frequency, or one does not fit the cell a whole number of times: then the
            features would differ between images of the same atom.
        """
        super().__init__()
        turns = [2.0**n * base / (2 * math.pi) for n in range(first, last + 1)]
        if not turns:
            raise ValueError(f"frequencies from n = {first} to {last}: expected first <= last")
        if any(abs(t - round(t)) > 1e-9 or round(t) < 1 for t in turns):
            raise ValueError(
                f"waves of 2^{first} * {base} per cell make {turns[0]} turns: expected a whole number. Use base 2 pi "
                "with first >= 0, or base pi with first >= 1"
            )
        self.register_buffer("turns_per_cell", torch.tensor([float(round(t)) for t in turns]), persistent=False)

    @property
    def out_width(self) -> int:
        """Features per atom: 36 as published."""
        return 6 * len(self.turns_per_cell)

    def forward(self, frac: Tensor) -> Tensor:
        """(A, 3), wrapped or not -> (A, out_width)."""
        turns = frac.unsqueeze(-1) * self.turns_per_cell.to(frac.dtype)  # (A, 3, F)
        # Whole turns go before the sine: exact here, while a phase of 1600 rad in float32 is 1e-4 off.
        phase = 2 * math.pi * (turns - turns.round()).flatten(1)  # (A, 3 F)
        return torch.cat([phase.sin(), phase.cos()], dim=1)
