"""Cells by their free lengths, crystals by their sites, and the walk, each against a truth of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch import Tensor

from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import WyckoffCrystal, WyckoffError, space_group
from generative.systems.adaptive_cell import free_cell
from generative.systems.adaptive_cell.config import AdaptiveCellConfig, AdaptiveCellSampler
from generative.systems.adaptive_cell.finishing import finished, site_crystals
from generative.systems.adaptive_cell.langevin import Estimates, start, walk
from generative.systems.adaptive_cell.noise import CellState, Levels
from generative.systems.adaptive_cell.site_crystal import SiteCrystal, orbit
from tests.generative.systems.adaptive_cells import cell_of, random_sites, state_of
from tests.real_crystals import in_space_group, real_crystals

LEVELS = Levels.of(AdaptiveCellConfig())


# --- cells ------------------------------------------------------------------------------------------------------------


def test_numbers_and_lengths_are_inverse_and_have_the_published_values() -> None:
    numbers = torch.linspace(-40, 300, 200, dtype=torch.float64)
    torch.testing.assert_close(free_cell.number_of(free_cell.length_of(numbers)), numbers, rtol=1e-9, atol=1e-9)
    published = {0.0: 6.93, -6.0: 4.37, -4.0: 5.13, -2.0: 5.98, 2.0: 7.98, 4.0: 9.13, 6.0: 10.37}
    for number, length in published.items():
        assert free_cell.length_of(torch.tensor(number)).item() == pytest.approx(length, abs=0.005)


@pytest.mark.parametrize(
    ("spacegroup", "n"), [(16, 3), (74, 3), (75, 2), (142, 2), (143, 2), (194, 2), (195, 1), (230, 1)]
)
def test_a_crystal_system_has_its_free_lengths_and_angles(spacegroup: int, n: int) -> None:
    group = torch.tensor([spacegroup])
    assert free_cell.n_free(group).tolist() == [n]
    cell = cell_of(spacegroup)
    numbers = free_cell.numbers_of_cell(torch.from_numpy(cell[None, :3]), group)
    lattice = free_cell.lattice_of(numbers, group, free_cell.angles_deg(group))[0]
    assert np.allclose(Lattice(lattice.numpy()).parameters, cell)
    # Every operation of the group keeps lengths in such a cell, whatever the free numbers are.
    other = free_cell.lattice_of(numbers + torch.tensor([[1.0, -2.0, 0.7]]), group, free_cell.angles_deg(group))[0]
    metric = (other @ other.T).numpy()
    for affine in space_group(spacegroup).positions[list(space_group(spacegroup).positions)[-1]].operations:
        assert np.allclose(affine[:, :3].T @ metric @ affine[:, :3], metric)


@pytest.mark.parametrize("letter", "PACIFR")
def test_translations_of_a_centred_group_are_whole_in_its_primitive_cell(letter: str) -> None:
    number = {"P": 62, "A": 38, "C": 63, "I": 139, "F": 225, "R": 166}[letter]
    group = space_group(number)
    assert np.linalg.det(group.primitive) == pytest.approx(1 / len(group.centring))
    for translation in (*group.centring, *np.eye(3)):
        inside = translation @ np.linalg.inv(group.primitive)
        assert np.allclose(inside, np.rint(inside))


def _edges(n: int = 60) -> tuple[CellState, Tensor, Tensor]:
    groups = [62, 139, 166, 225, 2]
    cells = [cell_of(number) for number in groups]
    state = state_of(groups, [random_sites(1, 0)] * 5, cells)
    crystal = torch.arange(n) % len(groups)
    frac = 2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 1
    return state, frac, crystal


def test_slopes_of_edges_are_those_of_autograd_and_of_central_differences() -> None:
    state, frac, crystal = _edges()
    numbers = state.numbers.clone().requires_grad_()
    lattice = free_cell.lattice_of(numbers, state.group, state.angles_deg)
    length = (frac.unsqueeze(1) @ lattice[crystal]).squeeze(1).norm(dim=1)
    by_autograd = (
        torch.stack([torch.autograd.grad(one, numbers, retain_graph=True)[0].sum(0) for one in length])
        * free_cell.is_free(state.group)[crystal]
    )
    exact = free_cell.slopes(frac, state.numbers, state.group, state.angles_deg, crystal)
    torch.testing.assert_close(exact, by_autograd, rtol=1e-9, atol=1e-12)
    differences = free_cell.slopes(frac, state.numbers, state.group, state.angles_deg, crystal, 0.1)
    torch.testing.assert_close(differences, exact, rtol=0, atol=2e-4)
    cubic = crystal == 3
    lengths = free_cell.length_of(state.numbers[3, 0])
    expected = length.detach()[cubic] / lengths * torch.sigmoid(state.numbers[3, 0] / 10)
    torch.testing.assert_close(exact[cubic, 0], expected)


def test_true_stretches_of_edges_give_the_noise_of_a_cubic_cell() -> None:
    state, frac, crystal = _edges()
    cubic = crystal == 3
    slope = free_cell.slopes(frac, state.numbers, state.group, state.angles_deg, crystal)[cubic]
    found = free_cell.noise_of_stretches(0.7 * slope[:, 0], slope, torch.zeros(len(slope), dtype=torch.long), 1)
    assert found[0, 0].item() == pytest.approx(0.7, rel=0.02)  # the guard takes a little of short edges
    assert found[0, 1:].tolist() == [0, 0]


# --- sites ------------------------------------------------------------------------------------------------------------


def test_real_crystals_come_back_from_their_sites() -> None:
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.5)
    n = 0
    for crystal in real_crystals("mp_20_val", 60, 20):
        described = WyckoffCrystal.of(crystal)
        if described.signature.spacegroup < 16:
            continue
        n += 1
        back = SiteCrystal.of(described).crystal()
        assert len(back.frac) == sum(described.signature.counts.values())
        assert matcher.fit(crystal.to_structure(), back.to_structure())
    assert n > 40


@pytest.mark.parametrize(
    ("spacegroup", "letter"),
    [(62, "c"), (38, "a"), (63, "c"), (139, "e"), (225, "a"), (225, "e"), (166, "c"), (227, "a")],
)
def test_a_site_near_a_wyckoff_position_stands_for_as_many_atoms_as_the_position(spacegroup: int, letter: str) -> None:
    position = space_group(spacegroup).positions[letter]
    lattice = Lattice.from_parameters(*cell_of(spacegroup)).matrix
    generator = np.random.default_rng(spacegroup)
    for _ in range(5):
        ideal = position.operations[0] @ np.array([0.141, 0.293, 0.377, 1])
        away = generator.normal(size=3)
        away *= 0.1 / np.linalg.norm(away)
        found = orbit(spacegroup, ideal + away @ np.linalg.inv(lattice), lattice, 0.3)
        assert len(found) == position.multiplicity
        # It lies on the position now: exactly as many images as there are atoms.
        assert len(orbit(spacegroup, found[0], lattice, 1e-6)) == position.multiplicity


def test_a_site_apart_from_its_images_keeps_its_place_and_all_of_them() -> None:
    site = np.array([0.13, 0.21, 0.34])
    lattice = Lattice.cubic(8.0).matrix
    found = orbit(225, site, lattice, 0.3)
    assert len(found) == 48
    assert np.array_equal(found[0], site)


def test_images_that_no_symmetry_can_join_are_refused() -> None:
    # In a cell so short that a screw axis brings images together, no point of the axis is a fixed one.
    lattice = Lattice.orthorhombic(8.0, 9.0, 0.5).matrix
    with pytest.raises(WyckoffError, match="no position"):
        orbit(19, np.array([0.25, 0.0, 0.1]), lattice, 0.3)


# --- the walk ---------------------------------------------------------------------------------------------------------


class Oracle(Estimates):
    """Knows the crystal that is to come: the nearest of all places that stand for it."""

    def __init__(self, one: SiteCrystal) -> None:
        lattice = Lattice.from_parameters(*one.cell).matrix
        centring = space_group(one.spacegroup).centring
        orbits = [orbit(one.spacegroup, site, lattice, 0.3) for site in one.frac]
        self._places = [torch.from_numpy((o[:, None] + centring).reshape(-1, 3)) for o in orbits]
        self._numbers = state_of([one.spacegroup], [one.frac], [one.cell]).numbers

    def sites(self, state: CellState, level: int) -> Tensor:
        lattice = state.lattice_ang[0]
        away = []
        for site, places in zip(state.frac, self._places, strict=True):
            delta = site - places
            delta = (delta - delta.round()) @ lattice
            away.append(delta[delta.norm(dim=1).argmin()])
        return torch.stack(away) / LEVELS.position_ang[level]

    def cell(self, state: CellState, level: int) -> Tensor:
        return (state.numbers - self._numbers) / LEVELS.cell_ang[level]


CRYSTALS = {
    "P": in_space_group(221, Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    "C": in_space_group(63, Lattice.orthorhombic(3.6, 10.2, 4.4), ["Cr", "B"], [[0, 0.146, 0.25], [0, 0.44, 0.25]]),
    "A": in_space_group(
        38,
        Lattice.orthorhombic(3.97, 5.7, 5.75),
        ["K", "Nb", "O", "O"],
        [[0, 0, 0.02], [0.5, 0, 0.51], [0, 0, 0.54], [0.5, 0.25, 0.28]],
    ),
    "I": in_space_group(
        139,
        Lattice.tetragonal(3.8, 12.6),
        ["La", "Cu", "O", "O"],
        [[0, 0, 0.36], [0, 0, 0], [0, 0.5, 0], [0, 0, 0.18]],
    ),
    "F": in_space_group(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "R": in_space_group(166, Lattice.hexagonal(4.39, 30.5), ["Bi", "Te", "Te"], [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.21]]),
}


@pytest.mark.parametrize(("centring", "at_once"), [*((letter, False) for letter in CRYSTALS), ("F", True)])
def test_with_the_exact_score_the_walk_ends_at_the_crystal(centring: str, at_once: bool) -> None:
    crystal = CRYSTALS[centring]
    target = SiteCrystal.of(WyckoffCrystal.of(crystal))
    like = state_of([target.spacegroup], [target.frac], [target.cell])
    rng = torch.Generator().manual_seed(1)
    state = walk(Oracle(target), start(like, rng, 10), LEVELS, rng, 60, at_once=at_once)
    (end,) = site_crystals(state, torch.from_numpy(target.atomic_numbers))
    found, reason = finished(end, AdaptiveCellSampler())
    assert found is not None, reason
    assert found.atomic_numbers.tolist() == target.crystal().atomic_numbers.tolist()
    assert np.allclose(end.cell, target.cell, atol=0.15)
    assert StructureMatcher(ltol=0.05, stol=0.1, angle_tol=2).fit(crystal.to_structure(), found.to_structure())


def test_sites_are_wrapped_by_translations_of_the_lattice_alone() -> None:
    # The published sampler wraps a centred cell by vectors that are none: images then jump to other places.
    state = state_of([225], [random_sites(2, 0)])
    moved = state.moved(torch.tensor([[9.0, -7.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64))
    step = (moved.frac[0] - state.frac[0]) @ state.lattice_ang[0] - torch.tensor([9.0, -7.0, 3.0]).double()
    inside = step @ torch.linalg.inv(state.lattice_ang[0])
    torch.testing.assert_close(inside, inside.round(), rtol=0, atol=1e-9)


class Collapsing(Estimates):
    """Estimates that make every cell smaller, and say something that is no number of the sites."""

    def sites(self, state: CellState, level: int) -> Tensor:
        return torch.full_like(state.frac, torch.nan)

    def cell(self, state: CellState, level: int) -> Tensor:
        return torch.full_like(state.numbers, 50.0)


def test_a_walk_into_the_void_stays_in_a_cell_with_room_for_its_sites() -> None:
    like = state_of([62, 225], [random_sites(4, 0), random_sites(2, 1)])
    rng = torch.Generator().manual_seed(0)
    state = walk(Collapsing(), start(like, rng, 10), LEVELS, rng, 20, redraws=2)
    assert state.is_sound().all()
    assert state.frac.isfinite().all()


def test_the_cells_random_part_is_damped_and_the_sites_is_not() -> None:
    class Silent(Estimates):
        def sites(self, state: CellState, level: int) -> Tensor:
            return torch.zeros_like(state.frac)

        def cell(self, state: CellState, level: int) -> Tensor:
            return torch.zeros_like(state.numbers)

    n = 400
    like = state_of([16] * n, [np.zeros((1, 3))] * n)
    first = replace(like, numbers=torch.zeros_like(like.numbers))
    rng = torch.Generator().manual_seed(0)
    end = walk(Silent(), first, LEVELS, rng, 1, cell_temperature=0.15, first_level=0)
    assert (end.numbers - first.numbers).std().item() == pytest.approx(0.15 * 0.01**0.5, rel=0.1)
    away = end.frac - end.frac.round()
    assert ((away.unsqueeze(1) @ first.lattice_ang).std()).item() == pytest.approx(1e-3**0.5, rel=0.1)


def test_a_sample_of_higher_symmetry_than_asked_is_none() -> None:
    one = SiteCrystal(99, cell_of(99), np.array([[0, 0, 0.1], [0.5, 0.5, 0.6]]), np.array([55, 17], dtype=np.int16))
    crystal, reason = finished(one, AdaptiveCellSampler())
    assert crystal is None
    assert "above the space group" in reason
    askew = replace(one, frac=np.array([[0, 0, 0.1], [0.5, 0.5, 0.52]]))
    crystal, _ = finished(askew, AdaptiveCellSampler())
    assert isinstance(crystal, Crystal)


def test_a_cell_of_too_many_atoms_is_no_sample() -> None:
    one = SiteCrystal(225, cell_of(225), random_sites(5, 0), np.array([11] * 5, dtype=np.int16))
    assert finished(one, AdaptiveCellSampler(atoms_max=100)) == (None, "the primitive cell has more than 100 atoms")


def test_images_of_the_sites_are_the_atoms_that_pymatgen_makes() -> None:
    sites = [[0.13, 0.21, 0.34], [0.43, 0.16, 0.27]]
    for number in (38, 62, 166, 225):
        cell, group = cell_of(number), space_group(number)
        one = SiteCrystal(number, cell, np.array(sites), np.array([11, 17], dtype=np.int16))
        expected = Structure.from_spacegroup(number, Lattice.from_parameters(*cell), ["Na", "Cl"], sites)
        found = one.crystal(merge_ang=1e-3)
        atoms = ((found.frac @ group.primitive)[:, None] + group.centring).reshape(-1, 3)
        numbers = np.repeat(found.atomic_numbers, len(group.centring)).tolist()
        assert _as_set(atoms, numbers) == _as_set(expected.frac_coords, list(expected.atomic_numbers))


def _as_set(frac: np.ndarray, numbers: list[int]) -> set[tuple[int, ...]]:
    places = np.rint(frac * 1e5).astype(int) % 100_000
    found = {(z, *place) for z, place in zip(numbers, places.tolist(), strict=True)}
    assert len(found) == len(frac)
    return found
