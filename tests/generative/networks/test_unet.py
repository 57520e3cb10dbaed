"""The UNet and the encoders of conditions: published sizes, zeros before training, what they depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from generative.crystal.species import MAX_Z, element_properties
from generative.networks.condition_encoders import (
    ElementEncoder,
    EncoderSizes,
    NumberEncoder,
    OperationsEncoder,
    StructureEncoder,
    one_hot_with,
)
from generative.networks.unet import AttentionBlock, ResidualBlock, UNet1d, UNetConfig

PAPER = EncoderSizes()
TINY = UNetConfig(channels=16, multipliers=(1, 2), n_blocks=2, n_groups=4)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_published_network_has_the_published_number_of_weights_and_blocks() -> None:
    with torch.device("meta"):
        network = UNet1d(UNetConfig())
        elements, operations, structure = (
            ElementEncoder(MAX_Z + 22, PAPER),
            OperationsEncoder(PAPER),
            StructureEncoder(PAPER),
        )
        join, longer_join = nn.Linear(513, 512), nn.Linear(769, 512)
    assert count(network, elements, operations, join) == 304_781_763
    assert count(network, elements, operations, structure, longer_join) == 305_060_931
    assert sum(isinstance(m, ResidualBlock) for m in network.modules()) == 62
    assert sum(isinstance(m, AttentionBlock) for m in network.modules()) == 61


def moved(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights that are not zero anywhere."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return network


def test_an_untrained_network_gives_exactly_zero_and_a_moved_one_does_not() -> None:
    x, time, condition = torch.randn(2, 3, 64), torch.tensor([0.0, 500.0]), torch.randn(2, TINY.embedding)
    assert not UNet1d(TINY)(x, time, condition).any()
    assert moved(UNet1d(TINY))(x, time, condition).abs().min() > 0


def test_the_answer_depends_on_time_condition_and_every_place() -> None:
    network = moved(UNet1d(TINY)).double()
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 64, generator=rng, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(1, TINY.embedding, generator=rng, dtype=torch.float64, requires_grad=True)
    out = network(x, torch.tensor([3.0]), condition)
    (by_x, by_condition) = torch.autograd.grad(out[0, 0, 0], (x, condition))
    assert (by_x != 0).all()  # attention and the coarse levels reach over all rows
    assert (by_condition != 0).any()
    assert not torch.allclose(out, network(x, torch.tensor([4.0]), condition))


def test_attention_is_a_mean_of_values_weighted_by_softmax() -> None:
    block = moved(AttentionBlock(8, 4)).double()
    x = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parts = block.to_queries_keys_values(block.norm(x))
    queries, keys, values = parts.chunk(3, dim=1)
    weights = torch.softmax(torch.einsum("bcl,bcm->blm", queries, keys) / math.sqrt(8), dim=-1)
    expected = x + block.out(torch.einsum("blm,bcm->bcl", weights, values))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)  # attention is computed in single precision


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="30 channels in 8 groups"):
        UNetConfig(channels=30, n_groups=8)


@pytest.mark.parametrize(
    ("encoder", "asked"),
    [
        (ElementEncoder(125, PAPER), torch.randn(2, 64, 125)),
        (OperationsEncoder(PAPER), torch.randn(2, 192, 4, 4)),
        (NumberEncoder(PAPER), torch.tensor([0, 230])),
        (StructureEncoder(PAPER), torch.randn(2, 64, 3)),
    ],
)
def test_every_condition_becomes_256_numbers(encoder: nn.Module, asked: Tensor) -> None:
    assert encoder(asked).shape == (2, 256)


def test_the_published_encoder_of_elements_flattens_to_14848() -> None:
    assert ElementEncoder(125, PAPER).out.in_features == 14_848


def test_elements_are_one_hot_beside_their_properties_and_empty_rows_are_zero() -> None:
    properties = element_properties()
    features = one_hot_with(properties, torch.tensor([[8, 103, 0]]))
    assert features.shape == (1, 3, MAX_Z + 22)
    assert features[0, :2, :MAX_Z].argmax(-1).tolist() == [7, 102]
    torch.testing.assert_close(features[0, 0, MAX_Z:], properties[8])
    assert not features[0, 2].any()
