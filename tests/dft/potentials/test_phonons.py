"""Phonons against a closed form, ASE's own phonons, and crystals known to be stable or not."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from scipy import constants

from dft.config import PhononConfig
from dft.potentials.loading import LoadedPotential, load_potential
from dft.potentials.phonons import ForcesOf, PhononError, Phonons, phonons, potential_phonons

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))
THZ = np.sqrt(constants.e / constants.atomic_mass) * 1e10 / (2 * np.pi) * 1e-12
"""Frequency of a spring of 1 eV/A^2 on a mass of 1 u."""
EDGE_ANG = 2.6
COPPER_U = float(Element("Cu").atomic_mass)


def simple_cubic(edge_ang: float = EDGE_ANG, symbol: str = "Cu") -> Structure:
    return Structure(Lattice.cubic(edge_ang), [symbol], [[0, 0, 0]])


def springs(along_ev_per_ang2: float, across_ev_per_ang2: float) -> ForcesOf:
    """Springs between the nearest neighbours of a simple cubic lattice, along the bond and across it."""

    def forces_of_one(crystal: Structure) -> np.ndarray:
        n = round(crystal.lattice.a / EDGE_ANG)
        place = np.rint(crystal.frac_coords * n).astype(int)
        moved = np.zeros((n, n, n, 3))
        moved[tuple((place % n).T)] = (crystal.frac_coords - place / n) @ crystal.lattice.matrix
        pull = np.zeros_like(moved)
        for axis in range(3):
            stiffness = np.full(3, across_ev_per_ang2)
            stiffness[axis] = along_ev_per_ang2
            for step in (1, -1):
                pull += stiffness * (np.roll(moved, step, axis=axis) - moved)
        return pull[tuple((place % n).T)]

    return lambda crystals: [forces_of_one(crystal) for crystal in crystals]


def expected_thz(q_points: np.ndarray, along: float, across: float) -> np.ndarray:
    """omega^2 = 4/m sum over axes of k sin^2(q/2), k along for the axis of the polarisation, across for the others."""
    sines = np.sin(np.pi * q_points) ** 2
    square = 4 / COPPER_U * (across * sines.sum(axis=1, keepdims=True) + (along - across) * sines)
    return np.sort(np.sign(square) * np.sqrt(np.abs(square)) * THZ, axis=1)


@pytest.mark.parametrize("across", [0.7, -0.3])
def test_springs_on_a_cubic_lattice_have_the_frequencies_of_the_closed_form(across: float) -> None:
    found = phonons(simple_cubic(), springs(2.0, across), PhononConfig(), "springs")
    assert found.supercell == (4, 4, 4)
    assert found.n_displacements == 1
    assert int(found.is_commensurate.sum()) == 64
    assert len(found.q_points) > 64
    np.testing.assert_allclose(found.frequencies_thz, expected_thz(found.q_points, 2.0, across), atol=2e-4)


def test_imaginary_modes_carry_q_point_and_frequency_of_the_closed_form() -> None:
    found = phonons(simple_cubic(), springs(2.0, -0.3), PhononConfig(), "springs")
    assert not found.is_dynamically_stable
    lowest = found.imaginary[0]
    # polarised along one axis, at the zone boundary in the other two: omega^2 = 4/m * 2 * (-0.3)
    assert lowest.frequency_thz == pytest.approx(-np.sqrt(2.4 / COPPER_U) * THZ, abs=1e-4)
    assert sorted(np.abs(lowest.q_point)) == [0, 0.5, 0.5]
    assert lowest.is_commensurate
    below = expected_thz(found.q_points, 2.0, -0.3) < -0.1
    assert len(found.imaginary) == below.sum()
    assert found.lowest_thz == lowest.frequency_thz
    assert phonons(simple_cubic(), springs(2.0, 0.3), PhononConfig(), "springs").is_dynamically_stable


BN_ANG, BONDS_EV_PER_ANG2 = 3.6, {"nearest": 17.3, "next": 0.9}
"""Boron nitride as a lattice of springs along bonds: between unlike atoms, and between the like ones next to them."""


def bond_forces(crystals: Sequence[Structure]) -> list[np.ndarray]:
    """Forces of those springs on zincblende, its atoms a little off their places."""
    found = []
    for crystal in crystals:
        n = 4 * round(crystal.lattice.a / BN_ANG)
        rest = Structure(crystal.lattice, crystal.species, np.rint(crystal.frac_coords * n) / n)
        moved = (crystal.frac_coords - rest.frac_coords) @ crystal.lattice.matrix
        source, target, image, distance = rest.get_neighbor_list(0.72 * BN_ANG)
        along = (rest.frac_coords[target] + image - rest.frac_coords[source]) @ crystal.lattice.matrix
        along /= distance[:, None]
        stiffness = np.where(distance < 0.5 * BN_ANG, BONDS_EV_PER_ANG2["nearest"], BONDS_EV_PER_ANG2["next"])
        forces = np.zeros_like(moved)
        pull = stiffness * ((moved[target] - moved[source]) * along).sum(axis=1)
        np.add.at(forces, source, pull[:, None] * along)
        found.append(forces)
    return found


def zincblende_thz(q_cart: np.ndarray) -> np.ndarray:
    """Frequencies of those springs from the dynamical matrix written out; q-points in units of 1/A, no 2 pi."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * BN_ANG / 4
    between = np.array([a - b for a in corners for b in corners if (a != b).any()])

    def springs_along(vectors: np.ndarray, stiffness: float) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return stiffness * unit[:, :, None] * unit[:, None, :]

    nearest, following = (
        springs_along(corners, BONDS_EV_PER_ANG2["nearest"]),
        springs_along(between, BONDS_EV_PER_ANG2["next"]),
    )
    boron_u, nitrogen_u = (float(Element(symbol).atomic_mass) for symbol in ("B", "N"))
    phases = np.exp(2j * np.pi * q_cart @ corners.T)
    own = nearest.sum(axis=0) + np.einsum("qr,rij->qij", 1 - np.cos(2 * np.pi * q_cart @ between.T), following)
    coupled = -np.einsum("qr,rij->qij", phases, nearest) / np.sqrt(boron_u * nitrogen_u)
    matrix = np.block([[own / boron_u, coupled], [coupled.conj().transpose(0, 2, 1), own / nitrogen_u]])
    squares = np.linalg.eigvalsh(matrix)
    return np.sign(squares) * np.sqrt(np.abs(squares)) * THZ


