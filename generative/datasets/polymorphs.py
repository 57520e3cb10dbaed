"""Polymorphs: crystals of one composition, split without leaks and paired from higher to lower energy.

A polymorph group holds the crystals of one cell content (the same atoms, so that rows of two structure matrices mean
the same elements). A split keeps every reduced formula on one side and the elements of both sides alike.

Source: conditional generation and modification of crystals (AIRI), section on data and its published code: groups,
formula-disjoint split with balanced elements, pairs whose target is one of the lowest ("good") or any other ("bad").
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from generative.crystal.crystals import Crystal
from generative.training.data import TrainingError, TrainingSet, composition_of


@dataclass(frozen=True)
class PairRule:
    """Which pairs of polymorphs are learned.

    Attributes:
        n_lowest: so many of the lowest of a group are good targets; published: 1 (text), 2 (notebooks).
        group_min: smallest group; published: 7 (text), 5 (code).
        gap_min_ev_per_cell: groups whose largest gap between neighbouring energies is smaller are left out;
            published: 0.01 eV per cell.
        pairs_per_group: pairs of an epoch, on average; published: 1.
    """

    n_lowest: int = 1
    group_min: int = 2
    gap_min_ev_per_cell: float = 0.01
    pairs_per_group: float = 1.0


def content_key(crystal: Crystal) -> tuple[int, ...]:
    """The atoms of a cell, ascending: equal for crystals of one group."""
    return tuple(sorted(crystal.atomic_numbers.tolist()))


def groups_of(
    crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None], rule: PairRule
) -> list[np.ndarray]:
    """Rows of every group that the rule takes, each by rising energy; groups in the order of their first rows."""
    found: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, (crystal, energy) in enumerate(zip(crystals, energies_ev_per_atom, strict=True)):
        if energy is not None and math.isfinite(energy):
            found[content_key(crystal)].append(row)
    groups = []
    for content, rows in found.items():
        if len(rows) < max(rule.group_min, 2):
            continue
        values = np.array([energies_ev_per_atom[row] for row in rows], dtype=float)
        order = np.argsort(values, kind="stable")
        if np.diff(values[order]).max() * len(content) >= rule.gap_min_ev_per_cell:
            groups.append(np.array(rows)[order])
    return groups


class PairSet(TrainingSet):
    """Training crystals that are handed out in pairs: a batch of n pairs is n sources, then their n targets.

    A target is never higher than its source. In an epoch half of the pairs end at one of the lowest of their group,
    half at another; pairs are drawn anew for each, without replacement, small and large cells alike often. A set that
    is not shuffled (validation) has one pair of each group: from its highest crystal to its lowest.
    """

    groups: list[np.ndarray]
    rule: PairRule

    @classmethod
    def of(cls, data: TrainingSet, rule: PairRule) -> PairSet:
        """Raises: TrainingError: if no two crystals of known energy have the same cell content."""
        pairs = cls(data.crystals, data.spacegroups, data.energies, data.ids, data.bonds)
        pairs.rule, pairs.groups = rule, groups_of(data.crystals, data.energies, rule)
        if not pairs.groups:
            raise TrainingError(
                f"none of {len(data)} crystals has polymorphs: expected groups of at least {max(rule.group_min, 2)} "
                "with the same atoms, energies known, and a gap between them; lower group_min or gap_min_ev_per_cell"
            )
        return pairs

    def batches(self, size: int, rng: np.random.Generator | None, like_size: bool = True) -> list[list[int]]:
        """Rows of every batch: sources, then targets."""
        if rng is None:
            pairs = [(int(group[-1]), int(group[0])) for group in self.groups]
        else:
            pairs = self._drawn(rng)
        cut = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        return [[source for source, _ in part] + [target for _, target in part] for part in cut]

    def batches_per_epoch(self, size: int) -> int:
        """How many `batches` gives."""
        return -(-self._n_pairs // size)

    @property
    def _n_pairs(self) -> int:
        return max(1, round(self.rule.pairs_per_group * len(self.groups)))

    def _drawn(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Pairs of one epoch, shuffled."""
        good, bad = self._possible
        n_bad = min(self._n_pairs // 2, len(bad))
        chosen = [*self._some(bad, n_bad, rng), *self._some(good, self._n_pairs - n_bad, rng)]
        return [chosen[i] for i in rng.permutation(len(chosen))]

    @property
    def _possible(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Pairs that end at one of the lowest, and those that end at another."""
        good: list[tuple[int, int]] = []
        bad: list[tuple[int, int]] = []
        for group in self.groups:
            for index, target in enumerate(group.tolist()):
                into = good if index < self.rule.n_lowest else bad
                into += [(source, target) for source in group[index + 1 :].tolist()]
        return good, bad

    def test_pairs(self, n: int | None, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Pairs (source, target) that end at one of the lowest: one of each group, or n of all, each at most once.

        Args:
            n: how many; None for one of each group.
            rng: seeded by the caller.
        """
        good, _ = self._possible
        if n is not None:
            return self._some(good, min(n, len(good)), rng)
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        for index in rng.permutation(len(good)):
            first.setdefault(content_key(self.crystals[good[index][1]]), good[index])
        return [first[content_key(self.crystals[group[0]])] for group in self.groups]

    def _some(self, pairs: list[tuple[int, int]], n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """n of the pairs (again from the start where there are fewer), weighted so that all sizes come alike often."""
        if not n:
            return []
        sizes = np.array([len(self.crystals[target].atomic_numbers) for _, target in pairs])
        common = Counter(sizes.tolist())
        weights = np.array([1 / common[int(size)] for size in sizes])
        chosen: list[int] = []
        while len(chosen) < n:
            chosen += rng.choice(len(pairs), min(n - len(chosen), len(pairs)), False, weights / weights.sum()).tolist()
        return [pairs[i] for i in chosen]


def generation_targets(
    crystals: Sequence[Crystal],
    energies_ev_per_atom: Sequence[float | None],
    per_formula: int | None,
    n: int | None,
    rng: np.random.Generator,
) -> list[int]:
    """Rows of test crystals that generators are asked for.

    Args:
        crystals: of the test part.
        energies_ev_per_atom: theirs; a crystal without one is no target.
        per_formula: so many of the lowest of each formula are candidates; published: 2; None: all.
        n: most targets; None: as many as formulas, which is published, or all candidates where `per_formula` is None.
        rng: seeded by the caller. Candidates are drawn without replacement, those of rare numbers of sites more often.

    Returns: rows, ascending.
    """
    formulas: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for row, (crystal, energy) in enumerate(zip(crystals, energies_ev_per_atom, strict=True)):
        if energy is not None and math.isfinite(energy):
            formulas[composition_of(crystal)].append((energy, row))
    candidates = [row for found in formulas.values() for _, row in sorted(found)[:per_formula]]
    wanted = len(candidates) if per_formula is None else len(formulas)
    sizes = [len(crystals[row].atomic_numbers) for row in candidates]
    common = Counter(sizes)
    weights = np.array([1 / common[size] for size in sizes])
    n_drawn = min(len(candidates), wanted if n is None else n)
    return sorted(rng.choice(candidates, n_drawn, False, weights / weights.sum()).tolist()) if n_drawn else []


def formula_split(crystals: Sequence[Crystal], test_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows of a training and a test part that share no reduced formula, elements alike in both.

    In each chemical system with several formulas a share of these, at least one, goes to the test part. Formulas that
    are alone in their system are divided by iterative stratification over pairs of elements, so that rare pairs are
    divided first.

    Args:
        crystals: any.
        test_share: of the formulas; published: 0.05 for generation, 0.2 for modification.
        seed: of every random choice.

    Raises: ValueError: if the share is not between 0 and 1.
    Source: Sechidis et al., ECML PKDD 2011; Szymanski and Kajdanowicz, PMLR 74 (2017), order 2.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}: expected a share between 0 and 1")
    formulas: defaultdict[str, list[int]] = defaultdict(list)
    for row, crystal in enumerate(crystals):
        formulas[composition_of(crystal)].append(row)
    systems: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for formula in sorted(formulas):
        systems[tuple(json.loads(formula)[0])].append(formula)
    rng = np.random.default_rng(seed)
    test: set[str] = set()
    for members in systems.values():
        if len(members) > 1:
            n = max(1, round(test_share * len(members)))
            test |= {members[i] for i in rng.permutation(len(members))[:n]}
    alone = {members[0]: system for system, members in systems.items() if len(members) == 1}
    test |= _stratified(alone, test_share, rng)
    tested = [row for formula, rows in formulas.items() if formula in test for row in rows]
    trained = [row for formula, rows in formulas.items() if formula not in test for row in rows]
    return sorted(trained), sorted(tested)


def _stratified(systems: dict[str, tuple[int, ...]], test_share: float, rng: np.random.Generator) -> set[str]:
    """Formulas for the test part: the rarest pair of elements first, each to the part that lacks it most."""
    labels = {f: [(a, b) for i, a in enumerate(s) for b in s[i:]] for f, s in systems.items()}
    shares = (1 - test_share, test_share)
    totals = Counter(label for found in labels.values() for label in found)
    wanted = [{label: share * n for label, n in totals.items()} for share in shares]
    room = [share * len(systems) for share in shares]
    left = dict.fromkeys(systems)
    waiting: defaultdict[tuple[int, int], dict[str, None]] = defaultdict(dict)
    for formula, found in labels.items():
        for label in found:
            waiting[label][formula] = None
    test: set[str] = set()
    while left:
        counts = {label: len(members) for label, members in waiting.items() if members}
        rarest = min(counts, key=lambda label: (counts[label], label))
        for formula in list(waiting[rarest]):
            lacks = [(wanted[part][rarest], room[part], rng.random()) for part in (0, 1)]
            part = 0 if lacks[0] > lacks[1] else 1
            if part:
                test.add(formula)
            room[part] -= 1
            for label in labels[formula]:
                wanted[part][label] -= 1
                del waiting[label][formula]
            del left[formula]
    return test
