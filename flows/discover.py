"""discover: a chemical system goes in, ranked new crystals with VASP inputs come out.

    ingest -> references ----------------> relax (competing phases) --+
       |                                   chunks                     v
       +--> sample -> screen -> unique -> relax (candidates) ------> rank -> judge [-> phonons] -> inputs -> report
            chunks    chunks              chunks                             best      best              [-> dft]

Only files pass between tasks. A chunk whose inputs, settings and code are unchanged is not computed again. So a run
that waits for DFT jobs holds no process: it ends, and is begun again when they are done. Stages overlap where the
arrows allow it; see tasks.runners.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.schema import DiscoverConfig, load
from flows.changes import Changes, changed, run_name
from tasks.dft.waiting import wait_without_process
from tasks.discover.ending import finish
from tasks.discover.judge import identify_judges_task
from tasks.discover.known import ingest_task, references_task
from tasks.discover.relax import identify_task, relax_chunks, relax_task
from tasks.discover.run import open_run
from tasks.discover.sample import check_generator, sample_chunks, sample_task
from tasks.discover.screen import screen_task, unique_task
from tasks.runners import Workers

QUICKSTART = load(DiscoverConfig, "quickstart")


@flow(name="discover", flow_run_name=run_name("discover"), validate_parameters=True)
def discover(config: DiscoverConfig = QUICKSTART, changes: Changes = ()) -> Path:
    """Discover new crystals of a chemical system.

    Args:
        config: all settings of the run; the shipped quickstart by default.
        changes: what differs from it, as --set takes it: sample.n_candidates=64, say.

    Returns:
        The run's folder, with candidates.parquet, report.html, cifs/ and dft/.
    """
    config = changed(config, changes)
    check_generator(config)
    with open_run(config) as run, Workers(config.execution) as workers:
        folder, clock = run.path, workers.clock
        with clock("ingest"):
            potential = identify_task(config)
            judges = identify_judges_task(config, folder)
            known = ingest_task(config, folder, potential)
            references = references_task(config, folder, known)

        # Named first, since it is needed last: competing phases are relaxed while there is nothing else to do.
        competing = workers.mapped(
            "competing",
            relax_task,
            relax_chunks(references, config),
            config,
            folder,
            potential,
            references,
            what="competing phases",
        )
        sampled = workers.mapped("sample", sample_task, sample_chunks(config), config, folder, known)
        screened = workers.mapped("screen", screen_task, sampled, config, folder, known)
        unique = workers.submit("unique", unique_task, config, folder, list(screened)).result()
        relaxed = workers.mapped("relax", relax_task, relax_chunks(unique, config), config, folder, potential, unique)

        candidates_done, phases_done = list(relaxed), list(competing)
        n_open = finish(config, folder, workers, potential, judges, known, unique, candidates_done, phases_done)

    if n_open:
        wait_without_process(folder, n_open)
    get_run_logger().info("report: %s", folder / "report.html")
    return folder
