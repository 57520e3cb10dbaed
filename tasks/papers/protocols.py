"""The metrics of the protocols that several papers report, each with the error that a sample of this size leaves.

Reconstruction and generation are those of CDVAE's benchmark, the ground state that of DP-CDVAE; the numbers themselves
come from generative.metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from generative.crystal.crystals import Crystal, crystals_of
from generative.metrics.coverage import Cutoffs
from generative.metrics.distributions import Property, property_values, wasserstein
from generative.metrics.generation import Energies, generation, prints_of
from generative.metrics.ground_state import MEV_PER_EV, Relaxations, ground_state
from generative.metrics.metric import Evaluation, Metric
from generative.metrics.reconstruction import Gate, evaluate
from generative.metrics.shares import percentage
from tasks.papers.results import Measured, bootstrap_error, mean_error, share_error
from tasks.papers.samples import Drawn

GATED, UNGATED = "published gate", "no gate"


def reconstruction_metrics(
    predictions: Sequence[Crystal], truths: Sequence[Crystal], workers: int = 1
) -> tuple[Measured, ...]:
    """Match rate and mean rms with the published gate and without, and what a match presupposes.

    The published gate refuses predictions that break CDVAE's structure rule or whose composition SMACT refuses.
    """
    metrics: list[Measured] = []
    for gate, how in ((Gate.CDVAE, GATED), (Gate.NONE, UNGATED)):
        found = evaluate(list(predictions), truths, gate, workers)
        evaluation = found.as_evaluation()
        matched = [rms for rms in found.rms if rms is not None]
        rate, rms = evaluation.metric("match rate"), evaluation.metric("mean rms")
        metrics.append(share_error(replace(rate, name=f"match rate, {how}")))
        metrics.append(mean_error(replace(rms, name=f"mean rms, {how}"), matched))
    n = len(truths)
    pairs = [(np.sort(p.atomic_numbers), np.sort(t.atomic_numbers)) for p, t in zip(predictions, truths, strict=True)]
    same_count = sum(len(p) == len(t) for p, t in pairs)
    same_content = sum(np.array_equal(p, t) for p, t in pairs)
    for name, hits in (("right number of atoms", same_count), ("right composition", same_content)):
        metrics.append(share_error(percentage("cdvae reconstruction", name, hits, n, {})))
    return tuple(metrics)


def generation_metrics(
    crystals: Sequence[Crystal],
    truths: Sequence[Crystal],
    cutoffs: Cutoffs,
    reference_name: str,
    energies: Energies | None,
    n_drawn: int | None,
    seed: int,
    cache: Path,
    with_composition: bool = True,
    workers: int = 1,
) -> tuple[Measured, ...]:
    """Validity, coverage and distances of distributions.

    Args:
        crystals: generated.
        truths: the test set.
        cutoffs: of coverage.
        reference_name: of the test set, for the settings of the metrics.
        energies: of both sides; None leaves their distance undefined.
        n_drawn: valid crystals drawn for the distances; None takes all.
        seed: of that draw.
        cache: folder that keeps fingerprints.
        with_composition: False where charges cannot balance, as in carbon.
        workers: processes.
    """
    evaluation = generation(
        crystals,
        truths,
        cutoffs,
        reference_name=reference_name,
        with_composition=with_composition,
        energies=energies,
        n_drawn=n_drawn,
        seed=seed,
        sample_prints=prints_of(crystals, workers, cache),
        reference_prints=prints_of(truths, workers, cache),
    )
    spreads = {
        "W density": (Property.DENSITY, property_values(Property.DENSITY, crystals), None),
        "W number of elements": (Property.N_ELEMENTS, property_values(Property.N_ELEMENTS, crystals), None),
    } | ({} if energies is None else {"W energy": (Property.ENERGY, np.asarray(energies.samples), energies)})
    valid = np.array(evaluation.per_sample["valid"], dtype=bool)
    metrics = []
    for metric in evaluation.metrics:
        if metric.unit == "%":
            metrics.append(share_error(metric))
        elif metric.name in spreads:
            kind, values, given = spreads[metric.name]
            there = property_values(kind, truths) if given is None else np.asarray(given.reference)
            metrics.append(_spread_error(metric, kind, values[valid], there, n_drawn, seed))
        else:
            metrics.append(Measured(metric))
    return tuple(metrics)


def _spread_error(
    metric: Metric, kind: Property, values: np.ndarray, there: np.ndarray, n_drawn: int | None, seed: int
) -> Measured:
    """A Wasserstein distance with its error: as many values as were compared, drawn again."""
    values, there = values[np.isfinite(values)], there[np.isfinite(there)]
    if n_drawn is not None:
        values = values[np.random.default_rng(seed).permutation(len(values))[:n_drawn]]
    return bootstrap_error(
        metric, values, lambda again: wasserstein(kind, again, there, None, 0, "bootstrap").distance, seed
    )


def regression_metrics(predicted: np.ndarray, truth: np.ndarray, unit: str) -> tuple[Measured, ...]:
    """Mean absolute error of a regressor, beside that of the constant that is best.

    Args: predicted and true values, (n,), NaN where there are none; their unit.
    """
    known = np.isfinite(predicted) & np.isfinite(truth)
    predicted, truth = predicted[known], truth[known]
    metrics = []
    for name, values in (
        ("mean absolute error on the test set", predicted - truth),
        ("mean absolute error of the median", truth - np.median(truth) if len(truth) else truth),
    ):
        errors = np.abs(values)
        mean = float(errors.mean()) if len(errors) else np.nan
        metric = Metric("regressor", name, mean, unit, len(errors), "" if len(errors) else "no crystal has a value")
        metrics.append(mean_error(metric, errors.tolist()))
    return tuple(metrics)


def relaxations(drawn: Drawn, table: pa.Table, pressure_gpa: float) -> Relaxations:
    """One entry per crystal, those that could not be relaxed included."""
    rows = {str(row["id"]): row for row in table.to_pylist()}
    ends = dict(zip(map(str, table.column("id").to_pylist()), crystals_of(table, "relaxed_"), strict=True))

    def column(name: str) -> list[float]:
        values = [rows.get(i, {}).get(name) for i in drawn.ids]
        return [math.nan if value is None else float(value) for value in values]

    methods = sorted({row["energy_method"] for row in rows.values()})
    return Relaxations(
        generated=drawn.crystals,
        relaxed=[ends.get(i) for i in drawn.ids],
        initial_energy_ev_per_atom=column("generated_energy_ev_per_atom"),
        energy_ev_per_atom=column("energy_ev_per_atom"),
        n_steps=column("relax_steps"),
        converged=[rows.get(i, {}).get("relax_status") == "converged" for i in drawn.ids],
        isolated=[rows.get(i, {}).get("relax_status") == "isolated" for i in drawn.ids],
        potential=", ".join(methods) or "none",
        pressure_gpa=pressure_gpa,
    )


def ground_state_metrics(made: Relaxations, workers: int = 1, seed: int = 0) -> tuple[Measured, ...]:
    """Match, rms, and changes of volume, energy and enthalpy (E + PV, what goes down under pressure)."""
    evaluation = ground_state(made, workers)
    under_pressure = replace(
        made,
        initial_energy_ev_per_atom=_enthalpies(made.generated, made.initial_energy_ev_per_atom, made.pressure_gpa),
        energy_ev_per_atom=_enthalpies(made.relaxed, made.energy_ev_per_atom, made.pressure_gpa),
    )
    of_enthalpy = ground_state(under_pressure, workers)
    columns = {name: _known(evaluation, name) for name in ("rms", "dv_ang3_per_atom", "de_ev_per_atom")}
    columns |= _means(made)
    metrics = [_ground_state_error(metric, columns, seed) for metric in evaluation.metrics]
    enthalpy = {"de_ev_per_atom": _known(of_enthalpy, "de_ev_per_atom")}
    for metric in of_enthalpy.metrics:
        if "dE" in metric.name:
            made_ = _ground_state_error(metric, enthalpy, seed)
            metrics.append(replace(made_, metric=replace(metric, name=metric.name.replace("dE", "dH"))))
    return tuple(metrics)


def _means(made: Relaxations) -> dict[str, np.ndarray]:
    """What the means of steps and of energy drops are of."""
    drop = np.asarray(made.initial_energy_ev_per_atom, dtype=float) - np.asarray(made.energy_ev_per_atom, dtype=float)
    atoms = np.array([0 if crystal is None else len(crystal.atomic_numbers) for crystal in made.generated])
    steps = np.asarray(made.n_steps, dtype=float)[np.asarray(made.converged, dtype=bool)]
    seen = ~np.asarray(made.isolated, dtype=bool) if made.isolated is not None else np.ones(len(drop), dtype=bool)
    found = {"mean steps": steps, "mean energy drop": drop[seen], "mean energy drop per cell": (drop * atoms)[seen]}
    return {name: values[np.isfinite(values)] for name, values in found.items()}


def _enthalpies(
    crystals: Sequence[Crystal | None], energies_ev_per_atom: Sequence[float] | np.ndarray, pressure_gpa: float
) -> list[float]:
    from dft.hull.convex_hull import enthalpy_ev_per_atom

    found = []
    for crystal, energy in zip(crystals, energies_ev_per_atom, strict=True):
        if crystal is None or not math.isfinite(energy):
            found.append(math.nan)
            continue
        volume = abs(float(np.linalg.det(crystal.lattice_ang))) / len(crystal.atomic_numbers)
        found.append(enthalpy_ev_per_atom(float(energy), volume, pressure_gpa))
    return found


def _known(evaluation: Evaluation, name: str) -> np.ndarray:
    values = np.array([math.nan if v is None else v for v in evaluation.per_sample[name]], dtype=float)
    known: np.ndarray = values[np.isfinite(values)]
    return known


def _ground_state_error(metric: Metric, columns: Mapping[str, np.ndarray], seed: int) -> Measured:
    """The error of a share, of the mean rms, and of a root mean square of dV or dE."""
    if metric.unit == "%":
        return share_error(metric)
    if metric.name == "mean rms":
        return mean_error(metric, columns["rms"].tolist())
    if metric.name in columns:
        return mean_error(metric, columns[metric.name].tolist())
    kind, _, how = metric.name.partition(" ")
    column = {"dV": "dv_ang3_per_atom", "dE": "de_ev_per_atom"}.get(kind, "")
    if how != "rms" or column not in columns:
        return Measured(metric)
    scale = MEV_PER_EV if kind == "dE" else 1.0
    return bootstrap_error(metric, columns[column], lambda v: scale * math.sqrt(float(np.mean(v**2))), seed)
