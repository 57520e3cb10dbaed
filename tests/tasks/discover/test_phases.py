"""Competing phases by origin, and prototypes as candidates: generated systems, hulls by linear programming."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from scipy.optimize import linprog

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, structure_columns
from generative.datasets import records
from generative.datasets.config import PrototypesSource
from generative.datasets.origins import Origin
from generative.datasets.prototypes import decorate
from tasks.discover import candidates
from tasks.discover.candidates import RELAXED, SAMPLED, SCREENED
from tasks.discover.phases import candidate_id, counted, phase_lines, phases_table, prototype_candidates
from tasks.discover.rank import rank_file
from tasks.discover.screen import screen_table
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity

ELEMENTS = ("Cl", "Na")
METHOD = "drawn at random"
IDENTITY = PotentialIdentity(name="none", method=METHOD, fingerprint="0", notes=())


def settings(**hull: float | None) -> DiscoverConfig:
    binary = {"n_elements_min": 2, "n_elements_max": 2}
    return DiscoverConfig.model_validate({"name": "made", "elements": ELEMENTS, "conditions": binary, "hull": hull})


@dataclass(frozen=True)
class System:
    """A dataset, its relaxed competing phases, and what was drawn."""

    known: pa.Table
    relaxed: pa.Table
    energies: dict[str, float]
    copies: dict[str, str]
    structures: dict[str, Structure]


def relaxed_row(name: str, structure: Structure, energy: float | None) -> dict[str, object]:
    return {
        "id": name,
        "formula": structure.composition.reduced_formula,
        "relax_status": "failed" if energy is None else "converged",
        "relax_reason": "drawn so" if energy is None else None,
        "relax_steps": 1,
        "energy_ev_per_atom": energy,
        "generated_energy_ev_per_atom": energy,
        "fmax_ev_per_ang": 0.0,
        "max_stress_gpa": 0.0,
        "energy_method": METHOD,
    }


def relaxed_table(rows: list[tuple[str, Structure, float | None]]) -> pa.Table:
    crystals = [None if energy is None else Crystal.from_structure(s) for _, s, energy in rows]
    columns = structure_columns(crystals, prefix="relaxed_")
    plain = [relaxed_row(*row) for row in rows]
    arrays = [
        columns[f.name] if f.name in columns else pa.array([row[f.name] for row in plain], type=f.type) for f in RELAXED
    ]
    return pa.table(arrays, schema=pa.schema(RELAXED))


DECORATIONS = [
    (f"prototypes:{d.name}", d.structure)
    for d in decorate(ELEMENTS, PrototypesSource(n_elements_max=2, n_atoms_max=5, per_formula_max=3))
]


def drawn_system(seed: int) -> System:
    """Every prototype with an energy (ties, missing ones), some of which a database holds too, slightly strained."""
    rng = np.random.default_rng(seed)
    rows, relaxed, energies, copies, structures = [], [], {}, {}, {}

    def add(name: str, structure: Structure, energy: float | None, origin: str) -> None:
        source, source_id = name.split(":", 1)
        crystal = Crystal.from_structure(structure)
        rows.append(records.row_of(crystal, source, source_id, METHOD, {}, origin=Origin(origin)))
        relaxed.append((name, structure, energy))
        structures[name] = structure
        if energy is not None:
            energies[name] = energy

    for number, (name, structure) in enumerate(DECORATIONS):
        is_element = len(structure.composition) == 1
        energy: float | None = round(float(rng.normal(0.0 if is_element else -0.5, 0.4)), 1)  # one digit: ties
        if not is_element and rng.random() < 0.1:
            energy = None
        add(name, structure, energy, "prototype")
        if rng.random() < 0.25:
            strained = structure.copy()
            strained.apply_strain(float(rng.uniform(-0.02, 0.02)))
            twin = f"mp:{number}"
            # The lowest twins on record are the same crystal: no second opinion on its energy.
            add(twin, strained, energy, str(rng.choice(["reported", "hypothetical", "unstated"])))
            copies[name] = twin
    return System(records.table_of(rows), relaxed_table(relaxed), energies, copies, structures)


def hull_by_programming(system: System, target: Composition, without: str | None) -> float:
    """Lowest energy of a mixture of the phases with the target's composition, eV/atom."""
    names = [name for name in system.energies if name != without]
    shares = np.array(
        [[system.structures[name].composition.get_atomic_fraction(element) for name in names] for element in ELEMENTS]
    )
    wanted = [target.get_atomic_fraction(element) for element in ELEMENTS]
    found = linprog([system.energies[name] for name in names], A_eq=shares, b_eq=wanted, method="highs")
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("seed", range(8))
def test_exactly_the_stable_prototypes_that_no_database_holds_are_offered(seed: int) -> None:
    system = drawn_system(seed)
    within = (0.0, 0.05, 0.3)[seed % 3]
    phases = phases_table(system.known, system.relaxed, settings())
    offered = prototype_candidates(phases, system.known, settings(prototypes_within_ev_per_atom=within))
    expected = set()
    for name, energy in system.energies.items():
        composition = system.structures[name].composition
        if not name.startswith("prototypes:") or name in system.copies or len(composition) == 1:
            continue
        if energy - hull_by_programming(system, composition, None) <= within + 1e-7:
            expected.add(name)
    assert set(offered.column("prototype_match").to_pylist()) == expected
    assert offered.column("id").to_pylist() == [candidate_id(n) for n in offered.column("prototype_match").to_pylist()]
    assert set(offered.column("proposed_by").to_pylist()) <= {"prototype"}
    off = settings(prototypes_within_ev_per_atom=None)
    assert len(prototype_candidates(phases, system.known, off)) == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_prototype_that_a_database_holds_counts_as_the_databases_crystal(seed: int) -> None:
    system = drawn_system(seed)
    rows = {row["id"]: row for row in phases_table(system.known, system.relaxed, settings()).to_pylist()}
    stated = dict(zip(system.known.column("id").to_pylist(), system.known.column("origin").to_pylist(), strict=True))
    for name, row in rows.items():
        if name in system.copies:
            assert row["same_as"] in set(system.copies.values())
            assert row["origin"] == stated[row["same_as"]] != "prototype"
        elif name.startswith("prototypes:"):
            assert (row["origin"], row["same_as"]) == ("prototype", None)
        else:
            assert row["origin"] == stated[name]
        if name in system.energies:
            above = system.energies[name] - hull_by_programming(system, system.structures[name].composition, None)
            assert row["e_above_hull_ev_per_atom"] == pytest.approx(above, abs=1e-7)
            assert row["on_hull"] is bool(above < 1e-7)
        else:
            assert row["on_hull"] is None
    counts = counted(pa.Table.from_pylist(list(rows.values())))
    assert sum(entry["n"] for entry in counts.values()) == len(rows)
    assert sum(entry["n_on_hull"] for entry in counts.values()) == sum(row["on_hull"] is True for row in rows.values())


