"""Real spherical harmonics of directions, without angles, so that no direction is singular.

With the addition theorem, sum_m Y_lm(u) Y_lm(v) = (2l + 1) / (4 pi) P_l(u v), a sum over pairs of directions becomes
two sums over directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RealSphericalHarmonics(nn.Module):
    """Orthonormal real spherical harmonics of degrees 0 to l_max, of directions: (n, 3) -> (n, (l_max + 1)^2).

    By degree l, in each the orders cos 0, cos 1, ..., cos l, sin 1, ..., sin l; without the Condon-Shortley phase.

    Source: the recursion of the fully normalised associated Legendre functions (Holmes and Featherstone, J. Geodesy
    76, 279, 2002, eq. 11), over z, with sin^m theta moved into (x + iy)^m.
    """

    rise: Tensor
    fall: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        rise, fall = torch.zeros(2, l_max + 1, l_max + 1, dtype=torch.float64)
        self.diagonal = [math.sqrt(1 / (4 * math.pi))]
        for degree in range(1, l_max + 1):
            self.diagonal.append(self.diagonal[-1] * math.sqrt((1 + 1 / (2 * degree)) * (2 if degree == 1 else 1)))
            for m in range(degree):
                rise[degree, m] = math.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
                if m < degree - 1:
                    fall[degree, m] = rise[degree, m] * math.sqrt(
                        ((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1)
                    )
        # In double precision, so that a network moved to it has no constants of single precision.
        self.register_buffer("rise", rise, persistent=False)
        self.register_buffer("fall", fall, persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Directions of length one, (n, 3)."""
        x, y, z = unit.unbind(1)
        cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]  # real and imaginary part of (x + iy)^m
        for _ in range(self.l_max):
            c, s = cosines[-1], sines[-1]
            cosines.append(x * c - y * s)
            sines.append(x * s + y * c)
        cosine, sine = torch.stack(cosines, dim=1), torch.stack(sines, dim=1)
        rise, fall, z = self.rise.to(unit.dtype), self.fall.to(unit.dtype), z.unsqueeze(1)
        before, legendre = unit[:, :0], torch.full_like(z, self.diagonal[0])  # (n, l + 1), by order
        degrees = [legendre]
        for degree in range(1, self.l_max + 1):
            lower = z * legendre * rise[degree, :degree]
            if degree > 1:  # the highest order of degree l - 1 has nothing two degrees before it
                lower = torch.cat([lower[:, :-1] - before * fall[degree, : degree - 1], lower[:, -1:]], dim=1)
            before, legendre = legendre, torch.cat([lower, torch.full_like(z, self.diagonal[degree])], dim=1)
            degrees += [legendre * cosine[:, : degree + 1], legendre[:, 1:] * sine[:, 1 : degree + 1]]
        return torch.cat(degrees, dim=1)
