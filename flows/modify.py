"""modify: crystals go in, polymorphs of lower energy come out. The stages of discover behind another proposer.

    given -------------------------------> relax (given crystals) ----+
       |                                   chunks                     v
       +--> propose -> screen -> unique -> relax (candidates) ------> rank [-> phonons] -> results
            chunks     chunks              chunks                              best

A chunk whose inputs, settings and code are unchanged is not computed again, so an interrupted modification goes on.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.modification import ModifyConfig
from flows.changes import Changes, changed, run_name
from tasks.discover.candidates import POLYMORPHS
from tasks.discover.phonons import best_ranked, candidates_task, phonons_task
from tasks.discover.polymorphs import modification_task, rank_polymorphs_task
from tasks.discover.propose import check_proposer, given_task, propose_chunks, propose_task, reference_task
from tasks.discover.relax import identify_task, relax_chunks, relax_task
from tasks.discover.run import locked
from tasks.discover.screen import screen_task, unique_task
from tasks.runners import Workers


@flow(name="modify", flow_run_name=run_name("modify"), validate_parameters=True)
def modify(config: ModifyConfig, changes: Changes = ()) -> Path:
    """Look for polymorphs of lower energy than given crystals.

    Args:
        config: crystals, modifier or generator, what is asked, potential.
        changes: what differs from it, as --set takes it: limit=5, say.

    Returns:
        The folder of results, with candidates.parquet, modification.json and cifs/.
    """
    config = changed(config, changes)
    run = config.as_run()
    with locked(config.folder), Workers(config.execution) as workers:
        folder = config.folder
        check_proposer(config)
        potential = identify_task(run)
        given = given_task(config, folder)
        known = reference_task(config, folder)

        # Named first, since it is needed last: given crystals are relaxed while there is nothing else to do.
        sources = workers.mapped(
            "given", relax_task, relax_chunks(given, run), run, folder, potential, given, what="given crystals"
        )
        proposed = workers.mapped("propose", propose_task, propose_chunks(given, config), config, folder, given)
        screened = workers.mapped("screen", screen_task, proposed, run, folder, None)
        unique = workers.submit("unique", unique_task, run, folder, list(screened)).result()
        relaxed = workers.mapped("relax", relax_task, relax_chunks(unique, run), run, folder, potential, unique)

        candidates_done, sources_done = list(relaxed), list(sources)
        ranked = rank_polymorphs_task(config, folder, known, unique, candidates_done, sources_done)
        phonons = workers.mapped("phonons", phonons_task, best_ranked(ranked, run), run, folder, potential, ranked)
        candidates = candidates_task(folder, ranked, list(phonons), POLYMORPHS, candidates_done)
        modification_task(config, folder, potential, candidates, sources_done)
    get_run_logger().info("results: %s", folder / "modification.json")
    return folder
