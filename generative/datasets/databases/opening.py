"""From a network source as the settings describe it to one that can be downloaded."""

from __future__ import annotations

from generative.config import AflowSource, FilterConfig, MaterialsProjectSource, NetworkSource, OptimadeSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Database
from generative.datasets.databases.harvest import Harvest, NetworkContext


def open_harvest(
    config: NetworkSource,
    filters: FilterConfig,
    elements: tuple[str, ...] | None,
    context: NetworkContext,
    workers: int = 1,
) -> Harvest:
    """The harvest of one network source; nothing is asked yet.

    Args:
        config: which database, and how it is asked.
        filters: sent along as far as the database understands them; `ingest` applies all of them again.
        elements: the chemical system, every system below it included; None asks for all elements.
        context: where downloads are kept, and keys.
        workers: processes that read crystals out of records.

    Raises:
        SourceError: if the settings make no query.
    """
    database, access = _database(config, filters, elements, context)
    return Harvest(database, access, context.folder, config.limit, config.page_size, workers)


def _database(
    config: NetworkSource, filters: FilterConfig, elements: tuple[str, ...] | None, context: NetworkContext
) -> tuple[Database, Access]:
    match config:
        case MaterialsProjectSource():
            from generative.datasets.databases.materials_project import MaterialsProject

            secret = context.secret(config.kind)
            access = Access(config, config.kind, secret)
            return MaterialsProject(config, filters, elements, access, secret), access
        case AflowSource():
            from generative.datasets.databases.aflow import Aflow

            access = Access(config, config.kind)
            return Aflow(config, filters, elements, access), access
        case OptimadeSource():
            from generative.datasets.databases.optimade import Optimade

            access = Access(config, f"optimade-{config.provider}")
            return Optimade(config, filters, elements, access), access
    raise AssertionError(f"no database for {type(config).__name__}")
