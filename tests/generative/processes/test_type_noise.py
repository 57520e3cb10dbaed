"""Corrupted and first types against expected frequencies and a slow rule crystal by crystal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from generative.processes.annealed_langevin import Point, geometric_levels, langevin
from generative.processes.type_noise import N_TYPES, corrupted, initial_types, shared_out
from tests.generative.processes.packed_cells import Cells


def composition(shares: dict[int, float]) -> Tensor:
    """Probabilities by atomic number, (100,)."""
    p = torch.zeros(N_TYPES, dtype=torch.float64)
    for z, share in shares.items():
        p[z - 1] = share
    return p


def drawn_slowly(p: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The rule for one crystal, as its description reads."""
    rounded = np.round(p * n)
    types = np.repeat(np.arange(1, N_TYPES + 1), rounded.astype(int))
    if len(types) < n:
        left = np.maximum(p - rounded / n, 0)
        if left.sum() == 0:
            left = p
        extra = rng.choice(np.arange(1, N_TYPES + 1), size=n - len(types), p=left / left.sum())
        types = np.concatenate([types, extra])
    return rng.permutation(types)[:n]


def counts_of(types: Tensor, n_crystals: int) -> Tensor:
    """Atoms of each element in crystals of equal size, (B, 100)."""
    return torch.nn.functional.one_hot(types.view(n_crystals, -1) - 1, N_TYPES).sum(1)


def test_corrupted_types_have_the_weights_of_the_true_type_plus_noise(rng: torch.Generator) -> None:
    n = 200_000
    p = composition({1: 0.2, 8: 0.5, 26: 0.3 - 1e-9, 100: 1e-9})
    for z, sigma in ((8, 0.5), (26, 5.0), (1, 0.01), (100, 1.0)):
        types = corrupted(torch.full((n,), z), p.expand(n, -1), torch.full((n,), sigma), rng)
        weights = sigma * p
        weights[z - 1] += 1
        expected = weights / weights.sum()
        share = torch.bincount(types, minlength=N_TYPES + 1)[1:].double() / n
        torch.testing.assert_close(share, expected, atol=5 * 0.5 / n**0.5, rtol=0)
        assert set(types.tolist()) <= {1, 8, 26, 100}  # an element of weight zero never comes


def test_probabilities_that_do_not_sum_to_one_are_normalised_with_the_true_type_added(rng: torch.Generator) -> None:
    n = 100_000
    types = corrupted(torch.full((n,), 6), composition({14: 3.0}).expand(n, -1), torch.ones(n), rng)
    assert (types == 6).double().mean().item() == pytest.approx(1 / 4, abs=5 * 0.43 / n**0.5)


def test_without_noise_types_stay_and_each_atom_has_its_own_level(rng: torch.Generator) -> None:
    types = torch.arange(1, 101).repeat(50)
    uniform = torch.full((5000, N_TYPES), 0.01)
    assert torch.equal(corrupted(types, uniform, torch.zeros(5000), rng), types)
    sigma = torch.where(torch.arange(5000) < 2500, 0.0, 1e6)
    noisy = corrupted(types, uniform, sigma, rng)
    assert torch.equal(noisy[:2500], types[:2500])
    assert (noisy[2500:] == types[2500:]).double().mean() < 0.03
    assert noisy.min() >= 1
    assert noisy.max() <= N_TYPES


def test_corruption_sends_no_gradient_to_the_composition(rng: torch.Generator) -> None:
    logits = torch.zeros(3, N_TYPES, requires_grad=True)
    types = corrupted(torch.tensor([1, 2, 3]), logits.softmax(1), torch.ones(3), rng)
    assert types.dtype == torch.int64
    assert not types.requires_grad


@pytest.mark.parametrize(
    ("shares", "n"),
    [
        ({38: 0.2, 22: 0.2, 8: 0.6}, 5),
        ({6: 1.0}, 24),
        ({6: 1.0}, 1),
        ({8: 0.58, 22: 0.22, 38: 0.2}, 5),  # rounds to the formula all the same
        ({1: 0.5, 100: 0.5}, 2),
    ],
)
def test_a_composition_that_rounds_to_n_atoms_gives_exactly_those(
    shares: dict[int, float], n: int, rng: torch.Generator
) -> None:
    p = composition(shares)
    types = initial_types(p.expand(7, -1), torch.full((7,), n), rng)
    expected = np.bincount(drawn_slowly(p.numpy(), n, np.random.default_rng(0)), minlength=N_TYPES + 1)[1:]
    assert (counts_of(types, 7) == torch.from_numpy(expected)).all()


@pytest.mark.parametrize(
    ("shares", "n"),
    [
        ({6: 0.7, 7: 0.1, 8: 0.1, 9: 0.1}, 3),  # two carbon, the third from what is left over
        ({z: 0.01 for z in range(1, 101)}, 4),  # nothing rounds up: all from the residual
        ({6: 0.25, 7: 0.75}, 6),  # halves go to even: two and four, none left
        ({6: 0.5, 8: 0.5}, 3),  # two and two: one too many
        ({z: 0.1 for z in range(11, 21)}, 6),  # ten atoms for six places
        ({6: 0.5}, 2),  # not normalised, nothing left over: the missing atom comes from p itself
    ],
)
def test_first_types_have_the_frequencies_of_the_slow_rule(
    shares: dict[int, float], n: int, rng: torch.Generator
) -> None:
    n_draws, p = 4000, composition(shares)
    fast = counts_of(initial_types(p.expand(n_draws, -1), torch.full((n_draws,), n), rng), n_draws)
    numpy_rng = np.random.default_rng(3)
    slow = torch.from_numpy(
        np.stack(
            [np.bincount(drawn_slowly(p.numpy(), n, numpy_rng), minlength=N_TYPES + 1)[1:] for _ in range(n_draws)]
        )
    )
    assert (fast.sum(1) == n).all()
    spread = (2 * slow.double().var(0) / n_draws).sqrt()
    assert ((fast.double().mean(0) - slow.double().mean(0)).abs() <= 5 * spread + 1e-3 * (spread > 0)).all()
    torch.testing.assert_close(fast.double().T.cov(), slow.double().T.cov(), atol=0.12, rtol=0)


