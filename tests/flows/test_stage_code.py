"""What a stage really runs lies in the code that its key holds, as an interpreter's own account of calls shows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.paths import PROJECT
from generative.checkpoints import generator_type
from tasks.discover.judge import judge_chunk_file, opinions_wanted
from tasks.discover.judge_choice import chosen_file
from tasks.discover.known import choose_references, ingest_known
from tasks.discover.phonons import candidates_file
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_chunk_file
from tasks.discover.run import open_run
from tasks.discover.sample import sample_chunk_file
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.discover.second_opinion import second_opinion_file
from tasks.loading import identify, potential_code
from tasks.source_code import Entry, sources
from tests.flows.conftest import Campaign


def run_and_compare(stage: Callable[..., Any], *arguments: Any, further: tuple[Entry, ...] = ()) -> Any:
    """What the stage returns; fails if a function of a file was called that its key does not hold.

    Args: the stage; its arguments; what its key holds besides, as it is reached by other ways than imports.
    """
    executed: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            executed.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        result = stage(*arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert not result.reused
    ours = {Path(name) for name in executed if Path(name).is_relative_to(PROJECT) and ".venv" not in Path(name).parts}
    ours -= {Path(__file__)}
    assert len(ours) > 3  # it did run
    assert not ours - set(sources(stage, *further))
    return result


def test_every_function_that_a_stage_calls_lies_in_the_code_of_its_key(campaign: Campaign, tmp_path: Path) -> None:
    config = campaign.config(tmp_path, judge={"potential": "CHGNet", "n_best": 2, "steps_max": 1})
    with open_run(config) as run:
        identity = identify(config.relax, config.execution)
        known = run_and_compare(ingest_known, config, run.path, identity)
        references = run_and_compare(choose_references, config, run.path, known)
        generator = generator_type(config.sample.checkpoint)
        sampled = run_and_compare(sample_chunk_file, config, run.path, known, 0, further=(generator,))
        screened = run_and_compare(screen_chunk_file, config, run.path, sampled, known)
        unique = run_and_compare(unique_file, config, run.path, [screened])
        loaders = potential_code(config.relax)
        competing = [
            run_and_compare(relax_chunk_file, config, run.path, identity, references, i, True, further=loaders)
            for i in range(-(-len(references.read()) // config.relax.chunk_size))
        ]
        relaxed = run_and_compare(relax_chunk_file, config, run.path, identity, unique, 0, False, further=loaders)
        ranked = run_and_compare(rank_file, config, run.path, identity, known, unique, [relaxed], competing)
        chosen = run_and_compare(chosen_file, config, run.path, ranked, competing)
        wanted = opinions_wanted(config, [identity], chosen)
        judged = [run_and_compare(judge_chunk_file, config, run.path, one, chosen, further=loaders) for one in wanted]
        opinions = [identity, identity]
        final = run_and_compare(second_opinion_file, config, run.path, opinions, ranked, chosen, judged)
        run_and_compare(candidates_file, run.path, final, [])