def test_springs_along_the_bonds_of_two_kinds_of_atoms_have_the_frequencies_of_the_matrix_written_out() -> None:
    nitride = Structure.from_spacegroup("F-43m", Lattice.cubic(BN_ANG), ["B", "N"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    found = phonons(nitride, bond_forces, PhononConfig(supercell_height_ang=2 * BN_ANG), "springs")
    assert found.supercell == (2, 2, 2)
    to_cart = found.primitive.lattice.reciprocal_lattice_crystallographic.matrix
    np.testing.assert_allclose(found.frequencies_thz, zincblende_thz(found.q_points @ to_cart), atol=1e-3)
    assert found.is_dynamically_stable


def test_frequencies_are_right_where_the_smallest_numbers_are_taken_for_zero() -> None:
    """As in the process of a run (generative/processor.py); threads inherit it, so a process of its own is asked."""
    code = (
        "import torch; torch.set_flush_denormal(True); from tests.dft.potentials import test_phonons as these; "
        "these.test_springs_along_the_bonds_of_two_kinds_of_atoms_have_the_frequencies_of_the_matrix_written_out()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_argon_has_the_phonons_that_ase_finds(tmp_path: Path) -> None:
    """The same Lennard-Jones forces; cut off within half a supercell, so that interpolation is exact in both."""
    from ase import Atoms
    from ase.calculators.lj import LennardJones
    from ase.phonons import Phonons as ASEPhonons

    edge_ang, calculator = 5.26, LennardJones(sigma=3.4, epsilon=0.0104, rc=5.0, ro=4.0, smooth=True)

    def forces_of(crystals: Sequence[Structure]) -> list[np.ndarray]:
        return [calculator.get_forces(crystal.to_ase_atoms()) for crystal in crystals]

    argon = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge_ang), ["Ar"], [[0, 0, 0]])
    found = phonons(argon, forces_of, PhononConfig(mesh_length_ang=15), "Lennard-Jones")
    assert found.supercell == (2, 2, 2)
    cell = edge_ang / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    atoms = Atoms("Ar", cell=cell, pbc=True)
    other = ASEPhonons(atoms, calculator, supercell=(5, 5, 5), delta=0.02, name=str(tmp_path / "phonons"))
    other.run()
    other.read(acoustic=True)
    cart = found.q_points @ found.primitive.lattice.reciprocal_lattice_crystallographic.matrix
    energies_ev = np.array(other.band_structure(cart @ cell.T, verbose=False))
    np.testing.assert_allclose(
        found.frequencies_thz, energies_ev / constants.h * constants.e * 1e-12, atol=5e-3, rtol=2e-3
    )
    assert found.frequencies_thz.max() > 1.5
    assert found.is_dynamically_stable


@pytest.fixture(scope="module")
def m3gnet() -> LoadedPotential:
    folder = ASSETS / "models"
    if not (folder / "M3GNet-MP-2021.2.8-PES").is_dir():
        pytest.skip(f"no M3GNet weights under {folder}: set HULLWARD_ASSETS to the folder that holds models/")
    return load_potential("M3GNet-MP-2021.2.8-PES", fallback=None, search=[folder])


def diamond(symbol: str, edge_ang: float) -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(edge_ang), [symbol], [[0, 0, 0]])


