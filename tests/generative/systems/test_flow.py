"""The flow's mathematics, and that a perfect velocity recovers a crystal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.lattice import fit_atomic_volumes, from_log_cholesky, to_log_cholesky
from generative.processes.torus_flow import (
    FlowPoint,
    draw_prior,
    integrate,
    interpolate,
    remove_drift,
    wrap,
    wrap_difference,
)
from generative.requests import Request
from generative.systems.cdvae.config import CDVAESampler
from generative.systems.crystal_flow import CrystalFlow, FlowSampler
from tests.generative.asking import asked


def test_log_cholesky_gives_back_the_metric(rng: torch.Generator) -> None:
    rows = torch.randn(64, 3, 3, generator=rng, dtype=torch.float64) + 4 * torch.eye(3, dtype=torch.float64)
    scale = 1 + torch.rand(64, generator=rng, dtype=torch.float64)
    back = from_log_cholesky(to_log_cholesky(rows, scale), scale)
    torch.testing.assert_close(back @ back.mT, rows @ rows.mT, rtol=1e-10, atol=1e-10)
    assert (back.det() > 0).all()


def test_any_six_numbers_are_a_cell_of_positive_volume(rng: torch.Generator) -> None:
    numbers = 10 * torch.randn(1000, 6, generator=rng, dtype=torch.float64)
    cells = from_log_cholesky(numbers, torch.full((1000,), 4.0, dtype=torch.float64))
    assert cells.isfinite().all()
    assert (cells.det() > 0).all()


def test_atomic_volumes_are_recovered_from_additive_cells(numpy_rng: np.random.Generator) -> None:
    counts = numpy_rng.integers(0, 5, size=(400, 6)) * 1.0
    counts[:, 0] += 1
    true = np.array([10.0, 12.0, 15.0, 18.0, 22.0, 30.0])
    fitted = fit_atomic_volumes(counts, counts @ true, ridge=1e-6)
    np.testing.assert_allclose(fitted, true, rtol=1e-4)
    unseen = fit_atomic_volumes(np.column_stack([counts, np.zeros(400)]), counts @ true)
    assert unseen[-1] == pytest.approx((counts @ true / counts.sum(1)).mean())


def test_path_runs_from_noise_to_data_with_constant_velocity(rng: torch.Generator) -> None:
    mask = torch.ones(8, 5, dtype=torch.bool)
    start, end = draw_prior(mask, 6, rng), draw_prior(mask, 6, rng)
    for time in (0.0, 0.25, 1.0):
        point, _ = interpolate(start, end, torch.full((8,), time), mask)
        reached = wrap_difference(point.frac - start.frac)
        torch.testing.assert_close(reached, time * wrap_difference(end.frac - start.frac), atol=1e-6, rtol=0)
        torch.testing.assert_close(point.lattice, start.lattice + time * (end.lattice - start.lattice))


def test_target_velocity_is_the_displacement_less_its_mean(rng: torch.Generator) -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    start, end = draw_prior(mask, 6, rng), draw_prior(mask, 6, rng)
    _, target = interpolate(start, end, torch.rand(2, generator=rng), mask)
    delta = wrap_difference(end.frac - start.frac)
    torch.testing.assert_close(target.frac[0, :2], delta[0, :2] - delta[0, :2].mean(0))
    assert target.frac[0, 2].abs().max() == 0
    assert remove_drift(delta, mask).sum(1).abs().max() < 1e-6


@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_a_perfect_velocity_recovers_the_crystal(rng: torch.Generator, slope: float) -> None:
    mask = torch.ones(4, 6, dtype=torch.bool)
    truth = draw_prior(mask, 6, rng)
    start = draw_prior(mask, 6, rng)

    def velocity(t: torch.Tensor, point: FlowPoint) -> FlowPoint:
        left = (1 - t).clamp_min(1e-3)
        towards = wrap_difference(truth.frac - point.frac) / left[:, None, None]
        return FlowPoint(towards, (truth.lattice - point.lattice) / left[:, None])

    end = integrate(velocity, start, 100, rng, velocity_slope=slope)
    # With a slope the last steps overshoot by less than the last step's own length.
    tolerance = 1e-4 if slope == 0 else 0.06
    assert wrap_difference(end.frac - truth.frac).abs().max() < tolerance
    torch.testing.assert_close(end.lattice, truth.lattice, atol=1e-4, rtol=0)


def test_wrapped_coordinates_lie_in_the_half_open_unit_interval() -> None:
    edge = torch.tensor([-1e-9, 0.0, 1.0, 2.5, -0.25])
    wrapped = wrap(edge)
    assert ((wrapped >= 0) & (wrapped < 1)).all()
    torch.testing.assert_close(wrapped, torch.tensor([0.0, 0.0, 0.0, 0.5, 0.75]), atol=1e-6, rtol=0)


def test_a_batch_gives_its_crystals_back(crystals: list[Crystal]) -> None:
    for before, after in zip(crystals, CrystalBatch.pack(crystals).unpack(), strict=True):
        np.testing.assert_allclose(after.lattice_ang, before.lattice_ang, rtol=1e-6)
        np.testing.assert_allclose((after.frac - before.frac + 0.5) % 1.0, 0.5, atol=1e-6)
        assert after.atomic_numbers.tolist() == before.atomic_numbers.tolist()


def test_a_replaced_batch_leaves_the_old_one_as_it_was(crystals: list[Crystal]) -> None:
    batch = CrystalBatch.pack(crystals)
    before = batch.frac.clone()
    batch.replace(frac=torch.zeros_like(batch.frac))
    assert torch.equal(batch.frac, before)


def test_a_batch_of_wrong_shape_is_refused_by_name(crystals: list[Crystal]) -> None:
    with pytest.raises(ValueError, match="lattice_ang has shape"):
        CrystalBatch.pack(crystals).replace(lattice_ang=torch.zeros(2, 3, 3))


def test_the_lattice_of_the_loss_is_standardised(system: CrystalFlow, crystals: list[Crystal]) -> None:
    _, numbers, _ = CrystalBatch.pack(crystals).dense()
    lattice = torch.stack([torch.as_tensor(c.lattice_ang, dtype=torch.float32) for c in crystals])
    raw = to_log_cholesky(lattice, system._cell_scale(numbers))
    standard = (raw - system.lattice_mean) / system.lattice_std
    torch.testing.assert_close(standard.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0), torch.ones(6), atol=1e-4, rtol=0)


def test_samples_have_the_asked_composition_and_repeat_with_the_seed(system: CrystalFlow) -> None:
    cells = [[5, 73, 74], [8, 12], [14] * 6]
    settings = FlowSampler(n_steps=4)
    first = system.sample(asked(cells), torch.Generator().manual_seed(3), settings)
    again = system.sample(asked(cells), torch.Generator().manual_seed(3), settings)
    other = system.sample(asked(cells), torch.Generator().manual_seed(4), settings)
    assert [c.atomic_numbers.tolist() for c in first] == cells
    assert [c.digest for c in first] == [c.digest for c in again]
    assert all(a.digest != b.digest for a, b in zip(first, other, strict=True))
    assert all(np.linalg.det(c.lattice_ang) > 0 for c in first)


def test_guidance_moves_only_what_was_asked_for(system: CrystalFlow) -> None:
    plain, guided = FlowSampler(n_steps=3), FlowSampler(n_steps=3, guidance=3.0)

    def draw(settings: FlowSampler, group: int | None) -> list[str]:
        drawn = system.sample(asked([[12, 8]], [group]), torch.Generator().manual_seed(1), settings)
        return [c.digest for c in drawn]

    assert draw(plain, None) == draw(guided, None)
    assert draw(plain, 225) != draw(guided, 225)


@pytest.mark.parametrize("request_", [Request(), Request(elements=("O", "Ti")), Request.for_atoms([1] * 65)])
def test_a_request_that_it_cannot_answer_is_refused(
    system: CrystalFlow, request_: Request, rng: torch.Generator
) -> None:
    with pytest.raises(ValueError, match="request 0 is .*expected a cell of 1 to 64 atoms"):
        system.sample([request_], rng, FlowSampler(n_steps=1))


def test_settings_of_another_system_are_refused(system: CrystalFlow, rng: torch.Generator) -> None:
    with pytest.raises(TypeError, match="CDVAESampler: expected FlowSampler"):
        system.sample(asked([[12, 8]]), rng, CDVAESampler())
    with pytest.raises(ValueError, match="sample.sampler.stride is no setting of crystal-flow: expected n_steps"):
        CrystalFlow.sampler_settings({"stride": 2})
    with pytest.raises(ValueError, match="sample.sampler.n_steps is 0"):
        CrystalFlow.sampler_settings({"n_steps": 0})
