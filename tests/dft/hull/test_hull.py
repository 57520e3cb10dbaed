"""The hull against pymatgen called directly, against hand-made diagrams, and with data missing."""

from __future__ import annotations

import ast
import math
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element, Species

from dft.hull.convex_hull import CompetingHull, Phase, hull_from_formation_energies

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))
MP_FILES = [ASSETS / "data" / f"mp_20_biternary_{part}.csv.gz" for part in ("test", "val")]
SYSTEMS = ("F-O-V", "Li-Mn-O", "Li-Mg", "Ga-Mg", "B-Ta-W")
METHOD = "PBE, Materials Project"


@pytest.fixture(scope="module")
def dataset() -> pd.DataFrame:
    if not all(path.exists() for path in MP_FILES):
        pytest.skip(f"no Materials Project files under {ASSETS}: set HULLWARD_ASSETS to the folder that holds data/")
    columns = ["material_id", "pretty_formula", "formation_energy_per_atom", "elements"]
    table = pd.concat([pd.read_csv(path, usecols=columns) for path in MP_FILES]).drop_duplicates("material_id")
    table["chemsys"] = [frozenset(ast.literal_eval(text)) for text in table["elements"]]
    return table


def system_of(table: pd.DataFrame, elements: list[str]) -> tuple[dict[str, Composition], dict[str, float | None]]:
    inside = table[[chemsys <= set(elements) for chemsys in table["chemsys"]]]
    compositions = {row.material_id: Composition(row.pretty_formula) for row in inside.itertuples()}
    energies = {row.material_id: float(row.formation_energy_per_atom) for row in inside.itertuples()}
    return compositions, energies


def ta_w_b(energy_of_tab2: float | None = -3.0, with_boron: bool = True, method: str = "m") -> CompetingHull:
    phases = [
        Phase("ta", Composition("Ta2"), -10.0, method),
        Phase("w", Composition("W"), -11.0, method),
        Phase("taw", Composition("TaW"), -10.6, method),
        Phase("tab2", Composition("Ta3B6"), energy_of_tab2, method),
    ]
    if with_boron:
        phases.append(Phase("b", Composition("B12"), -6.0, method))
    return CompetingHull(phases, ["Ta", "W", "B"])


def stable_phases(hull: CompetingHull) -> list[Phase]:
    above = hull.phases_above_hull()
    return [phase for phase in hull.phases if (height := above[phase.id]) is not None and height < 1e-9]


@pytest.mark.parametrize("system", SYSTEMS)
def test_hull_energies_of_dataset_phases_are_those_of_pymatgen_called_directly(
    dataset: pd.DataFrame, system: str
) -> None:
    elements = system.split("-")
    compositions, energies = system_of(dataset, elements)
    hull = hull_from_formation_energies(compositions, energies, METHOD, elements)
    entries = {key: PDEntry(c, energies[key] * c.num_atoms) for key, c in compositions.items()}
    direct = PhaseDiagram([*entries.values(), *(PDEntry(Composition(symbol), 0.0) for symbol in elements)])
    ours = hull.phases_above_hull()
    for key, entry in entries.items():
        assert ours[key] == pytest.approx(direct.get_e_above_hull(entry), abs=1e-9)
    assert {p.formula for p in stable_phases(hull)} == {e.composition.reduced_formula for e in direct.stable_entries}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_candidate_is_placed_against_the_other_phases_as_pymatgen_does_without_it(
    dataset: pd.DataFrame, system: str
) -> None:
    elements = system.split("-")
    compositions, energies = system_of(dataset, elements)
    for left_out in sorted(compositions)[:8]:
        rest = {key: c for key, c in compositions.items() if key != left_out}
        hull = hull_from_formation_energies(rest, {key: energies[key] for key in rest}, METHOD, elements)
        position = hull.place(compositions[left_out], energies[left_out], METHOD)
        entries = {key: PDEntry(c, energies[key] * c.num_atoms) for key, c in compositions.items()}
        corners = [PDEntry(Composition(symbol), 0.0) for symbol in elements]
        entry = entries.pop(left_out)
        expected = PhaseDiagram([*entries.values(), *corners]).get_decomp_and_e_above_hull(entry, allow_negative=True)[
            1
        ]
        if all(e.composition.reduced_formula != entry.composition.reduced_formula for e in entries.values()):
            # Without polymorphs pymatgen's phase separation energy, from the full diagram, is the same quantity.
            everything = PhaseDiagram([*entries.values(), entry, *corners])
            assert everything.get_phase_separation_energy(entry) == pytest.approx(expected, abs=1e-8)
        assert position.e_above_hull_ev_per_atom == pytest.approx(expected, abs=1e-8)
        assert position.formation_energy_ev_per_atom == pytest.approx(energies[left_out], abs=1e-9)


