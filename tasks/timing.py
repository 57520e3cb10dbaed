"""Wall time of a run's stages, kept apart from results so that equal runs give equal tables."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.checksums import DamagedFileError
from storage.documents import read_document, write_document
from tasks.files import OF_A_RUN, FileRef

SECONDS = "seconds.json"


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


class StageSeconds:
    """Seconds of every file of a folder, noted when it is computed and kept beside it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / SECONDS
        try:
            self._noted = read_document(self._file, OF_A_RUN) if self._file.is_file() else {}
        except DamagedFileError:
            self._noted = {}

    def __call__(self, stage: str, number: int, compute: Callable[[], FileRef]) -> FileRef:
        """What `compute` gives; timed, unless it was there."""
        started = time.monotonic()
        ref = compute()
        if not ref.reused:
            self.note(stage, number, time.monotonic() - started)
        return ref

    def note(self, stage: str, number: int, seconds: float) -> None:
        """Keep what a part of a stage took, s."""
        self._noted[f"{stage}/{number}"] = round(seconds, 3)
        write_document(self._file, self._noted)

    def up_to(self, stage: str, number: int) -> float:
        """Seconds of the parts of a stage up to this one, from 0."""
        return sum(float(self._noted.get(f"{stage}/{n}", 0.0)) for n in range(number + 1))

    @property
    def of_stage(self) -> dict[str, float]:
        """Seconds by stage."""
        total: dict[str, float] = defaultdict(float)
        for name, seconds in self._noted.items():
            total[name.partition("/")[0]] += seconds
        return {stage: round(seconds, 3) for stage, seconds in total.items()}
