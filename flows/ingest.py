"""ingest: databases and files go in, one checked table of known crystals with a manifest and a report comes out.

    plan -> harvest (one per database) -> ingest -> dataset-report

A harvest goes on where an earlier one stopped, in this run, in the next one, or after a kill.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.ingest import IngestConfig
from configs.schema import load
from flows.changes import Changes, changed, run_name
from tasks.ingest.stages import dataset_report_task, dataset_task, harvest_task, harvested, plan_task

MATERIALS_PROJECT = load(IngestConfig, "ingest-materials-project")


@flow(name="ingest", flow_run_name=run_name("ingest"), validate_parameters=True)
def ingest(config: IngestConfig = MATERIALS_PROJECT, changes: Changes = ()) -> Path:
    """Bring known crystals into one dataset.

    Args:
        config: sources, filters, and where the dataset goes. It holds no key: see tasks/ingest/secrets.py.
        changes: what differs from it, as --set takes it: name=mine, say.

    Returns:
        The dataset's folder, with dataset.parquet, rejected.parquet, manifest.json and report.html.
    """
    config = changed(config, changes)
    plan_task(config)
    for place, source in harvested(config):
        harvest_task(config, place, source)
    dataset = dataset_task(config)
    dataset_report_task(dataset)
    get_run_logger().info("dataset: %s", config.folder)
    return config.folder