def at_gamma(found: Phonons) -> np.ndarray:
    frequencies: np.ndarray = found.frequencies_thz[np.abs(found.q_points).sum(axis=1) < 1e-9][0]
    return frequencies


@pytest.mark.dft_real
@pytest.mark.parametrize(("symbol", "edge_ang", "optical_thz"), [("C", 3.57, 39.9), ("Si", 5.43, 15.5)])
def test_diamond_and_silicon_are_stable_with_one_optical_mode_of_three_directions(
    m3gnet: LoadedPotential, symbol: str, edge_ang: float, optical_thz: float
) -> None:
    """Measured Raman modes 1332 and 520 cm^-1; M3GNet is known to be too soft, by a third here."""
    found = potential_phonons(diamond(symbol, edge_ang).get_primitive_structure(), m3gnet, PhononConfig())
    assert found.is_dynamically_stable
    assert found.lowest_thz > -0.01
    gamma = at_gamma(found)
    np.testing.assert_allclose(gamma[:3], 0, atol=1e-3)
    np.testing.assert_allclose(gamma[3:], gamma[3], rtol=1e-4)
    assert 0.5 * optical_thz < gamma[3] < 1.1 * optical_thz
    assert found.notes == ()
    assert found.residual_force_ev_per_ang < 1e-3


