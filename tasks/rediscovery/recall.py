"""Recall of hidden crystals over relaxations, with standard errors.

Crystals of one chemical system are found or missed together, so the error is that of systems drawn anew: a bootstrap
over systems, the same resamples for every campaign and budget, which makes differences paired. Beside it stands
Wilson's interval, as if all crystals were independent, which is not zero where nothing, or everything, was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from generative.metrics.shares import wilson_interval

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Recall:
    """What part of the hidden crystals a campaign has found after some relaxations.

    Attributes:
        found: crystals found.
        n: crystals hidden.
        error: standard error of the share, by the bootstrap.
        low: end of the 95 % interval by Wilson.
        high: its other end.
    """

    found: int
    n: int
    error: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Of the hidden crystals."""
        return self.found / self.n


@dataclass(frozen=True)
class Difference:
    """Recall of one campaign less that of another, in shares, with its standard error by the paired bootstrap."""

    first: str
    second: str
    budget: int
    value: float
    error: float


class Recalls:
    """Recalls of all campaigns on the same hidden crystals.

    Attributes:
        campaigns: names.
        n_systems: chemical systems.
        crystals: the hidden ones: system and id of each.
    """

    def __init__(self, found: pa.Table, campaigns: Sequence[str], seed: int, column: str = "found_after") -> None:
        """Args: columns of found.parquet; names of campaigns; of the resamples; which column says after how many."""
        self.campaigns = tuple(campaigns)
        rows = found.select(["system", "proposer", "id", column]).to_pylist()
        names = sorted({row["system"] for row in rows})
        self.crystals = crystals = sorted({(row["system"], row["id"]) for row in rows})
        self.n_systems = len(names)
        self._system = np.array([names.index(system) for system, _ in crystals])
        after = {(row["proposer"], row["system"], row["id"]): row[column] for row in rows}
        self._after = {
            name: np.array([NEVER if (n := after[name, *crystal]) is None else n for crystal in crystals], np.int64)
            for name in campaigns
        }
        drawn = np.random.default_rng(seed).multinomial(self.n_systems, np.full(self.n_systems, 1 / self.n_systems),
                                                        N_RESAMPLES)  # fmt: skip
        self._drawn = drawn.astype(float)

    def _resampled(self, name: str, budget: int) -> Floats:
        hits = np.bincount(self._system, self._after[name] <= budget, self.n_systems)
        sizes = np.bincount(self._system, minlength=self.n_systems)
        shares: Floats = (self._drawn @ hits) / (self._drawn @ sizes)
        return shares

    def at(self, name: str, budget: int) -> Recall:
        """Of a campaign after so many relaxations."""
        found, n = int((self._after[name] <= budget).sum()), len(self._system)
        return Recall(found, n, float(self._resampled(name, budget).std(ddof=1)), *wilson_interval(found, n))

    def difference(self, first: str, second: str, budget: int) -> Difference:
        """First less second."""
        value = self.at(first, budget).share - self.at(second, budget).share
        spread = self._resampled(first, budget) - self._resampled(second, budget)
        return Difference(first, second, budget, value, float(spread.std(ddof=1)))

    def curve(self, name: str, most: int) -> tuple[Floats, Floats]:
        """Share and standard error after 1, 2, ... most relaxations, each (most,)."""
        found = [self.at(name, budget) for budget in range(1, most + 1)]
        return np.array([one.share for one in found]), np.array([one.error for one in found])

    def as_dict(self, name: str, budgets: Sequence[int]) -> dict[str, Any]:
        """Of a campaign at these budgets."""
        stated = {}
        for budget in budgets:
            one = self.at(name, budget)
            stated[str(budget)] = {
                "found": one.found,
                "recall": one.share,
                "standard_error": one.error,
                "wilson_95": [one.low, one.high],
            }
        return stated
