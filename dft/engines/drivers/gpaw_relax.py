"""Relax a crystal, or evaluate it as it is, with GPAW's plane waves: `gpaw python gpaw_relax.py`, in the job's folder.

Runs under the Python that has GPAW, with ASE 3.22 or later, serially or under mpirun. Reads gpaw_input.json and leaves
gpaw_result.json; every geometry that is computed is a line of gpaw_steps.jsonl first, so that a calculation that was
killed goes on from there: the optimiser is fed the known geometries again, and moves as if it had never stopped.

Units: angstrom, eV, GPa; stress is positive under tension.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from typing import Any

import ase
import gpaw
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from ase.units import GPa
from gpaw import GPAW, PW, FermiDirac, KohnShamConvergenceError
from gpaw.mpi import world
from gpaw.setup_data import search_for_file, setup_paths

INPUT, STEPS, RESULT = "gpaw_input.json", "gpaw_steps.jsonl", "gpaw_result.json"
MAX_STEP_ANG = 0.1


class ElectronsError(RuntimeError):
    """No mixing that was tried made the density converge."""


class Electrons:
    """GPAW on one crystal after another; where the density does not converge, with gentler mixing."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.corrections: list[str] = []
        self.log = _free_name()
        self._mixing = 0
        self._calculator: Any = None

    def compute(self, atoms: Atoms) -> dict[str, Any]:
        """Energy, forces and stress of the atoms as they are.

        Raises: ElectronsError: if the density converges with no mixing.
        """
        began_s = time.time()
        while True:
            atoms.calc = self._opened()
            try:
                energy_ev = atoms.get_potential_energy()
                break
            except KohnShamConvergenceError as error:
                self._soften(error)
        return {
            "cell_ang": atoms.cell.tolist(),
            "cart_ang": atoms.positions.tolist(),
            "energy_ev": float(energy_ev),
            "forces_ev_per_ang": atoms.get_forces().tolist(),
            "stress_gpa": (atoms.get_stress(voigt=False) / GPa).tolist(),
            "magmoms": atoms.get_magnetic_moments().tolist() if self._calculator.get_spin_polarized() else None,
            "n_electronic_steps": int(self._calculator.get_number_of_iterations()),
            "corrections": list(self.corrections),
            "seconds": time.time() - began_s,
        }

    def _opened(self) -> Any:
        if self._calculator is None:
            settings, mixing = self.settings, self.settings["mixings"][self._mixing]
            keywords = {} if mixing is None else {"mixer": mixing}
            self._calculator = GPAW(
                mode=PW(settings["cutoff_ev"], dedecut="estimate"),  # stress at a fixed cut-off, not a fixed basis
                xc=settings["functional"],
                kpts={"size": settings["mesh"], "gamma": True},
                occupations=FermiDirac(settings["smearing_ev"]),
                spinpol=settings["is_spin_polarised"],
                convergence={"energy": settings["energy_convergence_ev_per_electron"]},
                maxiter=settings["electronic_steps_max"],
                parallel={"augment_grids": True},
                txt=self.log,
                **keywords,
            )
        return self._calculator

    def _soften(self, error: Exception) -> None:
        """The next mixing, from a fresh density."""
        said = f"the density did not converge within {self.settings['electronic_steps_max']} electronic steps"
        last = _last_iteration(self.log)
        self._calculator, self._mixing = None, self._mixing + 1
        if self._mixing == len(self.settings["mixings"]):
            raise ElectronsError(f"{said} with any of {self._mixing} mixings; the last line: {last}") from error
        self.corrections.append(f"{said} (last line: {last}): mixing {self.settings['mixings'][self._mixing]}")
        self.log = _free_name()


class Relaxation:
    """The geometry, step by step, each one on disk before the next is made."""

    def __init__(self, settings: dict[str, Any], digest: str) -> None:
        self.settings = settings
        self.atoms: Any = Atoms(
            settings["symbols"],
            cell=settings["cell_ang"],
            scaled_positions=settings["frac_coords"],
            pbc=True,
            magmoms=settings["magmoms"],
        )
        self.magmoms = self.atoms.get_initial_magnetic_moments()
        self.digest = digest
        self.pressure = settings["pressure_gpa"] * GPa
        self.movable: Any = _cell_filter()(self.atoms, scalar_pressure=self.pressure)
        self.optimiser: Any = BFGS(self.movable, logfile=None, maxstep=MAX_STEP_ANG)
        self.steps: list[dict[str, Any]] = []

    def run(self, electrons: Electrons) -> bool:
        """Whether the last of `steps` is at the minimum (always, where nothing was to move)."""
        known = _read_steps(self.digest)
        electrons.corrections += known[-1]["corrections"] if known else []
        _start_steps(self.digest, known)
        while True:
            if len(self.steps) < len(known):
                step = known[len(self.steps)]
                self.atoms.set_cell(step["cell_ang"])
                self.atoms.set_positions(step["cart_ang"])
            else:
                step = electrons.compute(self.atoms)
                _append_step(step)
            self.steps.append(step)
            is_converged = not self.settings["is_moving"] or self._is_converged(step)
            is_last = is_converged or len(self.steps) > self.settings["ionic_steps_max"]
            if is_last and len(self.steps) >= len(known):
                return is_converged
            self._move(step)

    def _is_converged(self, step: dict[str, Any]) -> bool:
        """Forces, and the cell's -V (stress + P) / n_atoms by rows, both below the criterion."""
        forces = np.array(step["forces_ev_per_ang"])
        excess = np.array(step["stress_gpa"]) * GPa + self.pressure * np.eye(3)
        rows = self.atoms.get_volume() * excess / len(self.atoms)
        largest = max(np.linalg.norm(forces, axis=1).max(), np.linalg.norm(rows, axis=1).max())
        return bool(largest < self.settings["fmax_ev_per_ang"])

    def _move(self, step: dict[str, Any]) -> None:
        """One step of the optimiser from what is known of this geometry; nothing is computed."""
        stress = np.array(step["stress_gpa"]) * GPa
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        self.atoms.calc = SinglePointCalculator(
            self.atoms, energy=step["energy_ev"], forces=np.array(step["forces_ev_per_ang"]), stress=voigt
        )
        self.optimiser.step(self.movable.get_forces())
        self.atoms.set_initial_magnetic_moments(self.magmoms)


