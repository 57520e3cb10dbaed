"""Where a run's chunks are computed: threads, processes, a Dask cluster or jobs of Slurm; and which chunk comes next.

Stages overlap where their inputs allow. A task is handed to a worker only when all its inputs are there, as values: no
task ever waits for another one, only the flow does, which holds no worker. So a single worker is enough for any flow.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from configs.schema import ExecutionConfig
from tasks.timing import StageClock

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")

LOOK_S = 15.0
"""How often workers in a queue are looked after while the flow waits, seconds."""


class Job(Generic[R]):
    """A task with its inputs, begun when a worker is free and the flow waits for something."""

    def __init__(self, workers: Workers, stage: str, task: Task[..., R], parameters: dict[str, Any]) -> None:
        self._workers = workers
        self.stage, self.task, self.parameters = stage, task, parameters
        self.values: list[R] = []
        """What it returned; empty until then."""

    def result(self) -> R:
        """What the task returns, waited for.

        Raises: Exception: of this or of any other task that fails meanwhile.
        """
        while not self.values:
            self._workers.wait()
        return self.values[0]


class Results(Generic[R]):
    """What the jobs of one stage return, in the order of their items; iterating waits for one after the other."""

    def __init__(self, jobs: list[Job[R]]) -> None:
        self._jobs = jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[R]:
        return (job.result() for job in self._jobs)


class Workers:
    """The workers that a run's settings name, as a context.

    Of all tasks that could begin, one of the stage that was named last comes first: a chunk is carried through before
    the next one is begun, and a stage that is named early, since it is needed late, fills the gaps.

    Attributes:
        clock: told when each task was at work.
    """

    def __init__(self, execution: ExecutionConfig) -> None:
        self.clock = StageClock()
        self._runner: TaskRunner[Any]
        self._look: Callable[[], None] | None = None
        # A cluster that runs already has a size and a queue of its own.
        self._n_at_once = sys.maxsize if execution.dask_address is not None else execution.max_workers
        if execution.task_runner == "dask-slurm":
            from tasks.slurm_workers import SlurmTaskRunner

            self._runner = in_jobs = SlurmTaskRunner(execution)
            self._look, self._n_at_once = in_jobs.look, execution.slurm.workers_max
        else:
            self._runner = task_runner(execution)
        self._rank_of_stage: dict[str, int] = {}
        self._waiting: list[tuple[int, int, Job[Any]]] = []
        self._count = itertools.count()
        self._n_at_work = 0
        self._ended: SimpleQueue[tuple[Job[Any], PrefectFuture[Any], float, float]] = SimpleQueue()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def submit(self, stage: str, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """A task of a stage, to be begun when its turn comes."""
        bound = inspect.signature(task.fn).bind(*args, **kwargs)
        bound.apply_defaults()
        job = Job(self, stage, task, bound.arguments)
        rank = self._rank_of_stage.setdefault(stage, len(self._rank_of_stage))
        heapq.heappush(self._waiting, (-rank, next(self._count), job))
        return job

    def mapped(
        self,
        stage: str,
        task: Task[Concatenate[Item, P], R],
        items: Iterable[Item],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Results[R]:
        """A task of a stage for each item, its first argument.

        Args:
            stage: its name.
            task: what is done.
            items: may be the results of an earlier stage: each item's task is queued as soon as the item is there.
            args: further arguments of the task.
            kwargs: likewise.
        """
        return Results([self.submit(stage, task, item, *args, **kwargs) for item in items])

    def wait(self) -> None:
        """Begin what workers are free for, then wait until one task has ended.

        Raises: Exception: of that task, if it failed.
        """
        # Only here, so that what the flow makes of a result is queued before the next task is chosen.
        while self._waiting and self._n_at_work < self._n_at_once:
            self._begin(heapq.heappop(self._waiting)[-1])
        job, future, start_s, end_s = self._next_ended()
        self._n_at_work -= 1
        self.clock.add(job.stage, start_s, end_s)
        job.values.append(future.result())

    def _next_ended(self) -> tuple[Job[Any], PrefectFuture[Any], float, float]:
        while True:
            try:
                return self._ended.get(timeout=None if self._look is None else LOOK_S)
            except Empty:
                assert self._look is not None
                self._look()

    def _begin(self, job: Job[Any]) -> None:
        start_s = time.monotonic()
        future = self._runner.submit(job.task, job.parameters)
        self._n_at_work += 1
        future.add_done_callback(lambda ended: self._ended.put((job, ended, start_s, time.monotonic())))


def task_runner(execution: ExecutionConfig) -> TaskRunner[Any]:
    """The task runner that the settings name, jobs of Slurm left out."""
    if execution.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=execution.max_workers)
    if execution.task_runner == "processes":
        return ProcessPoolTaskRunner(max_workers=execution.max_workers)
    from prefect_dask.task_runners import DaskTaskRunner

    if execution.dask_address is not None:
        return DaskTaskRunner(address=execution.dask_address)
    # One thread per worker: PyTorch's own threads do the rest.
    local = {"n_workers": execution.max_workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)
