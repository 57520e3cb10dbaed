"""The OPTIMADE database as tests ask it: settings for a loopback server, a clock that only waiting moves."""

from __future__ import annotations

from collections import Counter
from typing import Any

from generative.datasets.config import FilterConfig, OptimadeSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Page, Record
from generative.datasets.databases.optimade import Optimade
from tests.servers.loopback import Request
from tests.servers.real import RealRecord

NOWHERE = "http://127.0.0.1:9"
"""An address for what must not ask anything."""


class Clock:
    """Time that passes only where something waits."""

    def __init__(self) -> None:
        self.now_s, self.waits_s = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.waits_s.append(seconds)


def database(
    url: str | None,
    filters: FilterConfig | None = None,
    elements: tuple[str, ...] | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> Optimade:
    clock = clock or Clock()
    given = {"page_size": 400, "requests_per_second": 1000, "attempts": 3, "backoff_s": 0.5, "read_timeout_s": 20.0}
    config = OptimadeSource(endpoint=url, **(given | settings))
    access = Access(config, f"optimade-{config.provider}", sleep=clock.sleep, clock=clock)
    return Optimade(config, filters or FilterConfig(), elements, access)


def pages_of(asked: Optimade) -> list[Page]:
    """All pages, by their cursors."""
    pages = [asked.page(None)]
    while pages[-1].cursor is not None:
        assert len(pages) < 50
        pages.append(asked.page(pages[-1].cursor))
    return pages


def records_of(asked: Optimade) -> list[Record]:
    return [record for page in pages_of(asked) for record in page.records]


def ids_of(asked: Optimade) -> set[str]:
    return {record.id for record in records_of(asked)}


def systems(real: tuple[RealRecord, ...], n: int) -> tuple[str, ...]:
    """The n elements that occur most often: systems with many crystals, of every number of elements."""
    return tuple(symbol for symbol, _ in Counter(e for record in real for e in record.elements).most_common(n))


def is_page(request: Request) -> bool:
    return request.route.endswith("/structures") and "/info" not in request.route