def paw_digests(symbols: list[str], functional: str) -> tuple[dict[str, str], list[str]]:
    """SHA-256 of each element's PAW data set, uncompressed; and the elements that have none."""
    found, missing = {}, []
    for symbol in sorted(set(symbols)):
        try:
            found[symbol] = hashlib.sha256(search_for_file(f"{symbol}.{functional}")[1]).hexdigest()
        except (FileNotFoundError, RuntimeError):
            missing.append(symbol)
    return found, missing


def main() -> int:
    """Compute what gpaw_input.json asks for; the exit status is 0 whenever gpaw_result.json says how it went."""
    with open(INPUT, encoding="utf-8") as file:
        text = file.read()
    settings = json.loads(text)
    data, missing = paw_digests(settings["symbols"], settings["functional"])
    result: dict[str, Any] = {"data": data, "versions": versions(), "setup_paths": [str(one) for one in setup_paths]}
    if missing:
        return _finish({**result, "status": "no data", "missing": missing})
    electrons = Electrons(settings)
    relaxation = Relaxation(settings, hashlib.sha256(text.encode()).hexdigest())
    try:
        is_converged = relaxation.run(electrons)
    except ElectronsError as error:
        return _finish({**result, "status": "electronic steps", "reason": str(error)})
    totals = {
        "n_ionic_steps": len(relaxation.steps),
        "n_electronic_steps": sum(step["n_electronic_steps"] for step in relaxation.steps),
        "seconds": sum(step["seconds"] for step in relaxation.steps),
    }
    return _finish({**result, **totals, "status": "done", "step": relaxation.steps[-1], "is_converged": is_converged})


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    return {
        "gpaw": gpaw.__version__,
        "ase": ase.__version__,
        "numpy": np.__version__,
        "libxc": gpaw.libraries.get("libxc", "unknown"),
        "python": sys.version.split()[0],
    }


def _cell_filter() -> Any:
    """ASE's filter that moves the logarithm of the deformation; 3.23 mended its gradient and gave it another name."""
    try:
        from ase.filters import FrechetCellFilter
    except ImportError:
        from ase import constraints

        return vars(constraints)["ExpCellFilter"]
    return FrechetCellFilter


def _finish(result: dict[str, Any]) -> int:
    if world.rank == 0:
        temporary = f".{RESULT}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, RESULT)
    world.barrier()
    return 0


def _free_name() -> str:
    """The first of gpaw.0.txt, gpaw.1.txt ... that is not there: no attempt overwrites another's log."""
    world.barrier()
    number = 0
    while os.path.exists(f"gpaw.{number}.txt"):
        number += 1
    world.barrier()
    return f"gpaw.{number}.txt"


def _last_iteration(log: str) -> str:
    """The last line on an electronic step in GPAW's log."""
    world.barrier()
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [" ".join(line.split()) for line in file if line.startswith("iter:")]
    return lines[-1] if lines else "none"


def _read_steps(digest: str) -> list[dict[str, Any]]:
    """Whole lines of an earlier attempt at the same input; the last one may have been cut short by a kill."""
    world.barrier()
    steps: list[dict[str, Any]] = []
    if os.path.exists(STEPS):
        with open(STEPS, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file):
                try:
                    document = json.loads(line)
                except ValueError:
                    break
                if number == 0 and document.get("input_sha256") != digest:
                    break
                if number > 0:
                    steps.append(document)
    world.barrier()
    return steps


def _start_steps(digest: str, known: list[dict[str, Any]]) -> None:
    """The file with its head and what is known, without what was cut short."""
    if world.rank == 0:
        temporary = f".{STEPS}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            for document in [{"input_sha256": digest}, *known]:
                file.write(json.dumps(document) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, STEPS)
    world.barrier()


def _append_step(step: dict[str, Any]) -> None:
    if world.rank == 0:
        with open(STEPS, "a", encoding="utf-8") as file:
            file.write(json.dumps(step) + "\n")
            file.flush()
            os.fsync(file.fileno())
    world.barrier()


def _main_or_abort() -> int:
    """One process that fails ends all of them: the others would wait for it for ever."""
    try:
        return main()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        if world.size > 1:
            world.abort(1)
        return 1


if __name__ == "__main__":
    sys.exit(_main_or_abort())
