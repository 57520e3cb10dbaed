"""The stages of any reproduction as Prefect tasks: one per result, and one for the tables.

A paper's room has a module `room` with `STAGES`, `places`, `make` and `report`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from prefect import task
from prefect.logging import get_run_logger

from configs.reproduction import ReproductionConfig
from configs.unet_reproduction import UNetReproductionConfig
from storage.progress import LabelledProgress as Progress
from tasks.papers.results import Place, Result

if TYPE_CHECKING:
    from tasks.papers.page import Report

AnyReproduction = ReproductionConfig | UNetReproductionConfig

ROOMS = {"dp-cdvae": "tasks.papers.dp_cdvae.paper", "conditional-unet": "tasks.papers.unet.paper"}
"""What a configuration names as its paper -> the module that makes it."""


class Room(Protocol):
    """How a paper is made again."""

    STAGES: tuple[str, ...]
    """In the order in which they need each other."""
    TRAININGS: tuple[str, ...]
    """Those that train."""

    def places(self, config: Any, stage: str) -> Iterator[Place]:
        """Every result that a stage has to give."""

    def trained(self, config: Any, place: Place, callbacks: list[Any]) -> Result:
        """The result of a training."""

    def training_of(self, config: Any, place: Place) -> Any:
        """The settings of a training."""

    def measured(self, config: Any, place: Place, progress: Progress) -> Result:
        """The result of any other stage."""

    def report(self, config: Any, failures: Mapping[Place, str]) -> tuple[Report, Mapping[Place, str]]:
        """All that readers are shown, and why which results are missing."""


def room_of(config: AnyReproduction) -> Room:
    """The room of the paper that the configuration names."""
    return cast(Room, importlib.import_module(ROOMS[config.paper]))


@task(name="result", task_run_name="{place.name}")
def result_task(config: AnyReproduction, place: Place) -> Result:
    """Train a system, or measure one."""
    from tasks.report.run.artifacts import Progress as Artifact  # draws pictures too, so it loads on the worker
    from tasks.train.progress import progress_artifact

    room = room_of(config)
    if place.stage in room.TRAININGS:
        settings = room.training_of(config, place).model_copy(update={"name": place.name})
        return _logged(room.trained(config, place, [progress_artifact(settings)]))
    with Artifact(f"reproduce-{config.name}-{place.name}", place.name) as artifact:
        return _logged(room.measured(config, place, lambda what, n, total: artifact.update(n, total, what)))


@task(name="table")
def table_task(config: AnyReproduction, failures: dict[Place, str], document: Path | None) -> Path:
    """Write and publish the tables; see page."""
    from tasks.papers.page import publish, write_report  # draws pictures

    report, missing = room_of(config).report(config, failures)
    page = write_report(report, document)
    publish(report)
    for place, why in missing.items():
        get_run_logger().warning("%s was not measured: %s", place.name, why)
    return page


def _logged(result: Result) -> Result:
    said = ", ".join(f"{m.figure.name} {m.figure.value:.4g}" for m in result.figures[:2])
    state = "unchanged, skipped" if result.reused else "done"
    get_run_logger().info("%s: %s%s", result.place.name, state, f" ({said})" if said else "")
    return result
