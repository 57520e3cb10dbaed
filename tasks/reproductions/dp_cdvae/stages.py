"""The stages of a reproduction as Prefect tasks: one per stage, data set, system and way of decoding."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.logging import get_run_logger

from configs.reproduction import ReproductionConfig
from tasks.reproductions.dp_cdvae.places import train_place
from tasks.reproductions.results import Place, Result


@task(name="train", task_run_name="train-{dataset}-{system}")
def train_task(config: ReproductionConfig, dataset: str, system: str) -> Result:
    """Train a system, or the regressor where `system` is empty; see training.trained."""
    from tasks.reproductions.dp_cdvae.training import trained, training_of
    from tasks.training_progress import progress_artifact

    place = train_place(dataset, system)
    settings = training_of(config, config.dataset(dataset), system)
    artifact = progress_artifact(settings.model_copy(update={"name": place.name}))
    return _logged(trained(config, dataset, system, [artifact]))


@task(name="measure", task_run_name="{place.name}")
def measure_task(config: ReproductionConfig, place: Place) -> Result:
    """Reconstruct, generate or relax, and judge what came; see figures."""
    from tasks.reporting.artifacts import Progress  # draws pictures too, so it loads on the worker
    from tasks.reproductions.dp_cdvae.figures import MEASURES

    measure = MEASURES[place.stage]
    with Progress(f"reproduce-{config.name}-{place.name}", place.name) as artifact:
        return _logged(measure(config, place, lambda what, n, total: artifact.update(n, total, what)))


@task(name="table")
def table_task(config: ReproductionConfig, failures: dict[Place, str], document: Path | None) -> Path:
    """Write and publish the tables; see reproductions/page."""
    from tasks.reproductions.dp_cdvae.report import report_of
    from tasks.reproductions.dp_cdvae.tables import gather
    from tasks.reproductions.page import publish, write_report

    found = gather(config, failures)
    report = report_of(found)
    page = write_report(report, document)
    publish(report)
    for place, why in found.missing.items():
        get_run_logger().warning("%s was not measured: %s", place.name, why)
    return page


def _logged(result: Result) -> Result:
    said = ", ".join(f"{m.figure.name} {m.figure.value:.4g}" for m in result.figures[:2])
    state = "unchanged, skipped" if result.reused else "done"
    get_run_logger().info("%s: %s%s", result.place.name, state, f" ({said})" if said else "")
    return result
