"""GemNet's layers against plain ones and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from generative.networks.gemnet import GemNetConfig, GemNetT
from generative.networks.scaled_layers import Dense, Residual, he_orthogonal, residuals, scaled_silu


def rows(n: int = 5, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_activation_is_silu_over_its_published_scale_and_keeps_the_size_of_normal_numbers() -> None:
    x = rows(100_000, 1)
    torch.testing.assert_close(scaled_silu(x), x * torch.sigmoid(x) / 0.6)
    assert 0.95 < float(scaled_silu(x).square().mean()) < 1.05
    assert torch.autograd.gradcheck(scaled_silu, (rows().requires_grad_(),))


def test_a_residual_layer_is_its_equation() -> None:
    torch.manual_seed(0)
    layer, x = Residual(4).double(), rows().requires_grad_()
    plain = (x + scaled_silu(scaled_silu(x @ layer.first.T) @ layer.second.T)) / math.sqrt(2)
    torch.testing.assert_close(layer(x), plain)
    weight, leaves = rows(seed=1), (x, layer.first, layer.second)
    found = torch.autograd.grad((layer(x) * weight).sum(), leaves)
    for one, other in zip(found, torch.autograd.grad((plain * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_layers_take_no_rows_and_one_row() -> None:
    for layer in (Dense(4, 4), Residual(4), residuals(4, 2), residuals(4, 0)):
        for n in (0, 1):
            x = torch.zeros(n, 4, requires_grad=True)
            layer(x).sum().backward()
            assert layer(x).shape == (n, 4)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    torch.manual_seed(0)
    x = rows().requires_grad_()
    (first,) = torch.autograd.grad(Residual(4).double()(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_residual_layers_follow_automatic_mixed_precision() -> None:
    torch.manual_seed(0)
    layer, x = Residual(16), torch.randn(40, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), layer(x), rtol=0.05, atol=0.05)
    (found,) = torch.autograd.grad(mixed.float().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_weights_start_with_mean_zero_and_variance_one_over_the_inputs() -> None:
    torch.manual_seed(0)
    network = GemNetT(GemNetConfig(), 32)
    for name, weight in network.named_parameters():
        weight = weight.detach()
        if name.endswith("bilinear"):
            weight = weight.permute(2, 1, 0).flatten(1)
        elif name == "circular":
            weight = weight.permute(2, 0, 1).flatten(1)
        torch.testing.assert_close(weight.mean(1), torch.zeros(len(weight)), rtol=0, atol=1e-5)
        # A little below one: the published guard against a variance of zero.
        torch.testing.assert_close(weight.var(1) * weight.shape[1], torch.ones(len(weight)), rtol=3e-3, atol=0)


def test_rows_of_weights_start_nearly_orthogonal() -> None:
    # Not quite, since each row's mean is taken off after they were made orthogonal.
    torch.manual_seed(0)
    weight = he_orthogonal(64, 64)
    cosines = torch.nn.functional.normalize(weight, dim=1) @ torch.nn.functional.normalize(weight, dim=1).T
    assert float((cosines - torch.eye(64)).abs().mean()) < 0.02
