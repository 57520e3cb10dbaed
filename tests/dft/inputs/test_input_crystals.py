"""What order and what cell a crystal gets in VASP's inputs: generated interleavings and slabs against brute force."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from monty.json import MontyDecoder
from pymatgen.core import SETTINGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, Poscar

from dft.config import InputsConfig, Preset
from dft.engines.config import GPAWConfig, VaspEngineConfig
from dft.inputs.folder import write_inputs
from dft.inputs.vacuum import VACUUM_ANG, find_vacuum
from dft.job_folder import Purpose, job_key
from dft.jobs import relaxation_flow
from dft.structures import grouped, reordered, structure_digest, ungrouped_order
from storage.digests import json_digest

CONFIG = InputsConfig.model_validate({})
ELEMENTS = ["Ti", "O", "Al", "He", "F", "N", "Ne", "Fe", "Cs", "H"]
CASES = Path(__file__).parents[2] / "data" / "cases" / "poscar"


@pytest.fixture(autouse=True)
def no_pseudopotentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


def interleaved(rng: np.random.Generator) -> Structure:
    """Up to twelve atoms of up to five elements in any order, each with a moment of its own."""
    n_atoms = int(rng.integers(2, 13))
    kinds = rng.choice(ELEMENTS, size=int(rng.integers(1, 6)), replace=False)
    lattice = Lattice(6.0 * np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3)))
    moments = rng.uniform(-5, 5, n_atoms).round(3).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Structure(
            lattice, rng.choice(kinds, n_atoms), rng.random((n_atoms, 3)), site_properties={"magmom": moments}
        )


def atoms(structure: Structure, moments: list[float]) -> Counter[tuple[str, tuple[float, ...], float]]:
    """Element, place (to a millionth of a cell) and moment of every atom."""
    places = (tuple(float(x) for x in row) for row in np.round(structure.frac_coords % 1.0, 6) % 1.0)
    return Counter(zip([site.specie.symbol for site in structure], places, moments, strict=True))


@pytest.mark.parametrize("preset", [Preset.CONDITIONAL_GENERATION, Preset.MP_RELAX])
def test_interleaved_species_are_written_in_one_block_each_with_their_own_moments(
    tmp_path: Path, preset: Preset
) -> None:
    rng = np.random.default_rng(15)
    n_interleaved = 0
    for number in range(12):
        crystal = interleaved(rng)
        symbols = [site.specie.symbol for site in crystal]
        n_interleaved += sum(a != b for a, b in zip(symbols, symbols[1:], strict=False)) >= len(set(symbols))
        place = tmp_path / str(number)
        write_inputs(crystal, preset, place, {}, "c-1", CONFIG)
        blocks = (place / "POSCAR").read_text().splitlines()[5].split()
        species = [symbol.partition("_")[0] for symbol in (place / "POTCAR.spec").read_text().split()]
        assert blocks == species
        assert len(blocks) == len(set(blocks)) == len(set(symbols))
        there = Poscar.from_file(place / "POSCAR").structure
        moments = [float(moment) for moment in Incar.from_file(place / "INCAR")["MAGMOM"]]
        assert atoms(there, moments) == atoms(crystal, crystal.site_properties["magmom"])
        for job in MontyDecoder().decode((place / "flow.json").read_text()).jobs[:1]:
            asked = job.function_args[0]
            assert [site.specie.symbol for site in asked] == [site.specie.symbol for site in there]
            assert asked.site_properties["magmom"] == moments
    assert n_interleaved > 5


def test_the_order_is_pymatgen_s_and_can_be_undone() -> None:
    rng = np.random.default_rng(51)
    for _ in range(40):
        crystal = interleaved(rng)
        assert reordered(grouped(crystal), ungrouped_order(crystal)) == crystal
        if not {"He", "Ne"} & {site.specie.symbol for site in crystal}:  # which pymatgen compares with nothing
            assert list(grouped(crystal)) == list(crystal.get_sorted_structure())


def test_the_interleaved_case_gets_three_species() -> None:
    crystal = Structure.from_file(CASES / "interleaved_P1.vasp")
    assert Poscar(grouped(crystal)).site_symbols == ["Ti", "Al", "O"]


def slab(rng: np.random.Generator) -> Structure:
    """Atoms in a part of a triclinic cell, in fractions of an axis drawn at random; with vacuum, or without."""
    lattice = Lattice.from_parameters(*rng.uniform(3, 26, 3), *rng.uniform(65, 115, 3))
    frac = rng.random((int(rng.integers(1, 9)), 3))
    axis = int(rng.integers(3))
    frac[:, axis] = (rng.random() + frac[:, axis] * rng.uniform(0.05, 1.0)) % 1.0
    return Structure(lattice, ["Mo"] * len(frac), frac)


def gap_ang(crystal: Structure, axis: int) -> float:
    """Widest empty stretch along the normal of the other two vectors: from heights of three images of every atom."""
    matrix = crystal.lattice.matrix
    normal = np.cross(matrix[(axis + 1) % 3], matrix[(axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    heights = [float((site.coords + n * matrix[axis]) @ normal) for site in crystal for n in (-1, 0, 1)]
    return max(high - low for low, high in zip(sorted(heights), sorted(heights)[1:], strict=False))


def test_vacuum_along_each_axis_is_the_gap_that_brute_force_finds() -> None:
    rng = np.random.default_rng(8)
    n_with = n_without = 0
    for _ in range(250):
        crystal = slab(rng)
        found = {one.axis: one.width_ang for one in find_vacuum(crystal) if one.axis is not None}
        for axis in range(3):
            expected = gap_ang(crystal, axis)
            if abs(expected - VACUUM_ANG) < 1e-6:
                continue
            n_with, n_without = n_with + (expected > VACUUM_ANG), n_without + (expected < VACUUM_ANG)
            assert (axis in found) == (expected > VACUUM_ANG)
            assert found.get(axis, expected) == pytest.approx(expected, abs=1e-6) or expected < VACUUM_ANG
    assert min(n_with, n_without) > 100


def test_the_same_slab_in_another_cell_has_the_same_vacuum() -> None:
    rng = np.random.default_rng(88)
    sheared = [[[1, 0, 1], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [-1, 0, 1]], [[2, 0, 0], [0, 1, 1], [0, 0, 1]]]
    for number in range(30):
        crystal = slab(rng)
        other = crystal.make_supercell(sheared[number % 3], in_place=False)
        before, after = find_vacuum(crystal), find_vacuum(other)
        assert [one.width_ang for one in after] == pytest.approx([one.width_ang for one in before], abs=1e-6)


@pytest.mark.parametrize("preset", list(Preset))
def test_a_slab_keeps_its_cell_and_says_so_and_a_crystal_is_relaxed_whole(tmp_path: Path, preset: Preset) -> None:
    crystal = Structure.from_file(CASES / "MoS2_slab.vasp")
    notes = " ".join(write_inputs(crystal, preset, tmp_path / "slab", {}, "c-1", CONFIG).notes)
    assert "16.9 A of vacuum along c" in notes
    assert "cell is held (ISIF 2)" in notes
    assert ("5 divisions along c" in notes) == (preset in (Preset.DP_CDVAE, Preset.DP_CDVAE_10GPA))
    assert ("PSTRESS acts on the vacuum" in notes) == (preset is Preset.DP_CDVAE_10GPA)
    assert Incar.from_file(tmp_path / "slab" / "INCAR")["ISIF"] == 2
    for job in MontyDecoder().decode((tmp_path / "slab" / "flow.json").read_text()).jobs:
        assert job.maker.input_set_generator.get_input_set(crystal, potcar_spec=True).incar["ISIF"] == 2
    layered = Structure(Lattice.hexagonal(3.16, 7.0), crystal.species, crystal.frac_coords)
    whole = write_inputs(layered, preset, tmp_path / "whole", {}, "c-1", CONFIG)
    assert "vacuum" not in " ".join(whole.notes)
    assert Incar.from_file(tmp_path / "whole" / "INCAR")["ISIF"] == 3


def test_only_a_relaxation_of_a_slab_by_vasp_is_another_job_than_before() -> None:
    held = Structure.from_file(CASES / "MoS2_slab.vasp")
    bulk = Structure.from_file(CASES / "YbN.vasp")

    def before(engine: VaspEngineConfig | GPAWConfig, crystal: Structure, purpose: Purpose) -> str:
        parts = {"engine": engine.name, "settings_digest": engine.settings_digest, "purpose": purpose.value}
        return json_digest({**parts, "structure": structure_digest(crystal)})[:24]

    for engine in (VaspEngineConfig(), GPAWConfig()):
        for crystal in (held, bulk):
            for purpose in Purpose:
                is_new = job_key(engine, crystal, purpose) != before(engine, crystal, purpose)
                assert is_new == (engine.name == "vasp" and crystal is held and purpose is not Purpose.STATIC)
    static = relaxation_flow(held, Preset.VDW, CONFIG, "c-1", is_static=True)
    assert "ISIF" not in static.jobs[0].maker.input_set_generator.user_incar_settings


def test_notes_of_pymatgen_are_in_lineage_and_selective_dynamics_is_said_to_be_left_out(tmp_path: Path) -> None:
    ytterbium = Structure.from_file(CASES / "YbN.vasp")
    result = write_inputs(ytterbium, Preset.MP_RELAX, tmp_path / "c", {}, "c-1", CONFIG)
    stated = json.loads((tmp_path / "c" / "lineage.json").read_text())["inputs"]["notes"]
    assert stated == list(result.notes)
    assert any("uses the Yb_2 PSP" in note for note in stated)
    ytterbium.add_site_property("selective_dynamics", [[True] * 3, [True, True, False]])
    notes = write_inputs(ytterbium, Preset.VDW, tmp_path / "d", {}, "c-1", CONFIG).notes
    assert notes[0] == "selective dynamics of the crystal are left out: all atoms are relaxed"


def test_a_hundred_angstrom_of_nothing_is_vacuum_in_every_direction() -> None:
    alone = Structure(Lattice.cubic(100), ["Si"], [[0, 0, 0]])
    slabs = find_vacuum(alone)
    assert [one.axis for one in slabs[:3]] == [2, 1, 0]
    assert math.isclose(slabs[0].width_ang, 100.0)
