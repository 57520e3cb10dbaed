"""How the relaxations of a round are shared out among the arms of a campaign: pairs of a system and a proposer.

A relaxation of an arm is a find or a miss, so the yield of an arm, finds per relaxation, has a Beta posterior: with
the prior Beta(a, b), Beta(a + finds, b + misses). Thompson sampling (Thompson, Biometrika 25, 285, 1933) gives each
relaxation to the arm whose yield, drawn from its posterior, is highest; within a round posteriors stay as they are.
An arm is so given a relaxation with the probability that it is the best of all.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from configs.campaign import AllocationConfig

ROWS_AT_ONCE = 4096


@dataclass(frozen=True, order=True)
class Arm:
    """A proposer in a system.

    Attributes:
        system: the system's elements joined by '-'.
        proposer: the proposer's name.
    """

    system: str
    proposer: str


@dataclass(frozen=True)
class Tally:
    """What an arm has had and given.

    Attributes:
        relaxations: of its candidates.
        finds: crystals among them that were new and near the hull.
    """

    relaxations: int = 0
    finds: int = 0

    def posterior(self, config: AllocationConfig) -> tuple[float, float]:
        """The two parameters of the Beta distribution of its yield."""
        return config.prior_finds + self.finds, config.prior_misses + self.relaxations - self.finds


def even(tallies: Mapping[Arm, Tally], shares: Mapping[Arm, float], n: int) -> dict[Arm, int]:
    """Relaxations that bring all arms nearest to their shares, those that they have had included.

    Each goes to the arm that has had least for its share, the first of several alike.

    Args:
        tallies: by arm, in the order in which ties are decided.
        shares: of each arm, above 0.
        n: relaxations.
    """
    order = list(tallies)
    parts = {arm: Fraction(str(shares[arm])) for arm in order}
    queue = [((tallies[arm].relaxations + 1) / parts[arm], place) for place, arm in enumerate(order)]
    heapq.heapify(queue)
    given: Counter[Arm] = Counter()
    for _ in range(n if queue else 0):
        _, place = queue[0]
        arm = order[place]
        given[arm] += 1
        heapq.heapreplace(queue, ((tallies[arm].relaxations + given[arm] + 1) / parts[arm], place))
    return {arm: given[arm] for arm in order if given[arm]}


def thompson(
    tallies: Mapping[Arm, Tally], n: int, config: AllocationConfig, rng: np.random.Generator
) -> dict[Arm, int]:
    """Relaxations by Thompson sampling.

    Args:
        tallies: by arm, in the order in which is drawn.
        n: relaxations.
        config: the prior.
        rng: of the draws.
    """
    order = list(tallies)
    if not order:
        return {}
    finds, misses = np.array([tallies[arm].posterior(config) for arm in order]).T
    given = np.zeros(len(order), np.int64)
    for first in range(0, n, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, n - first)
        best = rng.beta(finds, misses, size=(rows, len(order))).argmax(axis=1)
        given += np.bincount(best, minlength=len(order))
    return {arm: int(count) for arm, count in zip(order, given, strict=True) if count}


def shared_out(
    tallies: Mapping[Arm, Tally], shares: Mapping[Arm, float], n: int, number: int, seed: int, config: AllocationConfig
) -> dict[Arm, int]:
    """The relaxations of a round by the policy of the settings.

    Args:
        tallies: of the arms that can still be asked.
        shares: of each arm in an even budget.
        n: relaxations.
        number: of the round, from 0.
        seed: of the campaign.
        config: the policy.
    """
    if config.policy == "uniform" or number == 0:
        return even(tallies, shares, n)
    return thompson(tallies, n, config, np.random.default_rng((seed, number)))
