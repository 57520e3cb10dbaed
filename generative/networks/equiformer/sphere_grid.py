"""Features as functions on the sphere: values at the points of a grid and back, for pointwise nonlinearities.

Gauss-Legendre points from pole to pole, equal steps around: with p of each, products up to degree p - 1 come back
exactly, and what a nonlinearity makes beyond that is what makes the network only nearly equivariant. (Published: equal
steps from pole to pole, of the same number.)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from generative.networks.equiformer.frames import components, raised
from generative.networks.spherical_harmonics import RealSphericalHarmonics


class SphereGrid(nn.Module):
    """Components (..., K, C) to values at P points (..., P, C) and back.

    Normalised so that components of variance one give values of variance one ("component").
    """

    outward: Tensor
    inward: Tensor

    def __init__(self, l_max: int, n_polar: int, m_max: int | None = None, places: list[int] | None = None) -> None:
        """Make both matrices.

        Args:
            l_max: highest degree.
            n_polar: points from pole to pole, and around; above l_max.
            m_max: highest order that is kept; None keeps all.
            places: of the kept components; None: all, in order.
        """
        super().__init__()
        kept = list(range((l_max + 1) ** 2)) if places is None else places
        heights, weights = np.polynomial.legendre.leggauss(n_polar)
        around = 2 * math.pi * np.arange(n_polar) / n_polar
        across = np.sqrt(1 - heights**2)
        points = np.stack(
            [np.outer(across, np.cos(around)), np.outer(across, np.sin(around)), np.outer(heights, around**0)], axis=-1
        ).reshape(-1, 3)
        area = torch.from_numpy(np.repeat(weights, n_polar) * 2 * math.pi / n_polar)
        harmonics = RealSphericalHarmonics(l_max)(torch.from_numpy(points))[:, kept]  # (P, K)
        degrees = torch.tensor([components(l_max)[i].degree for i in kept], dtype=torch.float64)
        unit = (4 * math.pi / (2 * degrees + 1) / (l_max + 1)).sqrt()
        scale = raised(l_max, l_max if m_max is None else m_max, kept)
        self.register_buffer("outward", (harmonics * unit * scale).float(), persistent=False)
        self.register_buffer(
            "inward", ((harmonics * area[:, None]).T * (scale / unit)[:, None]).float(), persistent=False
        )

    def values(self, features: Tensor) -> Tensor:
        """At the points of the grid."""
        return self.outward.to(features.dtype) @ features

    def features(self, values: Tensor) -> Tensor:
        """Of values at the points."""
        return self.inward.to(values.dtype) @ values
