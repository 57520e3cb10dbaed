"""How far GPAW's numbers are from those of a higher cut-off or a denser mesh, crystal by crystal.

    python -m dft.engines.gpaw_convergence FOLDER CRYSTAL.cif ... --cutoffs 400,500,600,800,1000 --densities 2,3,4,6

evaluates each crystal as it is: every cut-off at the densest mesh but one, every mesh at the highest cut-off but one.
Each evaluation is a job folder, so what is done is not done again. The last value of each row is the reference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pymatgen.core.structure import Structure

from dft.engines.config import GPAWConfig
from dft.job_folder import Purpose, make_job_folder, read_record
from dft.records import DFTRecord
from dft.run_job import run_folder

MEV_PER_EV = 1000.0


def evaluated(root: Path, structure: Structure, name: str, config: GPAWConfig) -> DFTRecord | None:
    """The single point of a crystal; None, with the reason in its folder, where there is none."""
    folder = make_job_folder(root, structure, config, candidate_id=name, purpose=Purpose.STATIC)
    return read_record(folder) if run_folder(folder) else None


def series(
    root: Path, structure: Structure, name: str, configs: Sequence[GPAWConfig], label: Callable[[GPAWConfig], str]
) -> list[str]:
    """One Markdown table row per settings: energy, pressure and largest force relative to the last settings."""
    records = [(config, evaluated(root, structure, name, config)) for config in configs]
    reference = records[-1][1]
    rows = []
    for config, record in records:
        if record is None or reference is None:
            rows.append(f"| {name} | {label(config)} | no result | | | |")
            continue
        energy_mev = (record.energy_ev_per_atom - reference.energy_ev_per_atom) * MEV_PER_EV
        pressure_gpa = -(np.trace(record.stress_gpa) - np.trace(reference.stress_gpa)) / 3
        force = np.abs(record.forces_ev_per_ang - reference.forces_ev_per_ang).max()
        rows.append(
            f"| {name} | {label(config)} | {energy_mev:+.1f} | {pressure_gpa:+.2f} | {force:.4f} | "
            f"{record.wall_time_s:.0f} |"
        )
    return rows


def main(arguments: list[str]) -> int:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m dft.engines.gpaw_convergence")
    parser.add_argument("folder", type=Path)
    parser.add_argument("crystals", type=Path, nargs="+")
    parser.add_argument("--cutoffs", default="400,500,600,700,800,1000", help="eV, rising")
    parser.add_argument("--densities", default="1.5,2,2.5,3,3.5,4,5", help="k-points per A^-1, rising")
    parser.add_argument("--at-cutoff", type=float, default=None, help="cut-off of the meshes, eV")
    parser.add_argument("--at-density", type=float, default=None, help="density of the cut-offs")
    parser.add_argument("--processes", type=int, default=1)
    stated = parser.parse_args(arguments)
    if other := [path.name for path in stated.crystals if path.suffix.lower() != ".cif"]:
        parser.error(f"{other[0]}: expected a .cif file; pymatgen reads some POSCARs otherwise than VASP does")
    cutoffs = [float(word) for word in stated.cutoffs.split(",")]
    densities = [float(word) for word in stated.densities.split(",")]
    at_cutoff, at_density = stated.at_cutoff or cutoffs[-2], stated.at_density or densities[-2]

    def config(cutoff_ev: float, density: float) -> GPAWConfig:
        return GPAWConfig(
            cutoff_ev=cutoff_ev, element_cutoffs_ev={}, kpoint_density_ang=density, processes=stated.processes
        )

    head = "energy off, meV/atom | pressure off, GPa | force off, eV/A | s |\n|---|---|---|---|---|---|"
    _say(f"| crystal | cut-off, eV | {head}")
    for path in stated.crystals:
        configs = [config(cutoff, at_density) for cutoff in cutoffs]
        rows = series(stated.folder, Structure.from_file(path), path.stem, configs, lambda one: f"{one.cutoff_ev:g}")
        _say("\n".join(rows))
    _say(f"\n| crystal | k-points per A^-1 | {head}")
    for path in stated.crystals:
        configs = [config(at_cutoff, density) for density in densities]
        rows = series(
            stated.folder, Structure.from_file(path), path.stem, configs, lambda one: f"{one.kpoint_density_ang:g}"
        )
        _say("\n".join(rows))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
