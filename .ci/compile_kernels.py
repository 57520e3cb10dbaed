"""Compile every kernel of `generative/native` and `dft/native` where the code is kept, so that no test waits for it."""

from __future__ import annotations

import ast
import sys

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.paths import PROJECT
from dft.potentials.loading import load_potential
from dft.potentials.relaxation import evaluate
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal
from generative.metrics.crystal_nn import structure_fingerprint
from generative.screening.matching import fit_rms, group
from generative.screening.pair_fits import FEW
from generative.screening.tolerances import Tolerances
from storage.native_code import code_folder


def compile_all() -> None:
    """Call what calls the kernels."""
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.24), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    crystals = [Crystal.from_structure(rock_salt)]
    for strain in np.linspace(0.01, 0.2, FEW + 1):  # lattices are compared in bulk where they are more than a few
        strained = rock_salt.copy()
        strained.apply_strain(np.array([strain, -strain, 0.0]))
        crystals.append(Crystal.from_structure(strained))
    crystal_nn_bonds(crystals[:1])
    structure_fingerprint(crystals[0])
    tolerances = Tolerances.of(0.2, 0.3, 5.0)
    group(crystals, tolerances)
    fit_rms(*crystals[:2], tolerances)
    evaluate([rock_salt], load_potential("SevenNet-l3i5", fallback=None, search=[]))


def left_out() -> list[str]:
    """Kernels whose code is not kept, though there is a folder for it."""
    missing: list[str] = []
    for sources in (PROJECT / "generative" / "native", PROJECT / "dft" / "native"):
        if (folder := code_folder(sources)) is None:
            continue
        kept = {file.name.split("-")[0] for file in folder.rglob("*.nbi")}
        kernels = [
            f"{source.stem}.{node.name}"
            for source in sorted(sources.glob("*.py"))
            for node in ast.parse(source.read_text("utf-8")).body
            if isinstance(node, ast.FunctionDef)
            and any(ast.unparse(d).startswith("compiled") for d in node.decorator_list)
        ]
        missing += [name for name in kernels if name not in kept]
    return missing


if __name__ == "__main__":
    compile_all()
    if missing := left_out():
        sys.exit(f"not compiled: {', '.join(missing)}: let compile_all call what calls them")
