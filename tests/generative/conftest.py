"""Crystals and a small system for the generator's tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig
from generative.training.data import TrainingSet


@pytest.fixture(scope="session")
def prototypes() -> list[Crystal]:
    """Six small real structure types, sizes 1 to 5; finding their primitive cells takes a second."""
    structures = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]),
        Structure.from_spacegroup(
            "P6/mmm", Lattice.hexagonal(3.03, 3.23), ["Ti", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
        ),
        Structure.from_spacegroup(
            "Pm-3m", Lattice.cubic(3.91), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
        ),
        Structure.from_spacegroup("Im-3m", Lattice.cubic(3.16), ["W"], [[0, 0, 0]]),
    ]
    reduced = [s.get_primitive_structure().get_reduced_structure() for s in structures]
    return [Crystal.from_structure(s) for s in reduced]


@pytest.fixture
def crystals(prototypes: list[Crystal]) -> list[Crystal]:
    """Six small real structure types, sizes 1 to 5."""
    return list(prototypes)


@pytest.fixture
def system(crystals: list[Crystal]) -> CrystalFlow:
    """A small system with random output heads, in evaluation mode; its statistics are those of `crystals`."""
    torch.manual_seed(0)
    flow = CrystalFlow(CrystalFlowConfig(width=32, n_layers=2, n_heads=4, pair_width=16))
    flow.fit_statistics(crystals)
    for name, parameter in flow.named_parameters():
        if "frac_out" in name or "adapt" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # zero at the start of training: nothing to test
    return flow.eval()


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(7)


@pytest.fixture
def numpy_rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(7)


@pytest.fixture
def data(crystals: list[Crystal], numpy_rng: np.random.Generator) -> TrainingSet:
    """Sixty strained copies of six crystals, of twelve formulas."""
    copies = []
    for i in range(60):
        crystal = crystals[i % 6]
        strain = np.eye(3) + 0.02 * numpy_rng.standard_normal((3, 3))
        numbers = crystal.atomic_numbers + (i // 6) % 2
        copies.append(Crystal(crystal.lattice_ang @ strain, crystal.frac, numbers.astype(np.int16)))
    return TrainingSet(
        copies, [225] * 60, [None if i % 3 else -0.1 * i for i in range(60)], [f"c{i}" for i in range(60)]
    )
