"""A place to run VASP jobs in, with a stand-in for VASP and a library of pseudopotentials without content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import SETTINGS
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Incar, Poscar

from dft.config import Preset
from dft.engines.config import VaspEngineConfig
from dft.job_folder import Purpose, make_job_folder, read_record
from dft.records import DFTRecord
from dft.run_job import run_folder

ROOT = Path(__file__).resolve().parents[2]
FAKE_VASP = Path(__file__).with_name("fake_vasp_std.py")
POTCAR = (
    "  PAW_PBE Ar 01Jan2000\n   8.0\n parameters from PSCTR are:\n   VRHFIN =Ar: s2p6\n   LEXCH  = PE\n"
    "   EATOM  =   100.0 eV,   7.0 Ry\n\n   TITEL  = PAW_PBE Ar 01Jan2000\n   LULTRA =        F    use ultrasoft PP ?\n"
    "   RCORE  =    1.5    outmost cutoff radius\n   POMASS =   39.9; ZVAL   =    8.000    mass and valenz\n"
    "   ENMAX  =  266.000; ENMIN  =  200.000 eV\n   END of PSCTR-controll parameters\n local part\n  0.1 0.2\n"
    " End of Dataset\n"
)


def argon() -> Structure:
    """Two atoms off their places in a cell that is too small."""
    return Structure(Lattice.orthorhombic(3.5, 3.6, 5.2), ["Ar"] * 2, [[0, 0, 0], [0.5, 0.48, 0.53]])


class Machine:
    """A place to run jobs: environment, folders, and the command that computes one."""

    def __init__(self, place: Path) -> None:
        self.place, self.state = place, place / "starts"
        self.state.mkdir()
        for family in ("POT_GGA_PAW_PBE_54", "POT_GGA_PAW_PBE"):
            (place / "psp" / family / "Ar").mkdir(parents=True)
            (place / "psp" / family / "Ar" / "POTCAR").write_text(POTCAR)
        kept = {k: v for k, v in os.environ.items() if k not in ("CUSTODIAN_WALLTIME_START", "ATOMATE2_VASP_CMD")}
        self.environment = {
            **kept,
            "PMG_VASP_PSP_DIR": str(place / "psp"),
            "FAKE_VASP_STATE": str(self.state),
            "ATOMATE2_VASP_CMD": f"{sys.executable} {FAKE_VASP}",
            "OMP_NUM_THREADS": "1",
        }

    def folder(
        self, preset: Preset = Preset.CONDITIONAL_GENERATION, purpose: Purpose = Purpose.RELAXATION, **changes: Any
    ) -> Path:
        engine = VaspEngineConfig.model_validate({"preset": preset, "poll_s": 0.1, "monitor_every": 1, **changes})
        return make_job_folder(self.place / "jobs", argon(), engine, candidate_id="c-1", purpose=purpose)

    def start(self, folder: Path, faults: str = "", **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "dft.run_job", str(folder)],
            cwd=ROOT,
            env={**self.environment, "FAKE_VASP_FAULTS": faults, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, folder: Path, faults: str = "", **environment: str) -> int:
        """As `python -m dft.run_job` does, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.environment, "FAKE_VASP_FAULTS": faults, **environment}.items():
                patch.setenv(name, value)
            patch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", self.environment["PMG_VASP_PSP_DIR"])
            return 0 if run_folder(folder) else 1

    def n_starts(self) -> int:
        return len(list(self.state.glob("POSCAR.*")))

    def incar(self, start: int) -> Incar:
        return Incar.from_file(self.state / f"INCAR.{start}")

    def poscar(self, start: int) -> Structure:
        return Poscar.from_file(self.state / f"POSCAR.{start}").structure


def record_of(folder: Path) -> DFTRecord:
    record = read_record(folder)
    assert record is not None
    return record


def error_of(folder: Path) -> dict[str, Any]:
    assert not (folder / "record.json").exists()
    document: dict[str, Any] = json.loads((folder / "error.json").read_text())
    return document
