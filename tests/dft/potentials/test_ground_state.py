"""Generated against relaxed: pymatgen called directly, real VASP runs, closed forms, and crystals that break things."""

from __future__ import annotations

import gzip
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Poscar
from pymatgen.io.vasp.outputs import Vasprun

from dft.potentials.ground_state import GroundState, MatchTolerances, compare, summarise, symmetry
from dft.results import Relaxation, RelaxStatus

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))


@dataclass(frozen=True)
class Record:
    structure: Structure | None
    energy_ev_per_atom: float | None = -2.0
    initial_energy_ev_per_atom: float | None = -1.9
    n_steps: int = 5


def rock_salt(a_ang: float = 4.2) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a_ang), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_differences_are_relaxed_minus_generated_per_atom() -> None:
    relaxation = Relaxation(RelaxStatus.CONVERGED, rock_salt(4.3), -6.0, -5.8, 0.01, 0.1, 12)
    result = compare(rock_salt(4.2), relaxation)
    assert result.match
    assert result.rms == pytest.approx(0, abs=1e-7)
    assert result.dv_ang3_per_atom == pytest.approx((4.3**3 - 4.2**3) / 8)
    assert result.de_ev_per_atom == pytest.approx(-0.2)
    assert (result.n_steps, result.note) == (12, "")
    assert result.tolerances == MatchTolerances(0.3, 0.5, 10.0)


@pytest.mark.parametrize("amplitude_ang", [0.05, 0.3, 0.8, 1.6])
@pytest.mark.parametrize("tolerances", [MatchTolerances(), MatchTolerances(0.2, 0.3, 5.0)])
def test_match_and_rms_are_those_of_pymatgen(amplitude_ang: float, tolerances: MatchTolerances) -> None:
    rng = np.random.default_rng(3)
    generated = rock_salt()
    shaken = Structure(
        generated.lattice.matrix + 0.1 * amplitude_ang * rng.normal(size=(3, 3)),
        generated.species,
        generated.cart_coords + amplitude_ang * rng.normal(size=(8, 3)),
        coords_are_cartesian=True,
    )
    result = compare(generated, Record(shaken), tolerances)
    matcher = StructureMatcher(tolerances.ltol, tolerances.stol, tolerances.angle_tol_deg)
    assert result.match == matcher.fit(generated, shaken)
    expected = matcher.get_rms_dist(generated, shaken)
    assert result.rms == (None if expected is None else pytest.approx(expected[0]))


def test_a_displaced_atom_gives_the_rms_of_its_closed_form() -> None:
    generated = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    moved = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.55]])
    # The matcher may shift the whole cell: each of the two atoms is then off by half of 0.2 A.
    expected = 0.1 / (64 / 2) ** (1 / 3)
    assert compare(generated, Record(moved)).rms == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("folder", "symbol"), [("nonmetallic", "Fd-3m"), ("metallic", None)])
def test_a_real_vasp_run_is_compared_from_first_to_last_step(folder: str, symbol: str | None) -> None:
    run_folder = ASSETS / "vasp_runs" / folder
    if not run_folder.exists():
        pytest.skip(f"no recorded VASP runs under {ASSETS}: set HULLWARD_ASSETS to the folder that holds vasp_runs/")
    run = Vasprun(run_folder / "vasprun.xml.gz", parse_potcar_file=False, parse_dos=False, parse_eigen=False)
    n_atoms = len(run.final_structure)
    energies = [step["e_0_energy"] / n_atoms for step in run.ionic_steps]
    result = compare(
        run.initial_structure, Record(run.final_structure, energies[-1], energies[0], len(run.ionic_steps))
    )
    contcar = Poscar.from_str(gzip.decompress((run_folder / "CONTCAR.gz").read_bytes()).decode()).structure
    assert result.match
    assert result.dv_ang3_per_atom == pytest.approx((contcar.volume - run.initial_structure.volume) / n_atoms, abs=1e-5)
    assert result.de_ev_per_atom is not None
    assert result.de_ev_per_atom <= 1e-6
    if symbol is not None:
        assert symmetry(run.final_structure) == (227, symbol)


def test_a_crystal_that_failed_to_relax_is_no_match_and_says_so() -> None:
    result = compare(rock_salt(), Relaxation(RelaxStatus.EXPLODED, None, None, -5.0, None, None, 3, "volume"))
    assert result == GroundState(False, None, None, None, 3, MatchTolerances(), "no relaxed crystal to compare with")


@pytest.mark.parametrize("energy", [None, math.nan])
def test_a_missing_energy_leaves_the_geometry(energy: float | None) -> None:
    result = compare(rock_salt(), Record(rock_salt(), energy_ev_per_atom=energy))
    assert result.match
    assert result.de_ev_per_atom is None
    assert result.note == "an energy, before or after relaxation, is missing"


def test_another_composition_never_matches() -> None:
    assert not compare(rock_salt(), Record(rock_salt().replace_species({"Mg": "Ca"}, in_place=False))).match


