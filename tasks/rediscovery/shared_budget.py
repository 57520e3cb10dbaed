"""One budget over all systems: what an even and an adaptive one find, out of the relaxations that were made anyway.

An arm, a proposer in a system, relaxes its candidates in the order of its plan whatever other arms do. So the campaigns
of the benchmark say what any sharing out of relaxations would have found, and both policies of a campaign
(tasks.campaign.allocation) are played on them as often as is wanted. Two things differ from a campaign: what is found
in one system does not compete in another, and an arm ends with the benchmark's largest budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from configs.campaign import AllocationConfig
from configs.rediscovery import RediscoveryConfig
from tasks.campaign.allocation import Arm, Tally, shared_out


@dataclass(frozen=True)
class Relaxation:
    """A relaxation that an arm would make.

    Attributes:
        drawn: which crystal of the system it begins with.
        find: which new crystal near the hull it ends in; None if in none.
        hidden: ids of the hidden crystals that it is.
    """

    drawn: int
    find: int | None
    hidden: frozenset[str]


@dataclass(frozen=True)
class Played:
    """What a budget has found.

    Attributes:
        relaxations: that were made; fewer than the budget if all arms ran out.
        hidden: hidden crystals found.
        finds: new crystals near the hull.
        ended: arms whose relaxations were all made.
    """

    relaxations: int
    hidden: int
    finds: int
    ended: int


@dataclass(frozen=True)
class Compared:
    """A quantity by both policies, with standard errors.

    Attributes:
        even: of the even budget.
        even_error: its error.
        adaptive: the mean over campaigns by Thompson sampling.
        adaptive_error: of one such campaign.
        difference: adaptive less even.
        difference_error: of one campaign, paired.
    """

    even: float
    even_error: float
    adaptive: float
    adaptive_error: float
    difference: float
    difference_error: float


@dataclass(frozen=True)
class BothPolicies:
    """Both policies after as many relaxations.

    Attributes:
        per_system: relaxations per system, on average.
        recall: share of the hidden crystals that was found.
        finds: new crystals near the hull per relaxation.
        arms_ended: share of the arms whose known relaxations an adaptive campaign has used up.
    """

    per_system: int
    recall: Compared
    finds: Compared
    arms_ended: float


@dataclass
class _System:
    """What has been relaxed and found in a system on the way."""

    drawn: set[int] = field(default_factory=set)
    finds: set[int] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)


class Play:
    """A campaign on relaxations that are known.

    Args:
        arms: what each would relax, in order; systems first, as a campaign has them.
        shares: of each proposer in an even budget.
        allocation: the policy.
        seed: of its draws.
    """

    def __init__(
        self,
        arms: Mapping[Arm, Sequence[Relaxation]],
        shares: Mapping[str, float],
        allocation: AllocationConfig,
        seed: int,
    ) -> None:
        self._arms, self._shares, self._allocation, self._seed = arms, shares, allocation, seed
        self._at = dict.fromkeys(arms, 0)
        self._tallies = dict.fromkeys(arms, Tally())
        self._systems: defaultdict[str, _System] = defaultdict(_System)
        self._rounds = 0

    @property
    def relaxations(self) -> int:
        """So far."""
        return sum(tally.relaxations for tally in self._tallies.values())

    def until(self, budget: int, per_round: int) -> Played:
        """Rounds until so many relaxations are made, or no arm has any left."""
        while (left := budget - self.relaxations) > 0 and (open_arms := self._open()):
            tallies = {arm: self._tallies[arm] for arm in open_arms}
            shares = {arm: self._shares[arm.proposer] for arm in open_arms}
            n = min(per_round, left)
            for arm, given in shared_out(tallies, shares, n, self._rounds, self._seed, self._allocation).items():
                self._relax(arm, given)
            self._rounds += 1
        systems = self._systems.values()
        return Played(
            self.relaxations,
            sum(len(one.hidden) for one in systems),
            sum(len(one.finds) for one in systems),
            len(self._arms) - len(self._open()),
        )

    def _open(self) -> list[Arm]:
        return [arm for arm, known in self._arms.items() if self._at[arm] < len(known)]

    def _relax(self, arm: Arm, n: int) -> None:
        """The next candidates of an arm; one that was drawn in this system before costs nothing."""
        known, system, made, found = self._arms[arm], self._systems[arm.system], 0, 0
        while made < n and self._at[arm] < len(known):
            one = known[self._at[arm]]
            self._at[arm] += 1
            if one.drawn in system.drawn:
                continue
            system.drawn.add(one.drawn)
            system.hidden |= one.hidden
            made += 1
            if one.find is not None and one.find not in system.finds:
                system.finds.add(one.find)
                found += 1
        before = self._tallies[arm]
        self._tallies[arm] = Tally(before.relaxations + made, before.finds + found)


def arms_of(
    relaxations: pa.Table, proposers: Sequence[str], within_ev_per_atom: float
) -> dict[str, dict[str, list[Relaxation]]]:
    """By system and proposer, what would be relaxed, in order.

    Args:
        relaxations: columns RELAXATIONS of all systems.
        proposers: who shares the budget.
        within_ev_per_atom: height above the hull up to which a new crystal is a find.
    """
    systems: dict[str, dict[str, list[Relaxation]]] = {}
    for row in relaxations.to_pylist():
        own = systems.setdefault(row["system"], {name: [] for name in proposers})
        height = row["e_above_hull_ev_per_atom"]
        near = height is not None and height <= within_ev_per_atom
        if row["proposer"] in own:
            one = Relaxation(row["drawn"], row["relaxed"] if near else None, frozenset(row["hidden"]))
            own[row["proposer"]].append(one)
    return systems


def both_policies(relaxations: pa.Table, hidden: Mapping[str, int], config: RediscoveryConfig) -> list[BothPolicies]:
    """Both policies at every size of the shared budget.

    Errors are those of a bootstrap over systems: each resample is a campaign of its own, by both policies, so the
    error of the adaptive one holds the luck of its draws too.

    Args:
        relaxations: columns RELAXATIONS of all systems.
        hidden: number of hidden crystals by system.
        config: of the benchmark.
    """
    shared = config.shared_budget
    names, rng = sorted(hidden), np.random.default_rng(config.seed)
    per_system = [n for n in shared.per_system if n <= config.budgets[-1]]
    if not per_system:
        return []
    known = arms_of(relaxations, list(config.sharing), shared.find_within_ev_per_atom)
    seeds = rng.integers(2**31, size=2 * shared.repeats).tolist()
    none: dict[str, list[Relaxation]] = {name: [] for name in config.sharing}

    def counts(chosen: Sequence[str], policy: Literal["uniform", "thompson"], seed: int) -> np.ndarray:
        """Recall, finds per relaxation and share of ended arms at every size, (sizes, 3)."""
        # A system that was drawn twice is two systems.
        arms = {Arm(f"{n}:{name}", who): own for n, name in enumerate(chosen)
                for who, own in known.get(name, none).items()}  # fmt: skip
        allocation = AllocationConfig(policy=policy, prior_finds=shared.prior_finds, prior_misses=shared.prior_misses)
        play = Play(arms, config.sharing, allocation, seed)
        played = [play.until(n * len(chosen), shared.per_round * len(chosen)) for n in per_system]
        n_hidden = sum(hidden[name] for name in chosen)
        return np.array([[p.hidden / n_hidden, p.finds / max(p.relaxations, 1), p.ended / len(arms)] for p in played])

    even = counts(names, "uniform", 0)
    adaptive = np.mean([counts(names, "thompson", seed) for seed in seeds[: shared.repeats]], axis=0)
    resampled = []
    for seed in seeds[shared.repeats :]:
        chosen = [names[i] for i in rng.integers(len(names), size=len(names))]
        resampled.append([counts(chosen, "uniform", 0), counts(chosen, "thompson", seed)])
    drawn = np.array(resampled)
    return [
        BothPolicies(
            per_system=n,
            recall=_compared(even[i, 0], adaptive[i, 0], drawn[:, :, i, 0]),
            finds=_compared(even[i, 1], adaptive[i, 1], drawn[:, :, i, 1]),
            arms_ended=float(adaptive[i, 2]),
        )
        for i, n in enumerate(per_system)
    ]


def _compared(even: float, adaptive: float, drawn: np.ndarray) -> Compared:
    """Args: both values; both of every resample, (resamples, 2)."""
    errors = drawn.std(axis=0, ddof=1)
    paired = (drawn[:, 1] - drawn[:, 0]).std(ddof=1)
    return Compared(
        float(even), float(errors[0]), float(adaptive), float(errors[1]), float(adaptive - even), float(paired)
    )
