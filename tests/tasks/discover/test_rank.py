"""The hull of a run under pressure compares enthalpies."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units

from generative.crystal.crystals import Crystal
from tasks.discover.phases import hull_energy


def test_under_pressure_the_hull_compares_enthalpies_as_ase_counts_them() -> None:
    crystal = Crystal(4.0 * np.eye(3), np.zeros((2, 3)), np.array([11, 17], dtype=np.int16))
    row = {"energy_ev_per_atom": -3.0}
    expected = -3.0 + 10 * units.GPa * 64.0 / 2  # ASE's units are eV and A
    assert hull_energy(row, crystal, 10.0) == pytest.approx(expected, rel=1e-7)
    assert hull_energy(row, crystal, 0.0) == -3.0
    assert hull_energy({"energy_ev_per_atom": None}, crystal, 10.0) is None
