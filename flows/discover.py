"""discover: a chemical system goes in, ranked new crystals with VASP inputs come out.

    ingest -> references ----------------> relax (competing phases) --+
       |                                                              v
       +--> sample -> screen -> unique -> relax (candidates) ------> hull [-> phonons] -> inputs -> report [-> dft]
            chunks    chunks              chunks                               best

Only files pass between tasks. A chunk whose inputs, settings and code are unchanged is not computed again. So a run
that waits for DFT jobs holds no process: it ends, and is begun again when they are done.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.schema import DiscoverConfig, load
from tasks.dft.campaign import dft_task
from tasks.dft.waiting import wait_without_process
from tasks.discover.inputs import inputs_task
from tasks.discover.known import ingest_task, references_task
from tasks.discover.phonons import best, candidates_task, phonons_task
from tasks.discover.rank import judge_task
from tasks.discover.relax import identify_task, relax_task, survivors
from tasks.discover.report import report_task
from tasks.discover.run import open_run
from tasks.discover.sample import check_generator, n_chunks, sample_task
from tasks.discover.screen import screen_task, unique_task
from tasks.runners import task_runner
from tasks.timing import StageClock

QUICKSTART = load(DiscoverConfig, "quickstart")


@flow(name="discover", flow_run_name="discover-{config.name}", validate_parameters=True)
def discover(config: DiscoverConfig = QUICKSTART) -> Path:
    """Discover new crystals of a chemical system.

    Args:
        config: all settings of the run; the shipped quickstart by default.

    Returns:
        The run's folder, with candidates.parquet, report.html, cifs/ and dft/.
    """
    logger = get_run_logger()
    clock = StageClock()
    with open_run(config) as run, task_runner(config.execution) as runner:
        folder = run.path

        with clock("ingest"):
            check_generator(config)
            potential = identify_task(config)
            known = ingest_task(config, folder, potential)
            references = references_task(config, folder, known)

        with clock("sample"):
            chunks = range(n_chunks(config.sample.n_candidates, config.sample.chunk_size))
            sampling = [
                runner.submit(sample_task, {"config": config, "folder": folder, "dataset": known, "chunk": i})
                for i in chunks
            ]
            sampled = [future.result() for future in sampling]

        with clock("screen"):
            screening = [
                runner.submit(
                    screen_task, {"config": config, "folder": folder, "sampled": s, "dataset": known, "chunk": i}
                )
                for i, s in enumerate(sampled)
            ]
            screened = unique_task(config, folder, [future.result() for future in screening])

        with clock("relax"):
            relaxing = {
                shared: [
                    runner.submit(
                        relax_task,
                        {
                            "config": config,
                            "folder": folder,
                            "identity": potential,
                            "source": source,
                            "chunk": i,
                            "shared": shared,
                        },
                    )
                    for i in range(n_chunks(len(survivors(source.read())), config.relax.chunk_size))
                ]
                for shared, source in ((True, references), (False, screened))
            }
            competing, relaxed = ([future.result() for future in relaxing[shared]] for shared in (True, False))

        with clock("hull"):
            judged = judge_task(config, folder, potential, known, screened, relaxed, competing)

        with clock("phonons"):
            shaking = [
                runner.submit(
                    phonons_task,
                    {"config": config, "folder": folder, "identity": potential, "judged": judged, "place": place},
                )
                for place in range(len(best(judged, config.phonons.n_best)))
            ]
            candidates = candidates_task(folder, judged, [future.result() for future in shaking])

        with clock("inputs"):
            inputs = inputs_task(config, folder, potential, candidates)
        report_task(config, folder, potential, candidates, competing, inputs, clock.seconds)
        n_open = dft_task(config, folder, potential, candidates, competing) if config.dft.run else 0

    if n_open:
        wait_without_process(folder, n_open)
    logger.info("report: %s", folder / "report.html")
    return folder
