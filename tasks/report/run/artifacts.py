"""Prefect artifacts of a run, and progress while it works. The only file of the report that knows Prefect."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from storage.progress import Teller
from tasks.report.pictures import crystal_png
from tasks.report.run.markdown import data_uri, markdown_report
from tasks.report.run.model import ReportInputs
from tasks.report.run.opinions import remark
from tasks.report.run.summary import number, summarise
from tasks.report.run.tables import candidate_rows, escape_markdown, markdown_formula

TABLE_LIMIT_BYTES = 290_000
REPORTS_VARIABLE = "HULLWARD_REPORTS_URL"
UPDATE_INTERVAL_S = 2.0
"""Progress is sent at most this often: every update is a write to the server's database."""

logger = logging.getLogger(__name__)

R = TypeVar("R")


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants it: lowercase letters, digits and single dashes.

    Raises: ValueError: if nothing of the parts is left.
    """
    key = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
    if not key:
        raise ValueError(f"artifact key from {parts} is empty, expected letters or digits: give the run a name")
    return key


def in_prefect_run() -> bool:
    """Whether a flow or task run is going on in this thread; artifacts outside of one would belong to nothing."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _run_log() -> Callable[[str], None] | None:
    """What takes a line of the run that is going on in this thread; None where there is none."""
    try:
        return cast("Callable[[str], None]", get_run_logger().info)
    except MissingContextError:
        return None


def publish(inputs: ReportInputs) -> dict[str, UUID]:
    """Publish the report and the candidate table of a run; ids by key. Outside a Prefect run it does nothing."""
    if not in_prefect_run():
        return {}
    report_key, table_key = artifact_key("report", inputs.run_name), artifact_key("candidates", inputs.run_name)
    rows, left_out = fitting_rows(candidate_rows(inputs.candidates))
    about = f"Energies: {escape_markdown(inputs.potential_method)}, not DFT."
    if left_out := left_out + inputs.n_left_out:
        about += f" The last {left_out} candidates are in candidates.parquet only."
    title, text = markdown_report(inputs).split("\n", 1)
    linked = f"{title}\n\n{report_link(inputs.run_folder)}\n{text}"
    report = create_markdown_artifact(linked, key=report_key, description=_card(inputs))
    table = create_table_artifact(rows, key=table_key, description=about)
    # Typed as perhaps a coroutine; in synchronous code, as everywhere here, it is the id.
    return {report_key: cast(UUID, report), table_key: cast(UUID, table)}


def report_link(run_folder: str) -> str:
    """A link to report.html where `make ui` serves the runs of this folder (HULLWARD_REPORTS_URL); else empty."""
    address, folder = os.environ.get(REPORTS_VARIABLE), Path(run_folder).resolve()
    if not address or not run_folder or folder.parent != Path("runs").resolve():
        return ""
    return f"**[Open the interactive report]({address.rstrip('/')}/{quote(folder.name)}/report.html)**\n"


def fitting_rows(rows: list[dict[str, Any]], limit_bytes: int = TABLE_LIMIT_BYTES) -> tuple[list[dict[str, Any]], int]:
    """As many leading rows as stay below the limit as JSON, and how many were left out."""
    used = 2
    for index, row in enumerate(rows):
        used += len(json.dumps(row).encode()) + 2
        if used > limit_bytes:
            return rows[:index], len(rows) - index
    return rows, 0


def _card(inputs: ReportInputs) -> str:
    """What the artifact's card shows: the best candidate with a thumbnail."""
    best = summarise(inputs.candidates).best
    if best is None:
        return f"{inputs.n_ranked} candidates, none with a place on the hull"
    thumbnail = data_uri(crystal_png(best.structure, 160, inputs.elements))
    above = number(best.e_above_hull_ev_per_atom)
    text = f"{inputs.n_ranked} candidates; best {markdown_formula(best.formula)}, {above} eV/atom above hull"
    if best.opinion is not None:
        text += f" ({escape_markdown(remark(best.opinion))})"
    return f'{text} <img src="{thumbnail}" width="120">'


class Progress:
    """A progress artifact of a long task, in per cent, and lines in its log; silent when no Prefect run is going on.

    A line comes every 10 s while it is entered, whether or not the work says anything (storage.progress.Teller). The
    artifact is there once the work has taken UPDATE_INTERVAL_S, gets at most one update per UPDATE_INTERVAL_S, and goes
    when the work has come to its end: Prefect lists the artifacts of a run in no order, and its results would be hidden
    among the full bars of hundreds of chunks. That of work that failed stays where it stood. The server failing never
    disturbs the work. Use as a context manager.
    """

    def __init__(
        self, key: str, description: str = "", clock: Callable[[], float] = time.monotonic, *, stays: bool = False
    ) -> None:
        """A reporter for one task.

        Args:
            key: artifact key; made lowercase with dashes.
            description: what is being done, such as 'relaxing'.
            clock: seconds; replaced in tests.
            stays: whether what was said last is a result, such as the losses of a training: it is kept, at 100 %.
        """
        self._key = artifact_key(key)
        self._description = self._said = description
        self._clock, self._stays = clock, stays
        self._artifact: UUID | None = None
        self._sent_at = clock()
        self._active = in_prefect_run()
        log = _run_log()
        self._lines = None if log is None else Teller(description or key, log)

    def __enter__(self) -> Self:
        if self._lines is not None:
            self._lines.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.__exit__()
        if kind is None and self._active:
            self._end()

    def update(self, done: float, total: float, note: str = "") -> None:
        """Report `done` of `total` units of work; `note` follows the description. A storage.progress.NotedProgress."""
        if self._lines is not None:
            self._lines(done, total, note)
        self._report(done, total, note)

    def _report(self, done: float, total: float, note: str) -> None:
        if not self._active:
            return
        now = self._clock()
        self._said = f"{self._description}: {note}" if note else self._description
        if now - self._sent_at < UPDATE_INTERVAL_S:
            return
        self._sent_at = now
        self._send(100.0 * min(max(done / total, 0.0), 1.0) if total > 0 else 0.0)

    def over(self, parts: Sequence[Callable[[], R]]) -> list[R]:
        """What each of these gives, told as so many parts of the work."""
        done = []
        for count, part in enumerate(parts, start=1):
            done.append(part())
            self.update(count, len(parts))
        return done

    def labelled(self, what: str, done: int, total: int | None) -> None:
        """The same with what is being done, such as a source of records; a storage.progress.SourceProgress."""
        if self._lines is not None:
            self._lines.labelled(what, done, total)
        if total:
            self._report(done, total, f"{done:,} of {total:,} of {what}")

    def _send(self, per_cent: float) -> None:
        with self._undisturbed():
            if self._artifact is None:
                created = create_progress_artifact(per_cent, key=self._key, description=self._said)
                self._artifact = cast(UUID, created)
            else:
                update_progress_artifact(self._artifact, progress=per_cent, description=self._said)

    def _end(self) -> None:
        if self._stays:
            self._send(100.0)
        elif self._artifact is not None:
            with self._undisturbed(), get_client(sync_client=True) as client:
                client.delete_artifact(self._artifact)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the server's troubles come as a dozen types, and progress is not worth a run
            self._active = False
            logger.debug("progress %s is no longer reported: %s", self._key, error)
