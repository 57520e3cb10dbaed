"""Features in the frame of an edge, and back: Wigner-D matrices without angles, from constants that are fitted once.

A feature of degree l_max has (l_max + 1)^2 components, in the order of RealSphericalHarmonics: by degree, in each the
orders cos 0 ... cos l, sin 1 ... sin l. Turned by Q it is D(Q) x, where Y(Q v) = D(Q) Y(v).

The frame of an edge is the turn that lays its direction on z, first about z and then about y: it is a function of the
direction alone, so a call repeats itself. What an edge does there is a map that knows no direction but z, and commutes
with turns about it; so orders above m_max can be left out, exactly, and which of all frames with that z is taken does
not matter. At the poles the first turn is open; none is taken.

The turn about y is a sum of cos k b and sin k b, k up to l_max, times fixed matrices, which are fitted to the harmonics
once.
Shape letters: E edges, n = (l_max + 1)^2, K components kept in the frame.
Source: eSCN, arXiv:2302.03655; EquiformerV2, arXiv:2306.12059, whose frames are drawn at random at each call.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from generative.networks.spherical_harmonics import RealSphericalHarmonics

XYZ = (2, 3, 1)
"""Places of x, y and z among the components: those of degree 1 are z, x, y."""


class Component(NamedTuple):
    """A spherical harmonic: degree, order, and whether it goes with the sine of the azimuth."""

    degree: int
    order: int
    is_sine: bool


def components(l_max: int) -> list[Component]:
    """Those of a feature, in order."""
    found = []
    for degree in range(l_max + 1):
        found += [Component(degree, m, False) for m in range(degree + 1)]
        found += [Component(degree, m, True) for m in range(1, degree + 1)]
    return found


def framed(l_max: int, m_max: int) -> list[int]:
    """Places of the components that are kept in the frame of an edge, in their order there.

    By order m; of each the cosines by degree, then the sines: what an edge mixes stands together.
    """
    every = components(l_max)
    kept = [c for c in every if c.order <= m_max]
    return [every.index(c) for c in sorted(kept, key=lambda c: (c.order, c.is_sine, c.degree))]


def raised(l_max: int, m_max: int, places: list[int]) -> Tensor:
    """sqrt((2l + 1) / (2 m_max + 1)) where orders of a component's degree are left out, else 1, (K,), float64.

    As published: it keeps the mean square of a degree.
    """
    degrees = torch.tensor([components(l_max)[i].degree for i in places], dtype=torch.float64)
    return torch.where(degrees > m_max, ((2 * degrees + 1) / (2 * m_max + 1)).sqrt(), 1.0)


def wigner(turn: Tensor, l_max: int) -> Tensor:
    """D of rotations, (r, 3, 3) -> (r, n, n), fitted to the harmonics of fixed directions; float64."""
    rng = torch.Generator().manual_seed(0)
    directions = nn.functional.normalize(torch.randn(4 * (l_max + 1) ** 2, 3, generator=rng, dtype=torch.float64))
    harmonics = RealSphericalHarmonics(l_max)
    there = torch.stack([harmonics(directions @ q.T) for q in turn.double()])  # (r, directions, n)
    fitted: Tensor = torch.linalg.pinv(harmonics(directions)) @ there
    return fitted.transpose(1, 2)


@lru_cache
def _turns_about_y(l_max: int) -> Tensor:
    """Matrices T with D(turn by -b about y) = sum_k F_k(b) T_k, F = (1, cos b ... cos l b, sin b ... sin l b)."""
    angles = torch.linspace(0, 2 * math.pi, 4 * l_max + 4, dtype=torch.float64)[:-1]
    c, s, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    turn = torch.stack([c, zero, -s, zero, one, zero, s, zero, c], dim=1).view(-1, 3, 3)
    waves = [(k * angles).cos() for k in range(l_max + 1)] + [(k * angles).sin() for k in range(1, l_max + 1)]
    fitted: Tensor = torch.linalg.pinv(torch.stack(waves, dim=1)) @ wigner(turn, l_max).flatten(1)
    return fitted.where(fitted.abs() > 1e-12, 0.0).view(2 * l_max + 1, (l_max + 1) ** 2, (l_max + 1) ** 2)


class Frames(NamedTuple):
    """Of E edges: into the frame (E, K, n), and back (E, n, K), left-out orders made up for."""

    into: Tensor
    back: Tensor


class EdgeFrames(nn.Module):
    """Directions of length one to their frames: (E, 3) -> Frames."""

    about_y: Tensor
    order: Tensor
    partner: Tensor
    sign: Tensor
    back_scale: Tensor

    def __init__(self, l_max: int, m_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        every, places = components(l_max), framed(l_max, m_max)
        self.n_kept = len(places)
        self.register_buffer("about_y", _turns_about_y(l_max)[:, places].flatten(1), persistent=False)
        order = [c.order for c in every]
        partner = [every.index(c._replace(is_sine=not c.is_sine)) if c.order else i for i, c in enumerate(every)]
        sign = [(1.0 if c.is_sine else -1.0) if c.order else 0.0 for c in every]
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("partner", torch.tensor(partner), persistent=False)
        self.register_buffer("sign", torch.tensor(sign, dtype=torch.float64), persistent=False)
        self.register_buffer("back_scale", raised(l_max, m_max, places), persistent=False)

    @torch.no_grad()
    def forward(self, direction: Tensor) -> Frames:
        """No gradient goes into the frames, as published. Nor does mixed precision, which would bend them."""
        with torch.autocast(direction.device.type, enabled=False):
            return self._frames(direction)

    def _frames(self, direction: Tensor) -> Frames:
        x, y, z = direction.unbind(1)
        across = torch.hypot(x, y)
        upright = across < 1e-6
        safe = across.masked_fill(upright, 1.0)
        cos_a, sin_a = self._multiples((x / safe).masked_fill(upright, 1.0), (y / safe).masked_fill(upright, 0.0))
        cos_b, sin_b = self._multiples(z, across.masked_fill(upright, 0.0))
        waves = torch.cat([cos_b, sin_b[:, 1:]], dim=1)
        about_y = (waves @ self.about_y.to(waves.dtype)).view(len(z), self.n_kept, len(self.order))  # (E, K, n)
        cosine = cos_a.index_select(1, self.order).unsqueeze(1)
        sine = (sin_a.index_select(1, self.order) * self.sign.to(z.dtype)).unsqueeze(1)
        into = about_y * cosine + about_y.index_select(2, self.partner) * sine
        return Frames(into, into.transpose(1, 2) * self.back_scale.to(z.dtype))

    def _multiples(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of 0, 1 ... l_max times an angle, (E, l_max + 1) each."""
        c, s = [torch.ones_like(cosine)], [torch.zeros_like(cosine)]
        for _ in range(self.l_max):
            before_c, before_s = c[-1], s[-1]
            c.append(before_c * cosine - before_s * sine)
            s.append(before_s * cosine + before_c * sine)
        return torch.stack(c, dim=1), torch.stack(s, dim=1)
