"""Samples relaxed with a potential and placed on the hull of known crystals, for the metrics that need energies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from configs.evaluation import JudgeConfig
from configs.schema import DiscoverConfig
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of, structure_columns
from storage.progress import LabelledProgress as Progress
from tasks.discover.candidates import RELAXED
from tasks.discover.known import competing_phases_of, cut_of, with_cut
from tasks.discover.own_files import formula_of, place_on_hull, relax_crystals, systems_of
from tasks.evaluate.samples import ReadCrystals
from tasks.files import key_of, keyed

if TYPE_CHECKING:
    from generative.metrics.ground_state import Relaxations


@dataclass(frozen=True)
class RelaxedSamples:
    """What relaxation made of the samples that were chosen for it.

    Attributes:
        places: of these samples among all, in order; those that are no crystals included.
        relaxations: generated and relaxed crystals, energies, steps; one entry per chosen sample.
        e_above_hull_ev_per_atom: (n,), eV/atom; NaN where it is not known.
        reasons: one sentence per chosen sample (by place among all) without a relaxed crystal or a place on the hull.
        hull: what the hull is made of; empty if there is none.
        cut: what was left out of the hull, in a sentence; may be empty.
        seconds: wall time, s.
    """

    places: tuple[int, ...]
    relaxations: Relaxations
    e_above_hull_ev_per_atom: np.ndarray
    reasons: dict[int, str]
    hull: str
    seconds: dict[str, float]
    cut: str = ""


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
    cut = None
    if known is not None and len(table):
        started = time.perf_counter()
        phases, added = relaxed_phases(known, systems_of(table), config, progress)
        cut = cut_of(phases)
        known_name += f" and elemental prototypes of {', '.join(added)}" if added else ""
        inside, outside = _with_phases(table, phases)
        reasons |= {place: why for place, why in outside.items() if place not in reasons}
        placed = place_on_hull(inside, phases, run).to_pylist() if len(inside) else []
        seconds["competing phases and hull"] = time.perf_counter() - started
        for row in placed:
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
        isolated=[rows.get(place, {}).get("relax_status") == "isolated" for place in places],
        potential=f"{identity.method} ({identity.fingerprint[:12]})",
        pressure_gpa=run.relax.pressure_gpa,
    )
    hull = "" if known is None else f"{known_name}, at most {run.hull.references_max} phases per chemical system"
    return RelaxedSamples(places, relaxations, above, reasons, hull, seconds, "" if cut is None else cut.note)


def static_energies(crystals: list[Crystal | None], config: JudgeConfig) -> tuple[np.ndarray, str]:
    """Potential energy of crystals as they are, (n,), eV/atom, NaN where there is none; and the potential's name."""
    from dft.potentials.relaxation import evaluate
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


def relaxed_phases(
    known: pa.Table, systems: Sequence[tuple[str, ...]], config: JudgeConfig, progress: Progress
) -> tuple[pa.Table, list[str]]:
    """Competing phases of these chemical systems, relaxed, and the elements whose prototypes were added.

    cut_of the phases tells what was left out. They are kept in the runs' folder and taken from there as long as
    crystals, potential and criteria stay the same.

    Args:
        known: all phases; of each system competing_phases_of chooses `hull.references_max`.
        systems: elements of each sample.
        config: potential, relaxation, hull, and whether elements that `known` lacks are made from prototypes.
        progress: told of every relaxation.
    """
    run = config.as_run()
    chosen = competing_phases_of(known, sorted({system for system in systems if system}), run.hull.references_max)
    digests = [
        [name, c.digest] for name, c in zip(chosen.column("id").to_pylist(), crystals_of(chosen), strict=True) if c
    ]
    tables = []
    if digests:
        key = _phases_key(run, crystals=digests)
        tables.append(_kept(run, key, lambda: relax_crystals(chosen, run, _told(progress, "relaxing phases"))))
    present = {system[0] for system in systems_of(chosen) if len(system) == 1}
    wanted = {element for system in systems for element in system}
    lacking = sorted(wanted - present) if config.elemental_prototypes else []
    for n, element in enumerate(lacking):
        progress("relaxing elemental prototypes", n, len(lacking))
        tables.append(_kept(run, _phases_key(run, element=element), partial(_relaxed_element, element, run)))
    names = [*(f.name for f in RELAXED), *(f.name for f in STRUCTURE_FIELDS)]
    phases = pa.concat_tables([table.select(names) for table in tables]) if tables else _no_phases(known)
    return with_cut(phases, cut_of(chosen)), lacking


def elemental_prototypes(element: str) -> pa.Table:
    """AFLOW's prototypes of one element at an estimated volume: id, formula and crystal, not relaxed."""
    from generative.datasets.checks import checked, primitive
    from generative.datasets.config import PrototypesSource
    from generative.datasets.prototypes import decorate

    made = decorate([element], PrototypesSource(n_elements_max=1))
    crystals = [primitive(checked(Crystal.from_structure(decoration.structure))) for decoration in made]
    ids = pa.array([f"prototypes:{decoration.name}" for decoration in made], pa.string())
    formulas = pa.array([formula_of(crystal) for crystal in crystals], pa.string())
    return pa.table({"id": ids, "formula": formulas, **structure_columns(crystals)})


def _relaxed_element(element: str, run: DiscoverConfig) -> pa.Table:
    return relax_crystals(elemental_prototypes(element), run)


def _phases_key(run: DiscoverConfig, **parts: Any) -> str:
    from tasks.loading import identify, potential_code

    return key_of(
        "phases",
        elemental_prototypes,
        relax_crystals,
        *potential_code(run.relax),
        potential=identify(run.relax, run.execution).fingerprint,
        relax=run.relax.criteria(),
        **parts,
    )


def _kept(run: DiscoverConfig, key: str, compute: Callable[[], pa.Table]) -> pa.Table:
    path = Path(run.execution.runs_folder) / ".references" / f"{key[:32]}.parquet"
    return keyed(path, key, compute).read()


def _no_phases(known: pa.Table) -> pa.Table:
    return known.slice(0, 0)


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
