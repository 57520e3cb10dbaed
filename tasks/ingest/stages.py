"""Ingest as tasks: plan, harvest each database, read all into one dataset, report. Functions first, tasks last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.logging import get_run_logger

from configs.ingest import IngestConfig
from configs.paths import resolve
from configs.schema import DiscoverConfig, ExecutionConfig
from generative.datasets.config import NetworkSource
from storage.progress import SourceProgress
from tasks.files import FileRef
from tasks.ingest.downloads import network_context

if TYPE_CHECKING:
    from generative.datasets.databases.harvest import SourcePlan
    from generative.datasets.manifest import HarvestRecord, Manifest
    from generative.datasets.prototypes import Scorer


RETRY_DELAYS_S = [30.0, 120.0]
FINAL = ("AccessDeniedError", "NotFoundError", "RefusedQueryError", "SchemaChangedError", "SecretError")
"""Failures that no second attempt mends. By name: to import them would load the rooms with the flow."""


def plan_sources(config: IngestConfig) -> list[SourcePlan]:
    """What the databases would be asked, and what is here already. Nothing is written."""
    from generative.datasets.ingest import plans

    return plans(config.data, config.elements, network_context(config.downloads))


def harvest_source(config: IngestConfig, index: int, progress: SourceProgress | None = None) -> HarvestRecord:
    """Download what is missing of the source at this index of the list; asks nothing if nothing is, unless refreshing.

    Raises: NetworkError: if the database cannot be asked; what has come is kept.
    """
    from generative.datasets.ingest import harvests

    harvest = harvests(config.data, config.elements, network_context(config.downloads))[index]
    harvest.download(config.data.refresh, progress)
    return harvest.record()


def ingest_dataset(config: IngestConfig, progress: SourceProgress | None = None) -> Manifest:
    """Read all sources into the dataset's folder, downloading first where that is not done.

    Raises: SourceError: if a source cannot be read at all; the folder is then left as it was.
    """
    from generative.datasets.ingest import ingest

    network = network_context(config.downloads)
    return ingest(config.data, config.elements, config.folder, resolve, scorer_of(config), progress, network)


def scorer_of(config: IngestConfig) -> Scorer | None:
    """Relaxes and scores prototypes; None, and no potential is loaded, where there are none."""
    if not any(source.NEEDS_SCORER for source in config.data.sources):
        return None
    from tasks.discover.known import PotentialScorer
    from tasks.loading import potential

    execution = ExecutionConfig(**config.execution.model_dump())
    return PotentialScorer(potential(config.relax, execution), DiscoverConfig(relax=config.relax))


def report_dataset(folder: Path) -> Path:
    """Write the dataset's report.html into its folder; inside a Prefect run also its artifacts.

    Raises: DatasetError: if the folder holds no finished dataset.
    """
    from generative.datasets.manifest import read_manifest
    from storage.atomic import write_text
    from tasks.report.dataset.artifacts import publish_dataset
    from tasks.report.dataset.page import dataset_html
    from tasks.report.dataset.plots import DatasetPictures
    from tasks.report.dataset.statistics import dataset_statistics

    manifest, statistics = read_manifest(folder), dataset_statistics(folder)
    pictures = DatasetPictures.of(statistics)
    page = folder / "report.html"
    write_text(page, dataset_html(folder.resolve().name, manifest, statistics, pictures))
    publish_dataset(folder, manifest, statistics, pictures)
    return page


def harvested(config: IngestConfig) -> list[tuple[int, str]]:
    """Place and name of every source on the network."""
    listed = [(i, source) for i, source in enumerate(config.data.sources) if isinstance(source, NetworkSource)]
    return [(i, getattr(source, "provider", source.kind)) for i, source in listed]  # type: ignore[attr-defined]


def worth_another_try(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed harvest may succeed later: not where the key, the address or the query is wrong."""
    try:
        state.result()
    except Exception as error:
        return type(error).__name__ not in FINAL
    return True


@task(name="plan")
def plan_task(config: IngestConfig) -> None:
    """What will be asked, and how much of it is here, in the log; see plan_sources."""
    logger = get_run_logger()
    for plan in plan_sources(config):
        if plan.trouble:  # a finished download needs no network, and the harvest has more patience
            logger.warning("the plan of %s cannot be told: %s", plan.name, plan.trouble)
            continue
        expected = "unknown" if plan.expected is None else f"{plan.expected:,}"
        state = "complete" if plan.complete else "not complete"
        logger.info("%s: %s at %s", plan.name, plan.query, plan.endpoint)
        logger.info(
            "%s: %s records expected, %s stored (%s); release %s",
            plan.name,
            expected,
            f"{plan.stored:,}",
            state,
            plan.version or "not stated",
        )


@task(
    name="harvest",
    task_run_name="harvest-{source}",
    retries=2,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=worth_another_try,
)
def harvest_task(config: IngestConfig, index: int, source: str) -> None:
    """Download one source to its end; a retry goes on where the last attempt stopped. See harvest_source."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"harvest {config.name} {source}", f"downloading {source}") as progress:
        record = harvest_source(config, index, progress.labelled)
    logger = get_run_logger()
    logger.info(
        "%s: %s records, %d requests, %d sent again",
        source,
        f"{record.n_records:,}",
        record.n_requests,
        record.n_retries,
    )
    if record.n_added is not None:
        logger.info("%s: %d added, %d changed, %d removed", source, record.n_added, record.n_changed, record.n_removed)
    for warning in record.warnings:
        logger.warning("%s: %s", source, warning)


@task(name="ingest")
def dataset_task(config: IngestConfig) -> FileRef:
    """Read the sources into the dataset; databases are not asked once more. See ingest_dataset."""
    settled = config.model_copy(update={"data": config.data.model_copy(update={"refresh": False})})
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"ingest {config.name}", "reading known crystals") as progress:
        manifest = ingest_dataset(settled, progress.labelled)
    for source in manifest.sources:
        get_run_logger().info(
            "%s: %d read, %d kept, %d outside, %d bad, %d merged",
            *(source.source, source.n_read, source.n_kept, source.n_filtered, source.n_rejected, source.n_merged),
        )
        if source.n_files_not_read:
            get_run_logger().warning("%s: %s", source.source, source.warnings[-1])
    return FileRef.of(config.folder / "dataset.parquet")


@task(name="dataset-report")
def dataset_report_task(dataset: FileRef) -> Path:
    """Write and publish the report of a dataset; see report_dataset."""
    page = report_dataset(dataset.path.parent)
    get_run_logger().info("report: %s", page)
    return page
