"""From relaxed candidates to the report: the end that every run over a chemical system has, whoever proposed.

Rank, judge of the best, phonons if asked for, inputs, report, DFT if asked for.
"""

from __future__ import annotations

from pathlib import Path

from configs.schema import DiscoverConfig
from tasks.dft.campaign import dft_task
from tasks.discover.inputs import inputs_task
from tasks.discover.judge import judge_task, opinions_wanted
from tasks.discover.judge_choice import chosen_task
from tasks.discover.phonons import best_ranked, candidates_task, phonons_task
from tasks.discover.rank import rank_task
from tasks.discover.report import report_task
from tasks.discover.second_opinion import second_opinion_task
from tasks.files import FileRef
from tasks.loading import PotentialIdentity
from tasks.runners import Workers


def finish(
    config: DiscoverConfig,
    folder: Path,
    workers: Workers,
    potential: PotentialIdentity,
    judges: list[PotentialIdentity],
    known: FileRef,
    screened: FileRef,
    relaxed: list[FileRef],
    competing: list[FileRef],
) -> int:
    """Rank, judge and report relaxed candidates, inside a flow.

    Args:
        config: of the run.
        folder: of the run.
        workers: where judge and phonons are computed.
        potential: that relaxed.
        judges: judge and committee; none without a judge.
        known: known crystals.
        screened: all candidates.
        relaxed: chunks of the relaxations of those that passed.
        competing: chunks of the relaxed competing phases.

    Returns: DFT jobs of the run that are open.
    """
    clock = workers.clock
    with clock("rank"):
        ranked = rank_task(config, folder, potential, known, screened, relaxed, competing)
    if judges:
        chosen = chosen_task(config, folder, ranked, competing)
        wanted = opinions_wanted(config, judges, chosen)
        judged = list(workers.mapped("judge", judge_task, wanted, config, folder, chosen))
        ranked = second_opinion_task(config, folder, [potential, *judges], ranked, chosen, judged)
    best = best_ranked(ranked, config)
    vibrating = judges[0] if config.phonons.potential == "judge" else potential
    phonons = workers.mapped("phonons", phonons_task, best, config, folder, vibrating, ranked)
    candidates = candidates_task(folder, ranked, list(phonons), relaxed=[*relaxed, *competing])

    with clock("inputs"):
        inputs = inputs_task(config, folder, potential, candidates)
    report_task(config, folder, potential, candidates, competing, inputs, clock.seconds)
    return dft_task(config, folder, potential, candidates, competing) if config.dft.run else 0
