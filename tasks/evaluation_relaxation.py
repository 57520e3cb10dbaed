"""Samples relaxed with a potential and placed on the hull of known crystals, for the figures that need energies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from configs.evaluation import JudgeConfig
from generative.crystals import Crystal, crystals_of, structure_columns
from tasks.evaluation_samples import ReadCrystals
from tasks.own_files import formula_of, place_on_hull, relax_crystals, systems_of

if TYPE_CHECKING:
    from generative.metrics.ground_state import Relaxations

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many are."""


@dataclass(frozen=True)
class RelaxedSamples:
    """What relaxation made of the samples that were chosen for it.

    Attributes:
        places: of these samples among all, in order; those that are no crystals included.
        relaxations: generated and relaxed crystals, energies, steps; one entry per chosen sample.
        e_above_hull_ev_per_atom: (n,), eV/atom; NaN where it is not known.
        reasons: one sentence per chosen sample (by place among all) without a relaxed crystal or a place on the hull.
        hull: what the hull is made of; empty if there is none.
        seconds: wall time, s.
    """

    places: tuple[int, ...]
    relaxations: Relaxations
    e_above_hull_ev_per_atom: np.ndarray
    reasons: dict[int, str]
    hull: str
    seconds: dict[str, float]


def chosen_places(n: int, limit: int | None, seed: int) -> tuple[int, ...]:
    """Places of the samples to relax: all, or `limit` of them drawn at random, in order."""
    drawn = np.random.default_rng(seed).permutation(n)[:limit]
    return tuple(sorted(int(place) for place in drawn))


def relax_samples(
    samples: ReadCrystals, known: pa.Table | None, known_name: str, config: JudgeConfig, progress: Progress
) -> RelaxedSamples:
    """Relax at most `config.limit` samples, and place them on the hull of known crystals relaxed alike.

    Args:
        samples: as read.
        known: competing phases, a dataset; None leaves energies above the hull unknown.
        known_name: name and digest of `known`.
        config: potential, relaxation, hull, limit, seed.
        progress: told of every relaxation.
    """
    from generative.metrics.ground_state import Relaxations
    from tasks.loading import identify

    run = config.as_run()
    identity = identify(run.relax, run.execution)
    places = chosen_places(len(samples), config.limit, config.seed)
    started = time.perf_counter()
    table = relax_crystals(_table(samples, places), run, _told(progress, "relaxing samples"))
    seconds = {"relaxing samples": time.perf_counter() - started}
    rows = {int(row["id"]): row for row in table.to_pylist()}
    relaxed = dict(zip(map(int, table.column("id").to_pylist()), crystals_of(table, "relaxed_"), strict=True))
    reasons = {place: rows[place]["relax_reason"] for place in rows if relaxed[place] is None}
    above = np.full(len(places), math.nan)
    if known is not None and len(table):
        started = time.perf_counter()
        if config.elemental_prototypes:
            known, added = with_elements(known, systems_of(table))
            known_name += f" and elemental prototypes of {', '.join(added)}" if added else ""
        inside, outside = _with_phases(table, known)
        reasons |= {place: why for place, why in outside.items() if place not in reasons}
        placed = (
            place_on_hull(inside, known, run, _told(progress, "relaxing competing phases")) if len(inside) else None
        )
        seconds["competing phases and hull"] = time.perf_counter() - started
        for row in [] if placed is None else placed.to_pylist():
            energy, place = row["e_above_hull_ev_per_atom"], int(row["id"])
            above[places.index(place)] = math.nan if energy is None else energy
            if energy is None and row["hull_note"]:
                reasons.setdefault(place, row["hull_note"])
    relaxations = Relaxations(
        generated=[samples.crystals[place] for place in places],
        relaxed=[relaxed.get(place) for place in places],
        initial_energy_ev_per_atom=_column(rows, places, "generated_energy_ev_per_atom"),
        energy_ev_per_atom=_column(rows, places, "energy_ev_per_atom"),
        n_steps=_column(rows, places, "relax_steps"),
        converged=[rows.get(place, {}).get("relax_status") == "converged" for place in places],
        potential=f"{identity.method} ({identity.fingerprint[:12]})",
        pressure_gpa=run.relax.pressure_gpa,
    )
    hull = "" if known is None else f"{known_name}, at most {run.hull.references_max} phases per chemical system"
    return RelaxedSamples(places, relaxations, above, reasons, hull, seconds)


