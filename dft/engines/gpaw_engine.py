"""GPAW as an engine: a driver script under GPAW's own Python, with or without MPI, that goes on where it was killed."""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.engines.base import RESERVE_BYTES, EngineError, FaultKind, digests
from dft.engines.config import MAGNETIC_MOMENTS, GPAWConfig, Spin
from dft.engines.programs import DISK_FULL_WORDS, free_bytes, last_words, run_program
from dft.inputs.kpoints import sampling_of_mesh
from dft.job_folder import Job, Purpose
from dft.records import DFTRecord, enthalpy_ev
from dft.submission.files import read_json, write_json

DRIVER = Path(__file__).parent / "drivers" / "gpaw_relax.py"
INPUT, STEPS, RESULT, OUTPUT = "gpaw_input.json", "gpaw_steps.jsonl", "gpaw_result.json", "gpaw.out"

MPI_COMMAND_VARIABLE = "HULLWARD_MPI_COMMAND"

MIXINGS = (None, {"beta": 0.02, "nmaxold": 5, "weight": 100.0})
"""Density mixing: GPAW's own for the crystal, and the gentle one its manual advises where that does not converge."""


CLOSEST_ANG = 0.5
"""Shorter than any bond: that of H2 is 0.74 A."""


class GPAWEngine:
    """Relaxation, or a single point, with GPAW."""

    def __init__(self, config: GPAWConfig) -> None:
        self.config = config

    def run(self, job: Job, folder: Path) -> DFTRecord:
        """Compute the job, going on after the geometries that an earlier attempt has computed.

        Raises: EngineError: if GPAW is missing, lacks data of an element, does not converge the density, or crashes.
        """
        _refuse_coinciding_atoms(job.structure)
        _refuse_low_cutoff(job.structure, self.config)
        resolved = resolve(job.structure, self.config)
        write_json(folder / INPUT, self._input(job, resolved))
        (folder / RESULT).unlink(missing_ok=True)
        status = run_program(
            self._command(), folder, OUTPUT, {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        )
        result = read_json(folder / RESULT)
        if result is None:
            raise _crash(status, last_words(folder / OUTPUT), folder)
        self._refuse(result)
        try:
            return self._record(job, folder, resolved, result)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                FaultKind.UNREADABLE_OUTPUT,
                f"{folder / RESULT} cannot be used ({type(error).__name__}: {error}): run the job again",
                is_retryable=True,
            ) from error

    def _command(self) -> list[str]:
        config = self.config
        mpi = config.mpi_command or os.environ.get(MPI_COMMAND_VARIABLE)
        if mpi is None and config.processes > 1:
            mpi = f"mpirun -np {config.processes}"
        return [*shlex.split(mpi or ""), *config.command, str(DRIVER)]

    def _input(self, job: Job, resolved: dict[str, Any]) -> dict[str, Any]:
        config, structure = self.config, job.structure
        return {
            "symbols": [site.specie.symbol for site in structure],
            "cell_ang": structure.lattice.matrix.tolist(),
            "frac_coords": structure.frac_coords.tolist(),
            "magmoms": resolved["initial_magmoms"],
            "is_spin_polarised": resolved["is_spin_polarised"],
            "cutoff_ev": resolved["cutoff_ev"],
            "mesh": resolved["mesh"],
            "mixings": list(MIXINGS),
            "is_moving": job.purpose is not Purpose.STATIC,
            **config.model_dump(
                mode="json",
                include={
                    "functional",
                    "smearing_ev",
                    "pressure_gpa",
                    "fmax_ev_per_ang",
                    "ionic_steps_max",
                    "electronic_steps_max",
                    "energy_convergence_ev_per_electron",
                },
            ),
        }

    def _refuse(self, result: dict[str, Any]) -> None:
        """Turn the driver's own refusals into errors."""
        if result.get("status") == "no data":
            raise EngineError(
                FaultKind.NO_DATA,
                f"GPAW has no {self.config.functional} PAW data for {', '.join(result['missing'])} in "
                f"{', '.join(result['setup_paths'])}: leave the element out, or set GPAW_SETUP_PATH to a folder that "
                "has them",
                is_retryable=False,
            )
        if result.get("status") == "electronic steps":
            raise EngineError(
                FaultKind.ELECTRONIC_STEPS,
                f"{result['reason']}: raise electronic_steps_max or smearing_ev, or try other initial moments",
                is_retryable=False,  # the driver has tried every mixing it knows
            )

    def _record(self, job: Job, folder: Path, resolved: dict[str, Any], result: dict[str, Any]) -> DFTRecord:
        config, step, versions = self.config, result["step"], result["versions"]
        final = Structure(Lattice(step["cell_ang"]), job.structure.species, step["cart_ang"], coords_are_cartesian=True)
        magmoms = None if step["magmoms"] is None else tuple(float(moment) for moment in step["magmoms"])
        if magmoms is not None:
            final.add_site_property("magmom", list(magmoms))
        forces, stress_gpa = np.array(step["forces_ev_per_ang"]), np.array(step["stress_gpa"])
        energy_ev = float(step["energy_ev"])
        return DFTRecord(
            key=job.key,
            engine=config.name,
            engine_version=f"GPAW {versions['gpaw']}, ASE {versions['ase']}, libxc {versions['libxc']}",
            settings=config.settings(),
            settings_digest=config.settings_digest,
            candidate_id=job.candidate_id,
            purpose=job.purpose.value,
            structure=final,
            initial_structure=job.structure,
            energy_ev=energy_ev,
            pressure_gpa=config.pressure_gpa,
            enthalpy_ev=enthalpy_ev(energy_ev, config.pressure_gpa, float(final.volume)),
            forces_ev_per_ang=forces,
            stress_gpa=stress_gpa,
            n_ionic_steps=int(result["n_ionic_steps"]),
            n_electronic_steps=int(result["n_electronic_steps"]),
            is_converged=bool(result["is_converged"]),
            wall_time_s=float(result["seconds"]),
            warnings=self._warnings(final, resolved, forces, stress_gpa, bool(result["is_converged"])),
            files=digests(folder, [INPUT, STEPS, *(path.name for path in folder.glob("gpaw.*.txt"))]),
            corrections=tuple(step["corrections"]),
            lineage=job.lineage,
            data=dict(result["data"]),
            resolved={**resolved, "versions": versions},
            magmoms=magmoms,
            kpoints=sampling_of_mesh(resolved["mesh"], final.lattice),
            initial_energy_ev=_initial_energy_ev(folder),
        )

    def _warnings(
        self, final: Structure, resolved: dict[str, Any], forces: np.ndarray, stress_gpa: np.ndarray, is_converged: bool
    ) -> tuple[str, ...]:
        said = []
        if not is_converged:
            excess_gpa = abs(stress_gpa + self.config.pressure_gpa * np.eye(3)).max()
            largest = np.linalg.norm(forces, axis=1).max()
            said.append(
                f"Not converged after {self.config.ionic_steps_max} ionic steps: the largest force is "
                f"{largest:.3f} eV/A, the stress {excess_gpa:.2f} GPa off the external pressure."
            )
        now = mesh(final.lattice, self.config.kpoint_density_ang)
        if any(needed > used for needed, used in zip(now, resolved["mesh"], strict=True)):
            said.append(
                f"The relaxed cell asks for a mesh of {now}, the initial one gave {resolved['mesh']}: relax again from "
                "here if fractions of 0.01 eV/atom matter."
            )
        return tuple(said)


