"""A plan: what will be asked for, what is there, with which potentials, how long it takes, what is written where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.progress import in_words


@dataclass(frozen=True)
class Stage:
    """A stage of the work.

    Attributes:
        name: of the stage.
        work: what it is about, in words, such as '128 candidates'.
        seconds: of it that is still to be done, by measured rates; None where nothing is measured.
        n_parts: chunks, or other parts that are kept one by one; 0 where it has none.
        n_done: of these, found done.
    """

    name: str
    work: str
    seconds: float | None
    n_parts: int = 0
    n_done: int = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left."""
        return 0 < self.n_parts == self.n_done


@dataclass(frozen=True)
class UsedPotential:
    """A potential of the work.

    Attributes:
        role: 'relaxation', 'judge', 'committee'.
        asked: as the settings name it.
        used: the name that will be used, the fallback's where the asked one's weights are not here.
        is_here: whether the weights of the one used are on this machine; None: its package alone knows.
        where: where its weights lie, or why they are not here.
    """

    role: str
    asked: str
    used: str
    is_here: bool | None
    where: str

    @property
    def sentence(self) -> str:
        """The potential in a line."""
        stands_in = f" in place of {self.asked}" if self.used != self.asked else ""
        return f"{self.used}{stands_in}, {self.where}"


@dataclass(frozen=True)
class Written:
    """Something that appears on disk.

    Attributes:
        path: where.
        what: in a few words.
        is_there: whether something of this name is there now.
    """

    path: Path
    what: str
    is_there: bool

    @classmethod
    def at(cls, path: Path, what: str) -> Written:
        """As the disk has it."""
        return cls(path, what, path.exists())


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    Attributes:
        command: such as 'discover'.
        name: of the run, campaign, training, ...
        facts: what is asked for and found, as heading and text, in order.
        potentials: that compute energies.
        stages: in order.
        rates: where the rates are from, in a few words; empty where no time is told.
        memory_mb: expected peak of the process, MB; None where nothing is measured.
        writes: what appears on disk.
        warnings: what would stop the work, or make its result less, one sentence each.
        details: the same and more for programs.
    """

    command: str
    name: str
    facts: tuple[tuple[str, str], ...]
    potentials: tuple[UsedPotential, ...]
    stages: tuple[Stage, ...]
    rates: str
    memory_mb: float | None
    writes: tuple[Written, ...]
    warnings: tuple[str, ...]
    details: dict[str, Any]

    @property
    def seconds(self) -> float | None:
        """What is still to be done, by measured rates, s; None where no stage's time is known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "command": self.command,
            "name": self.name,
            "seconds": self.seconds,
            "memory_mb": self.memory_mb,
            "rates": self.rates,
            "potentials": [asdict(one) for one in self.potentials],
            "stages": [{**asdict(one), "is_done": one.is_done} for one in self.stages],
            "writes": [{**asdict(one), "path": str(one.path)} for one in self.writes],
            "warnings": list(self.warnings),
            **self.details,
        }

    def __str__(self) -> str:
        """Plain text for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.command} {self.name}: nothing is computed or written"
        yield ""
        told = [*self.facts, *((one.role, one.sentence) for one in self.potentials)]
        yield from _columns(told)
        if self.stages:
            yield "\nstages"
            yield from _columns([(f"  {one.name}", _stage_text(one)) for one in self.stages])
        if (total := self.seconds) is not None:
            unknown = [one.name for one in self.stages if one.seconds is None]
            beside = f", beside {', '.join(unknown)}" if unknown else ""
            yield f"\ntime    about {in_words(total)}{beside}, {self.rates}"
        if self.memory_mb is not None:
            yield f"memory  about {self.memory_mb / 1e3:.1f} GB at most"
        yield "\nwrites"
        yield from _columns([(f"  {one.path}", one.what + "; there now" * one.is_there) for one in self.writes])
        if self.warnings:
            yield ""
            yield from (f"note: {sentence}" for sentence in self.warnings)


def _columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(head) for head, _ in rows), default=0) + 2
    for head, text in rows:
        first, *more = text.splitlines() or [""]
        yield f"{head:{width}}{first}".rstrip()
        yield from (" " * width + line for line in more)


def _stage_text(stage: Stage) -> str:
    if stage.is_done:
        return f"{stage.work}: done, reused"
    done = f", {stage.n_done} of {stage.n_parts} parts done" if stage.n_done else ""
    return f"{stage.work}{done}" + ("" if stage.seconds is None else f": {in_words(stage.seconds)}")
