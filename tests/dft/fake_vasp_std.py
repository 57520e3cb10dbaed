"""Stand-in for VASP in the tests: relaxes POSCAR as Lennard-Jones argon and writes what atomate2 and custodian read.

Output files are rewritten after every ionic step, as VASP does, so that a kill leaves them as a kill leaves VASP's. The
environment says what goes wrong:
    FAKE_VASP_FAULTS   one word per start, such as 'crash,none'; 'none' when they are used up
    FAKE_VASP_STATE    folder where starts are counted and their POSCARs kept
    FAKE_VASP_STEP_S   seconds that an ionic step takes
    FAKE_VASP_STEPS_MAX  ionic steps of a start, in place of NSW
Faults: unconverged (every ionic step ends at NELM), zbrent (VASP's error message), crash (a signal's message, exit 1),
truncated (vasprun.xml cut in the middle, exit 0), full-disk (CONTCAR goes to a full device).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS

KBAR = 0.1 * units.GPa
ATOM_EV = -5.0  # energies of VASP are negative, enthalpies at 10 GPa too: custodian takes a positive one for an error
Step = tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]


def incar_tags() -> dict[str, str]:
    lines = (line.split("=", 1) for line in Path("INCAR").read_text().splitlines() if "=" in line)
    return {tag.strip().upper(): value.strip() for tag, value in lines}


def this_start_s_fault() -> str:
    state = Path(os.environ["FAKE_VASP_STATE"])
    number = len(list(state.glob("POSCAR.*")))
    shutil.copy("POSCAR", state / f"POSCAR.{number}")
    shutil.copy("INCAR", state / f"INCAR.{number}")
    faults = [fault for fault in os.environ.get("FAKE_VASP_FAULTS", "").split(",") if fault]
    return faults[number] if number < len(faults) else "none"


def rows(name: str, values: np.ndarray) -> str:
    body = "".join("<v>" + " ".join(f"{x:.8f}" for x in row) + "</v>" for row in values)
    return f'<varray name="{name}">{body}</varray>'


def crystal(frac: np.ndarray, cell: np.ndarray, name: str = "") -> str:
    volume, reciprocal = abs(np.linalg.det(cell)), np.linalg.inv(cell).T
    inner = f'{rows("basis", cell)}<i name="volume">{volume:.8f}</i>{rows("rec_basis", reciprocal)}'
    label = f' name="{name}"' if name else ""
    return f"<structure{label}><crystal>{inner}</crystal>{rows('positions', frac)}</structure>"


def energies(value: float) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "<energy>" + "".join(f'<i name="{name}">{value:.8f}</i>' for name in names) + "</energy>"


class Calculation:
    """One start of VASP: settings, steps so far, and the files about them."""

    def __init__(self, fault: str) -> None:
        self.fault, self.began = fault, time.time()
        self.tags = incar_tags()
        self.atoms: Atoms = read("POSCAR", format="vasp")
        self.atoms.calc = LennardJones(sigma=3.4, epsilon=0.1, rc=8.0, ro=6.0, smooth=True)
        self.pressure_kbar = float(self.tags.get("PSTRESS", 0))
        self.n_ionic_max, self.nelm = int(self.tags.get("NSW", 0)), int(self.tags.get("NELM", 60))
        self.n_ionic_max = min(self.n_ionic_max, int(os.environ.get("FAKE_VASP_STEPS_MAX", self.n_ionic_max)))
        self.steps: list[Step] = []
        self.is_stopped = False

    def run(self) -> None:
        self.take_step()
        if self.n_ionic_max == 0:
            return
        moving = FrechetCellFilter(self.atoms, scalar_pressure=self.pressure_kbar * KBAR)
        optimiser = BFGS(moving, logfile=None)
        # EDIFFG's default, 10 EDIFF as an energy, is taken for a force
        for _ in optimiser.irun(fmax=abs(float(self.tags.get("EDIFFG", -0.02))), steps=self.n_ionic_max - 1):
            if optimiser.nsteps:
                self.take_step()
            if Path("STOPCAR").exists() and "LSTOP" in Path("STOPCAR").read_text():
                self.is_stopped = True
                return

    def take_step(self) -> None:
        time.sleep(float(os.environ.get("FAKE_VASP_STEP_S", "0")))
        atoms = self.atoms
        frac = atoms.get_scaled_positions(wrap=False).copy()
        energy_ev = atoms.get_potential_energy() + ATOM_EV * len(atoms)
        values = (energy_ev, atoms.get_forces(), atoms.get_stress(voigt=False))
        self.steps.append((frac, np.array(atoms.cell), *values))
        self.write_outputs(is_finished=False)

    def pv_ev(self, cell: np.ndarray) -> float:
        return float(self.pressure_kbar * KBAR * abs(np.linalg.det(cell)))

    def write_outputs(self, is_finished: bool) -> None:
        contcar = "/dev/full" if self.fault == "full-disk" and len(self.steps) > 1 else "CONTCAR"
        write(contcar, self.atoms, format="vasp", direct=True)
        Path("OSZICAR").write_text("".join(self.oszicar_line(n) for n in range(len(self.steps))))
        for name, tag in (("WAVECAR", "LWAVE"), ("CHGCAR", "LCHARG")):
            if self.tags.get(tag, "True").upper()[:2] not in ("FA", ".F"):
                Path(name).write_text("stand-in")
        Path("OUTCAR").write_text(self.outcar(is_finished))
        Path("vasprun.xml").write_text(self.vasprun() if is_finished else self.vasprun()[: -len("</modeling>\n") - 20])

    def oszicar_line(self, n: int) -> str:
        energy = self.steps[n][2] + self.pv_ev(self.steps[n][1])
        electronic = f"DAV:   1    {energy:.12E}    {energy:.5E}   -0.10000E+00   100   0.100E+01\n"
        head = "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
        return f"{head}{electronic}{n + 1:4d} F= {energy:.8E} E0= {energy:.8E}  d E =0.000000E+00\n"

    def calculation(self, step: Step) -> str:
        frac, cell, energy, forces, stress = step
        n_electronic = self.nelm if self.fault == "unconverged" else 3
        electronic = "".join(f"<scstep>{energies(energy + 0.5**n)}</scstep>" for n in range(n_electronic - 1))
        electronic += f"<scstep>{energies(energy)}</scstep>"
        kbar = rows("forces", forces) + rows("stress", -stress / KBAR)
        return f"{electronic}{crystal(frac, cell)}{kbar}{energies(energy + self.pv_ev(cell))}"

    def parameters(self) -> str:
        whole = {"NELM": self.nelm, "NSW": self.n_ionic_max, "IBRION": int(self.tags.get("IBRION", "-1"))}
        whole |= {"ISIF": int(self.tags.get("ISIF", "2")), "ISPIN": 1, "LORBIT": 0, "ISMEAR": 0, "IVDW": 0}
        real = {"EDIFF": float(self.tags.get("EDIFF", 1e-4)), "EDIFFG": float(self.tags.get("EDIFFG", -0.02))}
        real |= {"ENMAX": float(self.tags.get("ENCUT", 520)), "PSTRESS": self.pressure_kbar, "SIGMA": 0.05}
        real |= {"NELECT": 8.0 * len(self.atoms)}
        body = "".join(f'<i type="int" name="{name}"> {value}</i>' for name, value in whole.items())
        body += "".join(f'<i name="{name}"> {value:.8f}</i>' for name, value in real.items())
        body += '<i type="string" name="GGA">PE</i><i type="string" name="METAGGA">--</i>'
        body += '<i type="logical" name="LDAU"> F </i><i type="logical" name="LHFCALC"> F </i>'
        moments = " ".join(["0.6"] * len(self.atoms))
        return f'<parameters><separator name="general">{body}<v name="MAGMOM"> {moments}</v></separator></parameters>'

    def incar(self) -> str:
        whole = ("NSW", "NELM", "IBRION", "ISIF", "ISMEAR", "ISPIN")
        kinds = {tag: 'type="int" ' if tag in whole else "" for tag in (*whole, "EDIFF", "EDIFFG", "ENCUT", "PSTRESS")}
        tags = {**self.tags, "NSW": str(self.n_ionic_max)}
        body = "".join(f'<i {kinds[tag]}name="{tag}"> {tags[tag]}</i>' for tag in kinds if tag in tags)
        return f'<incar>{body}<i type="string" name="ALGO">{self.tags.get("ALGO", "Normal")}</i></incar>'

    def vasprun(self) -> str:
        symbols = self.atoms.get_chemical_symbols()
        kinds = list(dict.fromkeys(symbols))
        ions = "".join(f"<rc><c>{s}</c><c>{kinds.index(s) + 1}</c></rc>" for s in symbols)
        types = "".join(
            f"<rc><c>{symbols.count(s)}</c><c>{s}</c><c>1.0</c><c>4.0</c><c>PAW_PBE {s} 01Jan2000</c></rc>"
            for s in kinds
        )
        eigenvalues = "".join(f"<r> {band - 4:.4f} {1.0 if band < 4 else 0.0:.4f} </r>" for band in range(8))
        states = "".join(f"<r> {energy:.4f} 1.0 1.0 </r>" for energy in range(-5, 6))
        calculations = [f"<calculation>{self.calculation(step)}</calculation>\n" for step in self.steps]
        calculations[-1] = calculations[-1].replace(
            "</calculation>",
            '<eigenvalues><array><dimension dim="1">band</dimension><field>eigene</field><field>occ</field><set>'
            f'<set comment="spin 1"><set comment="kpoint 1">{eigenvalues}</set></set></set></array></eigenvalues>'
            '<dos><i name="efermi"> -0.50000000 </i><total><array><dimension dim="1">gridpoints</dimension>'
            "<field>energy</field><field>total</field><field>integrated</field><set>"
            f'<set comment="spin 1">{states}</set></set></array></total></dos></calculation>',
        )
        first, last = self.steps[0], self.steps[-1]
        return (
            '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling><generator>'
            '<i name="program" type="string">vasp </i><i name="version" type="string">6.0.0</i>'
            '<i name="subversion" type="string">stand-in</i><i name="platform" type="string">ase</i></generator>\n'
            f"{self.incar()}\n"
            '<kpoints><generation param="Gamma"><v type="int" name="divisions"> 1 1 1</v></generation>'
            f"{rows('kpointlist', np.zeros((1, 3)))}{rows('weights', np.ones((1, 1)))}</kpoints>\n{self.parameters()}\n"
            f"<atominfo><atoms>{len(symbols)}</atoms><types>{len(kinds)}</types>"
            '<array name="atoms"><field type="string">element</field><field type="int">atomtype</field>'
            f'<set>{ions}</set></array><array name="atomtypes">'
            '<field type="int">atomspertype</field><field type="string">element</field>'
            "<field>mass</field><field>valence</field><field>pseudopotential</field>"
            f"<set>{types}</set></array></atominfo>\n"
            f"{crystal(first[0], first[1], 'initialpos')}\n{''.join(calculations)}"
            f"{crystal(last[0], last[1], 'finalpos')}\n</modeling>\n"
        )

    def outcar(self, is_finished: bool) -> str:
        text = [" vasp.6.0.0 stand-in", " running on    1 total cores"]
        text.append(
            "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS= 8"
        )
        text += ["   total plane-waves  NPLWV =   1000", f"   IBRION =     {self.tags.get('IBRION', '-1')}"]
        text += [f"   NELM   =     {self.nelm};", " E-fermi :  -0.5000     XC(G=0):  0.0     alpha+bet : 0.0"]
        text.append(f" number of electron      {4.0 * len(self.atoms):.7f} magnetization       0.0000000")
        for _, cell, energy, _, _ in self.steps:
            text.append("    total drift:                                0.000000      0.000000      0.000000")
            text.append(f"  free  energy   TOTEN  = {energy:18.8f} eV\n")
            text.append(f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}")
            if self.pressure_kbar:
                pv = self.pv_ev(cell)
                text.append(f"  enthalpy is  TOTEN    = {energy + pv:18.8f} eV   P V= {pv:18.8f}")
            text.append("     LOOP+:  cpu time    1.0000: real time    1.0000")
        if is_finished:
            seconds = time.time() - self.began
            text.append(
                " reached required accuracy - stopping structural energy minimisation" if not self.is_stopped else ""
            )
            text.append(" General timing and accounting informations for this job:\n")
            for name in ("Total CPU time used", "User time", "System time", "Elapsed time"):
                text.append(f"{name + ' (sec):':>44} {seconds:12.3f}")
            for name in ("Maximum memory used", "Average memory used"):
                text.append(f"{name + ' (kb):':>44} {100000.0:12.0f}.")
        return "\n".join(text) + "\n"


def main() -> int:
    fault = this_start_s_fault()
    calculation = Calculation(fault)
    if fault == "crash":
        calculation.take_step()
        print("forrtl: severe (174): SIGSEGV, segmentation fault occurred", file=sys.stderr)
        return 1
    try:
        calculation.run()
        calculation.write_outputs(is_finished=True)
    except OSError as error:
        print(f"forrtl: severe (38): error during write, unit 13, file CONTCAR ({error.strerror})", file=sys.stderr)
        return 1
    if fault == "zbrent":
        print(" ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR")
    if fault == "truncated":
        text = Path("vasprun.xml").read_text()
        Path("vasprun.xml").write_text(text[: len(text) // 2])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
