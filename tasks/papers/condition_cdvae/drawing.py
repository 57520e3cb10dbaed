"""Crystals of the systems that are compared: what they are trained on, what they are asked for, what they drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.condition_reproduction import (
    FLOW,
    FOR_ENERGIES,
    FOR_PROPERTIES,
    JUDGE,
    ConditionData,
    ConditionReproductionConfig,
)
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.training.data import TrainingSet, split, training_set
from tasks.papers import trainings
from tasks.papers.results import NotReadyError, Progress, ResultKey, digest_of
from tasks.papers.samples import Drawn, Plan, in_chunks, on_device
from tasks.papers.test_sets import ingested
from tasks.source_code import code_digest

if TYPE_CHECKING:
    import torch

    from generative.crystal.bonds import Bonds
    from generative.systems.cdvae.config import LatentSampler
    from generative.systems.cdvae.latent_model import LatentModel
    from generative.systems.interface import Regressor
    from generative.training.config import TrainConfig


# --- crystals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Crystals of a data set, in the cells of the trainings.

    Attributes:
        train: to train on, with the energy and, in its columns, the other properties that are asked for.
        test: to test with.
        fingerprint: digest of the data and of who is in which part.
    """

    train: TrainingSet
    test: TrainingSet
    fingerprint: str


def parts_of(config: ConditionReproductionConfig, entry: ConditionData) -> Parts:
    """The two parts of a data set.

    Raises: NotReadyError: if one of them is empty.
    """
    return _parts(entry.model_dump_json(), str(config.folder / entry.name), config.seed, config.workers)


@lru_cache(maxsize=2)
def _parts(words: str, folder: str, seed: int, workers: int) -> Parts:
    entry, kept_in = ConditionData.model_validate_json(words), Path(folder)
    table, digest = ingested(entry.files, kept_in / "crystals", entry.max_atoms, workers)
    told = (entry.property_name, (), [one.name for one in entry.properties])
    if entry.test is None:
        pool = training_set(table, (), *told)
        # With the seed itself, of which a training holds its validation part out, that part would be the test part.
        train, test = split(pool, entry.test_share, seed + 1, "crystal")
    else:
        tested, other = ingested([entry.test], kept_in / "test-crystals", entry.max_atoms, workers)
        digest += other
        train = training_set(table, tested.column("source_id").to_pylist(), *told)
        test = training_set(tested, (), *told)
    if not len(train) or not len(test):
        raise NotReadyError(f"{len(table)} crystals leave {len(train)} for training, {len(test)} for the test")
    return Parts(train, test, digest_of({"data": digest, "train": train.ids, "test": test.ids}))


def trained_on(parts: Parts, key: ResultKey) -> TrainingSet:
    """The training part for one training: energies and other numbers known only to a system that is told them."""
    known = labelled(parts.train, key.reverse)
    if key.system in (FOR_ENERGIES, FOR_PROPERTIES, ""):
        return known
    return TrainingSet(known.crystals, known.spacegroups, [None] * len(known), known.ids)


def labelled(data: TrainingSet, judged: str) -> TrainingSet:
    """The crystals with a property in the place of the energy; with the energy where none is named."""
    if not judged:
        return data
    given = TrainingSet(data.crystals, data.spacegroups, data.columns[judged], data.ids)
    given.columns = data.columns
    return given


def rows_of(n: int, wanted: int | None, seed: int) -> list[int]:
    """So many rows at random, in order; all where None is wanted."""
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(n)[:wanted])


def targets(config: ConditionReproductionConfig, entry: ConditionData) -> TrainingSet:
    """The test crystals that are reconstructed."""
    test = parts_of(config, entry).test
    return test.subset(rows_of(len(test), entry.n_reconstruct, config.seed))


def beside(config: ConditionReproductionConfig, entry: ConditionData) -> list[Crystal]:
    """The test crystals that generated ones are compared with."""
    test = parts_of(config, entry).test.crystals
    return [test[row] for row in rows_of(len(test), entry.n_beside, config.seed)]


def bonds_of(
    config: ConditionReproductionConfig, entry: ConditionData, crystals: Sequence[Crystal]
) -> list[Bonds | None]:
    """CrystalNN's bonds of these cells, kept between runs."""
    from generative.crystal.bonds import crystal_nn_bonds

    return crystal_nn_bonds(crystals, workers=config.workers, cache=config.folder / entry.name / "bonds")


# --- trained systems --------------------------------------------------------------------------------------------------


def training_key(dataset: str, system: str, judged: str = "") -> ResultKey:
    """A system's training; that of a network that judges is a stage of its own, by what it judges."""
    judge = system in ("", JUDGE)
    return ResultKey("judge", dataset, "", judged) if judge else ResultKey("train", dataset, system)


def settings_of(config: ConditionReproductionConfig, key: ResultKey) -> TrainConfig:
    """The settings of a training."""
    return config.training_of(config.dataset(key.dataset), key.system or JUDGE, key.reverse)


def training_inputs(config: ConditionReproductionConfig, key: ResultKey) -> str:
    """Digest of the settings and crystals of a training."""
    entry = config.dataset(key.dataset)
    settings = trainings.settings_of(settings_of(config, key), trainings.FILES)
    return digest_of({"settings": settings, "crystals": parts_of(config, entry).fingerprint})