def static_energies(crystals: list[Crystal | None], config: JudgeConfig) -> tuple[np.ndarray, str]:
    """Potential energy of crystals as they are, (n,), eV/atom, NaN where there is none; and the potential's name."""
    from dft.relaxation import evaluate
    from tasks.loading import potential

    run = config.as_run()
    loaded = potential(run.relax, run.execution)
    energies = np.full(len(crystals), math.nan)
    places = [place for place, crystal in enumerate(crystals) if crystal is not None]
    found = evaluate([c.to_structure() for c in crystals if c is not None], loaded)
    energies[places] = [math.nan if energy is None else energy for energy in found]
    return energies, loaded.method


def _table(samples: ReadCrystals, places: tuple[int, ...]) -> pa.Table:
    """The chosen samples that are crystals; ids are their places, so that equal names do no harm."""
    kept = [(place, crystal) for place in places if (crystal := samples.crystals[place]) is not None]
    return pa.table(
        {
            "id": pa.array([str(place) for place, _ in kept], pa.string()),
            "formula": pa.array([formula_of(crystal) for _, crystal in kept], pa.string()),
            **structure_columns([crystal for _, crystal in kept]),
        }
    )


def with_elements(known: pa.Table, systems: Sequence[tuple[str, ...]]) -> tuple[pa.Table, list[str]]:
    """Competing phases with AFLOW's elemental prototypes of the elements that they lack, and which elements these are.

    Prototypes come unrelaxed, at an estimated volume; they are relaxed with the other phases.
    """
    from generative.config import PrototypesSource
    from generative.datasets.checks import checked, primitive
    from generative.datasets.prototypes import decorate
    from generative.datasets.records import row_of, table_of
    from generative.datasets.table import DATASET_SCHEMA

    present = {system[0] for system in systems_of(known) if len(system) == 1}
    lacking = sorted({element for system in systems for element in system} - present)
    rows = []
    for element in lacking:
        for decoration in decorate([element], PrototypesSource(n_elements_max=1)):
            crystal = primitive(checked(Crystal.from_structure(decoration.structure)))
            rows.append(row_of(crystal, "prototypes", decoration.name, "not stated", {}))
    if not rows:
        return known, []
    names = [name for name in DATASET_SCHEMA.names if name in known.column_names]
    added = table_of(rows).select(names).cast(known.select(names).schema)
    return pa.concat_tables([known.select(names), added]), lacking


def _with_phases(table: pa.Table, known: pa.Table) -> tuple[pa.Table, dict[int, str]]:
    """The samples in whose chemical system there is a competing phase, and why the others have no hull, by place."""
    phases = {frozenset(system) for system in systems_of(known) if system}
    own = [frozenset(system) for system in systems_of(table)]
    has_phase = {system: any(phase <= system for phase in phases) for system in set(own)}
    outside = {
        int(name): f"no competing phase is known in the chemical system {'-'.join(sorted(system))}"
        for name, system in zip(table.column("id").to_pylist(), own, strict=True)
        if not has_phase[system]
    }
    return table.filter(pa.array([has_phase[system] for system in own], pa.bool_())), outside


def _column(rows: dict[int, dict[str, Any]], places: tuple[int, ...], name: str) -> np.ndarray:
    values = [rows.get(place, {}).get(name) for place in places]
    return np.array([math.nan if value is None else float(value) for value in values])


def _told(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)
