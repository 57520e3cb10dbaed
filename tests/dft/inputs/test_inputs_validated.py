"""VASP inputs before the validators of others: pymatgen on INCAR tags, the Materials Project on a whole run."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from pymatgen.core import SETTINGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.validation.validation import VaspValidator
from pymatgen.io.vasp.inputs import BadIncarWarning, Incar, Kpoints, Poscar

from dft.config import InputsConfig, Preset
from dft.inputs.folder import write_inputs

CONFIG = InputsConfig.model_validate({})


def crystals() -> dict[str, Structure]:
    rock_salt = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return {
        "iron oxide": Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.3), ["Fe", "O"], rock_salt),
        "magnesia": Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], rock_salt),
        "diamond": Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]]),
        "tantalum boride": Structure.from_spacegroup(
            "P6/mmm", Lattice.hexagonal(3.1, 3.24), ["Ta", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
        ),
    }


@pytest.fixture(autouse=True)
def no_pseudopotentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


def written(folder: Path, name: str, preset: Preset) -> Path:
    write_inputs(crystals()[name].get_primitive_structure(), preset, folder, {}, "c-1", CONFIG)
    return folder


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("name", list(crystals()))
def test_every_tag_of_every_preset_passes_pymatgen_s_check(tmp_path: Path, name: str, preset: Preset) -> None:
    folder = written(tmp_path / "c", name, preset)
    incar = Incar.from_file(folder / "INCAR")
    with warnings.catch_warnings():
        warnings.simplefilter("error", BadIncarWarning)
        incar.check_params()
    assert Poscar.from_file(folder / "POSCAR").structure.matches(crystals()[name], scale=False)
    assert Kpoints.from_file(folder / "KPOINTS").kpts


def test_pymatgen_s_check_would_see_a_misspelt_tag(tmp_path: Path) -> None:
    incar = Incar.from_file(written(tmp_path / "c", "magnesia", Preset.VDW) / "INCAR")
    with pytest.warns(BadIncarWarning, match="ENCUTT"):
        Incar({**incar, "ENCUTT": 500}).check_params()


def validated(folder: Path) -> VaspValidator:
    """As the Materials Project sees it; the functional is written out, since there are no POTCARs to tell it."""
    incar = Incar.from_file(folder / "INCAR")
    Incar({**incar, "GGA": "PE"}).write_file(str(folder / "INCAR"))
    paths = {"incar": folder / "INCAR", "poscar": folder / "POSCAR", "kpoints": folder / "KPOINTS"}
    return VaspValidator.from_vasp_input(vasp_file_paths=paths, check_potcar=False)


@pytest.mark.parametrize("name", list(crystals()))
def test_the_materials_project_accepts_the_inputs_of_its_preset(tmp_path: Path, name: str) -> None:
    found = validated(written(tmp_path / "c", name, Preset.MP_RELAX))
    assert found.reasons == []
    assert found.valid


def test_the_materials_project_s_validator_would_see_a_low_cutoff(tmp_path: Path) -> None:
    folder = written(tmp_path / "c", "magnesia", Preset.MP_RELAX)
    incar = Incar.from_file(folder / "INCAR")
    Incar({**incar, "ENCUT": 300}).write_file(str(folder / "INCAR"))
    assert any("ENCUT" in reason for reason in validated(folder).reasons)