def sampled(named: dict[str, Structure]) -> pa.Table:
    return candidates.table_of(
        [
            {
                "id": name,
                "proposed_by": "generator",
                "index": index,
                "formula": structure.composition.reduced_formula,
                "condition": '{"composition": {}}',
                "n_atoms": len(structure),
                "lattice_ang": structure.lattice.matrix.ravel(),
                "frac_coords": structure.frac_coords.ravel(),
                "atomic_numbers": list(structure.atomic_numbers),
            }
            for index, (name, structure) in enumerate(named.items())
        ],
        SAMPLED,
    )


def test_a_candidate_like_a_prototype_passes_and_one_like_a_databases_crystal_does_not() -> None:
    system = drawn_system(1)
    compounds = {n: s for n, s in DECORATIONS if len(s.composition) > 1}
    screened = screen_table(sampled(compounds), system.known, settings().screen).to_pylist()
    origins = dict(zip(system.known.column("id").to_pylist(), system.known.column("origin").to_pylist(), strict=True))
    assert {bool(row["id"] in system.copies) for row in screened} == {True, False}
    for row in screened:
        if row["rejected_by"] == "validity":
            continue
        if row["id"] in system.copies:
            assert row["rejected_by"] == "known"
            assert row["known_origin"] == origins[row["known_match"]]
        else:
            assert (row["rejected_by"], row["known_match"]) == (None, None)
            assert row["prototype_match"] == row["id"]


def test_prototypes_are_ranked_with_the_generated_and_measured_against_the_others(tmp_path: Path) -> None:
    system, config = drawn_system(2), settings(prototypes_within_ev_per_atom=0.2)
    free = [n for n, s in DECORATIONS if n in system.energies and n not in system.copies and len(s.composition) > 1]
    held = [n for n in system.copies if n in system.energies and len(system.structures[n].composition) > 1]
    assert free
    assert held
    # A generator finds one prototype a little lower than it is, and one crystal that a database holds.
    found = {"low twin": free[0], "known": held[0]}
    drawn = sampled({name: system.structures[phase] for name, phase in found.items()})
    fields = {f.name: f for f in SCREENED}
    screened = candidates.table_of(
        [{k: v for k, v in row.items() if k in fields} for row in drawn.to_pylist()], SCREENED
    )
    energies = {"low twin": system.energies[free[0]] - 0.9, "known": system.energies[held[0]]}
    relaxed = relaxed_table([(name, system.structures[phase], energies[name]) for name, phase in found.items()])
    files = {}
    for name, table in {
        "known": system.known, "screened": screened, "relaxed": relaxed, "competing": system.relaxed
    }.items():  # fmt: skip
        write_table(table, tmp_path / f"{name}.parquet")
        files[name] = FileRef.of(tmp_path / f"{name}.parquet")
    ranked = rank_file(
        config, tmp_path, IDENTITY, files["known"], files["screened"], [files["relaxed"]], [files["competing"]]
    )
    rows = {row["id"]: row for row in ranked.read().to_pylist()}
    assert rows["known"]["rejected_by"] == "known after relaxation"
    # It relaxed into a prototype that is a database's crystal: the database's id is what a reader looks up.
    assert rows["known"]["known_match"] == system.copies[held[0]]
    stated = dict(zip(system.known.column("id").to_pylist(), system.known.column("origin").to_pylist(), strict=True))
    assert rows["known"]["known_origin"] == stated[system.copies[held[0]]]
    assert rows["low twin"]["rank"] == 1
    assert rows["low twin"]["prototype_match"] == free[0]
    offered = {row["prototype_match"]: row for row in rows.values() if row["proposed_by"] == "prototype"}
    assert offered
    for name, row in offered.items():
        others = hull_by_programming(system, system.structures[name].composition, name)
        assert row["e_above_hull_ev_per_atom"] == pytest.approx(system.energies[name] - others, abs=1e-6)
        assert row["index"] is None
        assert row["condition"] is None
        if name == free[0]:  # the generated crystal is the same and lower
            assert (row["rejected_by"], row["duplicate_of"]) == ("duplicate after relaxation", "low twin")
    ranked = [row for row in ranked.read().to_pylist() if row["rank"] is not None]
    heights = [row["e_above_hull_ev_per_atom"] for row in ranked]
    assert heights == sorted(heights)
    lines = phase_lines(tmp_path)
    assert len(lines) == 1 + len(counted(pa.Table.from_pylist(phases_of(tmp_path))))


def phases_of(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = FileRef.of(folder / "phases.parquet").read().to_pylist()
    return rows