def resolve(structure: Structure, config: GPAWConfig) -> dict[str, Any]:
    """What the settings come to for one crystal: mesh, spin, initial moments; plain JSON."""
    symbols = [site.specie.symbol for site in structure]
    stated = structure.site_properties.get("magmom")
    stated_moments = None if stated is None else [float(moment) for moment in stated]
    is_magnetic = bool(stated_moments and any(stated_moments)) or bool(set(symbols) & set(MAGNETIC_MOMENTS))
    is_spin_polarised = config.spin is Spin.ON or (config.spin is Spin.AUTO and is_magnetic)
    guessed = [MAGNETIC_MOMENTS.get(symbol, 0.6 if config.spin is Spin.ON else 0.0) for symbol in symbols]
    return {
        "cutoff_ev": config.cutoff_ev,
        "mesh": mesh(structure.lattice, config.kpoint_density_ang),
        "is_spin_polarised": is_spin_polarised,
        "initial_magmoms": (stated_moments or guessed) if is_spin_polarised else None,
    }


def mesh(lattice: Lattice, density_ang: float) -> list[int]:
    """Divisions of the reciprocal lattice vectors (2 pi included) at a density of k-points, one at least."""
    return [max(1, math.ceil(density_ang * length - 1e-9)) for length in lattice.reciprocal_lattice.abc]


