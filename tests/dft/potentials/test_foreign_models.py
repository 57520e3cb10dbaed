"""Other packages' models under the relaxer: torch-sim's and ASE's. Truth: ASE itself, and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch import Tensor
from torch_sim.io import structures_to_state
from torch_sim.models.interface import ModelInterface
from torch_sim.models.lennard_jones import LennardJonesModel
from torch_sim.models.morse import MorseModel
from torch_sim.models.soft_sphere import SoftSphereModel
from torch_sim.state import SimState

from dft.config import RelaxConfig
from dft.potentials.ase_model import AseModel
from dft.potentials.check import check_model
from dft.potentials.errors import PotentialError, PotentialNotFoundError
from dft.potentials.foreign_model import ForeignModel
from dft.potentials.interface import Asked, Reading, fingerprint_of
from dft.potentials.loading import LoadedPotential, load_potential
from dft.potentials.registry import REGISTRY
from dft.potentials.relaxation import points_or_reasons, relax
from dft.results import GPA_PER_EV_ANG3, NoEnergy, RelaxStatus, SinglePoint

CPU = torch.device("cpu")
SIGMA_ANG, DEPTH_EV, CUTOFF_ANG = 2.15, 0.5, 6.0
"""A Lennard-Jones crystal of silicon: the lattice constant is right, little else."""
METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")


class MendedLennardJones(LennardJonesModel):
    """torch-sim's, with two faults of its version 0.3 mended.

    It counts each pair twice in forces and stress, and once in the energy; and it takes rows of the cell for columns
    where a pair crosses its border, which is no fault in a cell turned such that its matrix is symmetric.
    """

    def unbatched_forward(self, state: SimState) -> dict[str, Tensor]:
        left, stretch, right = torch.linalg.svd(state.row_vector_cell[0])
        turn = left @ right  # the cell is (left stretch left^T) turn
        symmetric = left @ stretch.diag() @ left.T
        turned = SimState(
            state.positions @ turn.T, state.masses, symmetric.unsqueeze(0), True, state.atomic_numbers, state.system_idx
        )
        output = super().unbatched_forward(turned)
        forces, stress = output["forces"] @ turn / 2, turn.T @ output["stress"] @ turn / 2
        return {**output, "forces": forces, "stress": stress}


def lennard_jones(dtype: torch.dtype = torch.float64, cutoff_ang: float | None = CUTOFF_ANG) -> ForeignModel:
    model = MendedLennardJones(SIGMA_ANG, DEPTH_EV, CPU, dtype, compute_stress=True, cutoff=CUTOFF_ANG)
    return ForeignModel(model, ("Si",), cutoff_ang)


def of_ase(calculator: Calculator, elements: tuple[str, ...], cutoff_ang: float | None = None) -> ForeignModel:
    return ForeignModel(AseModel(calculator, CPU), elements, cutoff_ang)


def ase_lennard_jones() -> Calculator:
    return LennardJones(sigma=SIGMA_ANG, epsilon=DEPTH_EV, rc=CUTOFF_ANG)


def potential(model: ForeignModel, elements: tuple[str, ...]) -> LoadedPotential:
    return LoadedPotential("foreign", "foreign", "0" * 64, model, (), elements)


def shaken(crystal: Structure, seed: int, scale_ang: float = 0.05) -> Structure:
    rng = np.random.default_rng(seed)
    matrix = crystal.lattice.matrix @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3)))
    cart = crystal.frac_coords @ matrix + rng.normal(scale=scale_ang, size=(len(crystal), 3))
    return Structure(Lattice(matrix), crystal.species, cart, coords_are_cartesian=True)


def silicon() -> list[Structure]:
    """A sheared and shaken diamond cell, a primitive one, and a simple cubic one of a single atom."""
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.4), ["Si"], [[0, 0, 0]])
    single = Structure(Lattice.cubic(2.6), ["Si"], [[0.3, 0.2, 0.9]])
    return [shaken(diamond, 0), shaken(diamond.get_primitive_structure(), 1), shaken(single, 2)]


def metals() -> list[Structure]:
    l12 = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return [
        shaken(Structure(Lattice.cubic(3.7), ["Au", "Cu", "Cu", "Cu"], l12), 3),
        shaken(Structure(Lattice.cubic(4.0), ["Ag"] * 4, l12), 4),
        shaken(Structure(Lattice.cubic(2.9), ["Ni", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]), 5),
    ]


CASES = {
    "torch-sim": (lennard_jones, ase_lennard_jones, silicon),
    "ase lj": (lambda: of_ase(ase_lennard_jones(), ("Si",), CUTOFF_ANG), ase_lennard_jones, silicon),
    "ase emt": (lambda: of_ase(EMT(), METALS), EMT, metals),
}
each = pytest.mark.parametrize(("model_of", "calculator_of", "crystals_of"), CASES.values(), ids=CASES)
Case = tuple[Callable[[], ForeignModel], Callable[[], Calculator], Callable[[], list[Structure]]]


@each
def test_a_batch_gives_what_ase_gives_of_each_crystal_alone(
    model_of: Callable[[], ForeignModel],
    calculator_of: Callable[[], Calculator],
    crystals_of: Callable[[], list[Structure]],
) -> None:
    crystals = crystals_of()
    model = model_of()
    output = model(structures_to_state(crystals, CPU, torch.float64))
    assert {output[key].dtype for key in ("energy", "forces", "stress")} == {torch.float64}
    forces = output["forces"].split([len(crystal) for crystal in crystals])
    for i, crystal in enumerate(crystals):
        atoms = crystal.to_ase_atoms()
        atoms.calc = calculator_of()
        energy_ev = atoms.get_potential_energy()
        if model_of is lennard_jones:  # ASE shifts each pair's energy to zero at the cut-off
            at_cutoff = 4 * DEPTH_EV * ((SIGMA_ANG / CUTOFF_ANG) ** 12 - (SIGMA_ANG / CUTOFF_ANG) ** 6)
            energy_ev += at_cutoff * sum(map(len, crystal.get_all_neighbors(CUTOFF_ANG))) / 2
        assert float(output["energy"][i]) == pytest.approx(energy_ev, abs=1e-9)
        np.testing.assert_allclose(forces[i].numpy(), atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(output["stress"][i].numpy(), atoms.get_stress(voigt=False), atol=1e-9)


@each
def test_forces_and_stress_are_the_energys_finite_differences(
    model_of: Callable[[], ForeignModel],
    calculator_of: Callable[[], Calculator],
    crystals_of: Callable[[], list[Structure]],
) -> None:
    model, crystal = model_of(), crystals_of()[0]
    rng = np.random.default_rng(3)
    direction, strain = rng.normal(size=(len(crystal), 3)), rng.normal(size=(3, 3))
    strain = strain + strain.T
    step = 1e-5

    def energy(shift: float, stretch: float) -> float:
        matrix = crystal.lattice.matrix @ (np.eye(3) + stretch * strain)
        cart = crystal.frac_coords @ matrix + shift * direction
        moved = Structure(Lattice(matrix), crystal.species, cart, coords_are_cartesian=True)
        return float(model(structures_to_state([moved], CPU, torch.float64))["energy"][0])

    output = model(structures_to_state([crystal], CPU, torch.float64))
    along = (energy(step, 0) - energy(-step, 0)) / (2 * step)
    assert -along == pytest.approx(float((output["forces"].numpy() * direction).sum()), rel=1e-5)
    under = (energy(0, step) - energy(0, -step)) / (2 * step)
    assert under == pytest.approx(crystal.volume * float((output["stress"][0].numpy() * strain).sum()), rel=1e-5)


@each
@pytest.mark.parametrize("pressure_gpa", [0.0, 5.0])
def test_a_relaxation_ends_where_bfgs_ends_in_ase(
    model_of: Callable[[], ForeignModel],
    calculator_of: Callable[[], Calculator],
    crystals_of: Callable[[], list[Structure]],
    pressure_gpa: float,
) -> None:
    # Close-packed and diamond cells end in the same minimum either way; the lone cubic atom may take either of two.
    crystals = crystals_of()[:2]
    symbols = tuple({site.specie.symbol for crystal in crystals for site in crystal})
    settings = RelaxConfig(fmax_ev_per_ang=0.005, max_steps=1000, pressure_gpa=pressure_gpa)
    for crystal, result in zip(crystals, relax(crystals, potential(model_of(), symbols), settings), strict=True):
        atoms = crystal.to_ase_atoms()
        atoms.calc = calculator_of()
        BFGS(FrechetCellFilter(atoms, scalar_pressure=pressure_gpa * GPa), logfile=None).run(fmax=0.005, steps=500)
        assert result.status is RelaxStatus.CONVERGED
        assert result.structure is not None
        assert result.structure.volume == pytest.approx(atoms.get_volume(), rel=2e-3)
        (point,) = points_or_reasons([result.structure], potential(model_of(), symbols))
        assert isinstance(point, SinglePoint)
        np.testing.assert_allclose(point.stress_gpa, -pressure_gpa * np.eye(3), atol=0.1)
        if model_of is not lennard_jones:
            assert point.energy_ev_per_atom == pytest.approx(atoms.get_potential_energy() / len(crystal), abs=1e-4)


def test_a_crystal_that_a_calculator_refuses_costs_the_others_nothing() -> None:
    # EMT knows no iron, and raises what is neither a RuntimeError nor a ValueError until it is called again.
    stated = (*METALS, "Fe")
    iron = Structure(Lattice.cubic(2.9), ["Fe", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    good = metals()
    mixed = [good[0], iron, good[1], good[2]]
    results = relax(mixed, potential(of_ase(EMT(), stated), stated), RelaxConfig())
    alone = relax(good, potential(of_ase(EMT(), stated), stated), RelaxConfig())
    assert results[1].status is RelaxStatus.FAILED
    assert "No EMT-potential for Fe" in results[1].reason
    for result, expected in zip([results[i] for i in (0, 2, 3)], alone, strict=True):
        assert result.status is RelaxStatus.CONVERGED
        assert result.energy_ev_per_atom == pytest.approx(expected.energy_ev_per_atom, abs=1e-6)
    points = points_or_reasons(mixed, potential(of_ase(EMT(), stated), stated))
    assert [isinstance(point, NoEnergy) for point in points] == [False, True, False, False]


class Odd(Calculator):
    """Raises what no list of exceptions foresees, of a crystal with gold."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if "Au" in atoms.symbols:
            raise KeyError("gold")
        self.results = {"energy": -1.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_whatever_a_calculator_raises_is_a_reason_of_that_crystal() -> None:
    results = relax(metals(), potential(of_ase(Odd(), METALS), METALS), RelaxConfig())
    assert [result.status.value for result in results] == ["failed", "converged", "converged"]
    assert "KeyError: 'gold'" in results[0].reason


def test_an_element_that_was_not_stated_never_reaches_the_model() -> None:
    (result,) = relax(metals()[:1], potential(of_ase(EMT(), ("Ag",)), ("Ag",)), RelaxConfig())
    assert "does not know Au, Cu" in result.reason
    with pytest.raises(ValueError, match=r"atomic numbers \[29, 79\] are not among the 1 known"):
        of_ase(EMT(), ("Ag",))(structures_to_state(metals()[:1], CPU, torch.float64))


def test_atoms_far_from_their_cell_keep_the_digits_of_a_model_in_float32() -> None:
    crystal = silicon()[0]
    moved = crystal.copy()
    moved.translate_sites([0, 3], [60.0, -80.0, 40.0], to_unit_cell=False)
    near, far = (lennard_jones(torch.float32)(structures_to_state([c], CPU, torch.float64)) for c in (crystal, moved))
    np.testing.assert_allclose(far["energy"].numpy(), near["energy"].numpy(), rtol=1e-5)
    np.testing.assert_allclose(far["forces"].numpy(), near["forces"].numpy(), atol=2e-4)
    assert near["energy"].dtype == torch.float64


def test_atoms_without_neighbours_are_found_where_the_cut_off_is_known_and_only_there() -> None:
    sparse = Structure(Lattice.cubic(9.0), ["Si"], [[0, 0, 0]])
    (known,) = relax([sparse], potential(lennard_jones(), ("Si",)), RelaxConfig())
    assert known.status is RelaxStatus.ISOLATED
    assert "cut-off of 6 A" in known.reason
    assert "nearest neighbour at 9.00 A" in known.reason
    (unknown,) = relax([sparse], potential(lennard_jones(cutoff_ang=None), ("Si",)), RelaxConfig())
    assert unknown.status is RelaxStatus.CONVERGED


@pytest.mark.parametrize("cutoff_ang", [CUTOFF_ANG, None])
def test_a_collapsed_cell_is_refused_before_the_model_fills_the_memory(cutoff_ang: float | None) -> None:
    collapsed = Structure(Lattice.cubic(0.2), ["Si"], [[0, 0, 0]])
    (result,) = relax([collapsed], potential(lennard_jones(cutoff_ang=cutoff_ang), ("Si",)), RelaxConfig())
    assert "the cell has collapsed" in result.reason


def of_torch_sim(kind: Callable[..., ModelInterface], **settings: float) -> ForeignModel:
    made = kind(**settings, dtype=torch.float64, compute_forces=True, compute_stress=True, cutoff=CUTOFF_ANG)
    return ForeignModel(made, ("Si",), CUTOFF_ANG)


class InGPa(LennardJones):
    """A calculator whose stress is in another unit than ASE's."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results["stress"] = self.results["stress"] * GPA_PER_EV_ANG3


def test_forces_and_stress_that_are_not_the_energys_slopes_are_found() -> None:
    right = check_model(lennard_jones())
    assert right.is_right
    single = check_model(lennard_jones(torch.float32))
    assert single.is_right  # as most networks are
    doubled = of_torch_sim(LennardJonesModel, sigma=SIGMA_ANG, epsilon=DEPTH_EV)
    assert [found.split(" is ")[0] for found in check_model(doubled).deviations] == [
        "the force on Si",
        "the stress on Si",
        "the energy of Si",
    ]
    morse = check_model(of_torch_sim(MorseModel, sigma=2.6, epsilon=DEPTH_EV, alpha=1.8))
    assert any(found.startswith("the force on Si") for found in morse.deviations)
    repelling = check_model(of_torch_sim(SoftSphereModel, sigma=5.0, epsilon=DEPTH_EV))
    assert any(found.startswith("the stress on Si") for found in repelling.deviations)  # of the wrong sign, too
    in_gpa = check_model(of_ase(InGPa(sigma=SIGMA_ANG, epsilon=DEPTH_EV, rc=CUTOFF_ANG), ("Si",), CUTOFF_ANG))
    (found,) = in_gpa.deviations
    stated, slope = (float(found.split(f" {word} ")[1].split()[0]) for word in ("is", "slope is"))
    assert stated / slope == pytest.approx(GPA_PER_EV_ANG3, rel=0.05)


def test_a_model_or_calculator_that_a_relaxation_cannot_use_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"LennardJonesModel is set to give no forces or no stress.*compute_stress=True"
    ):
        ForeignModel(LennardJonesModel(), ("Si",), None)

    class Energies(Calculator):
        implemented_properties = ("energy", "forces")

    with pytest.raises(ValueError, match=r"calculator Energies computes no stress.*choose one that does"):
        AseModel(Energies(), CPU)

    class Flat(LennardJonesModel):
        def forward(self, state: Any) -> dict[str, Tensor]:
            output = super().forward(state)
            return {**output, "stress": output["stress"].flatten(1)}

    flat = of_torch_sim(Flat, sigma=SIGMA_ANG, epsilon=DEPTH_EV)
    with pytest.raises(ValueError, match=r"gives shape \(1, 9\) as stress: expected shape \(1, 3, 3\)"):
        flat(structures_to_state(silicon()[:1], CPU, torch.float64))


def registered(monkeypatch: pytest.MonkeyPatch, name: str, loader: Callable[[Asked], Any]) -> None:
    """A potential by a line of the registry; a function cannot be named by a place, so it stands in this module."""
    monkeypatch.setitem(globals(), f"_{name}", loader)
    monkeypatch.setitem(REGISTRY.places, name, f"{__name__}:_{name}")


def test_a_foreign_potential_is_loaded_checked_and_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Asked] = []

    def readings(asked: Asked) -> list[Reading]:
        seen.append(asked)
        model = lennard_jones(cutoff_ang=None)
        fingerprint = fingerprint_of(model.atomic_numbers, f"sigma {SIGMA_ANG}, epsilon {DEPTH_EV}")
        return [Reading(model, "Lennard-Jones 1924", fingerprint, "none: a formula", ("it is a formula",))]

    registered(monkeypatch, "argonlike", readings)
    found = load_potential("ArgonLike", fallback=None, search=[])
    assert seen[0].name == found.name == "argonlike"
    assert (found.method, found.elements, found.licence) == ("Lennard-Jones 1924", ("Si",), "none: a formula")
    assert found.notes[0] == "it is a formula"
    assert found.notes[1].startswith("Lennard-Jones 1924 agrees with the known crystals (")
    assert found.notes[2] == "argonlike states no cut-off, so atoms that have no neighbour within it are not looked for"
    (result,) = relax(silicon()[:1], found, RelaxConfig())
    assert result.status is RelaxStatus.CONVERGED


def test_a_foreign_potential_that_is_wrong_or_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_ase(EMT(), METALS)
    good = fingerprint_of(model.atomic_numbers, "EMT")

    def lacking(asked: Asked) -> list[Reading]:
        raise PotentialNotFoundError("lacking needs the package lack: pip install lack")

    def breaking(asked: Asked) -> list[Reading]:
        raise ZeroDivisionError("somewhere inside")

    registered(monkeypatch, "emt", lambda asked: [Reading(model, "EMT", good, "LGPL")])
    registered(monkeypatch, "nameless", lambda asked: [Reading(lennard_jones(), "LJ", "v1", "none")])
    registered(monkeypatch, "nothing", lambda asked: [])
    registered(monkeypatch, "lacking", lacking)
    registered(monkeypatch, "breaking", breaking)
    for name, said in {
        "emt": r"emt is refused, for it computes known crystals wrongly \(NiAl forms at 0.44 eV/atom instead of -0.61",
        "nameless": r"nameless has the fingerprint 'v1': expected a SHA-256",
        "nothing": "the loader of potential nothing.* gives nothing: expected a reading",
        "breaking": r"breaking computes nothing \(ZeroDivisionError: somewhere inside\)",
    }.items():
        with pytest.raises(PotentialError, match=said):
            load_potential(name, fallback="CHGNet", search=[])
    replaced = load_potential("lacking", fallback="CHGNet", search=[])
    assert replaced.notes[0] == "lacking needs the package lack: pip install lack; CHGNet is used instead"
