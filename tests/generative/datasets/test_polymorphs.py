"""Groups, pairs and splits of polymorphs, on made crystals whose energies are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.datasets.polymorphs import (
    PairRule,
    PairSet,
    content_key,
    formula_split,
    generation_targets,
    groups_of,
)
from generative.training.data import StepSampler, TrainingError, TrainingSet, composition_of


def crystal(*numbers: int, edge_ang: float = 4.0) -> Crystal:
    frac = np.random.default_rng(len(numbers)).random((len(numbers), 3))
    return Crystal(edge_ang * np.eye(3), frac, np.array(numbers, dtype=np.int16))


def polymorphs() -> TrainingSet:
    """Five of NaCl, three of Na2Cl2, two of MgO 1 meV/atom apart, two of LiF of which one has no energy, one alone."""
    contents = [(11, 17)] * 5 + [(11, 17, 11, 17)] * 3 + [(12, 8)] * 2 + [(3, 9)] * 2 + [(14,)]
    energies = [-2.0, -1.5, -1.9, -1.0, -1.2, -2.0, -1.8, -1.7, -3.0, -2.999, -3.1, None, 0.0]
    crystals = [crystal(*content, edge_ang=4 + 0.1 * i) for i, content in enumerate(contents)]
    return TrainingSet(crystals, [1] * len(crystals), energies, [str(i) for i in range(len(crystals))])


def test_groups_hold_equal_cells_by_rising_energy_and_leave_out_what_says_nothing() -> None:
    data = polymorphs()
    groups = groups_of(data.crystals, data.energies, PairRule())
    assert [group.tolist() for group in groups] == [[0, 2, 1, 4, 3], [5, 6, 7]]
    flat = groups_of(data.crystals, data.energies, PairRule(gap_min_ev_per_cell=0.001))
    assert [group.tolist() for group in flat] == [[0, 2, 1, 4, 3], [5, 6, 7], [8, 9]]
    large = groups_of(data.crystals, data.energies, PairRule(group_min=4))
    assert [group.tolist() for group in large] == [[0, 2, 1, 4, 3]]


def pairs_of(pairs: PairSet, size: int, seed: int | None) -> list[tuple[int, int]]:
    rng = None if seed is None else np.random.default_rng(seed)
    found = []
    for rows in pairs.batches(size, rng):
        half = len(rows) // 2
        found += list(zip(rows[:half], rows[half:], strict=True))
    return found


def test_every_pair_is_of_one_cell_and_never_goes_up_and_half_end_at_the_lowest() -> None:
    data = polymorphs()
    pairs = PairSet.of(data, PairRule(pairs_per_group=4))
    energies = data.energies
    for seed in range(20):
        drawn = pairs_of(pairs, 3, seed)
        assert len(drawn) == 8
        assert len(pairs.batches(3, np.random.default_rng(seed))) == pairs.batches_per_epoch(3) == 3
        for source, target in drawn:
            assert content_key(data.crystals[source]) == content_key(data.crystals[target])
            assert energies[source] >= energies[target]  # type: ignore[operator]
        good = [pair for pair in drawn if pair[1] in (0, 5)]
        assert len(good) == 4
        assert len(set(good)) == 4
    assert pairs_of(pairs, 3, 1) == pairs_of(pairs, 3, 1)
    assert pairs_of(pairs, 3, 1) != pairs_of(pairs, 3, 2)


def test_small_and_large_cells_are_targets_alike_often() -> None:
    pairs = PairSet.of(polymorphs(), PairRule(pairs_per_group=1))
    ends = Counter(target for seed in range(400) for _, target in pairs_of(pairs, 8, seed) if target in (0, 5))
    assert ends[0] / (ends[0] + ends[5]) == pytest.approx(0.5, abs=0.08)  # of 4 against 2 possible pairs


def test_validation_goes_from_the_highest_to_the_lowest_of_each_group() -> None:
    assert pairs_of(PairSet.of(polymorphs(), PairRule()), 8, None) == [(3, 0), (7, 5)]


def test_batches_of_pairs_hold_sources_then_targets_and_resume_at_any_step() -> None:
    pairs = PairSet.of(polymorphs(), PairRule(pairs_per_group=4))
    whole, later = iter(StepSampler(pairs, 3, 0, 0)), iter(StepSampler(pairs, 3, 0, 4))
    steps = [next(whole) for _ in range(9)]
    assert [next(later) for _ in range(5)] == steps[4:]
    batch = pairs[steps[0]]
    half = len(batch) // 2
    assert (batch.energy_ev_per_atom[:half] >= batch.energy_ev_per_atom[half:]).all()
    assert batch.n_atoms[:half].tolist() == batch.n_atoms[half:].tolist()


def test_data_without_polymorphs_are_refused_with_the_remedy() -> None:
    alone = TrainingSet([crystal(11, 17), crystal(12, 8)], [1, 1], [-1.0, -2.0], ["a", "b"])
    with pytest.raises(TrainingError, match="none of 2 crystals.*group_min"):
        PairSet.of(alone, PairRule())


def many(n_systems: int = 60) -> list[Crystal]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n_systems):
        one, two = rng.choice(np.arange(3, 15), 2, replace=False)
        for a, b in [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3)][: rng.integers(1, 6)]:
            made += [crystal(*[int(one)] * a, *[int(two)] * b)] * int(rng.integers(1, 4))
    return made


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_no_formula_is_on_both_sides_and_every_element_is(share: float) -> None:
    crystals = many()
    train, test = formula_split(crystals, share, 0)
    assert sorted(train + test) == list(range(len(crystals)))
    sides = [{composition_of(crystals[row]) for row in rows} for rows in (train, test)]
    assert not sides[0] & sides[1]
    elements = [{int(z) for row in rows for z in crystals[row].atomic_numbers} for rows in (train, test)]
    assert elements[0] == elements[1] == {int(z) for c in crystals for z in c.atomic_numbers}
    assert formula_split(crystals, share, 0) == (train, test)
    assert formula_split(crystals, share, 1) != (train, test)


def test_formulas_alone_in_their_system_are_divided_so_that_pairs_of_elements_are_alike() -> None:
    """200 systems of 3 out of 14 elements, one formula each: every element has its fifth in the test part."""
    rng = np.random.default_rng(3)
    chosen = {tuple(sorted(rng.choice(np.arange(3, 17), 3, replace=False).tolist())) for _ in range(200)}
    crystals = [crystal(*map(int, numbers)) for numbers in sorted(chosen)]
    _, test = formula_split(crystals, 0.2, 0)
    assert len(test) == pytest.approx(0.2 * len(crystals), abs=0.05 * len(crystals))
    totals = Counter(z for c in crystals for z in c.atomic_numbers.tolist())
    tested = Counter(z for row in test for z in crystals[row].atomic_numbers.tolist())
    shares = np.array([tested[z] / n for z, n in totals.items()])
    assert shares.std() < 0.6 * np.sqrt(0.2 * 0.8 / np.mean(list(totals.values())))  # well below that of a free draw


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share between"):
        formula_split([crystal(1)], share, 0)


def test_test_pairs_end_at_the_lowest_once_for_each_group_or_as_often_as_asked() -> None:
    data = polymorphs()
    pairs = PairSet.of(data, PairRule())
    for seed in range(10):
        drawn = pairs.test_pairs(None, np.random.default_rng(seed))
        assert [target for _, target in drawn] == [0, 5]
        assert all(content_key(data.crystals[s]) == content_key(data.crystals[t]) and s != t for s, t in drawn)
    assert len({pairs.test_pairs(None, np.random.default_rng(seed))[0][0] for seed in range(30)}) > 1
    every = pairs.test_pairs(100, np.random.default_rng(0))
    assert sorted(every) == [(1, 0), (2, 0), (3, 0), (4, 0), (6, 5), (7, 5)]
    two = PairSet.of(data, PairRule(n_lowest=2)).test_pairs(100, np.random.default_rng(0))
    assert {target for _, target in two} == {0, 2, 5, 6}


def test_targets_are_the_lowest_of_each_formula_those_of_rare_sizes_more_often() -> None:
    data = polymorphs()

    def drawn(per_formula: int | None, n: int | None, seed: int = 0) -> list[int]:
        return generation_targets(data.crystals, data.energies, per_formula, n, np.random.default_rng(seed))

    # NaCl and Na2Cl2 are one formula; of LiF one crystal has no energy; five formulas have targets.
    assert set(drawn(1, 99)) == {0, 8, 10, 12} or set(drawn(1, 99)) == {5, 8, 10, 12}
    assert drawn(None, None) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert len(drawn(2, None)) == 4
    singles = sum(12 in drawn(None, 3, seed) for seed in range(200))  # the only cell of one atom
    common = sum(0 in drawn(None, 3, seed) for seed in range(200))  # one of eight cells of two
    assert singles > 2 * common
    assert generation_targets([], [], 2, None, np.random.default_rng(0)) == []
