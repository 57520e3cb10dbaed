"""What is measured of a reproduction's crystals: the figures of the paper's Tables 1, S1, 2, 3, each with its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from configs.reproduction import DatasetEntry, ReproductionConfig
from generative.crystal.crystals import Crystal, crystals_of
from generative.metrics.coverage import CARBON_24, MP_20, PEROV_5, Cutoffs
from generative.metrics.distributions import Property, property_values, wasserstein
from generative.metrics.figures import Evaluation, Figure
from generative.metrics.generation import Energies, generation, prints_of
from generative.metrics.ground_state import MEV_PER_EV, Relaxations, ground_state
from generative.metrics.reconstruction import Gate, evaluate
from generative.metrics.shares import percentage
from storage.progress import LabelledProgress as Progress
from tasks.papers.dp_cdvae.energies import energies_of, regressor_inputs
from tasks.papers.dp_cdvae.sampling import (
    Drawn,
    decoding_inputs,
    generated,
    reconstructed,
    relaxed,
    some_training_crystals,
    targets,
    test_set,
)
from tasks.papers.dp_cdvae.training import digest_of_file
from tasks.papers.results import (
    Made,
    Measured,
    Place,
    Result,
    bootstrap_error,
    kept,
    mean_error,
    share_error,
)

GATED, UNGATED = "published gate", "no gate"
CUTOFFS: dict[str, Cutoffs] = {"perov-5": PEROV_5, "carbon-24": CARBON_24, "mp-20": MP_20}


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


# --- Tables 1 and S1 --------------------------------------------------------------------------------------------------


def reconstruct_inputs(config: ReproductionConfig, place: Place) -> dict[str, Any]:
    """What the figures of a reconstruction depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(place.dataset)
    decoding = decoding_inputs(config, entry, place.system, place.reverse)
    return {**decoding, "n": entry.n_reconstruct, "test": digest_of_file(entry.test), "max_atoms": entry.max_atoms}


def reconstruct(config: ReproductionConfig, place: Place, progress: Progress = silent) -> Result:
    """Encode and decode test crystals, and match each with what came (Table 1; with Eq. 6, Table S1).

    Raises: NotReadyError: if the system is not trained.
    """

    def make() -> Made:
        drawn = reconstructed(config, place, progress)
        truths = targets(config, config.dataset(place.dataset)).crystals
        return Made(reconstruction_figures(drawn.crystals, truths, config.workers), drawn.sampling)

    return kept(config, place, reconstruct, reconstruct_inputs(config, place), make)


def reconstruction_figures(
    predictions: Sequence[Crystal], truths: Sequence[Crystal], workers: int = 1
) -> tuple[Measured, ...]:
    """Match rate and mean rms with the published gate and without, and what a match presupposes.

    The published gate refuses predictions that break CDVAE's structure rule or whose composition SMACT refuses.
    """
    figures: list[Measured] = []
    for gate, how in ((Gate.CDVAE, GATED), (Gate.NONE, UNGATED)):
        found = evaluate(list(predictions), truths, gate, workers)
        evaluation = found.as_evaluation()
        matched = [rms for rms in found.rms if rms is not None]
        rate, rms = evaluation.figure("match rate"), evaluation.figure("mean rms")
        figures.append(share_error(replace(rate, name=f"match rate, {how}")))
        figures.append(mean_error(replace(rms, name=f"mean rms, {how}"), matched))
    n = len(truths)
    pairs = [(np.sort(p.atomic_numbers), np.sort(t.atomic_numbers)) for p, t in zip(predictions, truths, strict=True)]
    same_count = sum(len(p) == len(t) for p, t in pairs)
    same_content = sum(np.array_equal(p, t) for p, t in pairs)
    for name, hits in (("right number of atoms", same_count), ("right composition", same_content)):
        figures.append(share_error(percentage("cdvae reconstruction", name, hits, n, {})))
    return tuple(figures)


# --- Table 2 ----------------------------------------------------------------------------------------------------------


