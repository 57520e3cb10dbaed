"""Recorded runs of real VASP read back, and outputs that a kill, a full disk or an external pressure leaves behind."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pymatgen.io.vasp.outputs import Outcar, Vasprun

from dft.engines.vasp_outputs import OutputError, digests, last_structure, read_run
from dft.results import GPA_PER_EV_ANG3

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))
RECORDED = ("nonmetallic", "metallic", "vasp_mp_run1")


def recorded(name: str) -> Path:
    folder = ASSETS / "vasp_runs" / name
    if not folder.is_dir():
        pytest.skip(f"no recorded VASP runs under {ASSETS}: set HULLWARD_ASSETS to the folder that holds vasp_runs/")
    return folder


def text_of(folder: Path, name: str) -> str:
    return gzip.decompress((folder / f"{name}.gz").read_bytes()).decode()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_run_says_what_its_outcar_and_pymatgen_say(name: str) -> None:
    folder = recorded(name)
    run, outcar = read_run(folder), text_of(folder, "OUTCAR")
    vasprun = Vasprun(str(folder / "vasprun.xml.gz"), parse_potcar_file=False)
    printed = re.findall(r"energy\(sigma->0\) =\s+(\S+)", outcar)
    assert run.energy_ev == pytest.approx(float(printed[-1]), abs=1e-6)
    assert run.energy_ev == pytest.approx(float(vasprun.final_energy), abs=1e-6)
    assert run.enthalpy_ev == run.energy_ev == run.initial_energy_ev
    kilobar = [float(x) for x in re.findall(r"in kB\s+(.+)", outcar)[-1].split()]
    np.testing.assert_allclose(np.diag(run.stress_gpa), -0.1 * np.array(kilobar[:3]), atol=1e-4)
    np.testing.assert_allclose(run.forces_ev_per_ang, vasprun.ionic_steps[-1]["forces"])
    assert run.n_ionic_steps == outcar.count("LOOP+")
    assert run.n_electronic_steps == len(re.findall(r"-+ Iteration\s+\d+\(", outcar))
    assert run.wall_time_s == pytest.approx(float(re.findall(r"Elapsed time \(sec\):\s+(\S+)", outcar)[-1]))
    assert run.structure == vasprun.final_structure
    assert run.has_converged_electrons
    assert run.has_converged_ions
    assert run.corrections == ()


def test_functional_hubbards_and_pseudopotentials_of_recorded_runs() -> None:
    silicon, oxide = read_run(recorded("nonmetallic")), read_run(recorded("vasp_mp_run1"))
    assert (silicon.version, silicon.run_type, silicon.hubbards_ev) == ("6.2.1", "GGA", {})
    assert silicon.potcars == ("PAW_PBE Si 05Jan2001",)
    assert (oxide.version, oxide.run_type, oxide.hubbards_ev["Ni"]) == ("6.4.1", "GGA+U", 6.2)
    moments = [float(one["tot"]) for one in Outcar(str(recorded("vasp_mp_run1") / "OUTCAR.gz")).magnetization]
    assert oxide.magmoms == pytest.approx(moments)


@pytest.fixture
def silicon(tmp_path: Path) -> Path:
    """A copy of the recorded run of silicon that tests may damage."""
    folder = tmp_path / "0"
    shutil.copytree(recorded("nonmetallic"), folder)
    return folder


def rewritten(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_vasprun_cut_short_anywhere_is_refused(silicon: Path, share: float) -> None:
    text = text_of(silicon, "vasprun.xml")
    rewritten(silicon, "vasprun.xml", text[: int(share * len(text))])
    with pytest.raises(OutputError, match=r"cannot be read .*run the job again"):
        read_run(silicon)


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR", "CONTCAR"])
def test_a_missing_output_is_refused(silicon: Path, name: str) -> None:
    (silicon / f"{name}.gz").unlink()
    with pytest.raises(OutputError):
        read_run(silicon)


def test_a_gzip_stream_cut_short_is_refused(silicon: Path) -> None:
    data = (silicon / "vasprun.xml.gz").read_bytes()
    (silicon / "vasprun.xml.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(OutputError, match="cannot be read"):
        read_run(silicon)


def under_pressure(folder: Path, ionic_energy_has_pv: bool, outcar_has_line: bool) -> float:
    """The recorded run as VASP would write it under 100 kbar: PSTRESS, and the ionic energy with PV or without."""
    text = text_of(folder, "vasprun.xml")
    text = re.sub(r'(<i name="PSTRESS">)[^<]*', r"\g<1>    100.00000000", text)
    volume = float(re.findall(r'<i name="volume">\s*(\S+)\s*</i>', text)[-1])
    pv = 10 / GPA_PER_EV_ANG3 * volume
    head, tail = text.rsplit("<energy>", 1)
    if ionic_energy_has_pv:
        tail = re.sub(r"-\d+\.\d+", lambda number: f"{float(number[0]) + pv:.8f}", tail.split("</energy>")[0]) + (
            "</energy>" + tail.split("</energy>", 1)[1]
        )
    rewritten(folder, "vasprun.xml", f"{head}<energy>{tail}")
    if outcar_has_line:
        free = float(re.findall(r"free  energy   TOTEN  =\s+(\S+)", text_of(folder, "OUTCAR"))[-1])
        line = f"  enthalpy is  TOTEN    = {free + pv:18.8f} eV   P V= {pv:18.8f}\n"
        rewritten(folder, "OUTCAR", text_of(folder, "OUTCAR") + line)
    return pv


@pytest.mark.parametrize("ionic_energy_has_pv", [True, False])
@pytest.mark.parametrize("outcar_has_line", [True, False])
def test_energy_and_enthalpy_are_right_whichever_of_them_vasp_printed(
    silicon: Path, ionic_energy_has_pv: bool, outcar_has_line: bool
) -> None:
    plain = read_run(silicon)
    pv = under_pressure(silicon, ionic_energy_has_pv, outcar_has_line)
    run = read_run(silicon)
    assert run.pressure_gpa == pytest.approx(10)
    assert pv == pytest.approx(2.55, abs=0.1)  # eV for two atoms of silicon: a PV counted twice could not hide
    assert run.energy_ev == pytest.approx(plain.energy_ev, abs=1e-6)
    assert run.enthalpy_ev == pytest.approx(plain.energy_ev + pv, abs=1e-6)


def test_the_crystal_to_go_on_from_is_contcar_unless_it_is_cut_short(silicon: Path) -> None:
    found = last_structure(silicon)
    assert found is not None
    assert found.matches(read_run(silicon).structure)
    text = text_of(silicon, "CONTCAR")
    rewritten(silicon, "CONTCAR", "\n".join(text.splitlines()[:8]))
    assert last_structure(silicon) is None
    rewritten(silicon, "CONTCAR", "")
    assert last_structure(silicon) is None
    (silicon / "CONTCAR.gz").unlink()
    assert last_structure(silicon) is None


def test_steps_of_a_killed_attempt_count_and_its_first_energy_is_the_initial_one(silicon: Path, tmp_path: Path) -> None:
    killed = tmp_path / "0.killed-1"
    shutil.copytree(silicon, killed)
    text = text_of(killed, "vasprun.xml")
    rewritten(killed, "vasprun.xml", text[: text.rindex("</calculation>") + len("</calculation>")])
    alone, both = read_run(silicon), read_run(silicon, (killed,))
    assert both.n_ionic_steps == 2 * alone.n_ionic_steps
    assert both.n_electronic_steps == 2 * alone.n_electronic_steps
    assert both.initial_energy_ev == pytest.approx(alone.energy_ev, abs=1e-6)
    (killed / "vasprun.xml.gz").unlink()
    lost = read_run(silicon, (killed,))
    assert lost.n_ionic_steps == alone.n_ionic_steps
    assert "0.killed-1/vasprun.xml holds no steps" in " ".join(lost.warnings)


def test_digests_name_every_file_below_a_folder(silicon: Path) -> None:
    found = digests(silicon)
    assert set(found) == {path.name for path in silicon.iterdir()}
    before = found["OUTCAR.gz"]
    rewritten(silicon, "OUTCAR", "other")
    assert digests(silicon)["OUTCAR.gz"] != before
