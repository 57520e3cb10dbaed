"""Muon against singular values and against torch's own, whose rounding to bfloat16 is the only difference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from generative.training.muon import Muon, orthogonalised

SHAPES = [(24, 24), (8, 40), (40, 8), (1, 6)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_iteration_applies_its_polynomial_to_singular_values_and_turns_nothing(shape: tuple[int, int]) -> None:
    matrices = random(3, *shape)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = values / values.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonalised(matrices), left @ torch.diag_embed(values) @ right)


def test_singular_values_come_near_one_and_zeros_stay_zero() -> None:
    values = torch.linalg.svdvals(orthogonalised(random(4, 32, 48)))
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert not orthogonalised(torch.zeros(2, 5, 7)).any()


def trained(kind: type[torch.optim.Muon], **settings: object) -> list[Tensor]:
    """Matrices after eight steps on a fixed quadratic of each."""
    matrices = [torch.nn.Parameter(random(*shape, seed=i).float()) for i, shape in enumerate([*SHAPES, *SHAPES])]
    aims = [random(*shape, seed=100 + i).float() for i, shape in enumerate([*SHAPES, *SHAPES])]
    optimiser = kind(matrices, lr=0.05, weight_decay=0.1, **settings)  # type: ignore[arg-type]
    for _ in range(8):
        optimiser.zero_grad()
        torch.stack([(m - aim).square().sum() for m, aim in zip(matrices, aims, strict=True)]).sum().backward()
        optimiser.step()
    return [m.detach() for m in matrices]


@pytest.mark.parametrize("settings", [{"adjust_lr_fn": "match_rms_adamw"}, {}, {"nesterov": False}])
def test_steps_are_those_of_torch_but_for_its_rounding_to_bfloat16(settings: dict[str, object]) -> None:
    starts = [random(*shape, seed=i).float() for i, shape in enumerate([*SHAPES, *SHAPES])]
    for ours, theirs, start in zip(
        trained(Muon, **settings), trained(torch.optim.Muon, **settings), starts, strict=True
    ):
        assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()


def test_a_state_saved_by_torch_goes_on_here() -> None:
    matrix = torch.nn.Parameter(random(6, 6).float())
    theirs = torch.optim.Muon([matrix], lr=0.01)
    matrix.grad = random(6, 6, seed=1).float()
    theirs.step()
    ours = Muon([matrix], lr=0.5)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.01
    torch.testing.assert_close(ours.state[matrix]["momentum_buffer"], 0.05 * matrix.grad)


def test_a_matrix_without_a_gradient_is_left_as_it_is() -> None:
    still, moved = torch.nn.Parameter(random(4, 4).float()), torch.nn.Parameter(random(4, 4, seed=1).float())
    before = still.detach().clone()
    moved.grad = torch.ones(4, 4)
    Muon([still, moved], lr=0.1).step()
    assert torch.equal(still, before)
