"""The embedded time against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from generative.networks.time_embedding import Sinusoids, TimeEmbedding


@pytest.mark.parametrize("width", [4, 8, 128])
def test_time_is_told_as_sines_then_cosines_of_its_own_unit(width: int) -> None:
    times = [0.001, 0.37, 1.0]
    phases = [[t * math.exp(-k * math.log(10_000) / (width // 2 - 1)) for k in range(width // 2)] for t in times]
    expected = [[*map(math.sin, row), *map(math.cos, row)] for row in phases]
    found = Sinusoids(width)(torch.tensor(times, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_published_frequencies_run_from_one_to_one_ten_thousandth() -> None:
    frequencies = Sinusoids(128).frequencies
    assert len(frequencies) == 64
    assert frequencies[0] == 1
    assert frequencies[-1].item() == pytest.approx(1e-4)
    assert (frequencies[1:] / frequencies[:-1]).numpy() == pytest.approx(math.exp(-math.log(10_000) / 63))


def test_two_linear_layers_follow_with_relu_between_them() -> None:
    torch.manual_seed(0)
    made = TimeEmbedding(8, 16).double()
    times = torch.tensor([0.1, 0.9], dtype=torch.float64)
    first, second = (layer for layer in made.perceptron if isinstance(layer, nn.Linear))
    hidden = (made.sinusoids(times) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(made(times), hidden @ second.weight.T + second.bias)


def test_it_has_the_published_number_of_weights_and_keeps_no_frequencies_with_them() -> None:
    made = TimeEmbedding()
    assert sum(p.numel() for p in made.parameters()) == 128 * 512 + 512 + 512 * 128 + 128
    assert not [name for name in made.state_dict() if "frequencies" in name]
    assert made(torch.tensor([0.5])).shape == (1, 128)


@pytest.mark.parametrize("width", [2, 7])
def test_a_width_that_leaves_no_frequencies_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="expected an even number from 4 on"):
        TimeEmbedding(width)
