"""Muon that orthogonalises all matrices of one shape at once, in a precision in which the device is fast.

torch.optim.Muon runs the Newton-Schulz iteration in bfloat16, one matrix after the other. A processor without bfloat16
arithmetic spends more on that than on the gradient itself; here it is single precision there, and bfloat16 on a GPU.

Source: Keller Jordan's Muon (kellerjordan.github.io/posts/muon), with the rates of Moonlight (arXiv:2502.16982).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

NEGLIGIBLE = 1e-9


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), steps: int = 5
) -> Tensor:
    """The nearest matrices with singular values of about one (0.7 to 1.2), (n, rows, columns), in their precision.

    Args:
        matrices: (n, rows, columns); a matrix of zeros stays one.
        coefficients: of the odd quintic that each step applies to the singular values.
        steps: of the iteration.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    # Fourth powers of what is smaller leave the range of single precision, where arithmetic is slow (processor.py sees
    # to one thread alone), and no singular value so small comes near one in a few steps.
    x = torch.where(x.abs() < NEGLIGIBLE, 0.0, x)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """torch.optim.Muon, step for step but for rounding; settings and state are the same, and so are its checkpoints."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for matrices in alike.values():
                self._update(matrices, group)
        return loss

    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        gradients = [cast(Tensor, matrix.grad) for matrix in matrices]
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        moves = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        stacked = torch.stack(list(moves))  # (n, rows, columns)
        if stacked.is_cuda:
            stacked = stacked.bfloat16()
        stacked = orthogonalised(stacked, group["ns_coefficients"], group["ns_steps"])
        rate = group["lr"] * self._factor(matrices[0].shape, group["adjust_lr_fn"])
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(stacked.to(matrices[0].dtype)), alpha=-rate)

    @staticmethod
    def _factor(shape: torch.Size, kind: str | None) -> float:
        """What the rate is multiplied by for a matrix of this shape, as torch.optim.Muon's adjust_lr_fn says."""
        rows, columns = shape
        return 0.2 * math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