def generate_inputs(config: ReproductionConfig, place: Place) -> dict[str, Any]:
    """What the figures of generation depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(place.dataset)
    return {
        **decoding_inputs(config, entry, place.system, place.reverse),
        "n": entry.n_generate,
        "n_drawn": config.n_drawn,
        "test": digest_of_file(entry.test),
        "max_atoms": entry.max_atoms,
        "regressor": regressor_inputs(config, entry),
    }


def generate(config: ReproductionConfig, place: Place, progress: Progress = silent) -> Result:
    """Decode crystals from the prior, and compare them with the test set (Table 2).

    Raises: NotReadyError: if the system is not trained.
    """

    def make() -> Made:
        drawn = generated(config, place, progress)
        entry = config.dataset(place.dataset)
        truths = test_set(config, entry).crystals
        energies, notes = energies_of(config, entry, place, drawn.crystals, truths)
        progress(f"judging {place.name}", 0, 1)
        figures = generation_figures(config, entry, drawn.crystals, truths, energies)
        return Made(figures, drawn.sampling, notes=notes)

    return kept(config, place, generate, generate_inputs(config, place), make)


def ceiling_inputs(config: ReproductionConfig, place: Place) -> dict[str, Any]:
    """What the figures of real crystals depend on."""
    entry = config.dataset(place.dataset)
    return {
        "files": [digest_of_file(entry.train), digest_of_file(entry.test)],
        "n": [entry.n_generate, entry.n_reconstruct, config.n_drawn],
        "max_atoms": entry.max_atoms,
        "seed": config.seed,
        "regressor": regressor_inputs(config, entry),
    }


def ceiling(config: ReproductionConfig, place: Place, progress: Progress = silent) -> Result:
    """What crystals as real as can be get: test crystals against themselves, training crystals as if generated.

    Coverage grows with the number of samples, and the published gate refuses some true crystals: without these figures
    a reader would blame the systems for both.
    """

    def make() -> Made:
        entry = config.dataset(place.dataset)
        own = targets(config, entry).crystals
        truths, drawn = test_set(config, entry).crystals, some_training_crystals(config, entry)
        energies, notes = energies_of(config, entry, place, drawn, truths)
        progress(f"judging {place.name}", 0, 1)
        matched = reconstruction_figures(own, own, config.workers)
        return Made((*matched, *generation_figures(config, entry, drawn, truths, energies)), notes=notes)

    return kept(config, place, ceiling, ceiling_inputs(config, place), make)


def generation_figures(
    config: ReproductionConfig,
    entry: DatasetEntry,
    crystals: Sequence[Crystal],
    truths: Sequence[Crystal],
    energies: Energies | None,
) -> tuple[Measured, ...]:
    """Validity, coverage and distances of distributions, with errors."""
    cache = config.folder / entry.name / "fingerprints"
    evaluation = generation(
        crystals,
        truths,
        CUTOFFS[entry.name],
        reference_name=entry.test,
        with_composition=entry.name != "carbon-24",
        energies=energies,
        n_drawn=config.n_drawn,
        seed=config.seed,
        sample_prints=prints_of(crystals, config.workers, cache),
        reference_prints=prints_of(truths, config.workers, cache),
    )
    spreads = {
        "W density": (Property.DENSITY, property_values(Property.DENSITY, crystals), None),
        "W number of elements": (Property.N_ELEMENTS, property_values(Property.N_ELEMENTS, crystals), None),
    } | ({} if energies is None else {"W energy": (Property.ENERGY, np.asarray(energies.samples), energies)})
    valid = np.array(evaluation.per_sample["valid"], dtype=bool)
    figures = []
    for figure in evaluation.figures:
        if figure.unit == "%":
            figures.append(share_error(figure))
        elif figure.name in spreads:
            kind, values, given = spreads[figure.name]
            there = property_values(kind, truths) if given is None else np.asarray(given.reference)
            figures.append(_spread_error(figure, kind, values[valid], there, config))
        else:
            figures.append(Measured(figure))
    return tuple(figures)


def _spread_error(
    figure: Figure, kind: Property, values: np.ndarray, there: np.ndarray, config: ReproductionConfig
) -> Measured:
    """A Wasserstein distance with its error: as many values as were compared, drawn again."""
    values, there = values[np.isfinite(values)], there[np.isfinite(there)]
    if config.n_drawn is not None:
        values = values[np.random.default_rng(config.seed).permutation(len(values))[: config.n_drawn]]
    return bootstrap_error(
        figure, values, lambda again: wasserstein(kind, again, there, None, 0, "bootstrap").distance, config.seed
    )


# --- Table 3 ----------------------------------------------------------------------------------------------------------


def ground_state_inputs(config: ReproductionConfig, place: Place) -> dict[str, Any]:
    """What the figures of the ground-state test depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    entry, test = config.dataset(place.dataset), config.ground_state
    return {
        **decoding_inputs(config, entry, place.system, place.reverse),
        "n_generate": entry.n_generate,
        "n": test.n,
        "relax": test.relax.model_dump(mode="json", exclude={"chunk_size"}),
    }