def checkpoint_of(config: ConditionReproductionConfig, dataset: str, system: str, judged: str = "") -> tuple[str, str]:
    """The trained checkpoint and its digest; without a system that of the network that judges.

    Raises: NotReadyError: if it is not trained, or was trained with other settings.
    """
    key = training_key(dataset, system, judged)
    what = f"{system or f'the network that judges {judged}'.strip()} on {dataset}"
    return trainings.checkpoint_of(config, key, training_inputs(config, key), what)


def judge_of(config: ConditionReproductionConfig, dataset: str, judged: str = "") -> Regressor:
    """The network that judges a property; the energy where none is named.

    Raises: NotReadyError: if it is not trained.
    """
    from tasks.loading import checkpoint as load

    return load(checkpoint_of(config, dataset, "", judged)[0], config.execution).regressor


# --- drawing ----------------------------------------------------------------------------------------------------------


ELEMENTS_GIVEN = "elements-given"
"""Marks results of crystals that are decoded with the true elements, and so their number, given."""


def sampler_of(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """Settings of a result's sampler: those of `sample` are the latent models', `samplers` has each system's own."""
    common = {} if key.system == FLOW else dict(config.sample.sampler)
    given = {"force_types": True} if key.reverse == ELEMENTS_GIVEN else {}
    return {**common, **config.samplers.get(key.system, {}), **given}


def drawing_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What drawn crystals depend on, beside the code and what is asked.

    Raises: NotReadyError: if the system is not trained.
    """
    from generative.checkpoints import generator_type

    checkpoint, digest = checkpoint_of(config, key.dataset, key.system)
    return {
        "checkpoint": digest,
        "code": code_digest(generator_type(checkpoint)),
        "crystals": parts_of(config, config.dataset(key.dataset)).fingerprint,
        "sampler": sampler_of(config, key),
        "chunk_size": config.sample.chunk_size,
        "seed": config.seed,
    }


def _latent(
    config: ConditionReproductionConfig,
    key: ResultKey,
    named: tuple[Sequence[str], Sequence[str]],
    draw: Callable[[LatentModel, slice, torch.Generator, LatentSampler], list[Crystal]],
    progress: Progress,
) -> Drawn:
    """Crystals of a latent model: their ids and what each is drawn for, and how rows are drawn."""
    from generative.systems.cdvae.config import LatentSampler
    from generative.systems.cdvae.latent_model import LatentModel

    def rows_drawn(system: LatentModel, rows: slice, rng: torch.Generator) -> list[Crystal]:
        settings = system.sampler_settings(sampler_of(config, key))
        assert isinstance(settings, LatentSampler)
        return draw(system, rows, on_device(rng, system.lattice_shift.device), settings)

    plan = Plan(
        checkpoint=checkpoint_of(config, key.dataset, key.system)[0],
        kind=LatentModel,  # type: ignore[type-abstract]  # of which the checkpoint holds a concrete one
        ids=named[0],
        asked=named[1],
        inputs=drawing_inputs(config, key),
        computed_by=_latent,
        draw=rows_drawn,
        network=lambda system: system.denoiser,
    )
    return in_chunks(config, key, plan, progress)


def reconstructed(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Drawn:
    """One crystal for each target, encoded and decoded.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(key.dataset)
    truths = targets(config, entry)
    bonds = bonds_of(config, entry, truths.crystals)

    def decode(system: LatentModel, rows: slice, rng: torch.Generator, how: LatentSampler) -> list[Crystal]:
        return system.reconstruct(truths.crystals[rows], rng, how, bonds[rows], config.sample.chunk_size)

    named = (truths.ids, [crystal.digest for crystal in truths.crystals])
    return _latent(config, key, named, decode, progress)


def answered(
    config: ConditionReproductionConfig, key: ResultKey, requests: Sequence[Request], progress: Progress
) -> Drawn:
    """One crystal for each request, of which nothing is forced on a latent model.

    Raises: NotReadyError: if the system is not trained.
    """
    ids = [str(number) for number in range(len(requests))]

    def decode(system: LatentModel, rows: slice, rng: torch.Generator, how: LatentSampler) -> list[Crystal]:
        return system.answered(requests[rows], rng, how, config.sample.chunk_size)

    return _latent(config, key, (ids, [request.digest for request in requests]), decode, progress)


def flowed(config: ConditionReproductionConfig, key: ResultKey, n: int, progress: Progress) -> Drawn:
    """Crystals of the flow, for compositions of training crystals drawn at random.

    Raises: NotReadyError: if it is not trained.
    """
    from generative.systems.crystal_flow import CrystalFlow

    train = parts_of(config, config.dataset(key.dataset)).train
    rows = np.random.default_rng(config.seed).integers(len(train), size=n)
    requests = [Request.for_atoms(train.crystals[row].atomic_numbers) for row in rows]

    def draw(system: CrystalFlow, part: slice, rng: torch.Generator) -> list[Crystal]:
        return system.sample(requests[part], rng, system.sampler_settings(sampler_of(config, key)))

    plan = Plan(
        checkpoint=checkpoint_of(config, key.dataset, key.system)[0],
        kind=CrystalFlow,
        ids=[str(number) for number in range(n)],
        asked=[request.digest for request in requests],
        inputs=drawing_inputs(config, key),
        computed_by=flowed,
        draw=draw,
        network=lambda system: system.network,
    )
    return in_chunks(config, key, plan, progress)


def generated(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Drawn:
    """Crystals of a system of which nothing is asked.

    Raises: NotReadyError: if the system is not trained.
    """
    n = config.dataset(key.dataset).n_generate
    if key.system == FLOW:
        return flowed(config, key, n, progress)
    return answered(config, key, [Request()] * n, progress)
