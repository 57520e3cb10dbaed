"""Layers of GemNet that keep the variance of what goes through them: no biases, SiLU / 0.6, sums over sqrt 2.

The two autograd functions are ordinary layers with the constants moved into the matrix products and, backwards, the
sum at a fork too: a residual layer passes six times over its rows in place of thirteen. A second derivative is refused.

Source: GemNet, arXiv:2106.08903, section 5 (scaling) and appendix (initialisation).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

INV_SQRT_2 = 1 / math.sqrt(2)
_GAIN = 1 / 0.6  # SiLU of a unit normal has a second moment of about 0.6^2


def he_orthogonal(*shape: int) -> Tensor:
    """Weights with orthogonal rows, each of mean zero and variance one over the number of inputs.

    Two axes are (out, in); of three, the last is the output.
    """
    weight = torch.empty(shape)
    nn.init.orthogonal_(weight)
    inputs = (0, 1) if len(shape) == 3 else (1,)
    variance, mean = torch.var_mean(weight, dim=inputs, keepdim=True)
    return (weight - mean) / (variance + 1e-6).sqrt() / math.sqrt(math.prod(shape[axis] for axis in inputs))


class _ScaledSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x).mul_(_GAIN)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope: Tensor = torch.ops.aten.silu_backward(grad, *ctx.saved_tensors)
        return slope.mul_(_GAIN)


def scaled_silu(x: Tensor) -> Tensor:
    """SiLU(x) / 0.6: of a unit normal, about as large as it came."""
    result: Tensor = _ScaledSiLU.apply(x)  # type: ignore[no-untyped-call]
    return result


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale a @ b; what stands in the place of the sum is not read."""
    return torch.addmm(a.new_empty(1), a, b, beta=0, alpha=scale)


class _ResidualFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        inner = x @ first.t()
        middle = functional.silu(inner)
        outer = _scaled_product(middle, second.t(), _GAIN)
        ctx.save_for_backward(x, first, second, inner, middle, outer)
        return torch.add(x, functional.silu(outer), alpha=_GAIN).mul_(INV_SQRT_2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, first, second, inner, middle, outer = ctx.saved_tensors
        # Gradients within the branch lack this factor, which the products at its ends put in.
        scale = _GAIN * _GAIN * INV_SQRT_2
        of_outer = torch.ops.aten.silu_backward(grad, outer)
        of_inner = torch.ops.aten.silu_backward(of_outer @ second, inner)
        return (
            torch.addmm(grad, of_inner, first, beta=INV_SQRT_2, alpha=scale),
            _scaled_product(of_inner.t(), x, scale),
            _scaled_product(of_outer.t(), middle, scale),
        )


class Dense(nn.Module):
    """Linear layer without bias, then the scaled SiLU if active: (n, n_in) -> (n, n_out)."""

    def __init__(self, n_in: int, n_out: int, active: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(he_orthogonal(n_out, n_in))
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in)."""
        y = functional.linear(x, self.weight)
        return scaled_silu(y) if self.active else y


class Residual(nn.Module):
    """(x + two active layers of x) / sqrt 2: (n, width) -> (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(he_orthogonal(width, width))
        self.second = nn.Parameter(he_orthogonal(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width)."""
        dtype, device = x.dtype, x.device.type
        if torch.is_autocast_enabled(device):  # which does not reach into the backward pass of a function
            dtype = torch.get_autocast_dtype(device)
        result: Tensor = _ResidualFunction.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), self.first.to(dtype), self.second.to(dtype)
        )
        return result


def residuals(width: int, n: int) -> nn.Sequential:
    """n residual layers, one after the other."""
    return nn.Sequential(*(Residual(width) for _ in range(n)))
