"""The Materials Project as Hullward asks it, set up for a server on loopback; and what came of it as rows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from generative.datasets.config import FilterConfig, MaterialsProjectSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Record
from generative.datasets.databases.materials_project import MaterialsProject
from generative.datasets.records import interpret
from tests.servers.materials_project import KEY


class Clock:
    """Time that passes by itself, and at once where somebody waits."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)

    def __call__(self) -> float:
        return time.monotonic() + sum(self.waits_s)


def project(
    url: str,
    *,
    filters: FilterConfig | None = None,
    elements: tuple[str, ...] | None = None,
    key: str | None = KEY,
    clock: Clock | None = None,
    **settings: Any,
) -> MaterialsProject:
    clock = clock or Clock()
    fast = {"attempts": 3, "backoff_s": 0.01, "requests_per_second": 1000, "read_timeout_s": 5} | settings
    config = MaterialsProjectSource(endpoint=url, **fast)
    secret = None if key is None else SecretStr(key)
    access = Access(config, "materials-project", secret, sleep=clock.sleep, clock=clock)
    return MaterialsProject(config, filters or FilterConfig(), elements, access, secret)


def pages(database: MaterialsProject) -> Iterator[tuple[Record, ...]]:
    page = database.page(None)
    yield page.records
    while page.cursor is not None:
        page = database.page(page.cursor)
        yield page.records


def records_of(database: MaterialsProject) -> list[Record]:
    return [record for page in pages(database) for record in page]


def read(database: MaterialsProject, records: list[Record]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Rows by id, and reasons of refusal by id."""
    batches = list(interpret((database.raw_record(r) for r in records), database.name, database.method, None))
    rows = {row["source_id"]: row for batch in batches for row in batch.rows.to_pylist()}
    return rows, {row["source_id"]: row["reason"] for batch in batches for row in batch.rejected.to_pylist()}


def told(error: BaseException) -> str:
    """All that a person might see of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)
