"""The benchmark of generators as tasks: each draws crystals for the same compositions and is judged by the same rules.

Functions first, tasks last. What one generator has drawn, and what was found of it, is kept under a key and not made
again while the checkpoint, the files, the settings and the code stay as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.evaluation import BenchmarkConfig, GeneratorEntry
from generative.config import SampleConfig
from generative.crystal.crystals import structure_columns
from generative.datasets.formats.columns import is_row_number
from generative.requests import in_turn
from storage.atomic import sweep, write_text
from storage.documents import read_document, write_document
from storage.progress import LabelledProgress as Progress
from tasks.evaluate.energies import load_regressor
from tasks.evaluate.protocols import Judgement
from tasks.evaluate.samples import EvaluationError, ReadCrystals, read_reference, read_samples
from tasks.evaluate.stages import SETTINGS_OF_MACHINE, judge, read_known, write_evaluation
from tasks.files import FileRef, key_of, keyed
from tasks.loading import potential_code
from tasks.report.evaluation.model import EvaluationReport


def targets_of(config: BenchmarkConfig) -> ReadCrystals:
    """The true crystals of the benchmark: `config.n` of the reference, drawn at random, or all if it has no more.

    Those that are no crystals are left out; crystals of like size stand together, which spares a sampler padding.
    """
    assert config.reference is not None  # the settings refuse a benchmark without one
    read = read_reference(config.reference)
    usable = [place for place, crystal in enumerate(read.crystals) if crystal is not None]
    drawn = [usable[i] for i in np.random.default_rng(config.seed).permutation(len(usable))[: config.n]]
    sizes = [0 if crystal is None else len(crystal.atomic_numbers) for crystal in read.crystals]
    places = sorted(drawn, key=lambda place: (sizes[place], place))
    name = read.name if len(drawn) == len(usable) else f"{read.name}, {len(drawn)} drawn with seed {config.seed}"
    return replace(
        read,
        crystals=tuple(read.crystals[place] for place in places),
        ids=tuple(read.ids[place] for place in places),
        reasons={},
        name=name,
    )


def missing_reason(entry: GeneratorEntry) -> str:
    """Why a generator that may be absent is left out; empty if its checkpoint can be used."""
    from generative.checkpoints import CheckpointError, digest

    try:
        digest(entry.checkpoint)
    except (CheckpointError, OSError) as error:
        if entry.missing == "skip":
            return str(error)
        raise
    return ""


def draw_samples(config: BenchmarkConfig, entry: GeneratorEntry) -> FileRef:
    """Crystals like every target, in composition or in sites, by one generator: a table with the targets' ids.

    `sampling.json` lies beside.

    A sample that the generator could not make stays in the table, as numbers that are no crystal.
    """
    from generative.checkpoints import digest, generator_type

    targets, folder = targets_of(config), config.folder / entry.name
    if config.n_per_target > 1 and (nameless := next(filter(is_row_number, targets.ids), None)):
        raise EvaluationError(
            f"n_per_target is {config.n_per_target}, and crystals of {targets.name} have no ids ({nameless!r} is a "
            "place in the file): expected a column such as material_id, by which a target's samples find it"
        )
    sweep(folder)
    settings = _sampler(config, entry)
    key = key_of(
        "benchmark-draw",
        draw_samples,
        generator_type(entry.checkpoint),
        checkpoint=digest(entry.checkpoint),
        targets=[targets.digest, targets.ids],
        sampler=settings.model_dump(mode="json", exclude={"checkpoint", "n_candidates"}),
        seed=config.seed,
        **({"n_per_target": config.n_per_target} if config.n_per_target > 1 else {}),
    )
    return keyed(folder / "samples.parquet", key, lambda: _drawn(config, entry, targets, folder))


def _sampler(config: BenchmarkConfig, entry: GeneratorEntry) -> SampleConfig:
    changes = {"checkpoint": entry.checkpoint, "sampler": {**config.sample.sampler, **entry.sampler}}
    return config.sample.model_copy(update=changes)


def _drawn(config: BenchmarkConfig, entry: GeneratorEntry, targets: ReadCrystals, folder: Path) -> pa.Table:
    from generative.sampling import chunk_generator
    from tasks.loading import checkpoint, device_of

    settings = _sampler(config, entry)
    loaded = checkpoint(settings.checkpoint, config.execution)
    generator, k = loaded.generator, config.n_per_target
    size = max(1, settings.chunk_size // k) * k  # a target's crystals are drawn together, so they can differ by intent
    sampler = generator.sampler_settings(settings.sampler)
    # Every target is asked for by itself: that another one has the same composition is not told.
    asked = [generator.request_like(c) for c in targets.crystals if c is not None]
    requests = [one for request in asked for one in in_turn([request] * k, generator.heeds)]
    crystals, started = [], time.perf_counter()
    for chunk, first in enumerate(range(0, len(requests), size)):
        rng = chunk_generator(config.seed, "benchmark", chunk)
        crystals += generator.sample(requests[first : first + size], rng, sampler)
    seconds = time.perf_counter() - started
    sampling = {
        "checkpoint_sha256": loaded.digest,
        "system": generator.name,
        "n": len(crystals),
        "n_per_target": k,
        "seconds": round(seconds, 3),
        "crystals_per_second": round(len(crystals) / seconds, 3),
        "device": device_of(config.execution),
        "torch_threads": config.execution.torch_threads,
        "chunk_size": size,
        "sampler": sampler.model_dump(mode="json"),
    }
    write_document(folder / "sampling.json", sampling)
    ids = [name if j == 1 else f"{name}#{j}" for name in targets.ids for j in range(1, k + 1)]
    return pa.table({"id": pa.array(ids, pa.string()), **structure_columns(crystals)})


def judge_samples(config: BenchmarkConfig, entry: GeneratorEntry, samples: FileRef, progress: Progress) -> FileRef:
    """All metrics of one generator in its folder; taken as they are if nothing they depend on has changed."""
    folder = config.folder / entry.name
    done = folder / "evaluation.json"
    targets = targets_of(config)
    known = None if config.train is None else read_known(config.train, config.phases)
    key = key_of(
        "benchmark-judge",
        judge_samples,
        *potential_code(config.relax),
        samples=samples.sha256,
        targets=[targets.digest, targets.ids],
        train=None if known is None else [known.digest, known.phases_name],
        regressor=None if config.regressor is None else load_regressor(config.regressor, config.execution).name,
        settings=config.model_dump(mode="json", exclude=SETTINGS_OF_MACHINE | {"generators", "name", "workers"}),
        name=entry.name,
    )
    if done.is_file():
        try:
            if EvaluationReport.read(done).key == key:
                return FileRef.of(done, reused=True)
        except ValueError:
            pass  # of an older layout, or cut off: made again
    read = read_samples(str(samples.path))
    judged = Judgement(read, targets, known, config, progress)
    report = replace(judge(judged, entry.name), key=key)
    write_evaluation(report, judged, folder)
    return FileRef.of(done)


def compare(config: BenchmarkConfig, judged: Sequence[FileRef], skipped: dict[str, str]) -> Path:
    """The page, the document and the data of the whole benchmark; inside a Prefect run its artifacts too."""
    from tasks.report.evaluation.benchmark_page import Benchmark, benchmark_html, benchmark_markdown, publish

    reports = [EvaluationReport.read(ref.path) for ref in judged]
    remedy = "remove it and samples.parquet beside it and give the same command again"
    sampling = {r.name: read_document(config.folder / r.name / "sampling.json", remedy) for r in reports}
    found = Benchmark(config.name, config.dataset, tuple(reports), sampling, skipped)
    page = config.folder / "benchmark.html"
    write_text(config.folder / "benchmark.md", benchmark_markdown(found))
    write_text(config.folder / "benchmark.json", json.dumps(found.as_dict(), indent=2, allow_nan=False) + "\n")
    write_text(page, benchmark_html(found))
    publish(found)
    return page


@task(name="draw", task_run_name="draw-{entry.name}")
def draw_task(config: BenchmarkConfig, entry: GeneratorEntry) -> FileRef:
    """Draw one generator's crystals; see draw_samples."""
    ref = draw_samples(config, entry)
    state = "unchanged, skipped" if ref.reused else "drawn"
    get_run_logger().info("%s: %d crystals %s", entry.name, len(ref.read()), state)
    return ref


@task(name="judge", task_run_name="judge-{entry.name}")
def judge_task(config: BenchmarkConfig, entry: GeneratorEntry, samples: FileRef) -> FileRef:
    """Judge one generator's crystals; see judge_samples."""
    from tasks.report.run.artifacts import Progress as ProgressArtifact  # draws pictures too, so it loads on the worker

    with ProgressArtifact(f"judge-{config.name}-{entry.name}", f"judging {entry.name}") as artifact:
        ref = judge_samples(config, entry, samples, lambda what, n, total: artifact.update(n, total, what))
    get_run_logger().info("%s: judged%s", entry.name, ", unchanged, skipped" if ref.reused else "")
    return ref


@task(name="compare")
def compare_task(config: BenchmarkConfig, judged: list[FileRef], skipped: dict[str, str]) -> Path:
    """Write and publish the comparison; see compare."""
    page = compare(config, judged, skipped)
    for name, reason in skipped.items():
        get_run_logger().warning("%s was left out: %s", name, reason)
    return page