@pytest.mark.dft_real
def test_cubic_barium_titanate_has_its_ferroelectric_mode(m3gnet: LoadedPotential) -> None:
    perovskite = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4.03), ["Ba", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    found = potential_phonons(perovskite, m3gnet, PhononConfig())
    assert len(at_gamma(found)) == 15
    np.testing.assert_allclose(at_gamma(found)[:3], at_gamma(found)[0], atol=1e-3)  # three directions, all alike
    assert at_gamma(found)[0] < -3
    modes = [mode for mode in found.imaginary if mode.q_point == (0, 0, 0)]
    assert [mode.branch for mode in modes] == [0, 1, 2]
    assert all(mode.is_commensurate for mode in modes)


@pytest.mark.dft_real
def test_body_centred_titanium_falls_apart_at_the_zone_boundary_point_n(m3gnet: LoadedPotential) -> None:
    """The Burgers path from bcc to hcp begins at N, half a reciprocal vector <110>."""
    bcc = Structure(Lattice.cubic(3.25), ["Ti"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = potential_phonons(bcc, m3gnet, PhononConfig())
    lowest = found.imaginary[0]
    to_cart = found.primitive.lattice.reciprocal_lattice_crystallographic.matrix
    edge_ang = (2 * found.primitive.volume) ** (1 / 3)
    assert sorted(np.abs(np.array(lowest.q_point) @ to_cart * edge_ang).round(6)) == [0, 0.5, 0.5]
    assert lowest.is_commensurate
    assert lowest.frequency_thz < -1


def test_batched_forces_are_those_of_each_supercell_alone(m3gnet: LoadedPotential) -> None:
    from dft.potentials.relaxation import single_points

    rng = np.random.default_rng(5)
    shaken = []
    for n in (1, 2, 3):
        crystal = diamond("Si", 5.43) * (n, 1, 1)
        cart = crystal.cart_coords + rng.normal(scale=0.05, size=(len(crystal), 3))
        shaken.append(Structure(crystal.lattice, crystal.species, cart, coords_are_cartesian=True))
    together = single_points([shaken[2], shaken[0], shaken[1]], m3gnet)
    for crystal, point in zip([shaken[2], shaken[0], shaken[1]], together, strict=True):
        alone = single_points([crystal], m3gnet)[0]
        assert point is not None
        assert alone is not None
        np.testing.assert_allclose(point.forces_ev_per_ang, alone.forces_ev_per_ang, atol=1e-5)
        np.testing.assert_allclose(point.stress_gpa, alone.stress_gpa, atol=1e-3)
        np.testing.assert_allclose(point.forces_ev_per_ang.sum(axis=0), 0, atol=1e-4)


def test_a_centred_tetragonal_crystal_has_a_mesh_of_its_own_symmetry_and_no_warning() -> None:
    """The mesh by lengths along its primitive axes is not symmetric: q-points that are equal would be told apart."""
    from ase.calculators.lj import LennardJones

    calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=5.0, ro=4.0, smooth=True)

    def forces_of(crystals: Sequence[Structure]) -> list[np.ndarray]:
        return [calculator.get_forces(crystal.to_ase_atoms()) for crystal in crystals]

    argon = Structure(Lattice.tetragonal(3.7, 5.4), ["Ar"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = phonons(argon, forces_of, PhononConfig(), "Lennard-Jones")
    assert len(found.primitive) == 1
    assert len(found.q_points) > found.is_commensurate.sum() + 100


def test_a_crystal_that_is_not_at_rest_is_said_to_be_none() -> None:
    def forces_of(crystals: Sequence[Structure]) -> list[np.ndarray]:
        return [forces + 0.2 for forces in springs(2.0, 0.7)(crystals)]

    found = phonons(simple_cubic(), forces_of, PhononConfig(), "springs under load")
    assert found.residual_force_ev_per_ang == pytest.approx(0.2 * np.sqrt(3))
    assert "0.346 eV/A" in found.notes[0]


@pytest.mark.parametrize(
    ("crystal", "changes", "message"),
    [
        (simple_cubic(), {"supercell_atoms_max": 63}, "holds 64 atoms, more than supercell_atoms_max 63"),
        (Structure(Lattice.cubic(3), [{"Cu": 0.5, "Zn": 0.5}], [[0, 0, 0]]), {}, "expected an ordered crystal"),
        (Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0, 0, 0]]), {}, "finds no space group of Cu2"),
    ],
)
def test_what_has_no_phonons_is_refused_with_the_reason(
    crystal: Structure, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(PhononError, match=message):
        phonons(crystal, springs(1, 1), PhononConfig.model_validate(changes), "springs")


def test_forces_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(PhononError, match="forces that are not numbers"):
        phonons(simple_cubic(), lambda many: [np.full((len(c), 3), np.nan) for c in many], PhononConfig(), "nothing")


def test_a_crystal_the_potential_does_not_know_is_refused_with_its_reason(m3gnet: LoadedPotential) -> None:
    with pytest.raises(PhononError, match=r"no phonons of Po .* does not know Po"):
        potential_phonons(simple_cubic(3.3, "Po"), m3gnet, PhononConfig())
