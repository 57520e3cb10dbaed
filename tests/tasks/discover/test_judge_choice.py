"""Which crystals a judge is asked for: what decides a hull always, what is near it as far as there is room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, structure_columns
from tasks.discover.candidates import RELAXED
from tasks.discover.judge_choice import chosen_table

ENERGIES = {
    "Ti": -5.0, "Al": -3.0, "N": -8.0, "Ti-high": -4.97, "TiAl": -4.4, "TiAl3": -3.9, "Ti3Al": -4.75, "TiN": -8.4,
    "AlN": -7.0, "TiAl2": -3.99, "Ti2Al": -4.62, "Ti3N2": -7.0, "Ti4N": -5.5,
}  # fmt: skip
"""Made up, eV/atom. Ti3N2 and Ti4N lie far above the hull."""


def crystal_of(formula: str) -> Crystal:
    species = [e.symbol for e, n in Composition(formula).items() for _ in range(int(n))]
    coords = [[i / len(species)] * 3 for i in range(len(species))]
    return Crystal.from_structure(Structure(Lattice.cubic(4.0), species, coords))


def relaxed() -> pa.Table:
    formulas = [name.split("-")[0] for name in ENERGIES]
    n = len(formulas)
    columns = {
        **{field.name: [None] * n for field in RELAXED},
        "id": list(ENERGIES),
        "formula": formulas,
        "energy_ev_per_atom": list(ENERGIES.values()),
        "energy_method": ["made up"] * n,
        **structure_columns([crystal_of(formula) for formula in formulas], "relaxed_"),
    }
    return pa.table([pa.array(columns[f.name], type=f.type) for f in RELAXED], schema=pa.schema(RELAXED))


def chosen(formulas: list[str], prototype: str | None = None, **judge: Any) -> dict[str, str | None]:
    """Id -> why it was left out, in the order of the table."""
    config = DiscoverConfig(elements=("Al", "N", "Ti"), judge={"potential": "CHGNet", **judge})
    candidates: list[tuple[dict[str, Any], Crystal]] = []
    for number, formula in enumerate(formulas):
        row = {"id": f"c{number}", "formula": formula, "proposed_by": "generator", "e_above_hull_ev_per_atom": 0.0}
        candidates.append((row, crystal_of(formula)))
    if prototype is not None:
        row = {"id": "p", "formula": prototype, "proposed_by": "prototype", "prototype_match": prototype}
        candidates.append(({**row, "e_above_hull_ev_per_atom": -0.01}, crystal_of(prototype)))
    table = chosen_table(candidates, relaxed(), config)
    return dict(zip(table.column("id").to_pylist(), table.column("rejected_by").to_pylist(), strict=True))


def heights(elements: set[str], without: str = "") -> tuple[PhaseDiagram, dict[str, float]]:
    entries = {}
    for name, energy in ENERGIES.items():
        composition = Composition(name.split("-")[0])
        if {e.symbol for e in composition} <= elements and name != without:
            entries[name] = PDEntry(composition, energy * composition.num_atoms, name)
    diagram = PhaseDiagram(list(entries.values()))
    return diagram, {name: diagram.get_e_above_hull(entry) for name, entry in entries.items()}


@pytest.mark.parametrize("within", [0.0, 0.05, 0.2])
def test_phases_of_the_candidates_elements_near_the_hull_are_chosen(within: float) -> None:
    found = chosen(["Ti5Al3"], phases_within_ev_per_atom=within)
    _, above = heights({"Ti", "Al"})
    assert set(found) == {"c0", *(name for name, height in above.items() if height <= within + 1e-8)}
    assert set(found.values()) == {None}


def test_a_prototype_is_judged_as_the_phase_it_is_with_what_it_would_decompose_into_without_itself() -> None:
    found = chosen([], prototype="TiAl", phases_within_ev_per_atom=0.0)
    diagram, _ = heights({"Ti", "Al"}, without="TiAl")
    parts = {entry.name for entry in diagram.get_decomposition(Composition("TiAl"))}
    assert "p" not in found
    assert {"TiAl", "Ti", "Al", *parts} <= set(found)
    _, above = heights({"Ti", "Al"})
    assert any(above[name] > 1e-8 for name in parts)  # it is the prototype that keeps one of them off the hull


def test_the_bound_leaves_out_the_phases_farthest_from_the_hull_and_never_those_that_decide_it() -> None:
    everything = chosen(["Ti5Al3", "Ti2N"], phases_within_ev_per_atom=1.0, crystals_max=100)
    assert set(everything.values()) == {None}
    above: dict[str, float] = {}
    for elements in ({"Ti", "Al"}, {"Ti", "N"}):
        above |= heights(elements)[1]
    some = chosen(["Ti5Al3", "Ti2N"], phases_within_ev_per_atom=1.0, crystals_max=len(everything) - 2)
    left_out = [name for name, reason in some.items() if reason is not None]
    assert set(left_out) == set(sorted(above, key=lambda name: above[name])[-2:])
    few = chosen(["Ti5Al3", "Ti2N"], phases_within_ev_per_atom=1.0, crystals_max=1)
    judged = {name for name, reason in few.items() if reason is None}
    deciding = {"Ti", "Al", "N"}
    for formula in ("Ti5Al3", "Ti2N"):
        diagram, _ = heights({e.symbol for e in Composition(formula)})
        deciding |= {entry.name for entry in diagram.get_decomposition(Composition(formula))}
    assert judged == {"c0", "c1", *deciding}


def test_a_candidate_without_a_place_on_the_first_hull_is_not_judged() -> None:
    config = DiscoverConfig(elements=("Al", "N", "Ti"), judge={"potential": "CHGNet"})
    row = {"id": "c", "formula": "TiAl", "proposed_by": "generator", "e_above_hull_ev_per_atom": None}
    assert len(chosen_table([(row, crystal_of("TiAl"))], relaxed(), config)) == 0


def test_crystals_are_those_that_the_first_relaxation_left() -> None:
    config = DiscoverConfig(elements=("Al", "N", "Ti"), judge={"potential": "CHGNet"})
    row = {"id": "c", "formula": "TiAl", "proposed_by": "generator", "e_above_hull_ev_per_atom": 0.1}
    crystal = crystal_of("TiAl")
    first = chosen_table([(row, crystal)], relaxed(), config).to_pylist()[0]
    np.testing.assert_array_equal(np.reshape(first["lattice_ang"], (3, 3)), crystal.lattice_ang)
