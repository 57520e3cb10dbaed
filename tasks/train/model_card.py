"""What a generator can do, measured: crystals drawn for the compositions of a test set, and a card that says so."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.paths import resolve
from generative.config import SampleConfig
from generative.datasets.config import DataConfig, FilesSource
from generative.training.config import TrainConfig


@dataclass(frozen=True)
class GeneratorScore:
    """Figures of a generator on the compositions of a test file, one crystal per composition.

    Attributes:
        test: the file, as written in the settings.
        n: compositions.
        protocol: of the match: its name and tolerances.
        match_rate: part whose crystal matches the test crystal; crystals that fail validity count as drawn.
        rms: mean displacement of the matches, units of (V/N)^(1/3).
        valid: part that is structurally valid by CDVAE's rule.
        crystals_per_second: wall rate of sampling alone, on `threads` CPU threads or the GPU.
        threads: CPU threads.
        sampler: sampler settings.
    """

    test: str
    n: int
    protocol: str
    match_rate: float
    rms: float
    valid: float
    crystals_per_second: float
    threads: int
    sampler: dict[str, Any]


def score_generator(
    test: str, settings: SampleConfig, folder: Path, limit: int | None = None, seed: int = 0, workers: int = 1
) -> GeneratorScore:
    """Draw one crystal for every composition of the test file (or `limit` of them, drawn at random) and score it.

    Args:
        test: source path, such as 'assets:data/mp_20_biternary_test.csv.gz'.
        settings: checkpoint and sampler; chunk_size is the batch.
        folder: where the test set is ingested once.
        limit: number of compositions; None takes all.
        seed: of the choice and of every draw.
        workers: processes for matching.
    """
    import numpy as np
    import torch

    from generative import checkpoints
    from generative.crystal.crystals import crystals_of
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import is_whole, read_dataset
    from generative.metrics.reconstruction import evaluate
    from generative.sampling import chunk_generator
    from generative.screening.validity import satisfies_cdvae_rule

    if not is_whole(folder):
        ingest(DataConfig(sources=(FilesSource(path=test),)), None, folder, resolve)
    known = [c for c in crystals_of(read_dataset(folder).table) if c is not None]
    chosen = np.random.default_rng(seed).permutation(len(known))[:limit]
    # Batches of like sizes waste no padding.
    truths = [known[i] for i in sorted(chosen, key=lambda i: (len(known[i].atomic_numbers), i))]
    generator = checkpoints.load(settings.checkpoint).generator
    sampler = generator.sampler_settings(settings.sampler)
    # Every one is asked for by itself: that another one has the same composition is not told.
    requests = [replace(generator.request_like(c), turn=0) for c in truths]
    drawn, size, started = [], settings.chunk_size, time.perf_counter()
    for chunk, first in enumerate(range(0, len(truths), size)):
        drawn += generator.sample(requests[first : first + size], chunk_generator(seed, "score", chunk), sampler)
    seconds = time.perf_counter() - started
    result = evaluate(drawn, truths, workers=workers)
    return GeneratorScore(
        test=test,
        n=len(truths),
        protocol=f"{result.protocol}; {result.tolerances}",
        match_rate=result.match_rate,
        rms=result.mean_rms,
        valid=sum(satisfies_cdvae_rule(c.to_structure()) for c in drawn) / len(drawn),
        crystals_per_second=len(drawn) / seconds,
        threads=torch.get_num_threads(),
        sampler=sampler.model_dump(mode="json"),
    )


def _sources(settings: dict[str, Any]) -> str:
    """The sources of a training, a line each; its settings hold what differs from the defaults alone."""
    stated = settings.get("data", {}).get("sources", [])
    return "\n".join(f"  - `{s.get('path', s.get('kind'))}`: {s.get('method', 'method not stated')}" for s in stated)


UNSTATED = "Not stated with the training (`licence`): that of its sources holds."


def _figures(score: GeneratorScore) -> str:
    rows = {
        "match rate": f"{100 * score.match_rate:.1f} %",
        "mean rms of the matches, units of (V/N)^(1/3)": f"{score.rms:.3f}",
        "structurally valid (CDVAE's rule)": f"{100 * score.valid:.1f} %",
        f"crystals per second, {score.threads} CPU thread(s)": f"{score.crystals_per_second:.0f}",
    }
    sampler = ", ".join(f"{name} {value:g}" for name, value in score.sampler.items()) or "nothing to set"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""One crystal per composition of `{score.test}` (n = {score.n}), nothing but the composition given.
Sampler: {sampler}.
Protocol: {score.protocol}.

| figure | value |
|---|---|
{table}

These figures compare with other systems trained on the same files, not with tables of papers, whose training files are
larger.

A match rate says little alone: the baselines of `docs/baselines.md`, which learn nothing, belong beside it on the same
file."""


def _settings(training: dict[str, Any]) -> TrainConfig:
    """The settings of a training but its data: the record leaves defaults out, and with them the kinds of sources."""
    return TrainConfig.model_validate({**training["settings"], "data": {}})


def _data(training: dict[str, Any], settings: TrainConfig) -> str:
    """Data, steps and machine of a training, a line of a list each."""
    hardware = training["hardware"]
    excluded = "" if settings.exclude is None else f", without the ids in `{settings.exclude}`"
    lines = [f"- Data, fingerprint `{training['data_fingerprint_sha256']}`{excluded}:", _sources(training["settings"])]
    if settings.labels is not None:
        lines.append(f"  - `{settings.labels}`: crystals without coordinates")
    return "\n".join(
        [
            *lines,
            f"- {training['crystals_trained']:,} crystals trained on, {training['crystals_held_out']:,} held out, "
            f"{training['crystals_left_out']:,} left out.",
            f"- {training['steps']:,} steps of {settings.batch_crystals} crystals, {training['minutes']:g} minutes on",
            f"  {hardware['cpu_threads_used']} thread(s) of a {hardware['cpu_cores']}-core {hardware['machine']} "
            f"machine, PyTorch {training['torch']}.",
        ]
    )


