"""A one-dimensional UNet with an embedding added in every residual block: residual and attention blocks at all levels.

Shape letters: B samples, C channels, L length, E width of the embedding.

Source: Nichol and Dhariwal, arXiv:2102.09672 (the UNet of improved DDPM, additive embedding), in one dimension, as used
by the conditional crystal generation paper (AIRI): 128 channels times 1, 2, 4, 8, seven blocks a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class UNetConfig:
    """Sizes; the defaults are the paper's.

    Attributes:
        channels_in: of the data, and of the output.
        channels: at the first level.
        multipliers: of the channels, one per level; each level after the first is half as long.
        n_blocks: residual blocks per level on the way down; one more on the way up.
        n_groups: of the group normalisation; divides every number of channels.
        attention_from: first level whose blocks are followed by self-attention.
    """

    channels_in: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    n_blocks: int = 7
    n_groups: int = 32
    attention_from: int = 0

    @property
    def embedding(self) -> int:
        """Width of the embedding that blocks are given."""
        return 4 * self.channels

    def __post_init__(self) -> None:
        """Raises: ValueError: if the groups do not divide the channels."""
        if self.channels % self.n_groups:
            raise ValueError(f"{self.channels} channels in {self.n_groups} groups: expected a multiple")


def _exact(x: Tensor) -> Tensor:
    """In single precision at least, for what half precision would spoil."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _zeroed(module: nn.Module) -> nn.Module:
    """The module with all weights zero: what it is added to stays as it was until it has learned something."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class _Normalised(nn.GroupNorm):
    """Group normalisation in single precision at least."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_exact(x)).to(x.dtype)


class ResidualBlock(nn.Module):
    """(B, C, L), (B, E) -> (B, C', L)."""

    def __init__(self, channels: int, channels_out: int, embedding: int, n_groups: int) -> None:
        super().__init__()
        self.before = nn.Sequential(
            _Normalised(n_groups, channels), nn.SiLU(), nn.Conv1d(channels, channels_out, 3, padding=1)
        )
        self.embed = nn.Sequential(nn.SiLU(), nn.Linear(embedding, channels_out))
        self.after = nn.Sequential(
            _Normalised(n_groups, channels_out),
            nn.SiLU(),
            _zeroed(nn.Conv1d(channels_out, channels_out, 3, padding=1)),
        )
        self.skip: nn.Module = nn.Identity() if channels == channels_out else nn.Conv1d(channels, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, L), (B, E)."""
        hidden = self.before(x) + self.embed(embedding).unsqueeze(-1)
        result: Tensor = self.skip(x) + self.after(hidden)
        return result


class AttentionBlock(nn.Module):
    """Self-attention of one head over the length, added to its input: (B, C, L) -> (B, C, L)."""

    def __init__(self, channels: int, n_groups: int) -> None:
        super().__init__()
        self.norm = _Normalised(n_groups, channels)
        self.to_queries_keys_values = nn.Conv1d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L)."""
        parts = self.to_queries_keys_values(self.norm(x)).transpose(1, 2)  # (B, L, 3 C)
        queries, keys, values = (_exact(part).unsqueeze(1) for part in parts.chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(queries, keys, values)  # (B, 1, L, C)
        result: Tensor = x + self.out(mixed.squeeze(1).transpose(1, 2).to(x.dtype))
        return result


class _Stage(nn.Module):
    """A residual block, attention after it where configured, and a change of length where there is one."""

    def __init__(self, block: ResidualBlock, attention: AttentionBlock | None, resize: nn.Module | None) -> None:
        super().__init__()
        self.block, self.attention, self.resize = block, attention, resize

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.resize is None else self.resize(x)


class UNet1d(nn.Module):
    """Data of some channels and a condition to data of the same shape: (B, C, L), (B,), (B, E) -> (B, C, L).

    Untrained it gives zeros: the last layer starts with none but zero weights.
    """

    frequencies: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, groups, embedding = config.channels, config.n_groups, config.embedding
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.first = nn.Conv1d(config.channels_in, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        n, kept = width, [width]

        def attention(level: int, channels: int) -> AttentionBlock | None:
            return AttentionBlock(channels, groups) if level >= config.attention_from else None

        last = len(config.multipliers) - 1
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.n_blocks):
                block = ResidualBlock(n, multiplier * width, embedding, groups)
                n = multiplier * width
                self.down.append(_Stage(block, attention(level, n), None))
                kept.append(n)
            if level < last:
                self.down.append(nn.Conv1d(n, n, 3, stride=2, padding=1))
                kept.append(n)
        self.middle = nn.ModuleList(
            [
                _Stage(ResidualBlock(n, n, embedding, groups), AttentionBlock(n, groups), None),
                _Stage(ResidualBlock(n, n, embedding, groups), None, None),
            ]
        )
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for i in range(config.n_blocks + 1):
                block = ResidualBlock(n + kept.pop(), multiplier * width, embedding, groups)
                n = multiplier * width
                longer = None
                if level and i == config.n_blocks:
                    longer = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(n, n, 3, padding=1))
                self.up.append(_Stage(block, attention(level, n), longer))
        self.last = nn.Sequential(
            _Normalised(groups, n), nn.SiLU(), _zeroed(nn.Conv1d(width, config.channels_in, 3, padding=1))
        )

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """One evaluation.

        Args:
            x: (B, C, L); L a multiple of 2^(levels - 1).
            time: in the units of the process, (B,).
            condition: added to the embedded time, (B, E).
        """
        phase = time.to(condition.dtype).unsqueeze(-1) * self.frequencies.to(condition.dtype)
        embedding = self.time(torch.cat([phase.cos(), phase.sin()], dim=-1)) + condition
        x = self.first(x)
        kept = [x]
        for stage in self.down:
            x = stage(x, embedding) if isinstance(stage, _Stage) else stage(x)
            kept.append(x)
        for stage in self.middle:
            x = stage(x, embedding)
        for stage in self.up:
            x = stage(torch.cat([x, kept.pop()], dim=1), embedding)
        result: Tensor = self.last(x)
        return result
