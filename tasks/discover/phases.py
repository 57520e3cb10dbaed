"""The competing phases of a run, relaxed: the hull they span, where each came from, and which are candidates too.

A prototype decorated by Hullward stands on the hull like any phase, but no database holds it: one that is stable and
like no known crystal is offered as a candidate, measured against the hull of all the other phases.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, crystals_of, field_of
from generative.datasets.origins import LABELS, Origin, origins_of, split_by_origin
from storage.tables import read_table
from tasks.discover.candidates import RELAXED, SAMPLED, SCREENED, Proposer, joined, table_of
from tasks.discover.screen import screen_table
from tasks.files import OF_A_RUN, FileRef, key_of, keyed

if TYPE_CHECKING:
    from dft.hull.convex_hull import CompetingHull, Phase

ON_HULL_EV_PER_ATOM = 1e-8
"""A phase at most this far above the hull that it spans itself is a vertex of it; rounding, not physics."""


NAMED_MAX = 12
"""Stable formulas named on one line of the terminal."""


PHASES = [
    field_of("id", pa.string(), "id of the crystal in the run's dataset"),
    field_of("formula", pa.string(), "reduced formula"),
    field_of("origin", pa.string(), "reported | hypothetical | unstated (all in a database) | prototype (ours)"),
    field_of("same_as", pa.string(), "of a prototype: id of the known crystal that it is, which lends it its origin"),
    field_of("relax_status", pa.string(), "how the relaxation ended"),
    field_of("formation_energy_ev_per_atom", pa.float64(), "from the elements, with the potential, eV/atom; or null"),
    field_of("e_above_hull_ev_per_atom", pa.float64(), "above the hull of all these phases, eV/atom, >= 0; or null"),
    field_of("on_hull", pa.bool_(), "whether it is a vertex of that hull; null without an energy"),
    field_of("energy_method", pa.string(), "the potential: level of theory of the energies"),
]


def hull_energy(
    row: dict[str, Any], crystal: Crystal, pressure_gpa: float, name: str = "energy_ev_per_atom"
) -> float | None:
    """What the hull compares, eV/atom: the energy of a relaxed row (or another of its columns), plus PV."""
    from dft.hull.convex_hull import enthalpy_ev_per_atom

    energy = row[name]
    volume = abs(float(np.linalg.det(crystal.lattice_ang))) / len(crystal.atomic_numbers)
    return None if energy is None else enthalpy_ev_per_atom(energy, volume, pressure_gpa)


def phases_of(relaxed: pa.Table, pressure_gpa: float) -> list[Phase]:
    """Relaxed competing phases; those that exploded, failed or ended isolated have none, and the hull's notes say so.

    One that met the step cap keeps its energy: it bounds the true one from above, so the hull it gives is nearer the
    truth than the hull without it.
    """
    from pymatgen.core.composition import Composition

    from dft.hull.convex_hull import Phase

    return [
        Phase(
            row["id"],
            Composition(row["formula"]),
            None if crystal is None else hull_energy(row, crystal, pressure_gpa),
            row["energy_method"],
            row["relax_reason"] if crystal is None else "",
        )
        for row, crystal in zip(relaxed.to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True)
    ]


def competing_hull(relaxed: pa.Table, config: DiscoverConfig) -> CompetingHull:
    """The hull of the run's relaxed competing phases, at the pressure they were relaxed at."""
    from dft.hull.convex_hull import CompetingHull

    return CompetingHull(phases_of(relaxed, config.relax.pressure_gpa), config.elements)


def phases_table(known: pa.Table, relaxed: pa.Table, config: DiscoverConfig) -> pa.Table:
    """Every competing phase with its origin and its energy above the hull of them all; the table of columns PHASES.

    Args:
        known: the run's dataset, for origins and for what a prototype may be a copy of.
        relaxed: the competing phases, columns RELAXED.
        config: matching tolerances, elements, pressure.
    """
    hull = competing_hull(relaxed, config)
    above = hull.phases_above_hull()
    formation_energies = {}
    for phase in hull.phases:
        if above[phase.id] is not None:
            position = hull.place(phase.composition, phase.energy_ev_per_atom, phase.method)
            formation_energies[phase.id] = position.formation_energy_ev_per_atom
    origins = dict(zip(known.column("id").to_pylist(), origins_of(known), strict=True))
    copies = _known_prototypes(known, relaxed, origins, config)
    rows = []
    for row in relaxed.select(["id", "formula", "relax_status", "energy_method"]).to_pylist():
        height = above.get(row["id"])
        same_as = copies.get(row["id"])
        row |= {
            "origin": origins.get(same_as or row["id"], Origin.UNSTATED.value),
            "same_as": same_as,
            "formation_energy_ev_per_atom": formation_energies.get(row["id"]),
            "e_above_hull_ev_per_atom": None if height is None else max(0.0, height),
            "on_hull": None if height is None else height <= ON_HULL_EV_PER_ATOM,
        }
        rows.append(row)
    return table_of(rows, PHASES)


