"""DFT against pre-relaxed against generated: hand-made numbers, pymatgen's matcher, and real relaxations end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.campaign.analysis import TOLERANCES, CandidateAnalysis, TableProtocol, analyse, summarise_candidates
from dft.engines.config import PotentialEngineConfig
from dft.hull.convex_hull import GPA_PER_EV_ANG3
from dft.job_folder import Purpose, make_job_folder, read_record
from dft.records import DFTRecord, MixedSettingsError
from dft.run_job import run_folder
from tests.dft.made_records import record as made_record

SETTINGS = {"name": "gpaw", "cutoff_ev": 500.0}


def rock_salt(edge_ang: float, shift: float = 0.0) -> Structure:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge_ang), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.translate_sites([0], [shift, 0, 0])
    return salt


def record(final: Structure, initial: Structure, energy_ev: float, **changes: Any) -> DFTRecord:
    values = {"initial_structure": initial, "purpose": "relaxation", "energy_ev": energy_ev, "n_ionic_steps": 7}
    return made_record(final, energy_ev / len(final), changes.pop("settings", SETTINGS), **{**values, **changes})


def test_differences_are_relaxed_minus_start_per_atom_in_the_engine_s_own_energies() -> None:
    generated, pre_relaxed, final = rock_salt(4.4, 0.02), rock_salt(4.25), rock_salt(4.2)
    relaxed = record(final, pre_relaxed, -96.0, initial_energy_ev=-95.2)
    static = record(generated, generated, -92.0, purpose="static", key="1" * 24)
    found = analyse(relaxed, generated=generated, pre_relaxed=pre_relaxed, statics=[static])
    assert found.from_pre_relaxed is not None
    assert found.from_pre_relaxed.state.de_ev_per_atom == pytest.approx(-0.1)
    assert found.from_pre_relaxed.dv_percent == pytest.approx(100 * ((4.2 / 4.25) ** 3 - 1))
    assert found.from_pre_relaxed.dh_ev_per_atom == pytest.approx(-0.1)
    assert found.from_generated is not None
    assert found.from_generated.state.de_ev_per_atom == pytest.approx(-0.5)
    assert found.from_generated.state.dv_ang3_per_atom == pytest.approx((4.2**3 - 4.4**3) / 8)
    assert found.from_generated.state.match
    expected = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10).get_rms_dist(generated, final)
    assert expected is not None
    assert found.from_generated.state.rms == pytest.approx(expected[0])
    assert found.pre_relaxation is not None
    assert found.pre_relaxation.state.de_ev_per_atom == pytest.approx(-0.4)
    assert found.energy_drop_ev_per_cell == pytest.approx(0.8)
    assert (found.formula, found.n_atoms, found.n_ionic_steps) == ("MgO", 8, 7)


def test_under_pressure_the_enthalpy_falls_while_the_energy_may_rise() -> None:
    start, final = rock_salt(4.3), rock_salt(4.1)
    relaxed = record(final, start, -95.0, initial_energy_ev=-95.4, pressure_gpa=20.0)
    change = analyse(relaxed, generated=start).from_generated
    assert change is not None
    assert change.state.de_ev_per_atom == pytest.approx(0.05)
    assert change.dh_ev_per_atom == pytest.approx(0.05 + 20 / GPA_PER_EV_ANG3 * (4.1**3 - 4.3**3) / 8)
    assert change.dh_ev_per_atom < 0


def test_an_energy_that_the_engine_did_not_compute_is_missing_and_said_to_be() -> None:
    relaxed = record(rock_salt(4.2), rock_salt(4.25), -96.0)
    change = analyse(relaxed, generated=rock_salt(4.4)).from_generated
    assert change is not None
    assert change.state.de_ev_per_atom is None
    assert change.dh_ev_per_atom is None
    assert "energy" in change.state.note
    assert analyse(relaxed).from_generated is None


def test_a_static_run_with_other_settings_is_refused_by_name() -> None:
    relaxed = record(rock_salt(4.2), rock_salt(4.25), -96.0)
    other = {"name": "gpaw", "cutoff_ev": 800.0}
    static = record(rock_salt(4.4), rock_salt(4.4), -92.0, settings=other, key="1" * 24)
    with pytest.raises(MixedSettingsError, match=r"cutoff_ev: 500.0 / 800.0"):
        analyse(relaxed, generated=rock_salt(4.4), statics=[static])
    with pytest.raises(MixedSettingsError, match=r"data of O: aaaa / bbbb"):
        analyse(
            record(rock_salt(4.2), rock_salt(4.2), -96.0, data={"O": "aaaa", "Mg": "c"}),
            statics=[record(rock_salt(4.4), rock_salt(4.4), -92.0, data={"O": "bbbb"})],
        )


def candidate(edge_ang: float, energy_ev: float, **changes: Any) -> CandidateAnalysis:
    start = rock_salt(edge_ang)
    return analyse(record(rock_salt(4.2), start, energy_ev, initial_energy_ev=-90.0, **changes), generated=start)


def test_a_campaign_s_rates_means_and_medians_are_those_of_numpy() -> None:
    edges, energies, steps = [4.0, 4.3, 4.5], [-91.0, -92.0, -96.0], [3, 8, 40]
    analyses = [candidate(a, e, n_ionic_steps=n) for a, e, n in zip(edges, energies, steps, strict=True)]
    unconverged = candidate(5.0, -99.0, is_converged=False, n_ionic_steps=99)
    found = summarise_candidates([*analyses, unconverged], n_failed=1)
    assert (found.n_candidates, found.n_failed, found.n_converged) == (5, 1, 3)
    assert found.convergence_rate == pytest.approx(0.6)
    assert found.n_ionic_steps_mean == pytest.approx(np.mean(steps))
    assert found.n_ionic_steps_median == np.median(steps)
    assert found.energy_drop_mean_ev_per_cell == pytest.approx(np.mean([1, 2, 6]))
    assert found.from_generated is not None
    de = np.array([-1, -2, -6]) / 8
    dv = (4.2**3 - np.array(edges) ** 3) / 8
    assert found.from_generated.de_mean_ev_per_atom == pytest.approx(de.mean())
    assert found.from_generated.states.de_median_ev_per_atom == pytest.approx(np.median(de))
    assert found.from_generated.states.de_rms_ev_per_atom == pytest.approx(np.sqrt((de**2).mean()))
    assert found.from_generated.states.dv_rms_ang3_per_atom == pytest.approx(np.sqrt((dv**2).mean()))
    percent = 100 * ((4.2 / np.array(edges)) ** 3 - 1)
    assert found.from_generated.dv_percent_mean == pytest.approx(percent.mean())
    assert found.from_generated.dv_percent_median == pytest.approx(np.median(percent))
    assert found.from_generated.states.match_rate == 1
    assert found.from_pre_relaxed is None


def test_an_empty_campaign_and_one_of_two_methods() -> None:
    empty = summarise_candidates([], n_failed=2)
    assert (empty.convergence_rate, empty.from_generated, empty.n_ionic_steps_mean) == (0.0, None, None)
    assert summarise_candidates([]).convergence_rate is None
    other = candidate(4.3, -91.0, settings={"name": "gpaw", "cutoff_ev": 800.0})
    with pytest.raises(ValueError, match="2 methods share no summary"):
        summarise_candidates([candidate(4.3, -91.0), other])
    with pytest.raises(ValueError, match="n_failed is -1"):
        summarise_candidates([], n_failed=-1)


@pytest.mark.parametrize("protocol", list(TableProtocol))
def test_both_published_tables_match_at_the_tolerances_of_cdvae(protocol: TableProtocol) -> None:
    tolerances = TOLERANCES[protocol]
    assert (tolerances.ltol, tolerances.stol, tolerances.angle_tol_deg) == (0.3, 0.5, 10.0)
    far = rock_salt(4.2, shift=0.4)
    change = analyse(record(rock_salt(4.2), far, -96.0), generated=far, protocol=protocol).from_generated
    assert change is not None
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    assert change.state.match == matcher.fit(far, rock_salt(4.2))


def test_a_relaxation_by_an_engine_gives_energies_that_agree_with_its_static_runs(tmp_path: Path) -> None:
    engine = PotentialEngineConfig.model_validate({"potential": "CHGNet"})
    generated = rock_salt(4.4, 0.02)
    records = []
    for purpose in (Purpose.RELAXATION, Purpose.STATIC):
        folder = make_job_folder(tmp_path, generated, engine, candidate_id="c-1", purpose=purpose)
        assert run_folder(folder)
        records.append(read_record(folder))
    relaxed, static = records
    assert relaxed is not None
    assert static is not None
    assert relaxed.initial_energy_ev == pytest.approx(static.energy_ev, abs=1e-4)
    change = analyse(relaxed, generated=generated).from_generated
    assert change is not None
    assert change.state.de_ev_per_atom == pytest.approx((relaxed.energy_ev - static.energy_ev) / 8, abs=1e-4)
    assert change.state.de_ev_per_atom < 0