def _refuse_coinciding_atoms(structure: Structure) -> None:
    """The PAW spheres of such atoms overlap until the overlap matrix is no longer positive: GPAW ends in LAPACK."""
    distances_ang = structure.distance_matrix + 2 * CLOSEST_ANG * np.eye(len(structure))
    closest_ang = min(float(distances_ang.min()), *structure.lattice.abc)
    if closest_ang < CLOSEST_ANG:
        raise EngineError(
            FaultKind.STRUCTURE_REFUSED,
            f"atoms of {structure.composition.reduced_formula} are {closest_ang:.2f} A apart: expected at least "
            f"{CLOSEST_ANG} A; relax it with a potential first",
            is_retryable=False,
        )


def _refuse_low_cutoff(structure: Structure, config: GPAWConfig) -> None:
    needed = {s: config.element_cutoffs_ev.get(s, 0.0) for s in sorted({site.specie.symbol for site in structure})}
    if too_low := {symbol: cutoff_ev for symbol, cutoff_ev in needed.items() if cutoff_ev > config.cutoff_ev}:
        raise EngineError(
            FaultKind.STRUCTURE_REFUSED,
            f"cutoff_ev {config.cutoff_ev:g} is too low for {', '.join(too_low)}: expected at least "
            f"{max(too_low.values()):g} eV; raise cutoff_ev for the whole campaign, or lower "
            "element_cutoffs_ev if you have measured otherwise",
            is_retryable=False,
        )


def _crash(status: int, words: str, folder: Path) -> EngineError:
    """GPAW ended without a result: why, as far as its output says."""
    tail = " / ".join(line.strip() for line in words.splitlines()[-5:] if line.strip()) or "none"
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    if any(word in words for word in DISK_FULL_WORDS) or free_bytes(folder) < RESERVE_BYTES:
        reason = f"no space left to write in {folder}: make room, then run again; GPAW's last words: {tail}"
        return EngineError(FaultKind.DISK_FULL, reason, is_retryable=True)
    if "No module named 'gpaw'" in words or "No module named gpaw" in words:
        reason = f"the Python in engine.command has no GPAW: install it, or name the right one; last words: {tail}"
        return EngineError(FaultKind.ENGINE_MISSING, reason, is_retryable=False)
    reason = f"GPAW ended with {how} and no result; last words: {tail}; all of it is in {folder / OUTPUT}"
    return EngineError(FaultKind.CRASHED, reason, is_retryable=True)


def _initial_energy_ev(folder: Path) -> float | None:
    """Energy of the first geometry, which is the crystal as handed in; None where the steps do not say."""
    for line in (folder / STEPS).read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)
        except ValueError:
            continue
        if "energy_ev" in step:
            return float(step["energy_ev"])
    return None
