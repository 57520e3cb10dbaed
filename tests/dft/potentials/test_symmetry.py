"""Relaxation in a crystal's space group. Truth: ASE's FixSymmetry, spglib, and crystals whose minima are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from ase.units import GPa
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.config import RelaxConfig
from dft.potentials.ground_state import symmetry
from dft.potentials.loading import LoadedPotential, load_potential
from dft.potentials.relaxation import evaluate, relax
from dft.potentials.symmetry import Projection, SpaceGroup, broken_by_ang, in_its_group
from dft.results import KeptSymmetry, Relaxation, RelaxStatus
from tests.dft.potentials.pair_potential import pairs

CPU = torch.device("cpu")
SYMPREC_ANG = 0.01
CELLS = {
    "monoclinic": Lattice.monoclinic(5.2, 6.1, 5.7, 102),
    "orthorhombic": Lattice.orthorhombic(5.0, 5.9, 6.7),
    "tetragonal": Lattice.tetragonal(5.3, 6.4),
    "hexagonal": Lattice.hexagonal(5.4, 6.6),
    "cubic": Lattice.cubic(6.0),
}
GROUPS = {
    "monoclinic": (3, 5, 7, 9, 12, 14, 15),
    "orthorhombic": (19, 20, 33, 36, 43, 55, 62, 63, 70, 74),
    "tetragonal": (76, 82, 88, 92, 99, 109, 122, 129, 136, 139, 141),
    "hexagonal": (144, 146, 148, 150, 152, 160, 161, 166, 167, 169, 176, 186, 187, 194),
    "cubic": (198, 199, 205, 212, 215, 216, 217, 220, 221, 225, 227, 229, 230),
}
SITES = {"Ar": [0.0, 0.0, 0.0], "Kr": [0.31, 0.17, 0.23]}
"""A special position and a general one, whatever the group makes of them."""


def drawn(number: int, lattice: Lattice, atoms_max: int = 60) -> Structure:
    """A crystal of the group, in a primitive cell of skewed vectors, its origin moved; sparse enough to relax."""
    crystal = Structure.from_spacegroup(number, lattice, list(SITES), list(SITES.values()))
    if len(crystal.get_primitive_structure()) > atoms_max:
        crystal = Structure.from_spacegroup(number, lattice, ["Ar"], [[0.0, 0.0, 0.11]])
    crystal = crystal.get_primitive_structure()
    crystal.make_supercell([[1, 0, 0], [1, 1, 0], [0, 0, 1]], to_unit_cell=True)
    crystal.translate_sites(range(len(crystal)), [0.21, 0.37, 0.13])
    return crystal.scale_lattice(crystal.volume * (30.0 * len(crystal) / crystal.volume))


@pytest.fixture(scope="module")
def crystals() -> list[Structure]:
    return [drawn(number, CELLS[system]) for system, numbers in GROUPS.items() for number in numbers]


def number_of(crystal: Structure, symprec_ang: float) -> int:
    cell = (crystal.lattice.matrix, crystal.frac_coords, [site.specie.Z for site in crystal])
    found = spglib.get_symmetry_dataset(cell, symprec=symprec_ang)
    assert found is not None
    return int(found.number)


def operations(crystal: Structure, symprec_ang: float) -> tuple[np.ndarray, np.ndarray]:
    cell = (crystal.lattice.matrix, crystal.frac_coords, [site.specie.Z for site in crystal])
    found = spglib.get_symmetry_dataset(cell, symprec=symprec_ang)
    assert found is not None
    return found.rotations, found.translations


def grouped(crystal: Structure) -> tuple[SpaceGroup, Structure]:
    found = in_its_group(crystal, SYMPREC_ANG, CPU)
    assert found is not None
    return found


def kept(**changes: object) -> RelaxConfig:
    return RelaxConfig.model_validate({"symmetry": "kept", **changes})


def verdict(result: Relaxation) -> KeptSymmetry:
    assert result.kept is not None
    return result.kept


def crystal_of(result: Relaxation) -> Structure:
    assert result.structure is not None
    return result.structure


def test_projected_forces_and_stresses_of_a_batch_are_those_of_ase(crystals: list[Structure]) -> None:
    rng = np.random.default_rng(0)
    found = [grouped(crystal) for crystal in crystals]
    assert len({group.number for group, _ in found}) > 40
    sizes = [len(crystal) for crystal in crystals]
    forces = [rng.normal(size=(n, 3)) for n in sizes]
    stresses = [(s + s.T) / 2 for s in rng.normal(size=(len(sizes), 3, 3))]
    projection = Projection([group for group, _ in found], sizes)
    ours = projection.forces(torch.from_numpy(np.concatenate(forces))).split(sizes)
    our_stress = projection.stress(torch.from_numpy(np.stack(stresses))).numpy()
    for i, (group, symmetric) in enumerate(found):
        atoms = symmetric.to_ase_atoms()
        constraint = FixSymmetry(atoms, symprec=1e-4)
        assert len(constraint.rotations) == group.n_operations
        constraint.adjust_forces(atoms, forces[i])
        voigt = full_3x3_to_voigt_6_stress(stresses[i])
        constraint.adjust_stress(atoms, voigt)
        np.testing.assert_allclose(ours[i].numpy(), forces[i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(our_stress[i], voigt_6_to_full_3x3_stress(voigt), rtol=0, atol=1e-12)


def test_crystals_without_symmetry_pass_a_projection_as_they_are() -> None:
    rng = np.random.default_rng(1)
    group, symmetric = grouped(drawn(194, CELLS["hexagonal"]))
    n = len(symmetric)
    forces, stresses = torch.from_numpy(rng.normal(size=(n + 5, 3))), torch.from_numpy(rng.normal(size=(3, 3, 3)))
    projection = Projection([None, group, None], [2, n, 3])
    projected, projected_stress = projection.forces(forces), projection.stress(stresses)
    assert torch.equal(projected[:2], forces[:2])
    assert torch.equal(projected[2 + n :], forces[2 + n :])
    assert torch.equal(projected_stress[[0, 2]], stresses[[0, 2]])
    assert not torch.allclose(projected[2 : 2 + n], forces[2 : 2 + n])
    torch.testing.assert_close(projection.forces(projected), projected, rtol=0, atol=1e-12)


def test_a_crystal_near_its_group_is_moved_onto_it_by_no_more_than_the_tolerance(crystals: list[Structure]) -> None:
    rng = np.random.default_rng(2)
    for crystal in crystals:
        rows = crystal.lattice.matrix @ (np.eye(3) + 1e-4 * rng.normal(size=(3, 3)))
        cart = crystal.frac_coords @ rows + 1e-3 * rng.normal(size=(len(crystal), 3))
        shaken = Structure(Lattice(rows), crystal.species, cart, coords_are_cartesian=True)
        _, symmetric = grouped(shaken)
        assert number_of(shaken, 1e-5) != number_of(crystal, SYMPREC_ANG)
        assert number_of(symmetric, 1e-5) == number_of(crystal, SYMPREC_ANG)
        moved = symmetric.frac_coords - shaken.frac_coords
        assert np.linalg.norm((moved - np.round(moved)) @ rows, axis=1).max() < SYMPREC_ANG
        np.testing.assert_allclose(symmetric.lattice.matrix, rows, atol=SYMPREC_ANG)


def test_the_group_at_the_end_is_that_of_the_start(crystals: list[Structure]) -> None:
    # The widest tolerance, so that no released end takes the place of the symmetric one; and few steps, since springs
    # between like atoms lead into higher symmetry.
    settings = kept(release_tolerance_ev_per_atom=1, max_steps=20, explode_volume_ratio=50)
    results = relax(crystals, pairs(), settings)
    ends = [(c, r) for c, r in zip(crystals, results, strict=True) if r.structure is not None]
    assert len(ends) > 0.9 * len(crystals)
    n_same = 0
    for crystal, result in ends:
        assert result.n_steps > 5
        number = number_of(crystal, SYMPREC_ANG)
        assert verdict(result).spacegroup == number
        assert missed_by_ang(grouped(crystal)[1], crystal_of(result)) < 1e-9
        found = {number_of(crystal_of(result), symprec_ang) for symprec_ang in (0.01, 1e-3)}
        if found == {number}:
            n_same += 1
        else:  # it may come to have more symmetry, never less
            n_before, n_after = (len(operations(c, SYMPREC_ANG)[0]) for c in (crystal, crystal_of(result)))
            assert n_after > n_before
    assert n_same > 0.8 * len(ends)


def missed_by_ang(before: Structure, after: Structure) -> float:
    """How far the operations of the one take an atom of the other from the next atom, at most, angstrom."""
    rotations, translations = operations(before, 1e-6)
    worst = 0.0
    for rotation, translation in zip(rotations, translations, strict=True):
        apart = (after.frac_coords @ rotation.T + translation)[:, None] - after.frac_coords
        distance = np.linalg.norm((apart - np.round(apart)) @ after.lattice.matrix, axis=2)
        metric = after.lattice.matrix @ after.lattice.matrix.T
        worst = max(worst, distance.min(axis=1).max(), np.abs(rotation.T @ metric @ rotation - metric).max())
    return worst


def test_a_crystal_without_symmetry_relaxes_as_if_nothing_were_kept() -> None:
    rng = np.random.default_rng(3)
    lowest = [Structure(Lattice.cubic(4.4), ["Ar"] * 3, rng.uniform(size=(3, 3))) for _ in range(4)]
    for free, same in zip(relax(lowest, pairs(), RelaxConfig()), relax(lowest, pairs(), kept()), strict=True):
        assert (same.status, same.n_steps, same.kept) == (free.status, free.n_steps, None)
        assert same.energy_ev_per_atom == free.energy_ev_per_atom
        if free.structure is not None:
            assert np.array_equal(crystal_of(same).lattice.matrix, free.structure.lattice.matrix)
            assert np.array_equal(crystal_of(same).frac_coords, free.structure.frac_coords)


def simple_cubic() -> Structure:
    """Of pairs that attract: unstable against shear (Born), with close packing below."""
    return Structure(Lattice.cubic(2.7), ["Ar"], [[0, 0, 0]])


def close_packed() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.9), ["Ar"], [[0, 0, 0]])


def test_a_saddle_point_is_told_from_a_minimum_and_goes_on_as_its_lower_end() -> None:
    saddle, minimum = relax([simple_cubic(), close_packed()], pairs(), kept(fmax_ev_per_ang=0.01))
    told = verdict(saddle)
    assert (told.spacegroup, told.is_minimum, told.is_released) == (221, False, True)
    assert told.broken_by_ang is not None
    assert told.broken_by_ang > 0.1
    assert told.energy_ev_per_atom is not None
    assert told.energy_ev_per_atom - 0.1 > (saddle.energy_ev_per_atom or 0)
    assert saddle.energy_ev_per_atom == told.released_energy_ev_per_atom
    assert evaluate([crystal_of(saddle)], pairs()) == pytest.approx([saddle.energy_ev_per_atom], abs=1e-9)
    assert saddle.energy_ev_per_atom == pytest.approx(minimum.energy_ev_per_atom, abs=2e-3)
    assert symmetry(crystal_of(saddle)) == (225, "Fm-3m")
    assert told.released_spacegroup == 225
    assert saddle.n_steps > told.n_release_steps > 0
    told = verdict(minimum)
    assert (told.spacegroup, told.is_minimum, told.is_released, told.note) == (225, True, False, "")
    assert told.released_energy_ev_per_atom == pytest.approx(minimum.energy_ev_per_atom, abs=1e-3)
    assert number_of(crystal_of(minimum), 1e-6) == 225


def test_a_fall_within_the_tolerance_leaves_the_symmetric_end() -> None:
    (result,) = relax([simple_cubic()], pairs(), kept(release_tolerance_ev_per_atom=1))
    assert number_of(crystal_of(result), 1e-6) == 221
    assert not verdict(result).is_released
    assert result.energy_ev_per_atom == verdict(result).energy_ev_per_atom
    assert (verdict(result).released_energy_ev_per_atom or 0) < (result.energy_ev_per_atom or 0) - 0.1


def test_what_does_not_converge_in_its_group_is_not_released_and_says_so() -> None:
    loose = Structure(Lattice.cubic(3.2), ["Ar"], [[0, 0, 0]])
    (result,) = relax([loose], pairs(), kept(max_steps=2))
    assert (result.status, result.n_steps) == (RelaxStatus.STEP_CAP, 2)
    told = verdict(result)
    assert (told.is_minimum, told.released_energy_ev_per_atom, told.n_release_steps) == (None, None, 0)
    assert "step cap" in told.note


def test_crystals_that_come_and_go_end_as_they_do_alone_and_are_counted_once() -> None:
    mixed = [simple_cubic(), close_packed(), drawn(62, CELLS["orthorhombic"]), close_packed(), simple_cubic()]
    seen: list[tuple[int, int]] = []
    together = relax(mixed, pairs(), kept(batch_atoms_max=9), lambda done, total: seen.append((done, total)))
    for crystal, result in zip(mixed, together, strict=True):
        (alone,) = relax([crystal], pairs(), kept())
        assert result.energy_ev_per_atom == pytest.approx(alone.energy_ev_per_atom, abs=1e-6)
        assert verdict(result).is_minimum == verdict(alone).is_minimum
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


def test_distance_from_the_group_sees_atoms_and_cells_and_not_what_the_group_allows() -> None:
    group, symmetric = grouped(close_packed())
    grown = Structure(Lattice.cubic(4.0), symmetric.species, symmetric.frac_coords + 0.1)
    assert broken_by_ang(group, symmetric, grown) == pytest.approx(0, abs=1e-9)
    longer = Structure(Lattice.tetragonal(3.9, 3.99), symmetric.species, symmetric.frac_coords)
    assert broken_by_ang(group, symmetric, longer) == pytest.approx(0.09 * 2 / 3, rel=0.05)
    moved = symmetric.copy()
    moved.translate_sites([0], [0.08, 0, 0], frac_coords=False)
    assert broken_by_ang(group, symmetric, moved) == pytest.approx(0.08 * 3 / 4, rel=1e-6)


@pytest.fixture(scope="module")
def chgnet() -> LoadedPotential:
    return load_potential("CHGNet", fallback=None, search=[])


def real_crystals() -> list[Structure]:
    """Rutile, wurtzite and half-Heusler, off their equilibrium."""
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.7, 3.0), ["Ti", "O"], [[0, 0, 0], [0.29, 0.29, 0]]
    )
    wurtzite = Structure.from_spacegroup(
        "P6_3mc", Lattice.hexagonal(3.3, 5.1), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.37]]
    )
    heusler = Structure.from_spacegroup(
        "F-43m", Lattice.cubic(6.1), ["Ti", "Ni", "Sn"], [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0, 0, 0]]
    ).get_primitive_structure()
    return [rutile, wurtzite, heusler]


@pytest.mark.parametrize("pressure_gpa", [0.0, 10.0])
def test_ends_in_the_group_are_those_of_ase(chgnet: LoadedPotential, pressure_gpa: float) -> None:
    from chgnet.model.dynamics import CHGNetCalculator

    crystals = real_crystals()
    settings = kept(fmax_ev_per_ang=0.01, pressure_gpa=pressure_gpa, release_tolerance_ev_per_atom=1)
    results = relax(crystals, chgnet, settings)
    calculator = CHGNetCalculator(use_device="cpu")
    for crystal, result in zip(crystals, results, strict=True):
        atoms = relaxed_by_ase(crystal.to_ase_atoms(), calculator, pressure_gpa)
        assert result.status is RelaxStatus.CONVERGED
        assert result.energy_ev_per_atom == pytest.approx(atoms.get_potential_energy() / len(crystal), abs=5e-4)
        assert crystal_of(result).volume == pytest.approx(atoms.get_volume(), rel=5e-3)
        assert number_of(crystal_of(result), 1e-3) == number_of(crystal, SYMPREC_ANG)


def relaxed_by_ase(atoms: Atoms, calculator: object, pressure_gpa: float) -> Atoms:
    atoms.calc = calculator
    atoms.set_constraint([FixSymmetry(atoms, symprec=SYMPREC_ANG)])
    BFGS(FrechetCellFilter(atoms, scalar_pressure=pressure_gpa * GPa), logfile=None).run(fmax=0.003, steps=200)
    return atoms


def test_aluminium_is_a_minimum_and_body_centred_titanium_falls_to_the_close_packed(chgnet: LoadedPotential) -> None:
    """Bcc titanium is unstable at 0 K along the mode that makes it hcp, and that fits into its cubic cell."""
    aluminium = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.05), ["Al"], [[0, 0, 0]])
    cubic = Structure(Lattice.cubic(3.25), ["Ti"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
    hexagonal = Structure(Lattice.hexagonal(2.95, 4.68), ["Ti"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    stable, saddle, packed = relax([aluminium, cubic, hexagonal], chgnet, kept(fmax_ev_per_ang=0.02))
    assert (verdict(stable).is_minimum, verdict(packed).is_minimum) == (True, True)
    assert (verdict(saddle).spacegroup, verdict(saddle).is_minimum) == (229, False)
    assert saddle.energy_ev_per_atom == pytest.approx(packed.energy_ev_per_atom, abs=0.01)
    assert (verdict(saddle).energy_ev_per_atom or 0) > (saddle.energy_ev_per_atom or 0) + 0.005
    assert (symmetry(crystal_of(saddle)) or (0, ""))[0] != 229


def test_the_same_list_gives_the_same_result_bit_for_bit() -> None:
    def bits(results: Sequence[Relaxation]) -> list[tuple[float | None, KeptSymmetry | None]]:
        return [(r.energy_ev_per_atom, r.kept) for r in results]

    mixed = [simple_cubic(), close_packed(), drawn(14, CELLS["monoclinic"])]
    assert bits(relax(mixed, pairs(), kept())) == bits(relax(mixed, pairs(), kept()))