def card_text(checkpoint: Path, score: GeneratorScore | None) -> str:
    """The model card of a checkpoint folder, in Markdown.

    What it is and holds the system says of itself; all else comes from its model.json or from `score`.

    Args:
        checkpoint: the folder.
        score: what was measured; None leaves the figures to whoever measures them.
    """
    from generative.checkpoints import about, digest, load, stored_as

    description = about(str(checkpoint))
    training, system = description["training"], load(str(checkpoint)).system
    settings, notes = _settings(training), system.card_notes()
    largest = training["settings"].get("data", {}).get("filters", {}).get("n_atoms_max")
    up_to = f" Cells of up to {largest} atoms were trained on." if largest else ""
    lines = [f"A `{description['system']}` system{f': {notes.does}' if notes.does else ''}.{up_to}"]
    precision = "half" if stored_as(settings.precision).itemsize == 2 else "single"
    lines.append(f"{sum(p.numel() for p in system.parameters()):,} parameters, stored in {precision} precision.")
    lines += [notes.stored] * bool(notes.stored)
    lines += [f"`{notes.method}` describes the method."] * bool(notes.method)
    further = ""
    if earlier := training.get("init_training"):
        further = (
            f"- It started from the averaged weights of `{earlier['settings']['name']}`: {earlier['steps']:,} steps of "
            f"{earlier['settings']['batch_crystals']} crystals, {earlier['minutes']:g} minutes.\n"
        )
    if note := training.get("note"):
        further += f"- {note}\n"
    metrics = json.dumps({k: v for k, v in training["metrics"].items() if k.startswith("val")})
    none = "None were measured with the training (`test` was null): `docs/evaluation.md` says how to."
    return f"""# {settings.name}

{chr(10).join(lines)}

## Figures

{none if score is None else _figures(score)}

## Training

{_data(training, settings)}
{further}- Held-out loss at the end: {metrics}.
- Again: `hullward train` with the settings under `training` in `model.json`.

## Limits

{f"{notes.limits} " if notes.limits else ""}Compositions and sizes unlike those of the data are extrapolation.
Energies are no part of a draw; pre-relax and compare with the hull before believing one.

SHA-256 of the checkpoint: `{digest(str(checkpoint))}`.

## Licence of the data

{settings.licence or UNSTATED}
"""


@dataclass(frozen=True)
class RegressorScore:
    """How far a regressor is from what a test file states.

    Attributes:
        test: the source path.
        rows: (set, crystals, mean absolute error).
        unread: crystals of the file for which it tells nothing.
    """

    test: str
    rows: tuple[tuple[str, int, float], ...]
    unread: int


def score_regressor(
    checkpoint: Path, property_name: str | None, trained_on: Path, test: Path, source: str
) -> RegressorScore:
    """Tell the property of every test crystal, and compare.

    Args:
        checkpoint: of the regressor.
        property_name: that it has learnt.
        trained_on: dataset of the training, held-out crystals included.
        test: dataset of the test crystals.
        source: what the test crystals are.
    """
    import numpy as np

    from generative import checkpoints
    from generative.crystal.bonds import Bonds, crystal_nn_bonds
    from generative.datasets.manifest import read_dataset
    from generative.systems.trainable import Trainable
    from generative.training.data import composition_of, training_set

    regressor = checkpoints.load(str(checkpoint)).regressor
    known, tested = (training_set(read_dataset(folder).table, (), property_name) for folder in (trained_on, test))
    bonds: list[Bonds | None] = [None] * len(tested)
    if isinstance(regressor, Trainable) and regressor.needs_bonds:
        bonds = crystal_nn_bonds(tested.crystals)
    truth = np.array([np.nan if e is None else e for e in tested.energies])
    errors = np.abs(regressor.predict(tested.crystals, bonds) - truth)
    formulas = {composition_of(crystal) for crystal in known.crystals}
    new = np.array([composition_of(crystal) not in formulas for crystal in tested.crystals], dtype=bool)
    mean = np.mean([e for e in known.energies if e is not None])
    told = np.isfinite(errors)
    sets = {
        "test file": errors[told],
        "test file, formulas of no training file": errors[told & new],
        "test file, the training mean as the guess": np.abs(truth[told] - mean),
    }
    rows = tuple((name, len(e), float(e.mean())) for name, e in sets.items() if len(e))
    return RegressorScore(source, rows, int((~told).sum()))


def regressor_card(checkpoint: Path, score: RegressorScore) -> str:
    """The model card of a regressor, in Markdown; every number comes from its model.json or from `score`."""
    from generative.checkpoints import about, digest, load

    description = about(str(checkpoint))
    training, system = description["training"], load(str(checkpoint)).system
    settings = _settings(training)
    table = "\n".join(f"| {name} | {n:,} | {error:.3f} |" for name, n, error in score.rows)
    return f"""# {settings.name}

A `{description["system"]}`: it tells {settings.property} of a crystal.
{sum(p.numel() for p in system.parameters()):,} parameters. Mean absolute errors on `{score.test}`, in the unit of the
property; {score.unread} of its crystals have no prediction.

| set | crystals | mean absolute error |
|---|---|---|
{table}

{_data(training, settings)}
- SHA-256 of the checkpoint: `{digest(str(checkpoint))}`.
- Licence of the data: {settings.licence or UNSTATED}
"""
