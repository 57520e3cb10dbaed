"""Energies of a reproduction by the separate regressor of each data set, for samples and test crystals alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.reproduction import DatasetEntry, ReproductionConfig
from generative.crystal.crystals import Crystal
from generative.metrics.figures import Figure
from generative.metrics.generation import Energies
from tasks.evaluate.energies import Regressor, load_regressor, regressed_energies
from tasks.papers.dp_cdvae.sampling import bonds_of, test_set
from tasks.papers.dp_cdvae.training import checkpoint_of
from tasks.papers.results import Measured, NotReadyError, Place, mean_error


def regressor_inputs(config: ReproductionConfig, entry: DatasetEntry) -> str:
    """Digest or name of the regressor; empty where it is not trained, which leaves energies undefined."""
    if entry.energy_regressor is not None:
        return load_regressor(entry.energy_regressor, config.execution).name
    try:
        return checkpoint_of(config, entry.name, "")[1]
    except NotReadyError:
        return ""


def energies_of(
    config: ReproductionConfig,
    entry: DatasetEntry,
    place: Place,
    crystals: Sequence[Crystal],
    truths: Sequence[Crystal],
) -> tuple[Energies | None, tuple[str, ...]]:
    """Energies of both sides; or None, and the sentence that says why there are none."""
    try:
        regressor = _regressor(config, entry)
    except NotReadyError as reason:
        return None, (f"No distance of energies: {reason}.",)
    bonds = bonds_of(config, entry, truths)
    return regressed_energies(regressor, crystals, truths, config.workers, place.folder(config) / "bonds", bonds), ()


def _regressor(config: ReproductionConfig, entry: DatasetEntry) -> Regressor:
    if entry.energy_regressor is not None:
        return load_regressor(entry.energy_regressor, config.execution)
    checkpoint, digest = checkpoint_of(config, entry.name, "")
    return Regressor(_loaded(config, checkpoint), f"DimeNet++ regressor {digest[:12]} of {entry.property_name}")


def regressor_figures(config: ReproductionConfig, dataset: str, checkpoint: Path) -> tuple[Measured, ...]:
    """Mean absolute error on the test crystals, beside that of the constant that is best."""
    entry = config.dataset(dataset)
    found = test_set(config, entry)
    truth = found.values
    predicted = _loaded(config, str(checkpoint)).predict(found.crystals, bonds_of(config, entry, found.crystals))
    known = np.isfinite(predicted) & np.isfinite(truth)
    figures = []
    for name, values in (
        ("mean absolute error on the test set", predicted[known] - truth[known]),
        ("mean absolute error of the median", truth[known] - np.median(truth[known]) if known.any() else truth[known]),
    ):
        errors = np.abs(values)
        mean = float(errors.mean()) if len(errors) else np.nan
        reason = "" if len(errors) else "no crystal has a value"
        figure = Figure("regressor", name, mean, "eV/atom", len(errors), reason)
        figures.append(mean_error(figure, errors.tolist()))
    return tuple(figures)


def _loaded(config: ReproductionConfig, checkpoint: str) -> Any:
    from tasks.loading import checkpoint as load

    return load(checkpoint, config.execution).system
