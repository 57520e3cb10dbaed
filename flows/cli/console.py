"""What the command line shows: a sentence per failure; tables and progress on a terminal, or JSON and nothing else."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from storage.progress import Teller

if TYPE_CHECKING:
    from storage.progress import NotedProgress, SourceProgress

NAMED = {"id": "id", "formula": "formula"}
RANKED = {
    "rank": "rank",
    "formula": "formula",
    "e_above_hull_ev_per_atom": "above hull eV/atom",
    "formation_energy_ev_per_atom": "formation eV/atom",
    "spacegroup_symbol": "space group",
    "delta_e_ev_per_atom": "dE eV/atom",
    "proposed_by": "proposed by",
    "id": "id",
}
KEPT = {"in_its_group": "in its space group"}
JUDGED = {"judge_e_above_hull_ev_per_atom": "judge eV/atom", "within": "within 0.1 by DFT", "opinions": "opinions"}
PHONON = {"lowest_phonon_thz": "lowest phonon THz"}
SOURCES = {"source": "source", "n_read": "read", "n_kept": "kept", "n_filtered": "outside", "n_rejected": "bad"}
SCREENED = {**NAMED, "min_distance_ang": "shortest distance A", "rejected_by": "rejected by", "reason": "reason"}
RELAXED = {
    **NAMED,
    "relax_status": "ended as",
    "relax_steps": "steps",
    "energy_ev_per_atom": "energy eV/atom",
    "fmax_ev_per_ang": "largest force eV/A",
}
REASON = {"relax_reason": "reason"}
PLACED = {
    **NAMED,
    "e_above_hull_ev_per_atom": "above hull eV/atom",
    "formation_energy_ev_per_atom": "formation eV/atom",
    "decomposition": "decomposes into",
    "hull_note": "note",
}
"""Columns of the tables on the terminal, with their headings."""

P = ParamSpec("P")
T = TypeVar("T")

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
ROOMS = frozenset({"hullward", "flows", "tasks", "configs", "generative", "dft", "storage"})
SETTINGS_FAULTS = frozenset({"ConfigError", "PlanError"})
"""Failures whose remedy is another setting. By name: to import them would load the rooms for a usage message."""


def sentence_of(error: BaseException) -> str:
    """A failure in one line. The rooms' own exceptions say all in their message; of others the kind is named."""
    message = " ".join(str(error).split()) or "no message"
    if type(error).__module__.split(".")[0] in ROOMS or type(error) in (ValueError, RuntimeError):
        return message
    return f"{type(error).__name__}: {message}"


def exit_code_of(error: BaseException) -> int:
    """2 for settings and usage, 1 for work that failed."""
    return WRONG_USAGE if type(error).__name__ in SETTINGS_FAULTS else FAILED


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """A command whose failure is one sentence on standard error and an exit code; `debug=True` adds the traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            typer.echo("hullward: interrupted; the same command goes on from what is done", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            typer.echo(f"hullward: {sentence_of(error)}", err=True)
            raise typer.Exit(exit_code_of(error)) from None

    return run


@contextmanager
def answer(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Gives the function that takes a command's result; with `as_json` the result alone reaches standard output.

    Whatever libraries print meanwhile goes to standard error, also from C code and child processes.
    """
    results: list[Any] = []
    if not as_json:
        yield results.append
        return
    sys.stdout.flush()
    real = os.dup(1)
    try:
        os.dup2(2, 1)
        yield results.append
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
        # Also where the command ends with an exit code: the result then says what failed.
        for result in results:
            typer.echo(json.dumps(result, indent=2, default=str, allow_nan=False))


@contextmanager
def labelled_bar(title: str, hidden: bool, unit: str = "", *, remaining: bool = False) -> Iterator[SourceProgress]:
    """Gives a function of (what, done, in all). On a terminal it moves a bar; in a log it makes lines, one every 10 s.

    Args:
        title: shown until the function is first called.
        hidden: nothing is shown.
        unit: behind the counts.
        remaining: show the time that is left, too; lines always do.
    """
    if hidden:
        yield lambda what, done, total: None
        return
    if not sys.stderr.isatty():
        with Teller(title, say, unit) as lines:
            yield lines.labelled
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit)] * bool(unit) + [TimeElapsedColumn()] + [TimeRemainingColumn()] * remaining
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(title, total=None)
        yield lambda what, done, total: bar.update(shown, description=what, completed=done, total=total)


@contextmanager
def progress_bar(title: str, hidden: bool) -> Iterator[NotedProgress]:
    """A bar with one label; gives a function of (done, in all), perhaps with a note. See labelled_bar."""
    if not hidden and not sys.stderr.isatty():
        with Teller(title, say) as lines:
            yield lines
        return
    with labelled_bar(title, hidden, remaining=True) as bar:

        def tell(done: float, total: float, note: str = "") -> None:
            bar(f"{title}: {note}" if note else title, round(done), round(total))

        yield tell


def show_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], title: str = "") -> None:
    """Rows on standard output, as a table.

    Args:
        rows: values by key.
        columns: heading (with its unit) by key, in order.
        title: above the table.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for key, heading in columns.items():
        numeric = any(isinstance(row.get(key), int | float) for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(key)) for key in columns))
    # Where nobody looks (a pipe, a log) lines are not folded to a terminal's width.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(table)


def with_phonons(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns, and that of phonons where a row has any."""
    return _with(PHONON, rows, columns)


def with_opinions(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns, and those of the judge behind the energy above hull where a row has been judged."""
    shown = {key: heading for key, heading in JUDGED.items() if any(row.get(key) not in (None, "") for row in rows)}
    found: dict[str, str] = {}
    for key, heading in columns.items():
        found |= {key: heading} | (shown if key == "e_above_hull_ev_per_atom" else {})
    return found


def with_groups(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns, and what a crystal is in its space group where a row says so."""
    return _with(KEPT, rows, columns)


def with_reasons(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns, and why a relaxation did not converge where a row says so."""
    return _with(REASON, rows, columns)


def _with(
    further: Mapping[str, str], rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> Mapping[str, str]:
    return {**columns, **further} if any(row.get(key) not in (None, "") for row in rows for key in further) else columns


def cell(value: Any) -> str:
    """A value for reading: energies to 1 meV, zero without a sign, which is noise; nothing for null."""
    if value is None:
        return ""
    return f"{value:z.3f}" if isinstance(value, float) else str(value)


def say(message: str, quiet: bool = False) -> None:
    """A line on standard error, beside the result."""
    if not quiet:
        typer.echo(message, err=True)


ENGINE_NOISE = (
    *("Beginning flow run", "Finished in state", "Encountered exception", "Crash detected", "Execution was aborted"),
    *("Running hook", "Hook 'know'"),
)


class _Concise(logging.Filter):
    """Drops Prefect's own bookkeeping, and tracebacks that the command line itself puts in one sentence."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None and not str(record.msg).startswith(ENGINE_NOISE)


def hush_engine() -> None:
    """Leave on the console what the tasks say; the run's page in the UI has all of it."""
    from prefect.logging.configuration import setup_logging
    from prefect.logging.handlers import PrefectConsoleHandler

    setup_logging()  # a flow would do so at its start; done twice it keeps the handlers of the first time
    logging.getLogger().setLevel(logging.WARNING)  # of this process; the temporary server is quieter
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_Concise())


def begin(what: str, hidden: bool = False) -> None:
    """The first line of a long command, before anything heavy is loaded: Prefect and torch take seconds to come."""
    say(f"{what}; loading", hidden)
