"""Spherical harmonics against SciPy's, and the addition theorem."""

import math

import numpy as np
import torch
from scipy.special import eval_legendre, sph_harm_y

from generative.networks.spherical_harmonics import RealSphericalHarmonics


def directions(n: int) -> torch.Tensor:
    drawn = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)
    return torch.cat([torch.nn.functional.normalize(drawn, dim=1), axes, -axes])


def test_they_are_those_of_scipy_up_to_its_phase() -> None:
    unit = directions(50)
    found = RealSphericalHarmonics(6)(unit).numpy()
    x, y, z = unit.numpy().T
    theta, phi = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    column = 0
    for degree in range(7):
        complex_ones = [sph_harm_y(degree, m, theta, phi) * (-1) ** m for m in range(degree + 1)]
        expected = [complex_ones[0].real, *(math.sqrt(2) * c.real for c in complex_ones[1:])]
        expected += [math.sqrt(2) * c.imag for c in complex_ones[1:]]
        for values in expected:
            np.testing.assert_allclose(found[:, column], values, atol=1e-13)
            column += 1
    assert column == found.shape[1]


def test_their_products_summed_over_orders_are_legendre_polynomials_of_the_cosine() -> None:
    unit = directions(20)
    harmonics = RealSphericalHarmonics(6)(unit)
    for degree in range(7):
        part = harmonics[:, degree**2 : (degree + 1) ** 2]
        expected = (2 * degree + 1) / (4 * math.pi) * eval_legendre(degree, (unit @ unit.T).numpy())
        np.testing.assert_allclose((part @ part.T).numpy(), expected, atol=1e-13)


def test_no_direction_is_singular() -> None:
    unit = directions(5).requires_grad_()
    assert torch.autograd.gradcheck(RealSphericalHarmonics(4), (unit,))


def test_the_lowest_degree_alone_is_constant() -> None:
    torch.testing.assert_close(
        RealSphericalHarmonics(0)(directions(2)),
        torch.full((8, 1), math.sqrt(1 / (4 * math.pi)), dtype=torch.float64),
    )
    assert RealSphericalHarmonics(6)(torch.zeros(0, 3)).shape == (0, 49)
