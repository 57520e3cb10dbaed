"""Wall time of a run's stages, kept apart from results so that equal runs give equal tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Measures stages; `seconds` maps each finished stage to its wall time, s."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block as this stage."""
        start = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - start, 1)
