"""Fuzzing with counts: seeded cases, what became of each, and a table of all of them at the end of the session.

A few rounds of each run in `make test`, many in `make fuzz`, which sets HULLWARD_FUZZ to how many times more. A case
that fails does not hide the others: all are counted, and the first of them are shown with what makes them again.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

TIMES = int(os.environ.get("HULLWARD_FUZZ", "1"))
SHOWN = 5


class Fuzz:
    """Cases of one test, and how they ended.

    Attributes:
        what: the test, as the table names it.
        attempts: cases begun.
        outcomes: how many ended how, failures aside.
        failures: what failed, each with what makes it again.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.attempts = 0
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []

    def cases(self, rounds: int) -> Iterator[np.random.Generator]:
        """A generator of its own for every case: HULLWARD_FUZZ times `rounds` of them, the same in every session."""
        seed = int.from_bytes(hashlib.sha256(self.what.encode()).digest()[:4])
        for case in range(rounds * TIMES):
            self.attempts += 1
            yield np.random.default_rng([seed, case])

    def ended(self, outcome: str) -> None:
        """Count how a case ended: one of the ways it may, such as 'refused' or 'computed again'."""
        self.outcomes[outcome] += 1

    def failed(self, case: str) -> None:
        """Count a case that ended as none may.

        Args:
            case: what went in, and what came out.
        """
        self.failures.append(case)

    def settle(self) -> None:
        """Raises: AssertionError: if a case failed, or there was none."""
        assert self.attempts, "no case was tried"
        shown = "\n".join(self.failures[:SHOWN])
        assert not self.failures, f"{len(self.failures)} of {self.attempts} cases failed, the first:\n{shown}"

    @property
    def row(self) -> tuple[str, int, int, str]:
        """Test, attempts, failures, other outcomes: a line of the table."""
        others = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes.most_common())
        return (self.what, self.attempts, len(self.failures), others)


def table_of(reports: list[pytest.TestReport]) -> list[str]:
    """The lines of the table: one for each report that carries counts."""
    rows = sorted(value for report in reports for name, value in report.user_properties if name == "fuzz")
    return [f"{what} | {attempts} | {failures} | {others}" for what, attempts, failures, others in rows]
