"""Encoders of what a crystal is asked to be: its elements by row, its space group, a crystal to start from.

Shape letters: B samples, R rows of the structure matrix.
Source: the conditional crystal generation paper (AIRI), its figure of the network and its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderSizes:
    """Channels of the convolutions; the last of them, W, is the width of every encoder's result.

    The defaults are the paper's.
    """

    first: int = 64
    second: int = 128
    width: int = 256


class ElementEncoder(nn.Module):
    """Features of the element of every row, zero where no site is, to one vector: (B, R, F) -> (B, W)."""

    def __init__(self, n_features: int, sizes: EncoderSizes, n_rows: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(n_features, sizes.first, 3), nn.GELU(),
            nn.Conv1d(sizes.first, sizes.second, 3), nn.GELU(),
            nn.Conv1d(sizes.second, sizes.width, 3), nn.GELU(),
        )  # fmt: skip
        self.out = nn.Linear(sizes.width * (n_rows - 6), sizes.width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, R, F)."""
        encoded: Tensor = self.out(self.convolutions(features.transpose(1, 2)).flatten(1))
        return encoded


class OperationsEncoder(nn.Module):
    """The operations of a space group, zero after the last, to one vector: (B, 192, 4, 4) -> (B, W)."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(192, sizes.first, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(sizes.first, sizes.second, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(sizes.second, sizes.width, 2), nn.LeakyReLU(0.2),
        )  # fmt: skip

    def forward(self, operations: Tensor) -> Tensor:
        """(B, 192, 4, 4)."""
        encoded: Tensor = self.convolutions(operations).flatten(1)
        return encoded


class NumberEncoder(nn.Module):
    """The number of a space group, 0 for an open one, as a learned vector: (B,) -> (B, W)."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.vectors = nn.Embedding(231, sizes.width)

    def forward(self, spacegroup: Tensor) -> Tensor:
        """(B,), int64."""
        vectors: Tensor = self.vectors(spacegroup)
        return vectors


class StructureEncoder(nn.Module):
    """A structure matrix, its rows taken as channels, to one vector: (B, 64, 3) -> (B, W)."""

    def __init__(self, sizes: EncoderSizes, n_rows: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(n_rows, sizes.second, 2), nn.GELU(), nn.Conv1d(sizes.second, sizes.width, 2), nn.GELU()
        )
        self.out = nn.Linear(sizes.width, sizes.width)

    def forward(self, matrix: Tensor) -> Tensor:
        """(B, 64, 3)."""
        encoded: Tensor = self.out(self.convolutions(matrix).flatten(1))
        return encoded


def one_hot_with(properties: Tensor, numbers: Tensor) -> Tensor:
    """One-hot elements beside their properties, zero in rows without a site: (104, P), (B, R) -> (B, R, 103 + P)."""
    elements = nn.functional.one_hot(numbers, len(properties))[..., 1:].to(properties.dtype)
    return torch.cat([elements, properties[numbers]], dim=-1)
