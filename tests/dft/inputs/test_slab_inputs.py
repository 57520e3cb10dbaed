"""VASP inputs of bilayers by the preset vdw: what is held, sampled and corrected across the vacuum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monty.json import MontyDecoder
from pymatgen.core import SETTINGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints

from dft.config import InputsConfig, Preset
from dft.engines.config import VaspEngineConfig
from dft.inputs.folder import write_inputs
from dft.inputs.slabs import is_polar
from dft.job_folder import Purpose, job_key
from dft.jobs import relaxation_flow

CONFIG = InputsConfig.model_validate({})


@pytest.fixture(autouse=True)
def no_pseudopotentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


def bilayer(lower: str, upper: str, axis: int = 2, vacuum_ang: float = 20.0, start: float = 0.1) -> Structure:
    """Two layers X-Ga-Ga-X, named from the bottom to the top, such as 'S' and 'Se' outside."""
    heights = np.array([0, 1.2, 3.6, 4.8, 7.8, 9.0, 11.4, 12.6])
    lattice = Lattice.hexagonal(3.8, heights[-1] + vacuum_ang)
    places = [[1 / 3, 2 / 3], [0, 0], [0, 0], [1 / 3, 2 / 3]] * 2
    frac = np.array([[*place, start + z / lattice.c] for place, z in zip(places, heights, strict=True)])
    order = np.roll([0, 1, 2], axis - 2)
    species = [*lower.split("-"), *upper.split("-")]
    return Structure(Lattice(lattice.matrix[order]), species, frac[:, order])


SYMMETRIC, JANUS = ("Se-Ga-Ga-Se", "Se-Ga-Ga-Se"), ("S-Ga-Ga-Se", "S-Ga-Ga-Se")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_janus_bilayer_is_held_sampled_once_across_its_vacuum_and_freed_of_its_dipole(
    tmp_path: Path, axis: int
) -> None:
    crystal = bilayer(*JANUS, axis=axis, start=0.9)  # the slab reaches through the cell's face
    result = write_inputs(crystal, Preset.VDW, tmp_path / "b", {}, "c-1", CONFIG)
    incar, mesh = Incar.from_file(tmp_path / "b" / "INCAR"), Kpoints.from_file(tmp_path / "b" / "KPOINTS")
    assert {tag: incar[tag] for tag in ("ISIF", "IVDW", "GGA", "ENCUT", "EDIFF", "EDIFFG")} == {
        "ISIF": 2, "IVDW": 11, "GGA": "Pe", "ENCUT": 550, "EDIFF": 1e-6, "EDIFFG": -0.05,
    }  # fmt: skip
    assert (incar["LDIPOL"], incar["IDIPOL"]) == (True, axis + 1)
    middle = (0.9 + 0.5 * 12.6 / 32.6) % 1.0
    assert incar["DIPOL"][axis] == pytest.approx(middle, abs=1e-5)
    divisions = [int(n) for n in mesh.kpts[0]]
    assert divisions.pop(axis) == 1
    assert min(divisions) >= 5
    assert any("dipole" in note for note in result.notes)
    assert any(f"vacuum along {'abc'[axis]}" in note for note in result.notes)
    (job,) = MontyDecoder().decode((tmp_path / "b" / "flow.json").read_text()).jobs
    again = job.maker.input_set_generator.get_input_set(crystal, potcar_spec=True)
    assert again.incar["IDIPOL"] == axis + 1
    assert [int(n) for n in again.kpoints.kpts[0]] == [int(n) for n in mesh.kpts[0]]


def test_a_bilayer_with_like_faces_has_no_dipole_to_correct(tmp_path: Path) -> None:
    crystal = bilayer(*SYMMETRIC)
    assert not is_polar(crystal, 2)
    assert is_polar(bilayer(*JANUS), 2)
    assert not is_polar(bilayer("S-Ga-Ga-Se", "Se-Ga-Ga-S"), 2)
    notes = write_inputs(crystal, Preset.VDW, tmp_path / "b", {}, "c-1", CONFIG).notes
    assert "LDIPOL" not in Incar.from_file(tmp_path / "b" / "INCAR")
    assert not any("dipole" in note for note in notes)


def test_a_thin_vacuum_that_a_density_would_sample_is_sampled_once(tmp_path: Path) -> None:
    crystal = Structure(Lattice.tetragonal(2.8, 9.2), ["Cu"], [[0, 0, 0]])
    by_density = Kpoints.automatic_density_by_vol(crystal, 64, force_gamma=True)
    assert by_density.kpts[0][2] > 1
    write_inputs(crystal, Preset.VDW, tmp_path / "c", {}, "c-1", CONFIG)
    mesh = Kpoints.from_file(tmp_path / "c" / "KPOINTS")
    assert tuple(mesh.kpts[0]) == (*by_density.kpts[0][:2], 1)
    assert mesh.style == by_density.style


def test_a_static_run_of_a_slab_has_the_mesh_and_dipole_of_its_relaxation() -> None:
    (static,) = relaxation_flow(bilayer(*JANUS), Preset.VDW, CONFIG, "c-1", is_static=True).jobs
    generator = static.maker.input_set_generator
    assert "ISIF" not in generator.user_incar_settings
    assert generator.user_incar_settings["IDIPOL"] == 3
    assert generator.user_kpoints_settings.kpts[0][2] == 1


def test_other_presets_write_slabs_as_before_and_bulk_by_vdw_is_as_it_was(tmp_path: Path) -> None:
    write_inputs(bilayer(*JANUS), Preset.MP_RELAX, tmp_path / "mp", {}, "c-1", CONFIG)
    incar = Incar.from_file(tmp_path / "mp" / "INCAR")
    assert incar["ISIF"] == 2
    assert "LDIPOL" not in incar
    bulk = Structure(Lattice.hexagonal(3.76, 15.9), ["Ga", "Se"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]])
    assert bulk.lattice.c / 2 < 8
    write_inputs(bulk, Preset.VDW, tmp_path / "bulk", {}, "c-1", CONFIG)
    incar = Incar.from_file(tmp_path / "bulk" / "INCAR")
    assert incar["ISIF"] == 3
    assert "LDIPOL" not in incar


def test_a_slab_by_vdw_is_another_job_than_before_and_by_other_presets_the_same() -> None:
    polar, bulk = bilayer(*JANUS), Structure(Lattice.cubic(3.0), ["Cu"], [[0, 0, 0]])
    vdw, mp = VaspEngineConfig(preset=Preset.VDW), VaspEngineConfig(preset=Preset.MP_RELAX)
    assert vdw.follows_from(polar, is_static=False) == {"cell": "held", "across": "one k-point", "dipole": True}
    assert vdw.follows_from(polar, is_static=True) == {"across": "one k-point", "dipole": True}
    assert mp.follows_from(polar, is_static=False) == {"cell": "held"}
    assert mp.follows_from(polar, is_static=True) == vdw.follows_from(bulk, is_static=False) == {}
    assert len({job_key(vdw, polar, purpose) for purpose in Purpose}) == len(list(Purpose))
