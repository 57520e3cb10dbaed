"""DFT-D3 with zero damping, beside torch-dftd 0.5.3 (an implementation of Preferred Networks, MIT) and slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch import Tensor

from dft.potentials import registry
from dft.potentials.ase_model import AseModel
from dft.potentials.dispersion import D3Zero, WithDispersion, readings
from dft.potentials.errors import PotentialNotFoundError
from dft.potentials.foreign_model import ForeignModel
from dft.potentials.interface import Asked, Reading, fingerprint_of
from dft.potentials.loading import load_potential
from dft.potentials.neighbours import TooDenseError
from dft.results import EnergyScheme


def graphite() -> Structure:
    sites = [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25], [0, 0, 0.75], [2 / 3, 1 / 3, 0.75]]
    return Structure(Lattice.hexagonal(2.46, 6.7), ["C"] * 4, sites)


def salt() -> Structure:
    half = 5.64 / 2
    return Structure(
        Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def triclinic() -> Structure:
    frac = np.random.default_rng(0).random((4, 3))
    return Structure(Lattice([[5, 0.3, 0], [1.2, 6, 0.4], [-2, 1, 7.0]]), ["Mo", "Te", "Br", "Li"], frac)


def gase_bilayer(gap_ang: float = 3.0) -> Structure:
    """Two layers Se-Ga-Ga-Se, the second turned by 180 degrees, 30 A of cell."""
    heights = np.array([0, 1.18, 3.65, 4.83])
    places = ([[1 / 3, 2 / 3], [0, 0], [0, 0], [1 / 3, 2 / 3]], [[0, 0], [1 / 3, 2 / 3], [1 / 3, 2 / 3], [0, 0]])
    lattice = Lattice.hexagonal(3.82, 30.0)
    frac = [
        [*place, (3.0 + z + layer * (4.83 + gap_ang)) / 30.0]
        for layer in (0, 1)
        for place, z in zip(places[layer], heights, strict=True)
    ]
    return Structure(lattice, ["Se", "Ga", "Ga", "Se"] * 2, frac)


def of(structures: list[Structure], d3: D3Zero) -> dict[str, Tensor]:
    numbers = torch.tensor([site.specie.Z for structure in structures for site in structure])
    cart = torch.from_numpy(np.concatenate([structure.cart_coords for structure in structures]))
    cell = torch.from_numpy(np.stack([structure.lattice.matrix for structure in structures]))
    return d3(numbers, cart, cell, [len(structure) for structure in structures])


@pytest.fixture(scope="module")
def d3() -> D3Zero:
    return D3Zero()


@pytest.mark.parametrize(
    ("structure", "energy_ev"),
    [
        (graphite(), -0.3845382129),
        (salt(), -0.4076097355),
        (gase_bilayer(), -1.4352139596),
        (triclinic(), -0.5798109908),
    ],
    ids=["graphite", "NaCl", "GaSe bilayer", "triclinic"],
)
def test_energies_are_those_of_another_implementation(structure: Structure, energy_ev: float, d3: D3Zero) -> None:
    """torch-dftd: damping zero, xc pbe, cut-offs 95 and 40 bohr; its bohr and hartree differ in the seventh digit."""
    assert float(of([structure], d3)["energy"][0]) == pytest.approx(energy_ev, rel=2e-6)


def test_forces_and_stress_are_the_slopes_of_the_energy(d3: D3Zero) -> None:
    crystal = triclinic()
    found = of([crystal], d3)
    rng, step = np.random.default_rng(1), 1e-4
    strain = rng.normal(size=(3, 3))
    strain = strain + strain.T
    along = rng.normal(size=(4, 3))

    def energy(shift: float, stretch: float) -> float:
        by = np.eye(3) + stretch * strain
        cart = (crystal.cart_coords + shift * along) @ by
        moved = Structure(Lattice(crystal.lattice.matrix @ by), crystal.species, cart, coords_are_cartesian=True)
        return float(of([moved], d3)["energy"][0])

    slope = -(energy(step, 0) - energy(-step, 0)) / (2 * step)
    assert float((found["forces"].numpy() * along).sum()) == pytest.approx(slope, rel=1e-5)
    slope = (energy(0, step) - energy(0, -step)) / (2 * step)
    # The sum ends at 50 A whatever the strain, so its slope lacks what would have come or gone there.
    assert float((found["virial"][0].numpy() * strain).sum()) == pytest.approx(slope, rel=1e-3)


def test_a_crystal_has_its_energy_in_any_company_cell_and_image(d3: D3Zero) -> None:
    alone = of([triclinic()], d3)
    doubled = gase_bilayer()
    doubled.make_supercell([[1, 1, 0], [0, 2, 0], [0, 0, 1]])
    moved = triclinic()
    moved.translate_sites([1], [3.0, -2.0, 1.0], to_unit_cell=False)
    together = of([gase_bilayer(), moved, doubled, graphite()], d3)
    assert together["energy"][1] == pytest.approx(float(alone["energy"][0]), abs=1e-10)
    torch.testing.assert_close(together["forces"][8:12], alone["forces"], rtol=0, atol=1e-10)
    torch.testing.assert_close(together["virial"][1], alone["virial"][0], rtol=0, atol=1e-9)
    assert together["energy"][2] == pytest.approx(2 * float(together["energy"][0]), rel=1e-9)


def test_pairs_summed_one_at_a_time_are_those_summed_together(d3: D3Zero, monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = [gase_bilayer(), salt(), triclinic()]
    together = of(crystals, d3)
    monkeypatch.setattr("dft.potentials.dispersion.IMAGES_MAX", 1)
    for name, tensor in of(crystals, d3).items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-11, atol=1e-12)


def test_a_collapsed_cell_is_refused_before_it_fills_the_memory(d3: D3Zero) -> None:
    with pytest.raises(TooDenseError, match="collapsed"):
        of([Structure(Lattice.cubic(0.5), ["Ga"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])], d3)


def emt(scheme: EnergyScheme = EnergyScheme.RAW) -> Reading:
    model = ForeignModel(AseModel(EMT(), torch.device("cpu")), ["Cu", "Au", "Ni", "Al"], None)
    return Reading(model, "EMT", fingerprint_of(model.atomic_numbers, "emt"), "LGPL", scheme=scheme)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dft.potentials.dispersion.loader_of", lambda name: lambda asked: [emt()])


def test_what_is_added_to_a_potential_is_dispersion_and_nothing_else(known: None, d3: D3Zero) -> None:
    (reading,) = readings(Asked("EMT+d3", (), torch.device("cpu")))
    assert isinstance(reading.model, WithDispersion)
    atoms = Atoms("CuAu", scaled_positions=[[0, 0, 0], [0.5, 0.52, 0.49]], cell=[3.0, 3.1, 3.3], pbc=True)
    crystal = Structure(Lattice(np.array(atoms.cell)), ["Cu", "Au"], atoms.get_scaled_positions())
    state = {
        "positions": torch.from_numpy(atoms.positions),
        "cell": torch.from_numpy(np.array(atoms.cell))[None].transpose(1, 2),
        "atomic_numbers": torch.tensor([29, 79]),
        "system_idx": torch.tensor([0, 0]),
    }
    output, added = reading.model(state), of([crystal], d3)
    atoms.calc = EMT()
    assert float(output["energy"]) == pytest.approx(atoms.get_potential_energy() + float(added["energy"]), abs=1e-6)
    stress = atoms.get_stress(voigt=False) + added["virial"][0].numpy() / atoms.get_volume()
    np.testing.assert_allclose(output["stress"][0].numpy(), stress, atol=1e-6)
    np.testing.assert_allclose(output["forces"].numpy(), atoms.get_forces() + added["forces"].numpy(), atol=1e-6)
    assert reading.method == "EMT + D3(zero)"
    assert reading.fingerprint != emt().fingerprint
    assert reading.scheme is EnergyScheme.OTHER  # corrections of PBE were fitted without dispersion


def test_a_name_with_dispersion_is_known_in_any_case_and_so_is_its_stand_in() -> None:
    assert registry.registered("chgnet+d3") == "CHGNet+D3"
    assert registry.registered("nothing+D3") is None
    assert registry.without_dispersion("+D3") is None
    assert registry.modules_of("CHGNet+D3") == {"dft.potentials.dispersion", "dft.potentials.chgnet"}
    assert registry.fallback_of("M3GNet-MP-2021.2.8-PES+D3", "CHGNet") == "CHGNet+D3"
    assert registry.fallback_of("M3GNet-MP-2021.2.8-PES", "CHGNet") == "CHGNet"
    assert registry.fallback_of("a+D3", None) is None


def test_a_potential_with_dispersion_is_checked_at_load_and_one_that_is_missing_is_named() -> None:
    loaded = load_potential("CHGNet+D3", fallback=None, search=[])
    assert (loaded.name, loaded.method) == ("CHGNet+D3", "CHGNet 0.3.0 + D3(zero)")
    with pytest.raises(PotentialNotFoundError, match="nowhere-to-be-found"):
        load_potential("./nowhere-to-be-found+D3", fallback=None, search=[])
