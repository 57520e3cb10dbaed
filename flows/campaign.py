"""campaign: many chemical systems and one budget go in, a leaderboard with a report of each system comes out.

    systems -> what is known of each -> competing phases of all, relaxed once --+
                                                                                v
    +---> shares of the next round -> round in each system -> finds -> report ----+
    |     Thompson sampling           draw, screen, relax, rank                   |
    +--------------- proposers learn from all finds, if they are to --------------+
    at the end: each system as a run of its own: rank -> judge -> inputs -> report

What is done is kept, so an interrupted campaign goes on, and one with a larger budget adds to it.
"""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow, get_run_logger

from configs.campaign import CampaignConfig
from configs.schema import load
from flows.changes import Changes, changed, run_name
from tasks.campaign.folder import begun, recorded_shares
from tasks.campaign.learning import Learned
from tasks.campaign.notifying import notifying
from tasks.campaign.results import PAGE, summary_of
from tasks.campaign.stages import (
    finds_task,
    learning_task,
    potential_task,
    ready_task,
    references_task,
    report_task,
    round_task,
    system_task,
    systems_task,
)
from tasks.campaign.standing import Standing
from tasks.campaign.system_rounds import (
    ReadySystem,
    SystemRound,
    dataset_folders,
    joined_candidates,
    run_of,
    surroundings,
)
from tasks.discover.ending import finish
from tasks.discover.judge import identify_judges_task
from tasks.discover.relax import relax_chunks, relax_task
from tasks.discover.run import open_run
from tasks.files import FileRef
from tasks.loading import PotentialIdentity
from tasks.runners import Workers
from tasks.timing import StageSeconds

SMALL = load(CampaignConfig, "campaign-small")


@flow(name="campaign", flow_run_name=run_name("campaign"), validate_parameters=True)
def campaign(config: CampaignConfig = SMALL, changes: Changes = ()) -> Path:
    """Look for new crystals in many chemical systems under one budget.

    Args:
        config: systems, proposers, budget; the small shipped campaign by default.
        changes: what differs from it, as --set takes it: budget.relaxations=24, say.

    Returns:
        The campaign's folder, with report.html, campaign.json, finds.parquet, candidates.parquet and systems/.
    """
    from tasks.report.run.artifacts import Progress  # draws pictures too

    config = changed(config, changes)
    with notifying(config) as notice, begun(config):
        with Workers(config.execution) as workers:
            identity = potential_task(config)
            known = list(workers.mapped("system", system_task, systems_task(config), config, identity))
            references = references_task(config, known)
            of_any = run_of(config, known[0].elements, dataset_folders(config))
            relaxed = workers.mapped(
                "competing",
                relax_task,
                relax_chunks(references, of_any),
                of_any,
                known[0].folder,
                identity,
                references,
                what="competing phases",
            )
            ready = tuple(ready_task(known, list(relaxed)))
            standing = Standing(config, ready, finds_task(config, None, [], 0), recorded=recorded_shares(config))
            seconds = StageSeconds(config.folder)
            while shares := standing.next_shares():
                number, began = len(standing.rounds), time.monotonic()
                learns = config.learning.every_rounds is not None
                learned = learning_task(config, standing.learned, standing.finds, number) if learns else ()
                working = [
                    workers.submit(
                        "round", round_task, system, shares[system.name], config,
                        standing.of_system(system.name), number, standing.finds, identity, learned,
                    )
                    for system in standing.systems
                    if system.name in shares
                ]  # fmt: skip
                with Progress(f"{config.name}-round-{number}", f"round {number + 1}, systems done") as progress:
                    done = progress.over([job.result for job in working])
                finds = finds_task(config, standing.finds, done, number + 1)
                if not finds.reused:
                    seconds.note("round", number, time.monotonic() - began)
                standing = standing.after(done, finds, seconds.up_to("round", number), learned)
                report_task(standing, identity, is_end=False)
            get_run_logger().info("%s", standing.ended())
        for system in standing.systems:
            if rounds := standing.of_system(system.name):
                finish_system(config, system, rounds, standing.finds, identity, standing.learned)
        results = report_task(standing, identity, is_end=True)
        notice.text = summary_of(results)
        notice.facts = {"finds": len(results.finds), "relaxations": results.relaxations, "ended": results.ended}
    get_run_logger().info("report: %s", config.folder / PAGE)
    return config.folder


@flow(name="system", flow_run_name="{config.name}-{system.name}", validate_parameters=False)
def finish_system(
    config: CampaignConfig,
    system: ReadySystem,
    rounds: list[SystemRound],
    finds: FileRef,
    identity: PotentialIdentity,
    learned: tuple[Learned, ...],
) -> None:
    """Rank, judge and report what a campaign has relaxed in a system, as a run of its own."""
    run = run_of(config, system.elements, dataset_folders(config), learned)
    with open_run(run) as folder, Workers(config.execution) as workers:
        judges = identify_judges_task(run, folder.path)
        known, competing = surroundings(system, finds, folder.path / "known.parquet")
        screened = joined_candidates([one.looked_at for one in rounds], folder.path / "screened.parquet")
        relaxed = [ref for one in rounds for ref in one.relaxed]
        finish(run, folder.path, workers, identity, judges, known, screened, relaxed, competing)