def test_a_candidate_between_two_phases_lies_above_the_straight_line_between_them() -> None:
    hull = ta_w_b()
    position = hull.place(Composition("Ta3W"), -10.2, "m")  # half Ta, half TaW: -10.3 on the line
    assert position.e_above_hull_ev_per_atom == pytest.approx(0.1)
    assert position.formation_energy_ev_per_atom == pytest.approx(-10.2 + 0.75 * 10 + 0.25 * 11)
    assert position.decomposition == "0.50 Ta + 0.50 TaW"


def test_a_new_stable_phase_has_a_negative_energy_above_hull() -> None:
    position = ta_w_b().place(Composition("TaW"), -10.9, "m")
    assert position.e_above_hull_ev_per_atom == pytest.approx(-0.3)
    assert position.decomposition == "1.00 TaW"
    below_an_element = ta_w_b().place(Composition("Ta"), -10.5, "m")
    assert below_an_element.e_above_hull_ev_per_atom == pytest.approx(-0.5)


def test_energies_of_two_methods_share_no_hull() -> None:
    phases = [Phase("ta", Composition("Ta"), -1.0, "M3GNet"), Phase("w", Composition("W"), -1.0, "CHGNet")]
    with pytest.raises(ValueError, match="2 methods, 'CHGNet', 'M3GNet'"):
        CompetingHull(phases, ["Ta", "W"])
    with pytest.raises(ValueError, match="'CHGNet' but the competing phases' from 'm'"):
        ta_w_b().place(Composition("TaW"), -1.0, "CHGNet")


def test_an_element_without_data_costs_only_the_candidates_that_contain_it() -> None:
    hull = ta_w_b(with_boron=False)
    assert hull.missing_elements == ("B",)
    boride = hull.place(Composition("TaB2"), -3.0, "m")
    assert (boride.e_above_hull_ev_per_atom, boride.formation_energy_ev_per_atom) == (None, None)
    assert boride.note == "no elemental phase of B among the competing phases"
    assert hull.place(Composition("TaW"), -10.5, "m").e_above_hull_ev_per_atom == pytest.approx(0.1)
    assert hull.place(Composition("TaC"), -10.5, "m").note == "no elemental phase of C among the competing phases"
    assert hull.phases_above_hull()["tab2"] is None
    assert [phase.id for phase in stable_phases(hull)] == ["ta", "taw", "w"]
    with pytest.raises(ValueError, match="no elemental phase of B"):
        hull.geometry(["Ta", "B"])


@pytest.mark.parametrize("unknown", [None, math.nan])
def test_a_phase_without_energy_is_named_where_it_matters_and_nowhere_else(unknown: float | None) -> None:
    hull = ta_w_b(energy_of_tab2=unknown)
    assert "without an energy left out of the hull: TaB2" in hull.place(Composition("TaB"), -9.0, "m").note
    assert hull.place(Composition("TaW"), -10.5, "m").note == ""


def test_a_phase_without_energy_carries_its_reason_into_the_notes() -> None:
    why = "after 0 steps, 1 of 1 atoms has no neighbour"
    lost = [Phase("lost-b", Composition("B"), None, "m", why), Phase("lost-tab", Composition("TaB"), None, "m", why)]
    phases = ta_w_b(with_boron=False).phases
    without = CompetingHull([*phases, *lost], ["Ta", "W", "B"]).place(Composition("TaB2"), -3.0, "m").note
    assert without == f"no elemental phase of B among the competing phases: lost-b has no energy ({why})"
    boron = Phase("b", Composition("B"), -6.0, "m")
    degraded = CompetingHull([*phases, *lost, boron], ["Ta", "W", "B"]).place(Composition("TaB2"), -3.0, "m")
    assert degraded.e_above_hull_ev_per_atom is not None
    assert f"left out of the hull: B, TaB (B: {why})" in degraded.note


@pytest.mark.parametrize("energy", [None, math.nan, math.inf])
def test_a_candidate_without_energy_has_no_place_and_says_why(energy: float | None) -> None:
    position = ta_w_b().place(Composition("TaW"), energy, "m")
    assert position.e_above_hull_ev_per_atom is None
    assert "not a finite number" in position.note


def test_a_hull_of_the_elements_alone_says_so() -> None:
    position = ta_w_b().place(Composition("WB"), -8.4, "m")
    assert position.e_above_hull_ev_per_atom == pytest.approx(0.1)
    assert position.note == "no compound of B-W among the competing phases: the hull is that of the elements"


