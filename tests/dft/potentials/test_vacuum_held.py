"""Relaxation of slabs with their vacuum held, by springs between noble gas atoms: minima are found by search too."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from scipy.optimize import minimize

from dft.config import RelaxConfig
from dft.potentials.relaxation import evaluate, relax
from dft.results import RelaxStatus
from storage.vacuum import slab_of
from tests.dft.potentials.pair_potential import pairs

HELD = RelaxConfig(vacuum="held", fmax_ev_per_ang=1e-4, max_steps=1000)


def layers(a_ang: float, gap_ang: float, vacuum_ang: float = 12.0, n_layers: int = 2) -> Structure:
    """Triangular layers of argon, each above the hollows of the one below."""
    lattice = Lattice.hexagonal(a_ang, gap_ang * (n_layers - 1) + vacuum_ang)
    frac = [[i / 3, 2 * i / 3, i * gap_ang / lattice.c] for i in range(n_layers)]
    return Structure(lattice, ["Ar"] * n_layers, frac)


def test_a_slab_ends_where_a_search_over_its_plane_and_its_gap_ends() -> None:
    best = minimize(
        lambda x: evaluate([layers(*x)], pairs())[0] or 0.0, [2.65, 2.2], method="Nelder-Mead", options={"xatol": 1e-6}
    )
    (result,) = relax([layers(2.8, 2.5)], pairs(), HELD)
    assert result.status is RelaxStatus.CONVERGED
    assert result.structure is not None
    found = slab_of(result.structure.lattice.matrix, result.structure.frac_coords)
    assert found is not None
    assert result.structure.lattice.a == pytest.approx(best.x[0], abs=2e-3)
    assert found.thickness_ang == pytest.approx(best.x[1], abs=2e-3)
    assert result.structure.lattice.c == pytest.approx(14.5, abs=1e-9)
    assert result.energy_ev_per_atom == pytest.approx(best.fun, abs=1e-5)


@pytest.mark.parametrize("whole", [[[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 1, 1], [0, 0, 1]]], ids=str)
def test_the_height_across_the_vacuum_is_held_in_every_cell_of_the_lattice(whole: list[list[int]]) -> None:
    given = layers(2.8, 2.5)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    lattice = np.array(whole) @ given.lattice.matrix @ rotation
    other = Structure(Lattice(lattice), given.species, given.frac_coords @ np.linalg.inv(np.array(whole)))
    one, two = relax([given, other], pairs(), HELD)
    assert one.structure is not None
    assert two.structure is not None
    assert two.status is RelaxStatus.CONVERGED
    assert two.energy_ev_per_atom == pytest.approx(one.energy_ev_per_atom, abs=1e-6)
    assert two.structure.volume == pytest.approx(one.structure.volume, rel=1e-3)
    found = slab_of(two.structure.lattice.matrix, two.structure.frac_coords)
    assert found is not None
    assert found.vacuum.width_ang + found.thickness_ang == pytest.approx(14.5, abs=1e-8)


def test_bulk_beside_a_slab_relaxes_as_if_nothing_were_held() -> None:
    bulk = Structure(Lattice.from_parameters(2.8, 2.9, 2.7, 70, 80, 75), ["Ar"], [[0, 0, 0]])
    free, _ = relax([bulk, layers(2.8, 2.5)], pairs(), HELD.model_copy(update={"vacuum": "free"}))
    held, _ = relax([bulk, layers(2.8, 2.5)], pairs(), HELD)
    assert free.structure is not None
    assert held.structure is not None
    np.testing.assert_array_equal(free.structure.lattice.matrix, held.structure.lattice.matrix)


def test_a_slab_that_keeps_its_group_keeps_its_vacuum_too() -> None:
    config = HELD.model_copy(update={"symmetry": "kept", "symmetric_fmax_ev_per_ang": 1e-4})
    (result,) = relax([layers(2.8, 2.5)], pairs(), config)
    assert result.structure is not None
    assert result.kept is not None
    found = slab_of(result.structure.lattice.matrix, result.structure.frac_coords)
    assert found is not None
    assert found.vacuum.width_ang + found.thickness_ang == pytest.approx(14.5, abs=1e-8)


def test_a_slab_that_grows_until_no_vacuum_is_left_has_exploded() -> None:
    (result,) = relax([layers(2.65, 1.8, vacuum_ang=8.1)], pairs(), HELD)
    assert result.status is RelaxStatus.EXPLODED
    assert "less than 8 A of its vacuum are left" in result.reason


def test_vacuum_bears_no_pressure() -> None:
    with pytest.raises(ValidationError, match="vacuum bears no pressure"):
        RelaxConfig(vacuum="held", pressure_gpa=5.0)


def test_what_is_held_is_part_of_what_decides_a_relaxation_and_free_is_as_it_was() -> None:
    assert "vacuum" not in RelaxConfig().criteria()
    assert HELD.criteria()["vacuum"] == "held"
