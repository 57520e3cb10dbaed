"""Compile the kernels of matching, bonds and fingerprints where they are kept, so that no test waits for it."""

from __future__ import annotations

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal
from generative.metrics.crystal_nn import structure_fingerprint
from generative.screening.matching import fit_rms, group
from generative.screening.tolerances import Tolerances

if __name__ == "__main__":
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.24), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    strained = rock_salt.copy()
    strained.apply_strain(np.array([0.01, -0.01, 0.0]))
    crystals = [Crystal.from_structure(rock_salt), Crystal.from_structure(strained)]
    crystal_nn_bonds(crystals)
    structure_fingerprint(crystals[0])
    tolerances = Tolerances.of(0.2, 0.3, 5.0)
    group(crystals, tolerances)
    fit_rms(*crystals, tolerances)
