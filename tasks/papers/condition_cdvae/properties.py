"""Crystals for numbers other than an energy, one or several at once; and where on its way a number is lost.

One model is conditioned on all properties of a data set. What is not asked for is then that of a training crystal drawn
at random. What came is told by networks that no generator was trained with, one for each property; beside it stand
samples of the same model of which nothing is asked, and the labels of the training crystals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs.condition_reproduction import FOR_ENERGIES, FOR_PROPERTIES, ConditionData, ConditionReproductionConfig
from generative.crystal.crystals import Crystal
from generative.metrics.metric import Metric
from generative.metrics.shares import percentage
from generative.requests import Request
from tasks.papers.condition_cdvae import drawing
from tasks.papers.condition_cdvae.asked import FREE, encoded, number_metrics, valid_ones
from tasks.papers.results import Made, Measured, Progress, ResultKey, mean_error, share_error

if TYPE_CHECKING:
    from generative.systems.interface import Regressor

Target = Mapping[str, float]
"""Values by property; empty where nothing is asked for."""

READ, JUDGED_TRUE, JUDGED_AGAIN = (
    "by the head, from z",
    "by the judge, of the crystal",
    "by the judge, of what is decoded",
)
"""Where a test crystal's number is looked for, in the order of its way through the model."""


# --- asked for --------------------------------------------------------------------------------------------------------


def words_of(target: Target) -> str:
    """A target in words, as results and metrics are named by it."""
    return ", ".join(f"{name} {value:g}" for name, value in sorted(target.items())) or "nothing"


def target_keys(entry: ConditionData) -> Iterator[ResultKey]:
    """The results of asking for each of a data set's targets, and before them for nothing."""
    for target in ({}, *entry.targets):
        yield ResultKey("properties", entry.name, FOR_PROPERTIES, words_of(target).replace(" ", "") if target else FREE)


def target_of(entry: ConditionData, key: ResultKey) -> Target:
    """What a result was asked for."""
    return dict(zip((known.reverse for known in target_keys(entry)), ({}, *entry.targets), strict=True))[key.reverse]


def properties_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What crystals for properties, and the metrics of them, depend on.

    Raises: NotReadyError: if the system, or a network that judges, is not trained.
    """
    entry = config.dataset(key.dataset)
    target = target_of(entry, key)
    judges = {one.name: drawing.checkpoint_of(config, key.dataset, "", one.name)[1] for one in entry.properties}
    return {
        **drawing.drawing_inputs(config, key),
        "judges": judges,
        "n": config.properties.n,
        "properties": [one.model_dump(mode="json") for one in entry.properties],
        "targets": [sorted(one.items()) for one in ([target] if target else entry.targets)],
    }


def for_properties(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Crystals for a target, and their properties by the judges; those for none are put beside every target."""
    entry, n = config.dataset(key.dataset), config.properties.n
    target = target_of(entry, key)
    drawn = drawing.answered(config, key, [Request(targets=tuple(sorted(target.items())))] * n, progress)
    valid = valid_ones(drawn)
    values: dict[str, Sequence[float]] = {
        one.name: drawing.judge_of(config, key.dataset, one.name).predict(valid.crystals, ()).tolist()
        for one in entry.properties
    }
    metrics = [share_error(percentage("conditional", "valid samples", len(valid.ids), len(drawn.ids), {}))]
    for wanted in [target] if target else [{}, *entry.targets]:
        metrics += beside_target(entry, wanted, values)
    return Made(tuple(metrics), drawn.sampling, curves_of(values))


def curves_of(values: Mapping[str, Sequence[float]]) -> dict[str, list[list[float]]]:
    """Values by property as a result keeps them, for histograms."""
    return {name: [[float(i), v] for i, v in enumerate(found) if math.isfinite(v)] for name, found in values.items()}


def beside_target(entry: ConditionData, target: Target, values: Mapping[str, Sequence[float]]) -> tuple[Measured, ...]:
    """How near crystals come to a target: by each property, and by all that are asked for at once.

    Args:
        entry: the data set, which says what counts as near.
        target: what they are compared with, whether it was asked for or not.
        values: of the same crystals, by property; NaN where one is not known.
    """
    words = words_of(target)
    metrics: list[Measured] = []
    for one in entry.properties:
        name = f"{words}: {one.name}"
        metrics += number_metrics(name, values[one.name], one.unit, target.get(one.name), one.within)
    if target:
        asked = [entry.asked_property(name) for name in target]
        away = np.array([np.abs(np.array(values[one.name], dtype=float) - target[one.name]) for one in asked])
        known = np.isfinite(away).all(0)
        near = (away <= np.array([[one.within] for one in asked])).all(0) & known
        within: dict[str, float | int | str | bool | None] = {one.name: one.within for one in asked}
        share = percentage("conditional", f"{words}: all within reach", int(near.sum()), int(known.sum()), within)
        metrics.append(share_error(share))
    return tuple(metrics)


