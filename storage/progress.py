"""How work says where it stands: a function that is called now and then, and lines for those who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, Self

Progress = Callable[[int, int], None]
"""Called with what is done (crystals, rows, steps) and what there is to do in all."""

LabelledProgress = Callable[[str, int, int], None]
"""The same, with what is being done before them."""

SourceProgress = Callable[[str, int, int | None], None]
"""Called with a source of records, how many have come, and how many will, None if the source does not say."""


class NotedProgress(Protocol):
    """A Progress that also takes what else is to be said, such as a loss."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Called with what is done, what there is to do in all, and the note."""


SAID_EVERY_S = 10.0
"""Nobody waits longer for a line, however silent the work."""


class Teller:
    """Says in lines how far work is, every 10 s while it lasts: for logs, and terminals that draw nothing.

    A thread of its own says so, since the longest waits are those in which the work says nothing: with counts, rate and
    time left where it was called with counts, else how long it has been. Work that takes less than 10 s stays unsaid.
    """

    def __init__(
        self,
        what: str,
        say: Callable[[str], None],
        unit: str = "",
        clock: Callable[[], float] = time.monotonic,
        every_s: float = SAID_EVERY_S,
    ) -> None:
        """Nothing is said until it is entered, as a context.

        Args:
            what: is being done, such as 'relaxing candidates'.
            say: takes a line.
            unit: behind the counts, such as 'records'.
            clock: seconds from any start.
            every_s: seconds between two lines.
        """
        self._say, self._clock, self._every_s = say, clock, every_s
        self._what, self._unit, self._note = what, f" {unit}" if unit else "", ""
        self._began_s = self._counted_from_s = clock()
        self._done, self._first, self._total = 0.0, 0.0, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._began_s = self._counted_from_s = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Take down what is done, and what there is to do in all; what else is to be said of it."""
        if done < self._done or total != self._total:  # other work than before
            self._counted_from_s, self._first = (self._clock(), done) if self._total else (self._began_s, 0.0)
        self._done, self._total, self._note = done, total, note

    def labelled(self, what: str, done: int, total: int | None) -> None:
        """The same, with what is being done, whose end is always said; a SourceProgress."""
        if what != self._what:
            self._what, self._done, self._total = what, 0.0, -1.0  # a rate of its own
        was = self._done
        self(done, total or 0)
        if total and done >= total and was < total:
            self._say(f"{self._what}: {done:,} of {total:,}{self._unit}")

    def line(self) -> str:
        """How far it is now."""
        now_s = self._clock()
        if not self._done:
            return f"{self._what}: {in_words(now_s - self._began_s)} so far"
        said = f"{self._what}: {self._done:,.0f}"
        if self._total:
            said += f" of {self._total:,.0f}"
        said += self._unit
        if self._note:
            said += f" ({self._note})"
        seconds, done = now_s - self._counted_from_s, self._done - self._first
        if seconds <= 0 or done <= 0:
            return said
        rate = done / seconds
        said += f", {rate:,.1f} per s" if rate >= 1 else f", {60 * rate:,.1f} per min"
        left = (self._total - self._done) / rate
        return said if left <= 0 else f"{said}, {in_words(left)} left"

    def _beat(self) -> None:
        while not self._ended.wait(self._every_s):
            self._say(self.line())


def in_words(seconds: float) -> str:
    """A time no finer than anybody needs it: '40 s', '7 min', '3.5 h', '4.6 days'."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"
