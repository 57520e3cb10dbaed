"""rediscovery: stable crystals are hidden, proposers look for them at equal expense, and their recall comes out.

    hide -> proposers (trained or made without what is hidden) --+
      |                                                          v
      +---> systems (known crystals, competing phases) ----> campaigns -> count -> report
              one each                                   system x proposer

What is done is kept, so an interrupted benchmark goes on, and one with further proposers or budgets adds to it.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.rediscovery import RediscoveryConfig
from configs.schema import load
from flows.changes import Changes, changed, run_name
from tasks.discover.run import locked
from tasks.rediscovery.stages import (
    campaign_task,
    count_task,
    hide_task,
    potential_task,
    proposer_task,
    report_task,
    system_task,
    systems_of,
)
from tasks.runners import Workers

SMALL = load(RediscoveryConfig, "rediscovery-small")


@flow(name="rediscovery", flow_run_name=run_name("rediscovery"), validate_parameters=True)
def rediscovery(config: RediscoveryConfig = SMALL, changes: Changes = ()) -> Path:
    """Compare proposers of candidates by the hidden ground states that they find.

    Args:
        config: what is hidden, who proposes, budgets; the small shipped benchmark by default.
        changes: what differs from it, as --set takes it: name=mine, say.

    Returns:
        The benchmark's folder, with rediscovery.html, rediscovery.json and found.parquet.
    """
    config = changed(config, changes)
    with locked(config.folder), Workers(config.execution) as workers:
        identity = potential_task(config)
        targets, known = hide_task(config)
        proposers = [proposer_task(config, entry, targets) for entry in config.proposers]
        numbers = range(len(systems_of(targets.read())))
        systems = list(workers.mapped("system", system_task, numbers, config, targets, known, identity))
        running = [workers.mapped("campaign", campaign_task, systems, config, made, identity) for made in proposers]
        of_proposer = [list(results) for results in running]
        campaigns = [list(of_system) for of_system in zip(*of_proposer, strict=True)]
        counting = [
            workers.submit("count", count_task, system, config, found)
            for system, found in zip(systems, campaigns, strict=True)
        ]
        counted = [job.result() for job in counting]
        page = report_task(config, identity, proposers, [one for found in campaigns for one in found], counted)
    get_run_logger().info("report: %s", page)
    return config.folder
