"""Which chunk comes next, on how many workers, and what the clock says of stages that overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from prefect import flow, task

from configs.schema import ExecutionConfig
from tasks.runners import Workers
from tasks.timing import StageClock
from tests.flows.conftest import prefect_client

PATIENCE_S = 120
T = TypeVar("T")


class Log:
    """What tasks have done, in order; two can meet here."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun: list[str] = []
        self.running = 0
        self.most_at_once = 0
        self.meeting = threading.Barrier(2)


LOG = Log()


@pytest.fixture(autouse=True)
def log() -> Log:
    LOG.__init__()  # type: ignore[misc]
    return LOG


@task
def step(item: int, stage: str, after: list[int] | None = None) -> int:
    with LOG.lock:
        LOG.begun.append(f"{stage} {item}")
        LOG.running += 1
        LOG.most_at_once = max(LOG.most_at_once, LOG.running)
    time.sleep(0.01)
    with LOG.lock:
        LOG.running -= 1
    return item


@task
def meet(item: int, stage: str) -> int:
    """Ends only when a task of another stage is at work at the same time."""
    LOG.meeting.wait(PATIENCE_S)
    return item


@task
def fail(item: int) -> int:
    raise ValueError(f"chunk {item} cannot be computed")


def in_a_flow(environment: dict[str, str], body: Callable[[], T]) -> T:
    with prefect_client(environment):
        return flow(name="workers")(body)()


def test_one_worker_carries_a_chunk_through_before_the_next_and_does_what_is_named_first_last(
    prefect_environment: dict[str, str], log: Log
) -> None:
    def body() -> list[list[int]]:
        with Workers(ExecutionConfig(max_workers=1)) as workers:
            fill = workers.mapped("fill", step, range(2), "fill")
            drawn = workers.mapped("draw", step, range(3), "draw")
            screened = workers.mapped("screen", step, drawn, stage="screen")
            together = workers.submit("unique", step, 0, "unique", after=list(screened)).result()
            relaxed = workers.mapped("relax", step, range(together + 2), "relax")
            return [list(relaxed), list(fill), list(drawn)]

    assert in_a_flow(prefect_environment, body) == [[0, 1], [0, 1], [0, 1, 2]]
    drawn_and_screened = [f"{stage} {i}" for i in range(3) for stage in ("draw", "screen")]
    assert log.begun == [*drawn_and_screened, "unique 0", "relax 0", "relax 1", "fill 0", "fill 1"]
    assert log.most_at_once == 1


def test_no_more_tasks_are_at_work_than_there_are_workers(prefect_environment: dict[str, str], log: Log) -> None:
    def body() -> list[int]:
        with Workers(ExecutionConfig(max_workers=3)) as workers:
            drawn = workers.mapped("draw", step, range(12), "draw")
            return list(workers.mapped("screen", step, drawn, "screen"))

    assert in_a_flow(prefect_environment, body) == list(range(12))
    assert log.most_at_once <= 3


@pytest.mark.parametrize("pair", [("fill", "draw"), ("draw", "screen")])
def test_stages_overlap_where_inputs_allow(pair: tuple[str, str], prefect_environment: dict[str, str]) -> None:
    """A filling stage with a drawing one; a later chunk's draw with an earlier chunk's screen: neither ends alone."""

    def body() -> list[int]:
        with Workers(ExecutionConfig(max_workers=2)) as workers:
            if pair == ("fill", "draw"):
                fill = workers.mapped("fill", meet, [0], "fill")
                return [*workers.mapped("draw", meet, [1], "draw"), *fill]
            first = workers.submit("draw", step, 0, "draw")
            second = workers.submit("draw", meet, 1, "draw")
            screened = workers.mapped("screen", meet, [first.result()], "screen")
            return [*screened, second.result()]

    assert in_a_flow(prefect_environment, body) == ([0, 1] if pair == ("draw", "screen") else [1, 0])


def test_a_failed_chunk_stops_the_flow_with_its_own_sentence_whatever_the_flow_waits_for(
    prefect_environment: dict[str, str], log: Log
) -> None:
    def body() -> list[int]:
        with Workers(ExecutionConfig(max_workers=1)) as workers:
            fill = workers.mapped("fill", step, range(2), "fill")
            drawn = workers.mapped("draw", step, range(5), "draw")
            return [*workers.mapped("screen", fail, drawn), *fill]

    with pytest.raises(ValueError, match="^chunk 0 cannot be computed$"):
        in_a_flow(prefect_environment, body)
    assert log.begun == ["draw 0"]


def test_the_clock_counts_the_time_in_which_a_stage_is_at_work_once() -> None:
    clock = StageClock()
    for start, end in ((10, 12), (11, 15), (20, 21), (20.2, 20.4), (14, 15.5)):
        clock.add("relax", start, end)
    clock.add("sample", 14, 30)
    assert clock.seconds == {"relax": 6.5, "sample": 16}
    with clock("rank"):
        time.sleep(0.06)
    assert clock.seconds["rank"] > 0


def test_workers_tell_the_clock_when_each_stage_was_at_work(prefect_environment: dict[str, str]) -> None:
    def body() -> dict[str, float]:
        with Workers(ExecutionConfig(max_workers=2)) as workers:
            fill = workers.mapped("fill", meet, [0], "fill")
            list(workers.mapped("draw", meet, [1], "draw"))
            list(fill)
            return workers.clock.seconds

    seconds = in_a_flow(prefect_environment, body)
    assert set(seconds) == {"fill", "draw"}
