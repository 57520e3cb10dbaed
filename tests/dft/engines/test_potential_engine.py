"""The potential as an engine: what it does to cells, with the weights that chgnet brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.engines.config import PotentialEngineConfig
from dft.engines.potential import PotentialEngine
from dft.job_folder import make_job_folder, read_job

GRAPHENE = Structure(Lattice.hexagonal(2.60, 18.0), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.3), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])


@pytest.mark.parametrize(("structure", "is_held"), [(GRAPHENE, True), (SALT, False)])
def test_vacuum_of_a_slab_is_held_while_its_plane_relaxes_and_bulk_relaxes_in_all_directions(
    tmp_path: Path, structure: Structure, is_held: bool
) -> None:
    """DFT's inputs hold the cell of a slab too; both crystals begin 5 % off their lattice constants."""
    config = PotentialEngineConfig(potential="CHGNet", max_steps=40)
    job = read_job(make_job_folder(tmp_path, structure, config, candidate_id="c"))
    record = PotentialEngine(config).run(job, tmp_path)
    before, after = structure.lattice.abc, record.structure.lattice.abc
    assert not np.isclose(before[0], after[0], rtol=0.01)
    assert np.isclose(before[2], after[2], rtol=1e-6) == is_held