def test_an_empty_hull_gives_a_note_and_no_error() -> None:
    hull = CompetingHull([], ["Ta", "W"])
    assert hull.place(Composition("TaW"), -1.0, "any").note == "no elemental phase of Ta, W among the competing phases"
    assert stable_phases(hull) == []


def test_order_of_the_phases_changes_nothing() -> None:
    hull = ta_w_b()
    reversed_hull = CompetingHull(hull.phases[::-1], ["B", "W", "Ta"])
    assert hull.phases == reversed_hull.phases
    first, second = hull.geometry(), reversed_hull.geometry()
    assert first.ids == second.ids
    assert np.array_equal(first.simplices, second.simplices)


def test_two_phases_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="share the id 'x'"):
        CompetingHull([Phase("x", Composition("Ta"), -1.0, "m"), Phase("x", Composition("Ta"), -2.0, "m")], ["Ta"])


def test_oxidation_states_do_not_hide_a_phase() -> None:
    hull = CompetingHull(
        [Phase("mg", Composition("Mg"), 0.0, "m"), Phase("o", Composition("O2"), 0.0, "m")], ["Mg", "O"]
    )
    assert hull.place(
        Composition({Species("Mg", 2): 1, Species("O", -2): 1}), -3.0, "m"
    ).formation_energy_ev_per_atom == pytest.approx(-3.0)


@pytest.mark.parametrize("elements", [("Li", "Mg"), ("Li", "Mn", "O")])
def test_simplices_tile_the_composition_space_and_lie_below_every_phase(
    dataset: pd.DataFrame, elements: tuple[str, ...]
) -> None:
    compositions, energies = system_of(dataset, list(elements))
    geometry = hull_from_formation_energies(compositions, energies, METHOD, elements).geometry()
    assert geometry.fractions.sum(axis=1) == pytest.approx(1.0)
    assert geometry.is_stable[np.unique(geometry.simplices)].all()
    corners = geometry.fractions[geometry.simplices]  # (S, d, d)
    # The determinant of a simplex's barycentric corners is its share of the whole composition space.
    assert np.abs(np.linalg.det(corners)).sum() == pytest.approx(1.0, abs=1e-9)
    # A convex piecewise linear hull is the largest of its planes: an evaluation of its own, without pymatgen.
    planes = np.linalg.solve(corners, geometry.formation_energy_ev_per_atom[geometry.simplices][..., None])[..., 0]
    hull_energy = (geometry.fractions @ planes.T).max(axis=1)
    above = geometry.formation_energy_ev_per_atom - hull_energy
    assert above == pytest.approx(geometry.e_above_hull_ev_per_atom, abs=1e-8)
    assert (above > -1e-8).all()


def test_formation_energies_and_total_energies_give_the_same_hull_distance() -> None:
    total = ta_w_b()
    references = {"Ta": -10.0, "W": -11.0, "B": -6.0}
    compositions = {phase.id: phase.composition for phase in total.phases}
    formation = {
        phase.id: float(phase.energy_ev_per_atom or 0)
        - sum(phase.composition.get_atomic_fraction(Element(e)) * value for e, value in references.items())
        for phase in total.phases
    }
    by_formation = hull_from_formation_energies(compositions, formation, "m")
    for formula, energy in (("TaWB", -9.0), ("Ta2B", -8.0), ("W2B", -9.5)):
        composition = Composition(formula)
        shift = sum(composition.get_atomic_fraction(Element(e)) * value for e, value in references.items())
        assert by_formation.place(composition, energy - shift, "m").e_above_hull_ev_per_atom == pytest.approx(
            total.place(composition, energy, "m").e_above_hull_ev_per_atom
        )


def test_unpaired_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="'b' have only one of composition and formation energy"):
        hull_from_formation_energies({"a": Composition("Ta"), "b": Composition("W")}, {"a": 0.0}, "m")


@pytest.mark.benchmark
def test_rate_of_placing_candidates(dataset: pd.DataFrame) -> None:
    compositions, energies = system_of(dataset, ["F", "O", "V"])
    hull = hull_from_formation_energies(compositions, energies, METHOD, ["F", "O", "V"])
    rng = np.random.default_rng(0)
    candidates = [Composition(dict(zip("FOV", rng.integers(1, 9, 3).tolist(), strict=True))) for _ in range(500)]
    hull.place(candidates[0], -1.0, METHOD)
    start = time.perf_counter()
    for composition in candidates:
        hull.place(composition, -1.0, METHOD)
    print(f"{(time.perf_counter() - start) / len(candidates) * 1e3:.3f} ms per candidate, F-O-V hull")
