"""Hulls at the level of DFT: what is computed once, what pymatgen says, and what is never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.config import Preset
from dft.engines.config import PotentialEngineConfig, VaspEngineConfig
from dft.hull.convex_hull import GPA_PER_EV_ANG3, CompetingHull
from dft.hull.dft_hull import (
    ReferencePhase,
    ReferencesError,
    choose_references,
    left_out_note,
    record_phases,
    references,
)
from dft.records import DFTRecord, MixedSettingsError
from dft.run_job import run_folder
from tests.dft.made_records import record

CHGNET = PotentialEngineConfig.model_validate({"potential": "CHGNet"})


def crystal(formula: dict[str, int], edge_ang: float = 4.0) -> Structure:
    symbols = [symbol for symbol, n in formula.items() for _ in range(n)]
    frac = np.random.default_rng(len(symbols)).random((len(symbols), 3))
    return Structure(Lattice.cubic(edge_ang), symbols, frac)


def table() -> list[ReferencePhase]:
    return [
        ReferencePhase("ni-bcc", crystal({"Ni": 2}), 0.1),
        ReferencePhase("ni-fcc", crystal({"Ni": 4}), 0.0),
        ReferencePhase("al", crystal({"Al": 4}), 0.0),
        ReferencePhase("nial", crystal({"Ni": 1, "Al": 1}), 0.0),
        ReferencePhase("ni3al", crystal({"Ni": 3, "Al": 1}), 0.02),
        ReferencePhase("nial3", crystal({"Ni": 1, "Al": 3}), None),
        ReferencePhase("feal", crystal({"Fe": 1, "Al": 1}), 0.0),
    ]


def hull_of_records(records: Mapping[str, DFTRecord], elements: Sequence[str]) -> CompetingHull:
    return CompetingHull(record_phases(records), elements)


def test_references_are_the_elements_first_then_the_rest_by_height() -> None:
    chosen = choose_references(table(), ["Ni", "Al"], most=20)
    assert [phase.id for phase in chosen] == ["al", "ni-fcc", "nial", "ni3al", "ni-bcc", "nial3"]
    assert [p.id for p in choose_references(table(), ["Ni", "Al"], most=3)] == ["al", "ni-fcc", "nial"]
    assert [p.id for p in choose_references(table(), ["Ni", "Al"], most=0)] == ["al", "ni-fcc"]
    near = choose_references(table(), ["Ni", "Al"], most=20, within_ev_per_atom=0.05)
    assert [phase.id for phase in near] == ["al", "ni-fcc", "nial", "ni3al"]


def test_what_candidates_decompose_into_goes_first_and_the_hull_s_phases_left_out_are_named() -> None:
    rng = np.random.default_rng(0)
    for trial in range(30):
        heights = rng.choice([0.0, 1e-13, 0.01, 0.2], size=12)
        phases = [
            ReferencePhase(f"{i:02d}", crystal({"Ni": int(rng.integers(1, 6)), "Al": i + 1}), float(height))
            for i, height in enumerate(heights)
        ]
        phases += [ReferencePhase("ni", crystal({"Ni": 1}), 0.0), ReferencePhase("al", crystal({"Al": 1}), 0.0)]
        wanted = {phase.formula for phase in phases if rng.random() < 0.3}
        most = int(rng.integers(0, 14))
        chosen = choose_references(phases, ["Ni", "Al"], most=most, wanted_formulas=wanted)
        assert len(chosen) == max(most, 2), trial
        left = [phase for phase in phases if phase not in chosen]
        on_hull_left = [phase for phase in left if phase.e_above_hull_ev_per_atom < 1e-12]
        if any(phase.formula in wanted for phase in on_hull_left):  # then nothing less wanted was taken
            compounds = [phase for phase in chosen if len(phase.elements) > 1]
            assert all(phase.formula in wanted for phase in compounds)
        note = left_out_note(phases, chosen, most)
        assert bool(note) is bool(on_hull_left)
        assert not note or note.startswith(f"{len(on_hull_left)} phases on the potential's hull are not computed")


def test_a_system_without_an_element_is_refused_by_name() -> None:
    with pytest.raises(ReferencesError, match="no elemental phase of Fe among 7 competing phases of Al-Fe-Ni"):
        choose_references(table(), ["Ni", "Al", "Fe"], most=20)
    with pytest.raises(ReferencesError, match="share the id 'al'"):
        choose_references([*table(), table()[2]], ["Ni", "Al"], most=20)


def fcc(symbol: str, edge_ang: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge_ang), [symbol], [[0, 0, 0]]).get_primitive_structure()


def test_a_phase_is_computed_once_for_all_systems_with_the_same_settings(tmp_path: Path) -> None:
    nial = Structure(Lattice.cubic(2.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    phases = [ReferencePhase("ni", fcc("Ni", 3.5)), ReferencePhase("al", fcc("Al", 4.0)), ReferencePhase("nial", nial)]
    first = references(choose_references(phases, ["Ni", "Al"], most=9), CHGNET, tmp_path)
    assert list(first.missing) == list(first.folders) == ["al", "ni", "nial"]
    for folder in first.missing.values():
        assert run_folder(folder)
    again = references(choose_references(phases, ["Ni"], most=9), CHGNET, tmp_path)
    assert not again.missing
    other = references(phases, CHGNET.model_copy(update={"fmax_ev_per_ang": 0.01}), tmp_path)
    assert len(other.missing) == 3
    everything = references(phases, CHGNET, tmp_path)
    hull = hull_of_records(everything.records, ["Ni", "Al"])
    energies = {name: found.energy_ev_per_atom for name, found in everything.records.items()}
    expected = energies["nial"] - (energies["ni"] + energies["al"]) / 2
    place = hull.place(Composition("NiAl"), energies["nial"], everything.records["nial"].method)
    assert place.formation_energy_ev_per_atom == pytest.approx(expected)
    assert -0.9 < expected < -0.4  # NiAl forms at -0.6 to -0.7 eV/atom


def test_the_hull_of_records_is_pymatgen_s_with_enthalpies() -> None:
    structures = {"a": crystal({"Ni": 4}), "b": crystal({"Al": 4}, 4.5), "c": crystal({"Ni": 1, "Al": 1}, 3.0)}
    energies = {"a": -5.0, "b": -3.0, "c": -4.5}
    records = {name: record(structures[name], energies[name], pressure_gpa=30.0) for name in structures}
    enthalpies = {n: energies[n] + 30 / GPA_PER_EV_ANG3 * s.volume / len(s) for n, s in structures.items()}
    entries = [PDEntry(s.composition, enthalpies[n] * len(s)) for n, s in structures.items()]
    candidate = PDEntry(Composition("Ni3Al"), -4.4 * 4)
    place = hull_of_records(records, ["Ni", "Al"]).place(Composition("Ni3Al"), -4.4, records["a"].method)
    diagram = PhaseDiagram(entries)
    above = diagram.get_decomp_and_e_above_hull(candidate, allow_negative=True)[1]
    assert place.e_above_hull_ev_per_atom == pytest.approx(above)
    assert place.formation_energy_ev_per_atom == pytest.approx(diagram.get_form_energy_per_atom(candidate))


def test_an_unconverged_phase_spans_no_hull_and_is_named() -> None:
    records = {
        "ni": record(crystal({"Ni": 4}), -5.0),
        "al": record(crystal({"Al": 4}), -3.0),
        "nial": record(crystal({"Ni": 1, "Al": 1}), -9.0, is_converged=False),
    }
    place = hull_of_records(records, ["Ni", "Al"]).place(Composition("NiAl"), -4.0, records["ni"].method)
    assert place.e_above_hull_ev_per_atom == pytest.approx(0)
    assert "1 competing phase(s) without an energy left out of the hull: AlNi" in place.note


def test_records_of_different_settings_or_data_share_no_hull() -> None:
    ni, other = record(crystal({"Ni": 4}), -5.0), VaspEngineConfig.model_validate({"preset": Preset.VDW}).settings()
    with pytest.raises(MixedSettingsError, match=r"preset: mp-relax / vdw") as caught:
        hull_of_records({"ni": ni, "al": record(crystal({"Al": 4}), -3.0, other)}, ["Ni", "Al"])
    assert ni.method in str(caught.value)
    with pytest.raises(MixedSettingsError, match=r"data of Ni: 11 / 22"):
        hull_of_records(
            {
                "al": record(crystal({"Al": 4}), -3.0, data={"Al": "33"}),
                "nial": record(crystal({"Ni": 1, "Al": 1}), -4.0, data={"Ni": "11", "Al": "33"}),
                "ni": record(crystal({"Ni": 4}), -5.0, data={"Ni": "22"}),
            },
            ["Ni", "Al"],
        )