NAN_LATTICE = Structure(Lattice([[4, 0, 0], [0, 4, 0], [0, 0, math.nan]]), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
NAN_POSITION = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, math.nan]])
FLAT = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("broken", [NAN_LATTICE, NAN_POSITION, FLAT])
def test_a_broken_crystal_is_a_note_and_no_crash(broken: Structure) -> None:
    result = compare(rock_salt(), Record(broken))
    assert not result.match
    assert "could not compare" in result.note
    assert symmetry(broken) is None


def test_summary_takes_medians_and_root_mean_squares_and_counts_failures_as_no_match() -> None:
    tolerances = MatchTolerances()
    results = [
        GroundState(True, 0.1, 1.0, -0.1, 10, tolerances),
        GroundState(True, 0.3, -2.0, -0.2, 20, tolerances),
        GroundState(False, None, 4.0, -0.6, 30, tolerances),
        GroundState(False, None, None, None, 300, tolerances, "no relaxed crystal to compare with"),
    ]
    summary = summarise(results)
    assert (summary.n_crystals, summary.n_relaxed, summary.n_matched, summary.match_rate) == (4, 3, 2, 0.5)
    assert summary.rms_mean == summary.rms_median == pytest.approx(0.2)
    assert (summary.dv_median_ang3_per_atom, summary.de_median_ev_per_atom) == (1.0, -0.2)
    assert summary.dv_rms_ang3_per_atom == pytest.approx(math.sqrt(7))
    assert summary.de_rms_ev_per_atom == pytest.approx(math.sqrt((0.01 + 0.04 + 0.36) / 3))
    assert summary.n_steps_median == 20
    empty = summarise([])
    assert (empty.n_crystals, empty.match_rate, empty.rms_median, empty.tolerances) == (0, None, None, None)
    with pytest.raises(ValueError, match="2 different tolerances"):
        summarise([*results, GroundState(True, 0.1, 1.0, -0.1, 10, MatchTolerances(ltol=0.2))])


@pytest.mark.parametrize(("name", "value"), [("ltol", 0.0), ("stol", -1.0), ("angle_tol_deg", math.nan)])
def test_a_tolerance_that_is_not_positive_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        MatchTolerances(**{name: value})


@pytest.mark.parametrize("number", [2, 14, 62, 139, 148, 166, 194, 221, 225, 227])
def test_a_crystal_built_in_a_space_group_is_found_in_it(number: int) -> None:
    lattice = {2: Lattice.from_parameters(4, 5, 6, 80, 95, 105), 14: Lattice.monoclinic(4, 5, 6, 100)}.get(number)
    if lattice is None:
        lattice = (
            Lattice.orthorhombic(4, 5, 6)
            if number == 62
            else Lattice.tetragonal(4, 7)
            if number == 139
            else Lattice.hexagonal(4, 7)
            if number < 195
            else Lattice.cubic(8)
        )
    general = Structure.from_spacegroup(number, lattice, ["Ti"], [[0.137, 0.226, 0.341]], tol=0.01)
    found = symmetry(general, symprec_ang=0.01)
    assert found is not None
    assert found[0] == number


def test_symmetry_of_crystals_that_spglib_gives_up_on_is_none() -> None:
    overlapping = Structure(Lattice.cubic(3), ["Fe", "Fe"], [[0, 0, 0], [0, 0, 0]])
    assert symmetry(overlapping) is None
    assert symmetry(Structure(Lattice.cubic(3), [], [])) is None


def test_symmetry_is_found_through_the_noise_of_a_relaxation() -> None:
    noise_ang = 0.02 * np.random.default_rng(0).uniform(-1, 1, size=(8, 3))
    clean = rock_salt()
    noisy = Structure(clean.lattice, clean.species, clean.cart_coords + noise_ang, coords_are_cartesian=True)
    assert symmetry(noisy, symprec_ang=0.1) == (225, "Fm-3m")
    assert symmetry(noisy, symprec_ang=1e-4) != (225, "Fm-3m")


@pytest.mark.parametrize(("strain", "number"), [(0.0, 221), (0.01, 221), (0.04, 166), (-0.04, 166)])
def test_a_cube_drawn_out_along_its_diagonal_is_rhombohedral_beyond_the_tolerance_of_distances(
    strain: float, number: int
) -> None:
    """At 4 A and 1 % no atom leaves its place by 0.1 A; at 4 % the edges differ from a cube's by 0.16 A."""
    along = np.ones((3, 3)) / 3
    cell = 4.0 * (np.eye(3) + strain * along)
    perovskite = Structure(
        cell, ["Ba", "Ti", "O", "O", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    found = symmetry(perovskite, 0.1)
    assert found is not None
    assert found[0] == number


def test_symmetry_is_told_by_distances_alone_wherever_pymatgen_is_asked() -> None:
    """Its own angle tolerance is 5 degrees: a page would name the cube's sites beside a rhombohedral space group."""
    root = Path(__file__).resolve().parents[3]
    calls = [
        line.strip()
        for room in ("dft", "generative", "tasks", "flows", "hullward", "storage")
        for file in (root / room).rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "SpacegroupAnalyzer(" in line
    ]
    assert len(calls) > 3
    assert not [call for call in calls if ", -1)" not in call and "angle_tolerance=-1" not in call]
