"""VASP inputs read back with pymatgen and atomate2, written twice, interrupted, and refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from atomate2.vasp.files import write_vasp_input_set
from jobflow.managers.local import run_locally
from monty.json import MontyDecoder
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import SETTINGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar, Potcar

import dft.inputs.folder
from dft.config import InputsConfig, Preset, StoreConfig
from dft.inputs.folder import InputsError, WrittenInputs, write_inputs
from dft.jobs import flow_json, record_inputs, relaxation_flow
from dft.stores import open_job_store

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))
CONFIG = InputsConfig.model_validate({})
LINEAGE = {"seed": 7, "checkpoint": "sha256:abc", "conditions": {"composition": "FeO"}, "dataset": "fingerprint"}


@pytest.fixture(autouse=True)
def no_pseudopotentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


def iron_oxide() -> Structure:
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.3), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cubic.get_primitive_structure()


def written(folder: Path, preset: Preset = Preset.CONDITIONAL_GENERATION, **changes: Any) -> WrittenInputs:
    arguments: dict[str, Any] = {"structure": iron_oxide(), "lineage": LINEAGE, "name": "c-1", "config": CONFIG}
    return write_inputs(preset=preset, folder=folder, **{**arguments, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Tags as the papers state them (kbar for PSTRESS); the Materials Project's from pymatgen's MPRelaxSet documentation.
STATED = {
    Preset.MP_RELAX: {"ENCUT": 520, "EDIFF": 1e-4, "ISMEAR": -5, "SIGMA": 0.05},
    Preset.CONDITIONAL_GENERATION: {"GGA": "Pe", "ENCUT": 500, "EDIFF": 1e-5, "EDIFFG": -1e-2},
    Preset.DP_CDVAE: {"GGA": "Pe", "ENCUT": 800, "EDIFF": 1e-5, "EDIFFG": -1e-5},
    Preset.DP_CDVAE_10GPA: {"GGA": "Pe", "ENCUT": 800, "EDIFF": 1e-5, "EDIFFG": -1e-5, "PSTRESS": 100},
    Preset.VDW: {"GGA": "Pe", "ENCUT": 550, "EDIFF": 1e-6, "EDIFFG": -0.05, "IVDW": 11},
}


@pytest.mark.parametrize("preset", list(Preset))
def test_each_preset_writes_what_its_source_states(tmp_path: Path, preset: Preset) -> None:
    written(tmp_path / "c", preset)
    incar = Incar.from_file(tmp_path / "c" / "INCAR")
    assert {tag: incar[tag] for tag in STATED[preset]} == STATED[preset]
    assert (incar["ISIF"], incar["IBRION"], incar["ISPIN"], incar["MAGMOM"]) == (3, 2, 2, [5.0, 0.6])
    assert ("LDAU" in incar) == (preset is Preset.MP_RELAX)  # GGA+U is the Materials Project's alone
    assert not [tag for tag in incar if tag.startswith("LDAU") and preset is not Preset.MP_RELAX]
    assert ("PSTRESS" in incar) == (preset is Preset.DP_CDVAE_10GPA)
    assert ("IVDW" in incar) == (preset is Preset.VDW)
    kpoints = Kpoints.from_file(tmp_path / "c" / "KPOINTS")
    if preset in (Preset.DP_CDVAE, Preset.DP_CDVAE_10GPA):
        assert (kpoints.style.name, tuple(kpoints.kpts[0])) == ("Monkhorst", (5, 5, 5))
    else:  # 64 points per A^-3 of reciprocal cell: pymatgen's own automatic mesh
        assert kpoints.kpts == Kpoints.automatic_density_by_vol(iron_oxide(), 64, force_gamma=True).kpts
    family = (tmp_path / "c" / "POTCAR.functional").read_text().strip()
    assert family == ("PBE" if preset is Preset.MP_RELAX else "PBE_54")


@pytest.mark.parametrize("preset", list(Preset))
def test_the_flow_loads_back_and_its_makers_write_the_same_inputs(tmp_path: Path, preset: Preset) -> None:
    result = written(tmp_path / "c", preset)
    flow = MontyDecoder().decode((tmp_path / "c" / "flow.json").read_text())
    assert flow.uuid == result.flow_uuid
    assert flow_json(flow) + "\n" == (tmp_path / "c" / "flow.json").read_text()
    assert len(flow.jobs) == (2 if preset is Preset.MP_RELAX else 1)
    first = flow.jobs[0]
    assert first.metadata["candidate_id"] == "c-1"
    assert first.metadata["lineage"] == LINEAGE
    again = tmp_path / "again"
    generator = first.maker.input_set_generator
    write_vasp_input_set(first.function_args[0], generator, again, potcar_spec=True, clean_prev=False)
    for name in ("INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"):
        assert (again / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_another_process_with_another_hash_seed_and_settings_of_its_own_writes_identical_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_inputs import written; from dft.config import Preset\n"
        "for preset in Preset: written(Path(sys.argv[1]) / preset.value, preset)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(dft.inputs.folder.__file__).parents[2])}
    environment.pop("PMG_VASP_PSP_DIR", None)
    # Settings of atomate2 and pymatgen that default values of input sets come from, and which no preset may follow.
    environment |= {"ATOMATE2_SYMPREC": "0.5", "ATOMATE2_BANDGAP_TOL": "9", "ATOMATE2_VASP_INHERIT_INCAR": "true"}
    environment |= {"PMG_DEFAULT_FUNCTIONAL": "LDA", "PMG_POTCAR_CHECKS": "false"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "there"), str(Path(__file__).parent)]
    subprocess.run(command, env=environment, check=True)
    for preset in Preset:
        written(tmp_path / "here" / preset.value, preset)
        assert contents(tmp_path / "here" / preset.value) == contents(tmp_path / "there" / preset.value)


def test_ids_differ_with_the_candidate_the_preset_and_the_crystal() -> None:
    stretched = iron_oxide().apply_strain(0.01, inplace=False)
    flows = [
        relaxation_flow(structure, preset, CONFIG, candidate)
        for structure in (iron_oxide(), stretched)
        for preset in (Preset.MP_RELAX, Preset.VDW)
        for candidate in ("c-1", "c-2")
    ]
    ids = [flow.uuid for flow in flows] + [uuid for flow in flows for uuid in flow.all_uuids]
    assert len(set(ids)) == len(ids) == 8 + 4 * 2 + 4


def test_the_crystal_in_the_inputs_is_the_candidate(tmp_path: Path) -> None:
    swapped = Structure(Lattice([[0, 0, 3.1], [0, 3, 0], [3.2, 0.1, 0]]), ["W", "B"], [[0, 0, 0], [0.5, 0.4, 0.45]])
    assert swapped.lattice.matrix[0] @ [0, 0, 1] == 3.1
    written(tmp_path / "c", structure=swapped)
    poscar = Poscar.from_file(tmp_path / "c" / "POSCAR").structure
    assert Lattice(poscar.lattice.matrix).matrix[0] @ [1, 0, 0] == pytest.approx(0)
    for structure in (poscar, Structure.from_file(tmp_path / "c" / "candidate.cif")):
        rms = StructureMatcher(primitive_cell=False, scale=False).get_rms_dist(swapped, structure)
        assert rms is not None
        assert rms[0] < 1e-6
    assert poscar.lattice.abc == pytest.approx(swapped.lattice.abc)


def test_properties_left_by_a_relaxer_do_not_reach_the_flow(tmp_path: Path) -> None:
    plain, decorated = iron_oxide(), iron_oxide()
    decorated.add_site_property("forces", [[0.1, 0, 0], [0, 0, 0]])
    written(tmp_path / "plain", structure=plain)
    written(tmp_path / "decorated", structure=decorated)
    assert contents(tmp_path / "plain") == contents(tmp_path / "decorated")
    spinning = iron_oxide()
    spinning.add_site_property("magmom", [4.0, 0.1])
    written(tmp_path / "spin", structure=spinning)
    assert Incar.from_file(tmp_path / "spin" / "INCAR")["MAGMOM"] == [4.0, 0.1]


def test_lineage_holds_what_it_was_given_and_the_digest_of_every_file(tmp_path: Path) -> None:
    result = written(tmp_path / "c")
    lineage = json.loads((tmp_path / "c" / "lineage.json").read_text())
    assert {key: lineage[key] for key in LINEAGE} == LINEAGE
    assert lineage["schema_version"] == "1"
    assert lineage["inputs"]["candidate_id"] == "c-1"
    assert lineage["inputs"]["flow_uuid"] == result.flow_uuid
    files = contents(tmp_path / "c")
    assert {k: hashlib.sha256(v).hexdigest() for k, v in files.items()} == result.files
    assert lineage["inputs"]["sha256"] == {k: v for k, v in result.files.items() if k != "lineage.json"}


def test_inputs_of_another_calculation_in_the_current_folder_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("INCAR", "POSCAR", "KPOINTS", "POTCAR", "POTCAR.spec"):
        (tmp_path / name).write_text("mine")
    written(tmp_path / "dft" / "c")
    assert all((tmp_path / name).read_text() == "mine" for name in ("INCAR", "POSCAR", "KPOINTS", "POTCAR"))


def fake_potcar(symbol: str) -> str:
    element = symbol.split("_")[0]
    return (
        f"  PAW_PBE {symbol} 01Jan2000\n   6.0\n parameters from PSCTR are:\n   VRHFIN ={element}: s2\n"
        f"   LEXCH  = PE\n   EATOM  =   100.0 eV,   7.0 Ry\n\n   TITEL  = PAW_PBE {symbol} 01Jan2000\n"
        "   LULTRA =        F    use ultrasoft PP ?\n   RCORE  =    1.5    outmost cutoff radius\n"
        "   POMASS =   10.0; ZVAL   =    6.000    mass and valenz\n"
        "   ENMAX  =  400.000; ENMIN  =  300.000 eV\n   END of PSCTR-controll parameters\n local part\n"
        "  0.1 0.2\n End of Dataset\n"
    )


def test_potcar_is_written_where_pseudopotentials_are_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "psp" / "POT_GGA_PAW_PBE_54"
    for symbol in ("Fe", "O"):
        (library / symbol).mkdir(parents=True)
        (library / symbol / "POTCAR").write_text(fake_potcar(symbol))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "psp"))
    result = written(tmp_path / "c")
    assert result.has_potcar
    assert "POTCAR.spec" not in result.files
    assert Potcar.from_file(str(tmp_path / "c" / "POTCAR")).symbols == ["Fe", "O"]
    assert "POTCAR.spec in place" not in " ".join(result.notes)
    (library / "O" / "POTCAR").unlink()
    without = written(tmp_path / "d")
    assert not without.has_potcar
    assert "symbol='O'" in without.notes[0]
    assert (tmp_path / "d" / "POTCAR.spec").read_text() == "Fe\nO"


def test_without_pseudopotentials_the_spec_and_a_note_take_their_place(tmp_path: Path) -> None:
    result = written(tmp_path / "c")
    assert not result.has_potcar
    assert result.notes == ("POTCAR.spec in place of POTCAR: PMG_VASP_PSP_DIR is not configured",)


def with_site(symbol: str) -> Structure:
    return Structure(Lattice.cubic(3.5), [symbol, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def broken_lattice() -> Structure:
    return Structure(Lattice([[3, 0, 0], [0, 3, 0], [math.nan, 0, 3]]), ["Fe"], [[0, 0, 0]])


@pytest.mark.parametrize(
    ("changes", "preset", "message"),
    [
        ({"structure": with_site("Po")}, Preset.MP_RELAX, "mp-relax has no pseudopotential for Po in candidate c-1"),
        ({"structure": with_site("Bk")}, Preset.VDW, "vdw has no pseudopotential for Bk"),
        ({"structure": broken_lattice()}, Preset.VDW, "1 sites in nan A"),
        ({"structure": Structure(Lattice.cubic(3), ["Fe"], [[0, math.inf, 0]])}, Preset.VDW, "finite coordinates"),
        ({"structure": Structure(Lattice.cubic(3), [], [])}, Preset.VDW, "0 sites"),
        ({"structure": Structure(Lattice.cubic(3), [{"Fe": 0.5, "Co": 0.5}], [[0, 0, 0]])}, Preset.VDW, "disordered"),
        ({"lineage": {"schema_version": 3}}, Preset.VDW, "has a key 'schema_version'"),
        ({"lineage": {"value": math.nan}}, Preset.VDW, "not plain JSON"),
        ({"lineage": {"value": {1, 2}}}, Preset.VDW, "not plain JSON"),
        ({"config": InputsConfig.model_validate({"potcar_functional": "PBE54"})}, Preset.VDW, "family 'PBE54' is unk"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], preset: Preset, message: str
) -> None:
    with pytest.raises(InputsError, match=message):
        written(tmp_path / "dft" / "c", preset, **changes)
    assert not list(tmp_path.rglob("*c*"))


def test_po_goes_through_the_presets_that_have_it(tmp_path: Path) -> None:
    assert written(tmp_path / "c", structure=with_site("Po")).files["INCAR"]


def test_a_second_write_leaves_results_alone_and_never_overwrites_a_calculation(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    first = written(folder)
    (folder / "OUTCAR").write_text("a week of computing")
    (folder / "INCAR").rename(folder / "INCAR.gz")  # what atomate2 does with the inputs after a run
    assert written(folder).files == first.files
    assert (folder / "OUTCAR").exists()
    with pytest.raises(FileExistsError, match="2 more file.s. such as INCAR.gz"):
        written(folder, Preset.VDW)
    assert (folder / "OUTCAR").read_text() == "a week of computing"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_inputs_alone_are_replaced_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    written(folder)
    (folder / "KPOINTS").unlink()
    written(folder, Preset.VDW)
    assert Incar.from_file(folder / "INCAR")["ENCUT"] == 550
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_failure_in_the_middle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(dft.inputs.folder, "relaxation_flow", full_disk)
    with pytest.raises(OSError, match="no space left"):
        written(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_documents_about_inputs_are_found_by_candidate_and_written_once(tmp_path: Path) -> None:
    store = open_job_store(StoreConfig.model_validate({}), tmp_path)
    for _ in range(2):
        result = written(tmp_path / "dft" / "c")
        key = record_inputs(
            store,
            candidate_id="c-1",
            preset=Preset.CONDITIONAL_GENERATION,
            folder=Path("dft/c"),
            files=result.files,
            lineage=LINEAGE,
            structure=iron_oxide(),
            flow_uuid=result.flow_uuid,
            notes=result.notes,
        )
    store.close()
    store = open_job_store(StoreConfig.model_validate({}), tmp_path)
    assert store.count({"metadata.candidate_id": "c-1"}) == 1
    output = store.get_output(key)
    assert output["lineage"] == LINEAGE
    assert output["flow_uuid"] == result.flow_uuid
    assert Structure.from_dict(output["structure"]) == iron_oxide()
    store.close()


def test_the_written_flow_runs_and_its_task_document_reaches_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = ASSETS / "examples" / "fake_vasp_std"
    if not stand_in.exists():
        pytest.skip(f"no stand-in for VASP at {stand_in}: set HULLWARD_ASSETS to the folder that holds examples/")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    argon = Structure(Lattice.cubic(5.4), ["Ar"] * 2, [[0, 0, 0], [0.5, 0.5, 0.52]])
    written(tmp_path / "c", Preset.DP_CDVAE, structure=argon)
    flow = MontyDecoder().decode((tmp_path / "c" / "flow.json").read_text())
    for job in flow.jobs:
        job.maker.write_input_set_kwargs["potcar_spec"] = True
        job.maker.run_vasp_kwargs.update(
            vasp_cmd=f"{sys.executable} {stand_in}", custodian_kwargs={"polling_time_step": 0.2, "monitor_freq": 1}
        )
    store = open_job_store(StoreConfig.model_validate({}), tmp_path)
    monkeypatch.chdir(tmp_path)
    run_locally(flow, store=store, create_folders=True, log=False, raise_immediately=True)
    store.close()
    store = open_job_store(StoreConfig.model_validate({}), tmp_path)
    document = store.query_one({"metadata.candidate_id": "c-1"})
    assert document is not None
    assert document["uuid"] == flow.jobs[0].uuid
    assert document["output"]["output"]["energy_per_atom"] < 0
    assert document["metadata"]["lineage"] == LINEAGE
    store.close()
