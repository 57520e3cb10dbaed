"""Fourier features against the sines and cosines they are named after, and what they must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from generative.networks.fourier_features import FourierFeatures


@pytest.mark.parametrize("base", [2 * math.pi, math.pi])
def test_features_are_all_sines_then_all_cosines_by_coordinate_and_frequency(base: float) -> None:
    frac = np.random.default_rng(0).random((20, 3))
    features = FourierFeatures(base=base)(torch.from_numpy(frac))
    phases = [2.0**n * base * frac[:, axis] for axis in range(3) for n in range(3, 9)]
    expected = np.stack([np.sin(phase) for phase in phases] + [np.cos(phase) for phase in phases], axis=1)
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-12)


def test_there_are_36_of_them_as_published_and_6_per_frequency_otherwise() -> None:
    assert FourierFeatures().out_width == 36
    assert FourierFeatures()(torch.zeros(4, 3)).shape == (4, 36)
    assert FourierFeatures(first=0, last=0).out_width == 6


@pytest.mark.parametrize("base", [2 * math.pi, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_an_atom_in_other_cells_have_the_same_features(base: float, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(1)
    # Multiples of 2^-16: a shift by whole cells is then exact in single precision too.
    frac = torch.randint(0, 2**16, (50, 3), generator=rng).to(dtype) / 2**16
    shift = torch.randint(-4, 5, (50, 3), generator=rng)
    features = FourierFeatures(base=base)
    torch.testing.assert_close(features(frac + shift), features(frac), atol=0, rtol=0)


def test_single_precision_is_exact_to_rounding_at_the_highest_frequency() -> None:
    frac = torch.rand(1000, 3, generator=torch.Generator().manual_seed(2))
    error = FourierFeatures()(frac).double() - FourierFeatures()(frac.double())
    assert error.abs().max() < 5e-7  # sin(1600 rad) in float32 is off by 1e-4


def test_the_gradient_is_that_of_the_waves() -> None:
    frac = torch.rand(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(FourierFeatures(), (frac,), eps=1e-7, atol=1e-4)


def test_a_shift_of_all_atoms_changes_them() -> None:
    frac = torch.rand(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    features = FourierFeatures()
    assert (features(frac + 0.01) - features(frac)).abs().max() > 0.5


@pytest.mark.parametrize(("first", "base"), [(0, math.pi), (3, 3.0), (-1, 2 * math.pi), (3, 0.0)])
def test_waves_that_do_not_fit_the_cell_are_refused(first: int, base: float) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        FourierFeatures(first=first, base=base)


def test_an_empty_range_of_frequencies_is_refused() -> None:
    with pytest.raises(ValueError, match="expected first <= last"):
        FourierFeatures(first=4, last=3)


def test_a_checkpoint_holds_nothing_of_them() -> None:
    assert FourierFeatures().state_dict() == {}
