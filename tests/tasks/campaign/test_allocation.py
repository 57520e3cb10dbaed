"""Shares of a round against closed forms, integrals and plain loops."""

from __future__ import annotations

import itertools
from math import exp, lgamma

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from configs.campaign import AllocationConfig
from tasks.campaign.allocation import Arm, Tally, even, shared_out, thompson

A, B, C = (Arm(system, "p") for system in ("Al-Ni", "B-Ti", "Nb-W"))


def first_is_larger(one: tuple[int, int], other: tuple[int, int]) -> float:
    """P(x > y) of independent x, y from Beta distributions with whole parameters, in closed form.

    F_y(t) for y ~ Beta(c, d) is the chance of at least c hits in c + d - 1 trials at t; its mean over x ~ Beta(a, b) is
    a sum of Beta-binomial probabilities.
    """
    (a, b), (c, d) = one, other
    n = c + d - 1

    def log_beta(p: float, q: float) -> float:
        return lgamma(p) + lgamma(q) - lgamma(p + q)

    def log_choose(k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    return sum(exp(log_choose(k) + log_beta(a + k, b + n - k) - log_beta(a, b)) for k in range(c, n + 1))


@pytest.mark.parametrize(("first", "second"), [((3, 10), (1, 10)), ((0, 4), (5, 40)), ((2, 2), (2, 2))])
def test_of_two_arms_each_gets_the_probability_that_it_is_the_better_one(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    n = 40_000
    tallies = {A: Tally(first[1], first[0]), B: Tally(second[1], second[0])}
    config = AllocationConfig(prior_finds=1, prior_misses=2)
    given = thompson(tallies, n, config, np.random.default_rng(3))
    posterior = [(1 + finds, 2 + trials - finds) for finds, trials in (first, second)]
    expected = first_is_larger(*posterior)
    error = (expected * (1 - expected) / n) ** 0.5
    assert sum(given.values()) == n
    assert given[A] / n == pytest.approx(expected, abs=4 * error)


def test_of_three_arms_each_gets_the_integral_of_being_the_best() -> None:
    n = 40_000
    tallies = {A: Tally(20, 4), B: Tally(6, 1), C: Tally()}
    config = AllocationConfig()
    given = thompson(tallies, n, config, np.random.default_rng(5))
    laws = [beta(*tally.posterior(config)) for tally in tallies.values()]
    for i, arm in enumerate(tallies):
        others = [law for j, law in enumerate(laws) if j != i]
        expected, _ = quad(lambda t, i=i, o=others: laws[i].pdf(t) * o[0].cdf(t) * o[1].cdf(t), 0, 1)  # type: ignore[misc]
        assert given[arm] / n == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)


def test_in_a_made_campaign_most_relaxations_go_where_most_is_found_and_more_is_found_than_evenly() -> None:
    truth = {A: 0.02, B: 0.05, C: 0.4}
    shares = dict.fromkeys(truth, 1.0)

    def found(policy: str, seed: int) -> tuple[int, dict[Arm, Tally]]:
        rng, tallies = np.random.default_rng(seed), dict.fromkeys(truth, Tally())
        config = AllocationConfig(policy=policy)  # type: ignore[arg-type]
        for number in range(10):
            for arm, n in shared_out(tallies, shares, 24, number, seed, config).items():
                hits = int(rng.binomial(n, truth[arm]))
                tallies[arm] = Tally(tallies[arm].relaxations + n, tallies[arm].finds + hits)
        return sum(t.finds for t in tallies.values()), tallies

    finds = {policy: [found(policy, seed)[0] for seed in range(20)] for policy in ("thompson", "uniform")}
    # Of 240: evenly 37.6 are expected, all with the best 96.
    assert np.mean(finds["uniform"]) == pytest.approx(240 * sum(truth.values()) / 3, abs=4)
    assert np.mean(finds["thompson"]) > 70
    _, tallies = found("thompson", 0)
    assert tallies[C].relaxations > 150
    assert all(t.relaxations == 80 for t in found("uniform", 0)[1].values())


def test_equal_seeds_share_out_equally_and_another_round_or_seed_otherwise() -> None:
    tallies, shares = {arm: Tally(8, 2) for arm in (A, B, C)}, dict.fromkeys((A, B, C), 1.0)
    config = AllocationConfig()
    first, again = (shared_out(tallies, shares, 500, 4, 7, config) for _ in range(2))
    assert first == again
    assert first != shared_out(tallies, shares, 500, 5, 7, config)
    assert first != shared_out(tallies, shares, 500, 4, 8, config)
    # A batch that is drawn in parts is the same.
    assert sum(thompson(tallies, 10_000, config, np.random.default_rng(0)).values()) == 10_000


@pytest.mark.parametrize("had", [(0, 0, 0), (3, 1, 0), (1, 4, 1)])
def test_in_an_even_budget_the_largest_part_that_is_added_to_is_the_smallest_of_all_ways(
    had: tuple[int, int, int],
) -> None:
    arms, shares = (A, B, C), (1.0, 1.0, 2.0)
    tallies = {arm: Tally(k) for arm, k in zip(arms, had, strict=True)}

    def largest(way: tuple[int, ...]) -> float:
        return max((h + k) / share for h, k, share in zip(had, way, shares, strict=True) if k)

    before: dict[Arm, int] = {}
    for n in range(1, 9):
        given = even(tallies, dict(zip(arms, shares, strict=True)), n)
        ways = [way for way in itertools.product(range(n + 1), repeat=3) if sum(way) == n]
        assert sum(given.values()) == n
        assert largest(tuple(given.get(arm, 0) for arm in arms)) == min(map(largest, ways))
        # A smaller budget is the beginning of a larger one.
        assert all(given.get(arm, 0) >= k for arm, k in before.items())
        before = given


def test_nobody_is_given_anything_where_nobody_is_left() -> None:
    assert even({}, {}, 5) == {}
    assert thompson({}, 5, AllocationConfig(), np.random.default_rng(0)) == {}
