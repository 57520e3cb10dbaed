"""reproduce: data and a budget go in, a paper's result tables come out, paper beside ours.

    dp-cdvae:          train, regressor -> reconstruct, generate -> ground-state -> table
    conditional-unet:  train -> generate, modify -> table
    adaptive-cell:     train -> generate, known, compounds -> table
    condition-cdvae:   train, judge -> reconstruct, generate -> relax, energies, formulas, properties,
                       readings, latents -> table

A stage that fails is named in the table with its reason, and the others go on; the run then fails at its end. What is
done is kept: the same run goes on after a kill, and another choice of systems or stages adds to the same table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from configs.reproduction import AnyReproduction, ReproductionConfig
from configs.schema import load
from flows.changes import Changes, changed, run_name
from flows.cli.console import sentence_of
from tasks.papers.results import ReproductionError, ResultKey
from tasks.papers.stages import paper_of, result_task, table_task

DP_CDVAE = load(ReproductionConfig, "reproduce-dp-cdvae")


@flow(name="reproduce", flow_run_name=run_name("reproduce"), validate_parameters=True)
def reproduce(config: AnyReproduction = DP_CDVAE, document: str | None = None, changes: Changes = ()) -> Path:
    """Make the tables of a paper again.

    Args:
        config: which paper; systems, data sets, budget, stages.
        document: Markdown file between whose marks the tables are put; null puts them nowhere else.
        changes: what differs from it, as --set takes it: seed=1, say.

    Returns:
        The folder of the results, with reproduction.html.
    """
    config = changed(config, changes)
    failures: dict[ResultKey, str] = {}
    paper = paper_of(config)
    for stage in paper.stages:
        for key in paper.keys(stage) if stage in config.stages else ():
            state: Any = result_task(config, key, return_state=True)
            if not state.is_completed():
                failures[key] = sentence_of(state.result(raise_on_failure=False))
    page = table_task(config, failures, None if document is None else Path(document))
    get_run_logger().info("report: %s", page)
    if failures:
        first = next(iter(failures))
        raise ReproductionError(
            f"{len(failures)} results could not be made, the first {first.name}: {failures[first]}; {page} names all"
        )
    return config.folder
