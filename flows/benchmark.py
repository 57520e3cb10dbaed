"""benchmark: generators go in; each draws crystals for the same compositions, and one page compares what came.

    draw -> judge (one pair per generator) -> compare

What a generator has drawn and how it was judged is kept, so an interrupted benchmark goes on with the next generator.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from configs.evaluation import BenchmarkConfig
from configs.schema import load
from flows.changes import Changes, changed, run_name
from tasks.evaluate.benchmark import compare_task, draw_task, judge_task, missing_reason

GENERATORS = load(BenchmarkConfig, "benchmark-generators")


@flow(name="benchmark", flow_run_name=run_name("benchmark"), validate_parameters=True)
def benchmark(config: BenchmarkConfig = GENERATORS, changes: Changes = ()) -> Path:
    """Compare generators.

    Args:
        config: generators, test file, protocols.
        changes: what differs from it, as --set takes it: name=mine, say.

    Returns:
        The benchmark's folder, with benchmark.html and a folder per generator.
    """
    config = changed(config, changes)
    skipped = {entry.name: reason for entry in config.generators if (reason := missing_reason(entry))}
    judged = [
        judge_task(config, entry, draw_task(config, entry)) for entry in config.generators if entry.name not in skipped
    ]
    page = compare_task(config, judged, skipped)
    get_run_logger().info("report: %s", page)
    return config.folder