def relax(config: ReproductionConfig, place: Place, progress: Progress = silent) -> Result:
    """Relax generated crystals under pressure, and compare them with what they became (Table 3).

    Raises: NotReadyError: if the system is not trained, or the potential cannot be had.
    """

    def make() -> Made:
        drawn = generated(config, replace(place, stage="generate"), progress)
        n = config.ground_state.n
        first = replace(drawn, ids=drawn.ids[:n], crystals=drawn.crystals[:n])
        table = relaxed(config, first, place.folder(config), progress)
        made = relaxations(first, table, config.ground_state.relax.pressure_gpa)
        return Made(ground_state_figures(made, config.workers, config.seed), {"potential": made.potential})

    return kept(config, place, relax, ground_state_inputs(config, place), make)


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


def ground_state_figures(made: Relaxations, workers: int = 1, seed: int = 0) -> tuple[Measured, ...]:
    """Match, rms, and changes of volume, energy and enthalpy (E + PV, what goes down under pressure)."""
    evaluation = ground_state(made, workers)
    under_pressure = replace(
        made,
        initial_energy_ev_per_atom=_enthalpies(made.generated, made.initial_energy_ev_per_atom, made.pressure_gpa),
        energy_ev_per_atom=_enthalpies(made.relaxed, made.energy_ev_per_atom, made.pressure_gpa),
    )
    of_enthalpy = ground_state(under_pressure, workers)
    columns = {name: _known(evaluation, name) for name in ("rms", "dv_ang3_per_atom", "de_ev_per_atom")}
    figures = [_ground_state_error(figure, columns, seed) for figure in evaluation.figures]
    enthalpy = {"de_ev_per_atom": _known(of_enthalpy, "de_ev_per_atom")}
    for figure in of_enthalpy.figures:
        if "dE" in figure.name:
            made_ = _ground_state_error(figure, enthalpy, seed)
            figures.append(replace(made_, figure=replace(figure, name=figure.name.replace("dE", "dH"))))
    return tuple(figures)


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


def _ground_state_error(figure: Figure, columns: Mapping[str, np.ndarray], seed: int) -> Measured:
    """The error of a share, of the mean rms, and of a root mean square of dV or dE."""
    if figure.unit == "%":
        return share_error(figure)
    if figure.name == "mean rms":
        return mean_error(figure, columns["rms"].tolist())
    kind, _, how = figure.name.partition(" ")
    column = {"dV": "dv_ang3_per_atom", "dE": "de_ev_per_atom"}.get(kind, "")
    if how != "rms" or column not in columns:
        return Measured(figure)
    scale = MEV_PER_EV if kind == "dE" else 1.0
    return bootstrap_error(figure, columns[column], lambda v: scale * math.sqrt(float(np.mean(v**2))), seed)


MEASURES: dict[str, Callable[[ReproductionConfig, Place, Progress], Result]] = {
    "ceiling": ceiling,
    "reconstruct": reconstruct,
    "generate": generate,
    "ground-state": relax,
}
"""Stage -> what makes its result."""
