"""What a generator can do, measured: crystals drawn for the compositions of a test set, and a card that says so."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.paths import resolve
from generative.config import DataConfig, FilesSource, SampleConfig, ScreenConfig


@dataclass(frozen=True)
class GeneratorScore:
    """Figures of a generator on the compositions of a test file, one crystal per composition.

    Attributes:
        test: the file.
        n: compositions.
        match_rate: part whose crystal matches the test crystal (StructureMatcher, ltol .3, stol .5, angle 10).
        rms: mean displacement of the matches, units of (V/N)^(1/3).
        valid: part that is structurally valid by the CDVAE rule (no two atoms within 0.5 A, volume over 0.1 A^3).
        crystals_per_second: wall rate of sampling alone.
        n_steps: network calls per crystal.
        settings: sampler settings that differ from the defaults.
    """

    test: str
    n: int
    match_rate: float
    rms: float | None
    valid: float
    crystals_per_second: float
    n_steps: int
    settings: dict[str, Any]


def score_generator(
    checkpoint: str,
    test: str,
    settings: SampleConfig,
    folder: Path,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
) -> GeneratorScore:
    """Draw one crystal for every composition of the test file (or its first `limit` of a seeded order) and score it.

    Args:
        checkpoint: folder or 'package:NAME'.
        test: source path, such as 'assets:data/mp_20_biternary_test.csv.gz'.
        settings: sampler settings; chunk_size is the batch.
        folder: where the test set is ingested once.
        limit: number of compositions; None takes all.
        seed: of the order and of every draw.
        workers: processes for matching.
    """
    import numpy as np

    from generative import checkpoints
    from generative.crystals import crystals_of
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import read_dataset
    from generative.metrics.reconstruction import evaluate
    from generative.sampling import chunk_generator
    from generative.screening.validity import satisfies_cdvae_rule

    if not (folder / "manifest.json").is_file():
        ingest(DataConfig(sources=(FilesSource(path=test),)), None, folder, resolve)
    truths = [c for c in crystals_of(read_dataset(folder).table) if c is not None]
    order = np.random.default_rng(seed).permutation(len(truths))[:limit]
    # Batches of like sizes waste no padding; the order of results is restored below.
    order = np.array(sorted(order, key=lambda i: (len(truths[i].atomic_numbers), i)))
    system = checkpoints.load(checkpoint).system
    drawn, size, started = [], settings.chunk_size, time.perf_counter()
    for chunk, first in enumerate(range(0, len(order), size)):
        numbers = [sorted(truths[i].atomic_numbers.tolist()) for i in order[first : first + size]]
        drawn += system.sample(numbers, chunk_generator(seed, "score", chunk), settings)
    seconds = time.perf_counter() - started
    chosen = [truths[i] for i in order]
    result = evaluate(drawn, chosen, workers=workers)
    valid = [satisfies_cdvae_rule(c.to_structure()) for c in drawn]
    return GeneratorScore(
        test=test,
        n=len(chosen),
        match_rate=result.match_rate,
        rms=result.mean_rms,
        valid=sum(valid) / len(valid),
        crystals_per_second=len(drawn) / seconds,
        n_steps=settings.n_steps,
        settings=settings.model_dump(exclude_defaults=True),
    )


def as_record(score: GeneratorScore) -> dict[str, Any]:
    """The score as plain JSON values."""
    return asdict(score)
