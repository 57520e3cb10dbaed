"""Packed real crystals in double precision for the tests of noise processes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from tests.generative.processes.packed_cells import Cells, packed

ASSETS = Path(os.environ.get("HULLWARD_ASSETS") or Path(__file__).parents[4] / "shared")


@pytest.fixture(scope="session")
def cells() -> Cells:
    """A perovskite, cubic diamond, graphite and lonsdaleite: 5, 2, 4 and 4 atoms."""
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]]).get_primitive_structure()
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    return packed(
        [
            Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], sites),
            diamond,
            Structure.from_spacegroup(
                "P6_3/mmc", Lattice.hexagonal(2.461, 6.708), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
            ),
            Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.51, 4.12), ["C"], [[1 / 3, 2 / 3, 0.0625]]),
        ]
    )


@pytest.fixture(scope="session")
def benchmark_cells() -> Cells:
    """Eight crystals of Perov-5 and eight of Carbon-24; skips where the files are absent."""
    structures: list[Structure] = []
    for name in ("perov_5_val", "carbon_24_val"):
        path = ASSETS / "data" / f"{name}.csv.gz"
        if not path.is_file():
            pytest.skip(f"{path.name} not found: set HULLWARD_ASSETS to the folder that holds data/")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pymatgen says aloud that it rounds 0.333333
            structures += [Structure.from_str(cif, fmt="cif") for cif in pd.read_csv(path, nrows=8)["cif"]]
    return packed(structures)


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(11)