def labels_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the labels of the training crystals beside the targets depend on."""
    entry = config.dataset(key.dataset)
    return {
        "crystals": drawing.parts_of(config, entry).fingerprint,
        "properties": [one.model_dump(mode="json") for one in entry.properties],
        "targets": [sorted(target.items()) for target in entry.targets],
    }


def labels(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """The labels of all training crystals beside every target: what drawing them at random would reach."""
    entry = config.dataset(key.dataset)
    columns = drawing.parts_of(config, entry).train.columns
    values = {
        one.name: [math.nan if value is None else value for value in columns[one.name]] for one in entry.properties
    }
    metrics = [metric for target in ({}, *entry.targets) for metric in beside_target(entry, target, values)]
    return Made(tuple(metrics), {}, curves_of(values))


# --- where a number is lost -------------------------------------------------------------------------------------------


class _Told(NamedTuple):
    """A number that a conditional model is told: name for readers, unit, and as which property it is judged."""

    name: str
    unit: str
    judged: str


def told_to(entry: ConditionData, system: str) -> list[_Told]:
    """The numbers that a system is told of a data set, in the order of its conditions."""
    if system == FOR_ENERGIES:
        return [_Told("energy", entry.unit, "")]
    return [_Told(one.name, one.unit, one.name) for one in entry.properties]


def reading_keys(entry: ConditionData, systems: Sequence[str]) -> Iterator[ResultKey]:
    """Results of following numbers through each system: decoded freely, and with the true elements given."""
    for system in systems:
        yield ResultKey("readings", entry.name, system)
        yield ResultKey("readings", entry.name, system, drawing.ELEMENTS_GIVEN)


def readings_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the readings of numbers depend on.

    Raises: NotReadyError: if the system, or a network that judges, is not trained.
    """
    entry = config.dataset(key.dataset)
    told = told_to(entry, key.system)
    judges = [drawing.checkpoint_of(config, key.dataset, "", one.judged)[1] for one in told]
    return {**drawing.drawing_inputs(config, key), "judges": judges, "told": told, "n": entry.n_reconstruct}


def readings(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Numbers of test crystals as they are read from the latent vector, and from what is decoded of it.

    The model is not told them: what it fuses with the latent vector is what its head reads from that.
    """
    entry = config.dataset(key.dataset)
    test = drawing.targets(config, entry)
    drawn = drawing.reconstructed(config, key, progress)
    sound = set(valid_ones(drawn).ids)
    heads = _read_from_latents(config, key)
    metrics: list[Measured] = []
    for place, one in enumerate(told_to(entry, key.system)):
        truth = np.array(drawing.labelled(test, one.judged).energies, dtype=float)
        judge = drawing.judge_of(config, key.dataset, one.judged)
        places = {
            READ: heads[:, place],
            JUDGED_TRUE: judge.predict(test.crystals, ()),
            JUDGED_AGAIN: _judged(judge, drawn.crystals, [name in sound for name in drawn.ids]),
        }
        for where, found in places.items():
            metrics += agreement(f"{one.name} {where}", found, truth, one.unit)
    return Made(tuple(metrics), drawn.sampling)


def _judged(judge: Regressor, crystals: Sequence[Crystal], sound: Sequence[bool]) -> np.ndarray:
    """What the judge says of each; NaN of those that are not sound."""
    values = np.full(len(crystals), math.nan)
    kept = [i for i, is_sound in enumerate(sound) if is_sound]
    values[kept] = judge.predict([crystals[i] for i in kept], ())
    return values


def _read_from_latents(config: ConditionReproductionConfig, key: ResultKey) -> np.ndarray:
    """What the head reads from the mean latent vectors of the test crystals, in units, (n, P); NaN without bonds."""
    import torch

    from generative.systems.condition_cdvae.system import ConditionCDVAE
    from tasks.loading import checkpoint as load

    entry = config.dataset(key.dataset)
    test = drawing.targets(config, entry)
    bonds = drawing.bonds_of(config, entry, test.crystals)
    kept = [i for i, bond in enumerate(bonds) if bond is not None]
    known = test.subset(kept)
    known.bonds = [bond for bond in bonds if bond is not None]
    system = load(drawing.checkpoint_of(config, key.dataset, key.system)[0], config.execution).system
    assert isinstance(system, ConditionCDVAE)
    with torch.no_grad():
        read = system.properties(encoded(system, known)) * system.property_scale + system.property_mean
    values = np.full((len(test), read.shape[1]), math.nan)
    values[kept] = read.double().cpu().numpy()
    return values


def agreement(name: str, found: np.ndarray, truth: np.ndarray, unit: str) -> tuple[Measured, ...]:
    """Correlation of two series, its error by Fisher's transformation, and their mean absolute difference.

    Args: name of the first; both, (n,), NaN where one is not known; their unit.
    """
    known = np.isfinite(found) & np.isfinite(truth)
    a, b, n = found[known], truth[known], int(known.sum())
    related = n > 3 and min(np.ptp(a), np.ptp(b)) > 0
    r = float(np.corrcoef(a, b)[0, 1]) if related else math.nan
    metric = Metric("readings", f"{name}: correlation", r, "", n, "" if related else "too few, or all alike")
    away = np.abs(a - b)
    mean = Metric("readings", f"{name}: mean absolute error", float(away.mean()) if n else math.nan, unit, n)
    spread = (1 - r * r) / math.sqrt(n - 3) if related else math.nan
    return Measured(metric, spread, "Fisher"), mean_error(mean, away.tolist())
