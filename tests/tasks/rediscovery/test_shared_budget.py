"""Both policies of a shared budget, played on relaxations that are known, against counts by hand and a plain loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from configs.campaign import AllocationConfig
from configs.rediscovery import RediscoveryConfig
from tasks.campaign.allocation import Arm
from tasks.rediscovery.counting import RELAXATIONS
from tasks.rediscovery.shared_budget import Play, Relaxation, both_policies

EVEN, ADAPTIVE = AllocationConfig(policy="uniform"), AllocationConfig(policy="thompson")


def relaxed(drawn: int, find: int | None = None, *hidden: str) -> Relaxation:
    return Relaxation(drawn, find, frozenset(hidden))


def test_an_even_budget_finds_what_a_walk_by_hand_finds() -> None:
    """In system x, b's first candidate is a's and costs b nothing; both come to the find 7 and to the hidden h."""
    arms = {
        Arm("x", "a"): [relaxed(0), relaxed(1, 7, "h"), relaxed(2)],
        Arm("x", "b"): [relaxed(0), relaxed(3, 7, "h"), relaxed(4, 8)],
        Arm("y", "a"): [relaxed(0, 7)],
        Arm("y", "b"): [],
    }
    play = Play(arms, {"a": 1, "b": 1}, EVEN, 0)
    played = play.until(3, 3)  # one of each that has any: x a 0, x b 3, y a 0
    assert (played.relaxations, played.finds, played.hidden, played.ended) == (3, 2, 1, 2)
    played = play.until(5, 3)
    assert (played.relaxations, played.finds, played.hidden) == (5, 3, 1)  # x b 4 is the find 8
    played = play.until(100, 3)
    assert (played.relaxations, played.ended) == (6, 4)


def plain_even(arms: Mapping[Arm, Sequence[Relaxation]], budget: int) -> tuple[int, int]:
    """Finds and hidden crystals of a budget given one relaxation at a time to the arm that has had least."""
    at, had = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    seen: set[tuple[str, int]] = set()
    finds: set[tuple[str, int]] = set()
    hidden: set[tuple[str, str]] = set()
    while sum(had.values()) < budget:
        arm = min((a for a in arms if at[a] < len(arms[a])), key=had.__getitem__, default=None)
        if arm is None:
            break
        one = arms[arm][at[arm]]
        at[arm] += 1
        if (arm.system, one.drawn) in seen:
            continue
        seen.add((arm.system, one.drawn))
        had[arm] += 1
        hidden |= {(arm.system, name) for name in one.hidden}
        if one.find is not None:
            finds.add((arm.system, one.find))
    return len(finds), len(hidden)


def test_an_even_budget_in_rounds_of_one_is_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        arms = {
            Arm(f"s{s}", name): [
                relaxed(int(rng.integers(12)), int(rng.integers(5)) if rng.random() < 0.4 else None,
                        *([f"h{rng.integers(3)}"] if rng.random() < 0.3 else []))
                for _ in range(rng.integers(0, 9))
            ]
            for s in range(4)
            for name in ("a", "b")
        }  # fmt: skip
        for budget in (1, 7, 20, 60):
            played = Play(arms, {"a": 1, "b": 1}, EVEN, 0).until(budget, 1)
            assert (played.finds, played.hidden) == plain_even(arms, budget)


def relaxations_of(yields: Mapping[str, float], n: int, rng: np.random.Generator) -> pa.Table:
    """Of one proposer in each of these systems, every relaxation a find with the system's yield, every find hidden."""
    rows: list[dict[str, Any]] = [
        {
            "system": system,
            "proposer": "only",
            "number": i + 1,
            "drawn": i,
            "relaxed": i,
            "e_above_hull_ev_per_atom": 0.0 if (found := bool(rng.random() < share)) else 0.5,
            "hidden": [f"{system}-{i}"] if found else [],
        }
        for system, share in yields.items()
        for i in range(n)
    ]
    return pa.Table.from_pylist(rows, pa.schema(RELAXATIONS))


def benchmark(**changes: Any) -> RediscoveryConfig:
    stated = {
        "budgets": [64],
        "proposers": [{"name": "only", "baseline": "random-symmetric"}],
        "known": [{"kind": "files", "path": "known.csv", "method": "made"}],
        "shared_budget": {"per_system": [8, 16, 100], "repeats": 60},
        **changes,
    }
    return RediscoveryConfig.model_validate(stated)


def test_an_adaptive_budget_gains_where_yields_differ_and_nothing_where_they_do_not() -> None:
    rng = np.random.default_rng(2)
    for yields, gains in (
        ({f"s{i}": 0.5 if i % 5 == 0 else 0.02 for i in range(20)}, True),
        ({f"s{i}": 0.2 for i in range(20)}, False),
    ):
        table = relaxations_of(yields, 64, rng)
        hidden = dict.fromkeys(yields, 20)
        shared = both_policies(table, hidden, benchmark())
        assert [one.per_system for one in shared] == [8, 16]  # 100 is above the largest of budgets
        for one in shared:
            mean = np.mean(list(yields.values()))
            assert one.finds.even == pytest.approx(mean, abs=0.06)
            assert one.finds.difference == pytest.approx(one.finds.adaptive - one.finds.even)
            if gains:
                assert one.finds.difference > 3 * one.finds.difference_error > 0
                assert one.recall.difference > 0
            else:
                assert abs(one.finds.difference) < 3 * one.finds.difference_error


def test_the_error_of_an_even_budget_is_that_of_a_mean_over_systems() -> None:
    rng = np.random.default_rng(3)
    table = relaxations_of({f"s{i}": rng.random() for i in range(40)}, 8, rng)
    heights = np.array(table.column("e_above_hull_ev_per_atom").to_pylist()).reshape(40, 8)
    of_system = (heights == 0).mean(axis=1)
    config = benchmark(budgets=[8], shared_budget={"per_system": [8], "repeats": 400})
    one = both_policies(table, dict.fromkeys((f"s{i}" for i in range(40)), 8), config)[0]
    assert one.finds.even == pytest.approx(of_system.mean())
    assert one.finds.even_error == pytest.approx(of_system.std() / np.sqrt(40), rel=0.15)
    assert one.arms_ended == 1  # eight of eight are used up, so both policies end alike
    assert one.finds.difference == pytest.approx(0)


def test_the_same_relaxations_give_the_same_figures_and_without_sizes_there_are_none() -> None:
    table = relaxations_of({"s0": 0.3, "s1": 0.1}, 16, np.random.default_rng(0))
    config = benchmark(budgets=[16], shared_budget={"per_system": [4], "repeats": 5})
    first, second = (both_policies(table, {"s0": 3, "s1": 2}, config) for _ in range(2))
    assert first == second
    assert both_policies(table, {"s0": 3}, benchmark(shared_budget={"per_system": []})) == []