def test_what_rounding_gives_is_always_kept_when_atoms_are_missing(rng: torch.Generator) -> None:
    n_atoms = torch.randint(1, 21, (3000,), generator=rng)
    p = torch.rand(3000, N_TYPES, generator=rng, dtype=torch.float64).pow(30)
    p = p / p.sum(1, keepdim=True)
    types = initial_types(p, n_atoms, rng)
    crystal = torch.arange(3000).repeat_interleave(n_atoms)
    counts = torch.zeros(3000, N_TYPES, dtype=torch.int64).index_put_(
        (crystal, types - 1), torch.ones(len(types), dtype=torch.int64), accumulate=True
    )
    rounded = (p * n_atoms[:, None]).round().long()
    short, long = rounded.sum(1) < n_atoms, rounded.sum(1) > n_atoms
    assert short.sum() > 500
    assert long.sum() > 50
    assert (counts[~long] >= rounded[~long]).all()
    assert (counts[long] <= rounded[long]).all()
    assert (counts.sum(1) == n_atoms).all()


def test_types_are_shuffled_within_each_crystal(rng: torch.Generator) -> None:
    p = composition({38: 0.2, 22: 0.2, 8: 0.6})
    types = initial_types(p.expand(6000, -1), torch.full((6000,), 5), rng).view(6000, 5)
    share = (types == 38).double().mean(0)
    torch.testing.assert_close(share, torch.full((5,), 0.2, dtype=torch.float64), atol=5 * 0.4 / 6000**0.5, rtol=0)


def test_crystals_of_a_batch_keep_their_own_compositions(rng: torch.Generator) -> None:
    p = torch.stack([composition({6: 1.0}), composition({8: 1.0}), composition({13: 0.5, 7: 0.5})])
    types = initial_types(p.float(), torch.tensor([3, 1, 4]), rng)
    assert types[:4].tolist() == [6, 6, 6, 8]
    assert sorted(types[4:].tolist()) == [7, 7, 13, 13]


def test_shared_out_types_are_the_likeliest_of_all_orders_of_the_pool(rng: torch.Generator) -> None:
    n_atoms = torch.tensor([3, 1, 5])
    pool = torch.tensor([8, 8, 22, 6, 38, 22, 8, 8, 8])
    for _ in range(20):
        logits = 3 * torch.randn(9, N_TYPES, generator=rng, dtype=torch.float64)
        named = shared_out(logits, pool, n_atoms)
        scores = logits.log_softmax(-1)
        for begin, end in ((0, 3), (3, 4), (4, 9)):
            rows, kinds = scores[begin:end], pool[begin:end]
            worth = {
                order: float(sum(rows[i, z - 1] for i, z in enumerate(order)))
                for order in set(itertools.permutations(kinds.tolist()))
            }
            best = max(worth, key=lambda order: worth[order])
            assert named[begin:end].tolist() == list(best)


def test_types_repeat_with_the_seed() -> None:
    p, n_atoms = torch.full((20, N_TYPES), 0.01), torch.arange(1, 21)

    def draw(seed: int) -> tuple[list[int], list[int]]:
        rng = torch.Generator().manual_seed(seed)
        types = initial_types(p, n_atoms, rng)
        sigma = torch.ones(len(types))
        return types.tolist(), corrupted(types, torch.full((len(types), N_TYPES), 0.01), sigma, rng).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_crystals_without_atoms_and_broken_compositions_are_refused(rng: torch.Generator) -> None:
    p = torch.full((2, N_TYPES), 0.01)
    with pytest.raises(ValueError, match="expected at least 1 each"):
        initial_types(p, torch.tensor([3, 0]), rng)
    for wrong in (float("nan"), float("inf"), -0.1):
        broken = p.clone()
        broken[1, 5] = wrong
        with pytest.raises(ValueError, match="negative or not finite"):
            initial_types(broken, torch.tensor([3, 2]), rng)


def test_perfect_logits_end_at_the_right_types_from_first_types(cells: Cells, rng: torch.Generator) -> None:
    truth = torch.nn.functional.one_hot(cells.types - 1, N_TYPES).double()

    def predict(frac: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        assert (types.shape, types.dtype) == (cells.types.shape, torch.int64)
        return torch.zeros_like(frac), truth.argmax(1) + 1

    uniform = torch.full((len(cells.n_atoms), N_TYPES), 0.01)
    start = Point(torch.rand(cells.frac.shape, generator=rng).double(), initial_types(uniform, cells.n_atoms, rng))
    assert not torch.equal(start.types, cells.types)
    end = langevin(predict, start, cells.lattice_ang, cells.crystal, geometric_levels(1, 0.1, 2), rng, 2)
    assert torch.equal(end.types, cells.types)
