"""Wall time of a run's stages, kept apart from results so that equal runs give equal tables."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Measures stages of which each may be at work several times, and several at once."""

    def __init__(self) -> None:
        self._spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block as a part of this stage."""
        start_s = time.monotonic()
        yield
        self.add(stage, start_s, time.monotonic())

    def add(self, stage: str, start_s: float, end_s: float) -> None:
        """Count a task of a stage that was at work between two readings of time.monotonic."""
        self._spans[stage].append((start_s, end_s))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time during which at least one task of each stage was at work, s.

        Time in which two stages overlap counts for both, so they may add up to more than the run took.
        """
        return {stage: round(_covered(spans), 1) for stage, spans in self._spans.items()}


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
