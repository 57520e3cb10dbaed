"""A dense transformer over the atoms of a crystal whose attention reads periodic pair geometry.

Shape letters: B crystals, N atoms (padded), H heads, D width, P pair width, G pair features, L layers.
The network sees fractional coordinates only through wrapped differences, so it is exactly invariant to translation and
equivariant to the order of atoms; the lattice enters as numbers, so it wants one setting per cell (Niggli-reduced).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Velocity(NamedTuple):
    """What the network returns.

    Attributes:
        frac: per atom, (B, N, 3), fractional units per unit time.
        lattice: per crystal, (B, lattice_dim), standardised lattice units per unit time.
    """

    frac: Tensor
    lattice: Tensor


def half_space_waves() -> Tensor:
    """Integer wave vectors, one of each +-n pair: {-1, 0, 1}^3 without zero, and the second harmonics of the axes.

    Returns: (16, 3).
    """
    cube = [n for n in itertools.product((-1, 0, 1), repeat=3) if n > (0, 0, 0)]
    return torch.tensor([*cube, (2, 0, 0), (0, 2, 0), (0, 0, 2)], dtype=torch.float32)


class PairGeometry(nn.Module):
    """Periodic geometry of every ordered pair of atoms; no parameters, no gradient.

    Two parts: plane waves of the wrapped difference (periodic, directional) and a smooth count of the neighbour's
    images in radial shells (27 images, self-images included, cosine cut-off).
    """

    waves: Tensor
    images: Tensor
    centres: Tensor

    def __init__(self, n_radial: int = 20, cutoff_ang: float = 8.0) -> None:
        super().__init__()
        self.cutoff_ang = cutoff_ang
        self.register_buffer("waves", half_space_waves(), persistent=False)
        images = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), dtype=torch.float32)
        self.register_buffer("images", images, persistent=False)
        self.register_buffer("centres", torch.linspace(0.8, cutoff_ang, n_radial), persistent=False)
        self.inverse_width = n_radial / (cutoff_ang - 0.8)
        self.n_features = 2 * len(self.waves) + n_radial

    @torch.no_grad()
    def forward(self, frac: Tensor, lattice_ang: Tensor) -> Tensor:
        """(B, N, 3), (B, 3, 3) rows -> (B, N, N, G); entry [i, j] describes j seen from i."""
        delta = frac[:, None, :, :] - frac[:, :, None, :]
        delta = delta - delta.round()  # (B, N, N, 3)
        phase = 2 * math.pi * (delta @ self.waves.T)  # (B, N, N, 16)
        cart = delta @ lattice_ang[:, None]  # (B, N, N, 3)
        shift = self.images @ lattice_ang  # (B, 27, 3)
        # |d + s|^2 expanded: two small products instead of a (B, N, N, 27, 3) tensor.
        squared = (
            cart.square().sum(-1, keepdim=True)
            + 2 * cart @ shift.transpose(1, 2)[:, None]
            + shift.square().sum(-1)[:, None, None]
        )  # (B, N, N, 27)
        distance = squared.clamp_min(1e-12).sqrt()
        inside = (distance < self.cutoff_ang) & (distance > 1e-3)  # an atom is not its own neighbour at zero distance
        weight = torch.where(inside, 0.5 * (torch.cos(math.pi * distance / self.cutoff_ang) + 1), 0.0)
        # Only the eight nearest images count: in all but the smallest cells the others lie past the cut-off.
        near, order = distance.masked_fill(~inside, 1e3).topk(8, dim=-1, largest=False)  # (B, N, N, 8)
        radial = torch.exp(-((near.unsqueeze(-1) - self.centres) * self.inverse_width).square())
        shells = (radial * weight.gather(-1, order).unsqueeze(-1)).sum(-2)  # (B, N, N, n_radial)
        return torch.cat([phase.sin(), phase.cos(), shells], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of t in [0, 1] through a small MLP. (B,) -> (B, D)."""

    def __init__(self, width: int, n_frequencies: int = 32) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(0, 3, n_frequencies) * math.pi / 2, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * n_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        angle = t[:, None] * self.frequencies
        out: Tensor = self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return out


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's affine part: one shift and scale per crystal. (B, N, D), (B, D), (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention whose scores and values both read the pair state, then an MLP; modulated by the crystal's condition."""

    def __init__(self, width: int, n_heads: int, pair_width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width + n_heads * pair_width, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.adapt = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, x: Tensor, bias: Tensor, pair: Tensor, cond: Tensor) -> Tensor:
        """(B, N, D), bias (B, H, N, N), pair (B, N, N, P), cond (B, D) -> (B, N, D)."""
        b, n, d = x.shape
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adapt(cond).chunk(6, dim=-1)
        y = modulate(functional.layer_norm(x, (d,)), shift_a, scale_a)
        q, k, v = self.qkv(y).view(b, n, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H)
        scores = q @ k.transpose(-1, -2) * (d // self.n_heads) ** -0.5 + bias
        attention = scores.float().softmax(dim=-1).to(v.dtype)  # (B, H, N, N)
        values = (attention @ v).transpose(1, 2).reshape(b, n, d)
        # Pair values: sum_j a_ij e_ij per head carries the directions that scalar scores cannot.
        pairs = (attention.permute(0, 2, 1, 3) @ pair).reshape(b, n, -1)  # (B, N, H * P)
        x = x + gate_a[:, None] * self.out(torch.cat([values, pairs], dim=-1))
        y = modulate(functional.layer_norm(x, (d,)), shift_m, scale_m)
        out: Tensor = x + gate_m[:, None] * self.down(functional.silu(self.up(y)))
        return out


class PairTransformer(nn.Module):
    """Velocity of atoms and lattice from noisy coordinates, noisy lattice, species and conditions.

    Args:
        species_features: fixed descriptors of every element by atomic number, (Z_max + 1, S).
        width: D.
        n_layers: L.
        n_heads: H; divides D.
        pair_width: P.
        lattice_dim: numbers that represent a lattice.
        n_spacegroups: highest space-group number; index 0 stands for 'not asked'.
    """

    species_features: Tensor

    def __init__(
        self,
        species_features: Tensor,
        width: int = 128,
        n_layers: int = 6,
        n_heads: int = 8,
        pair_width: int = 48,
        lattice_dim: int = 6,
        n_spacegroups: int = 230,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.register_buffer("species_features", species_features)
        self.species = nn.Embedding(len(species_features), width)
        nn.init.normal_(self.species.weight, std=0.02)
        self.describe = nn.Linear(species_features.shape[1], width)
        self.geometry = PairGeometry()
        self.pair_in = nn.Linear(self.geometry.n_features, pair_width)
        self.pair_source = nn.Linear(width, pair_width, bias=False)
        self.pair_target = nn.Linear(width, pair_width, bias=False)
        self.pair_cond = nn.Linear(width, pair_width, bias=False)
        self.pair_mid = nn.Linear(pair_width, pair_width)
        self.pair_bias = nn.Linear(pair_width, n_layers * n_heads)
        self.time = TimeEmbedding(width)
        self.lattice_in = nn.Linear(lattice_dim, width)
        self.pool_in = nn.Linear(width, width)
        self.size = nn.Embedding(65, width)
        self.spacegroup = nn.Embedding(n_spacegroups + 1, width)
        self.energy = nn.Linear(2, width, bias=False)  # (value, is-given)
        for module in (self.size, self.spacegroup):
            nn.init.normal_(module.weight, std=0.02)
        self.cond = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, n_heads, pair_width) for _ in range(n_layers))
        self.frac_out = nn.Linear(width, 3)
        self.lattice_out = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, lattice_dim))
        nn.init.zeros_(self.frac_out.weight)
        nn.init.zeros_(self.frac_out.bias)

    def forward(
        self,
        t: Tensor,
        frac: Tensor,
        lattice: Tensor,
        lattice_ang: Tensor,
        atomic_numbers: Tensor,
        mask: Tensor,
        spacegroup: Tensor,
        energy: Tensor,
    ) -> Velocity:
        """One call.

        Args:
            t: time in [0, 1], (B,).
            frac: noisy fractional coordinates, (B, N, 3).
            lattice: noisy lattice, standardised numbers, (B, lattice_dim).
            lattice_ang: the same lattice as rows, (B, 3, 3), angstrom.
            atomic_numbers: (B, N), 0 where padded.
            mask: True for real atoms, (B, N).
            spacegroup: international number, 0 for 'not asked', (B,).
            energy: formation energy, eV/atom, NaN for 'not asked', (B,).
        """
        x = self.species(atomic_numbers) + self.describe(self.species_features[atomic_numbers])  # (B, N, D)
        real = mask.unsqueeze(-1).to(x.dtype)
        count = mask.sum(1)
        pooled = (x * real).sum(1) / count.unsqueeze(-1)
        given = ~energy.isnan()
        asked = torch.stack([torch.where(given, energy, 0.0), given.to(energy.dtype)], dim=-1)
        cond = self.cond(
            self.time(t)
            + self.lattice_in(lattice)
            + self.pool_in(pooled)
            + self.size(count)
            + self.spacegroup(spacegroup)
            + self.energy(asked)
        )  # (B, D)
        pair = self.pair_in(self.geometry(frac, lattice_ang)) + self.pair_cond(cond)[:, None, None]
        pair = pair + self.pair_source(x)[:, None] + self.pair_target(x)[:, :, None]
        pair = functional.silu(self.pair_mid(functional.silu(pair)))  # (B, N, N, P)
        bias = self.pair_bias(pair).unflatten(-1, (len(self.blocks), self.n_heads)).permute(3, 0, 4, 1, 2)
        bias = bias.masked_fill(~mask[None, :, None, None, :], -1e4)  # (L, B, H, N, N)
        for layer, block in enumerate(self.blocks):
            x = block(x, bias[layer], pair, cond)
        x = functional.layer_norm(x, (x.shape[-1],))
        v = self.frac_out(x).float() * real
        # A crystal has no origin: the mean drift is not learnable, so it is taken out.
        v = (v - v.sum(1, keepdim=True) / count[:, None, None]) * real
        mean = (x * real).sum(1) / count.unsqueeze(-1)
        return Velocity(v, self.lattice_out(torch.cat([mean, cond], dim=-1)).float())
