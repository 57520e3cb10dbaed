"""Atoms without a neighbour inside a potential's cut-off: told apart from crystals at rest, whatever the potential.

Truth: pymatgen's neighbour lists; and crystals made so that one knows.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.config import PhononConfig, RelaxConfig
from dft.potentials.graph_model import GraphModel
from dft.potentials.ground_state import compare, summarise
from dft.potentials.isolation import nearest_ang
from dft.potentials.loading import LoadedPotential, load_potential
from dft.potentials.phonons import PhononError, potential_phonons
from dft.potentials.relaxation import points_or_reasons, relax, single_points
from dft.results import NoEnergy, Relaxation, RelaxStatus, SinglePoint
from tests.dft.potentials.pair_potential import CUTOFF_ANG, pairs

REPOSITORY = Path(__file__).resolve().parents[3]
ASSETS = Path(os.environ.get("HULLWARD_ASSETS", REPOSITORY.parent / "shared"))
MODELS = ("M3GNet-MP-2021.2.8-PES", "TensorNet-MatPES-PBE-v2025.1-PES", "CHGNet")


@pytest.fixture(scope="module", params=MODELS)
def potential(request: pytest.FixtureRequest) -> LoadedPotential:
    name = request.param
    if name != "CHGNet" and not (ASSETS / "models" / name).is_dir():
        pytest.skip(f"the weights of {name} are not in {ASSETS / 'models'}: set HULLWARD_ASSETS")
    return load_potential(name, fallback=None, search=[ASSETS / "models"])


def drawn_crystal(rng: np.random.Generator, cutoff_ang: float, symbols: tuple[str, ...]) -> Structure:
    """One to four atoms in a sheared cell of a size that puts nearest neighbours on both sides of the cut-off."""
    n_atoms = int(rng.integers(1, 5))
    edge_ang = cutoff_ang * rng.uniform(0.8, 1.6) * (1.0 if n_atoms == 1 else 1.2)
    matrix = edge_ang * (np.eye(3) + rng.normal(scale=0.1, size=(3, 3)))
    frac = rng.uniform(-1, 2, size=(n_atoms, 3))  # outside the cell too
    return Structure(Lattice(matrix), rng.choice(symbols, n_atoms).tolist(), frac)


def drawn_crystals(seed: int, n: int, cutoff_ang: float, symbols: tuple[str, ...]) -> Iterator[Structure]:
    """Crystals whose atoms keep half an angstrom of each other, and none within 1 mA of the cut-off."""
    rng = np.random.default_rng(seed)
    while n:
        crystal = drawn_crystal(rng, cutoff_ang, symbols)
        nearest = truly_nearest_ang(crystal)
        if nearest.min() > 0.6 * cutoff_ang and np.abs(nearest - cutoff_ang).min() > 1e-3:
            n -= 1
            yield crystal


def truly_nearest_ang(crystal: Structure) -> np.ndarray:
    """Distance of each atom's nearest neighbour by pymatgen's search, its own images included, angstrom."""
    reach = max(crystal.lattice.abc) + 1.0
    return np.array([min(site.nn_distance for site in near) for near in crystal.get_all_neighbors(reach)])


def test_a_crystal_at_the_start_is_isolated_just_where_pymatgen_finds_an_atom_without_neighbours() -> None:
    crystals = list(drawn_crystals(0, 120, CUTOFF_ANG, ("Ne", "Ar", "Kr")))
    found = points_or_reasons(crystals, pairs())
    n_isolated = 0
    for crystal, point in zip(crystals, found, strict=True):
        alone = np.flatnonzero(truly_nearest_ang(crystal) > CUTOFF_ANG)
        n_isolated += len(alone) > 0
        if not len(alone):
            assert isinstance(point, SinglePoint)
            continue
        assert isinstance(point, NoEnergy)
        assert point.is_isolated
        assert f"{len(alone)} of {len(crystal)} atoms ha" in point.reason
        assert f"cut-off of {CUTOFF_ANG:g} A" in point.reason
        named = re.findall(r"atom (\d+) \((\w+), nearest neighbour at (\d+\.\d+) A\)", point.reason)
        expected = [(i + 1, crystal[int(i)].specie.symbol, truly_nearest_ang(crystal)[i]) for i in alone[:3]]
        assert [(int(i), symbol) for i, symbol, _ in named] == [(i, symbol) for i, symbol, _ in expected]
        assert [float(d) for *_, d in named] == pytest.approx([d for *_, d in expected], abs=0.006)
    assert 30 < n_isolated < 90  # both sides of the cut-off were drawn


def test_the_nearest_neighbour_is_found_however_far_it_is() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        crystal = drawn_crystal(rng, rng.uniform(2.0, 15.0), ("Ar",))
        atom = int(rng.integers(len(crystal)))
        found = nearest_ang(crystal.cart_coords, np.array(crystal.lattice.matrix), atom, 1.0)
        assert found == pytest.approx(truly_nearest_ang(crystal)[atom], abs=1e-9)


def final_crystal(crystal: Structure, potential: LoadedPotential, steps: int) -> Structure | None:
    """Where a relaxation stands after so many steps, by one that is not asked whether an atom is isolated."""
    model = potential.model

    class Blind(GraphModel):
        def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: D102
            output = super().forward(*args, **kwargs)
            return {**output, "n_neighbours": torch.ones_like(output["n_neighbours"])}

    blind = LoadedPotential("blind", "blind", "0" * 64, Blind(model.network, torch.device("cpu")), (), ())
    return relax([crystal], blind, RelaxConfig(max_steps=max(steps, 1)))[0].structure


@pytest.mark.parametrize("depth_ev", [0.3, -0.3], ids=["binding", "repelling"])
def test_a_relaxation_ends_isolated_just_where_its_last_crystal_has_an_atom_without_neighbours(depth_ev: float) -> None:
    crystals = list(drawn_crystals(1, 25, CUTOFF_ANG, ("Ne", "Ar")))
    together = relax(crystals, pairs(depth_ev), RelaxConfig(max_steps=60))
    statuses = [result.status for result in together]
    for crystal, result in zip(crystals, together, strict=True):
        if result.status is RelaxStatus.ISOLATED:
            last = final_crystal(crystal, pairs(depth_ev), result.n_steps)
            assert last is not None
            assert truly_nearest_ang(last).max() > CUTOFF_ANG
            assert result.structure is None
            assert result.energy_ev_per_atom is None
            assert result.fmax_ev_per_ang is None
            assert result.reason.startswith(f"after {result.n_steps} steps, ")
        elif result.structure is not None:
            assert truly_nearest_ang(result.structure).max() <= CUTOFF_ANG
        if truly_nearest_ang(crystal).max() > CUTOFF_ANG:
            assert result.initial_energy_ev_per_atom is None
    assert statuses.count(RelaxStatus.ISOLATED) > 5
    assert any(status is not RelaxStatus.ISOLATED for status in statuses)


def test_a_crystal_that_flies_apart_is_isolated_and_not_converged() -> None:
    """Repelled atoms stop where the window has let them go: at rest, and without a neighbour."""
    crystal = Structure(Lattice.cubic(3.6), ["Ar"], [[0, 0, 0]])
    (result,) = relax([crystal], pairs(-0.3), RelaxConfig(fmax_ev_per_ang=0.0005))
    assert result.n_steps > 0
    assert result.status is RelaxStatus.ISOLATED
    assert result.initial_energy_ev_per_atom is not None


def test_a_sparse_crystal_that_pressure_brings_together_converges() -> None:
    crystal = Structure(Lattice.cubic(4.3), ["Ar"], [[0, 0, 0]])
    config = RelaxConfig(explode_volume_ratio=20)
    pressing = config.model_copy(update={"pressure_gpa": 1.0})
    free, pressed = (relax([crystal], pairs(), one)[0] for one in (config, pressing))
    assert free.status is RelaxStatus.ISOLATED
    assert free.n_steps == 0
    assert pressed.status is RelaxStatus.CONVERGED
    assert pressed.structure is not None
    assert truly_nearest_ang(pressed.structure).max() < CUTOFF_ANG
    assert pressed.initial_energy_ev_per_atom is None  # that of the crystal as given means nothing


def test_one_atom_out_of_reach_of_many_makes_a_crystal_isolated() -> None:
    chain = [[0, 0, 2.6 * i] for i in range(4)]
    crystal = Structure(
        Lattice.orthorhombic(9, 9, 10.4), ["Ar"] * 5, [*chain, [4.5, 4.5, 5.2]], coords_are_cartesian=True
    )
    (result,) = relax([crystal], pairs(), RelaxConfig(max_steps=50))
    assert result.status is RelaxStatus.ISOLATED
    assert "1 of 5 atoms has no neighbour" in result.reason
    assert "atom 5 (Ar" in result.reason


@pytest.mark.parametrize(
    "crystal",
    [
        Structure(Lattice.orthorhombic(2.7, 2.7, 25.0), ["Ar"], [[0, 0, 0]]),
        Structure(Lattice.cubic(14.0), ["Ar", "Ar"], [[0, 0, 0], [2.6, 0, 0]], coords_are_cartesian=True),
    ],
    ids=["slab with vacuum", "molecule in a box"],
)
def test_groups_of_atoms_that_see_each_other_are_not_isolated(crystal: Structure) -> None:
    (result,) = relax([crystal], pairs(), RelaxConfig(max_steps=300))
    assert result.status is RelaxStatus.CONVERGED
    assert single_points([crystal], pairs())[0] is not None


def test_isolated_crystals_cost_their_neighbours_in_the_batch_nothing() -> None:
    dense = Structure(Lattice.cubic(2.7), ["Ar"], [[0, 0, 0]])
    sparse = Structure(Lattice.cubic(8.0), ["Kr"], [[0, 0, 0]])
    alone = relax([dense], pairs(), RelaxConfig())[0]
    mixed = relax([sparse, dense, sparse], pairs(), RelaxConfig())
    assert [result.status for result in mixed] == [RelaxStatus.ISOLATED, RelaxStatus.CONVERGED, RelaxStatus.ISOLATED]
    assert mixed[1].energy_ev_per_atom == pytest.approx(alone.energy_ev_per_atom, abs=1e-9)
    assert [point is None for point in single_points([sparse, dense], pairs())] == [True, False]


def test_an_isolated_crystal_has_no_phonons_and_the_error_says_why() -> None:
    crystal = Structure(Lattice.cubic(8.0), ["Kr"], [[0, 0, 0]])
    with pytest.raises(PhononError, match=r"'isolated' \(after 0 steps, 1 of 1 atoms has no neighbour .* 8\.00 A"):
        potential_phonons(crystal, pairs(), PhononConfig())


def test_isolated_relaxations_are_in_no_ground_state_figure_and_are_counted() -> None:
    dense = Structure(Lattice.cubic(2.7), ["Ar"], [[0, 0, 0]])
    sparse = Structure(Lattice.cubic(8.0), ["Kr"], [[0, 0, 0]])
    given = [dense, sparse, sparse]
    states = [compare(c, r) for c, r in zip(given, relax(given, pairs(), RelaxConfig()), strict=True)]
    summary = summarise(states)
    assert (summary.n_crystals, summary.n_isolated, summary.n_relaxed, summary.n_matched) == (3, 2, 1, 1)
    assert summary.match_rate == 1.0
    assert summarise(states[1:]).match_rate is None
    lost = Relaxation(RelaxStatus.EXPLODED, None, None, -1.0, None, None, 7, "it exploded")
    assert summarise([*states, compare(dense, lost)]).match_rate == 0.5  # one that failed is still no match


SPARSE = {  # the inputs of public reports: (crystal, whether it is isolated within 5 A, and within 6 A)
    "Mg in a box": (Structure(Lattice.cubic(15.0), ["Mg"], [[0, 0, 0]]), True, True),
    "TiN, a = 9 A": (Structure(Lattice.cubic(9.0), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]]), True, True),
    "CsI, a = 7 A": (Structure(Lattice.cubic(7.0), ["Cs", "I"], [[0, 0, 0], [0.5, 0.5, 0.5]]), True, True),
    "Cs at 115 A^3": (
        Structure(Lattice.from_parameters(5.45847, 5.45847, 5.45847, 60, 60, 60), ["Cs"], [[0, 0, 0]]),
        True,
        False,
    ),
}


def test_sparse_crystals_are_isolated_with_the_published_potentials_and_never_converged(
    potential: LoadedPotential,
) -> None:
    cutoff = potential.model.network.cutoff_ang
    assert cutoff in {5.0, 6.0}
    crystals = [crystal for crystal, _, _ in SPARSE.values()]
    crystals += list(drawn_crystals(4, 12, cutoff, ("Na", "Mg", "Cl")))
    expected = [wide if cutoff == 6.0 else narrow for _, narrow, wide in SPARSE.values()]
    expected += [bool((truly_nearest_ang(crystal) > cutoff).any()) for crystal in crystals[len(SPARSE) :]]
    found = points_or_reasons(crystals, potential)
    assert [isinstance(point, NoEnergy) and point.is_isolated for point in found] == expected
    assert 4 < sum(expected) < len(expected) - 3
    for result in relax(crystals, potential, RelaxConfig(max_steps=3)):
        if result.structure is not None:
            assert truly_nearest_ang(result.structure).max() <= cutoff + 1e-6
        else:
            assert result.status in {RelaxStatus.ISOLATED, RelaxStatus.EXPLODED}
            assert result.energy_ev_per_atom is None
    at_once = relax(crystals[: len(SPARSE)], potential, RelaxConfig(max_steps=3))
    assert [result.status is RelaxStatus.ISOLATED for result in at_once] == expected[: len(SPARSE)]