def _known_prototypes(
    known: pa.Table, relaxed: pa.Table, origins: dict[str, str], config: DiscoverConfig
) -> dict[str, str]:
    """Id of a prototype -> id of the database's crystal that it is, as decorated or after relaxation."""
    from generative.screening.matching import ReferenceSet, Tolerances, find_known

    tolerances = Tolerances.from_config(config.screen)
    databases, prototypes = split_by_origin(known)
    if not len(databases) or not len(prototypes):
        return {}
    found: dict[str, str] = {}

    def look(names: list[str], crystals: list[Crystal], references: ReferenceSet) -> None:
        for name, match in zip(names, find_known(crystals, references, tolerances).matches, strict=True):
            if match is not None:
                found.setdefault(name, match.reference_id)

    as_decorated = [
        (name, crystal)
        for name, crystal in zip(prototypes.column("id").to_pylist(), crystals_of(prototypes), strict=True)
        if crystal is not None
    ]
    look([n for n, _ in as_decorated], [c for _, c in as_decorated], ReferenceSet.from_table(databases))
    after = [
        (name, crystal)
        for name, crystal in zip(relaxed.column("id").to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True)
        if crystal is not None
    ]
    ours = [(n, c) for n, c in after if origins.get(n) == Origin.PROTOTYPE]
    theirs = [(n, c) for n, c in after if origins.get(n) != Origin.PROTOTYPE]
    look([n for n, _ in ours], [c for _, c in ours], ReferenceSet([n for n, _ in theirs], [c for _, c in theirs]))
    return found


def phases_file(config: DiscoverConfig, folder: Path, known: FileRef, references: list[FileRef]) -> FileRef:
    """The competing phases with origin and energies: phases.parquet; see phases_table."""
    key = key_of(
        "phases",
        phases_file,
        screen=config.screen.model_dump(mode="json"),
        elements=sorted(config.elements),
        pressure_gpa=config.relax.pressure_gpa,
        known=known.sha256,
        references=[ref.sha256 for ref in references],
    )

    def compute() -> pa.Table:
        return phases_table(known.read(), joined([ref.read() for ref in references], RELAXED), config)

    return keyed(folder / "phases.parquet", key, compute)


def prototype_candidates(phases: pa.Table, known: pa.Table, config: DiscoverConfig) -> pa.Table:
    """Stable prototypes that no database holds, screened like any candidate; columns SCREENED, crystals as decorated.

    Args:
        phases: columns PHASES.
        known: the run's dataset.
        config: `hull.prototypes_within_ev_per_atom` says how far above the hull is stable; screening settings.
    """
    within = config.hull.prototypes_within_ev_per_atom
    heights = {
        row["id"]: row["e_above_hull_ev_per_atom"]
        for row in phases.to_pylist()
        if row["origin"] == Origin.PROTOTYPE and row["e_above_hull_ev_per_atom"] is not None
    }
    chosen = {name for name, height in heights.items() if within is not None and height <= within + ON_HULL_EV_PER_ATOM}
    databases, prototypes = split_by_origin(known)
    rows = []
    for row, crystal in zip(prototypes.to_pylist(), crystals_of(prototypes), strict=True):
        # An element is no discovery: its prototypes are what formation energies are counted from.
        if row["id"] not in chosen or crystal is None or len(set(row["atomic_numbers"])) < 2:
            continue
        named = {f.name: row[f.name] for f in SAMPLED if f.name in row}
        rows.append({**named, "id": candidate_id(row["id"]), "proposed_by": Proposer.PROTOTYPE.value})
    screened = screen_table(table_of(rows, SAMPLED), databases, config.screen)
    like = {candidate_id(name): name for name in chosen}
    matches = [like[name] for name in screened.column("id").to_pylist()]
    index = screened.schema.get_field_index("prototype_match")
    column = pa.array(matches, type=pa.string())
    return screened.set_column(index, screened.schema.field(index), column).select([f.name for f in SCREENED])


def candidate_id(prototype: str) -> str:
    """Id of the candidate that a decorated prototype is: a hash of the prototype's id, the same on every machine."""
    return hashlib.sha256(f"prototype\0{prototype}".encode()).hexdigest()[:16]


def counted(phases: pa.Table) -> dict[str, dict[str, int]]:
    """Origin -> how many competing phases are of it, and how many of these are vertices of the hull."""
    n_all = Counter(phases.column("origin").to_pylist())
    n_on_hull = Counter(phases.filter(pc.equal(phases.column("on_hull"), True)).column("origin").to_pylist())
    return {
        origin.value: {"n": n_all[origin.value], "n_on_hull": n_on_hull[origin.value]}
        for origin in Origin
        if n_all[origin.value]
    }


def phase_lines(folder: Path) -> list[str]:
    """What the hull of a finished run is made of, a line per origin with the stable compounds, for a terminal."""
    rows = read_table(folder / "phases.parquet", OF_A_RUN).to_pylist()
    lines = []
    for origin in LABELS:
        own = [row for row in rows if row["origin"] == origin]
        stable = sorted({row["formula"] for row in own if row["on_hull"]})
        if own:
            named = f": {', '.join(stable[:NAMED_MAX])}{', ...' if len(stable) > NAMED_MAX else ''}" if stable else ""
            lines.append(f"{len(own):>4} {LABELS[origin]}, {len(stable)} on the hull{named}")
    return ["competing phases", *lines]
