"""Energies of potentials on a hull of the Materials Project's scheme: against pymatgen's own corrections."""

from __future__ import annotations

import warnings

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.hull.dialects import corrected_energy, hull_energy_ev_per_atom
from dft.potentials.loading import LoadedPotential, load_potential
from dft.results import EnergyScheme

CORNER, CENTRE, FACE = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.5, 0.5]


def crystals() -> dict[str, Structure]:
    def cubic(group: str, a_ang: float, species: list[str], coords: list[list[float]]) -> Structure:
        return Structure.from_spacegroup(group, Lattice.cubic(a_ang), species, coords).get_primitive_structure()

    return {
        "oxide": cubic("Fm-3m", 4.21, ["Mg", "O"], [CORNER, CENTRE]),
        "oxide with U": cubic("Fm-3m", 4.33, ["Fe", "O"], [CORNER, CENTRE]),
        "fluoride with U": cubic("Pm-3m", 4.1, ["K", "Ni", "F"], [CORNER, CENTRE, FACE]),
        "chloride": cubic("Fm-3m", 5.64, ["Na", "Cl"], [CORNER, CENTRE]),
        "nitride": cubic("Fm-3m", 4.24, ["Ti", "N"], [CORNER, CENTRE]),
        "sulfide, no U beside S": cubic("F-43m", 5.6, ["Fe", "S"], [CORNER, [0.25, 0.25, 0.25]]),
        "intermetallic": cubic("Pm-3m", 2.89, ["Ni", "Al"], [CORNER, CENTRE]),
        "element": cubic("Im-3m", 2.86, ["Fe"], [CORNER]),
    }


def by_pymatgen(structure: Structure, energy_ev_per_atom: float) -> float:
    """The corrected energy of an entry with the parameters of a MPRelaxSet input, eV/atom."""
    inputs = MPRelaxSet(structure)
    tags = inputs.incar
    uses_u = bool(tags.get("LDAU"))
    values = dict(zip(dict.fromkeys(site.specie.symbol for site in inputs.structure), tags.get("LDAUU", []),
                      strict=False))  # fmt: skip
    parameters = {
        "run_type": "GGA+U" if uses_u else "GGA",
        "hubbards": values if uses_u else {},
        "potcar_symbols": [f"PBE {symbol}" for symbol in inputs.potcar_symbols],
    }
    entry = ComputedStructureEntry(structure, energy_ev_per_atom * len(structure), parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on oxidation states that it guesses
        done = MaterialsProject2020Compatibility(check_potcar_hash=False).process_entry(entry)
    assert done is not None
    return float(done.energy_per_atom)


@pytest.mark.parametrize("name", crystals())
def test_a_raw_energy_gets_pymatgens_corrections_as_if_the_materials_project_had_computed_it(name: str) -> None:
    structure = crystals()[name]
    found = corrected_energy(structure, -6.5, EnergyScheme.RAW)
    assert found.energy_ev_per_atom == pytest.approx(by_pymatgen(structure, -6.5), abs=1e-9)


def test_metals_keep_their_energy_to_the_last_bit_and_iron_in_an_oxide_gets_what_its_u_costs() -> None:
    energy = -6.123456789012345
    for name in ("intermetallic", "element"):
        for size in (1, 3, 7):  # cells of so many primitive ones
            crystal = crystals()[name] * (size, 1, 1)
            assert corrected_energy(crystal, energy, EnergyScheme.RAW).energy_ev_per_atom == energy
    iron = corrected_energy(crystals()["oxide with U"], energy, EnergyScheme.RAW).correction_ev_per_atom
    assert iron == pytest.approx((-2.256 - 0.687) / 2)  # Wang et al., Sci. Rep. 11, 15496 (2021), table 2


@pytest.mark.parametrize("scheme", [EnergyScheme.MP2020, EnergyScheme.OTHER, EnergyScheme.UNSTATED])
def test_energies_of_another_scheme_are_left_alone_and_what_is_not_known_is_said(scheme: EnergyScheme) -> None:
    found = corrected_energy(crystals()["oxide with U"], -6.5, scheme)
    assert found.energy_ev_per_atom == -6.5
    assert bool(found.notes) == (scheme is not EnergyScheme.MP2020)


def test_a_potential_carries_its_scheme_from_its_reading_to_the_hull() -> None:
    chgnet = load_potential("CHGNet", fallback=None, search=[])
    assert chgnet.scheme is EnergyScheme.MP2020
    oxide = crystals()["oxide with U"]
    assert hull_energy_ev_per_atom(oxide, -6.5, chgnet) == -6.5
    raw = LoadedPotential("raw", "raw", "0" * 64, chgnet.model, (), chgnet.elements, scheme=EnergyScheme.RAW)
    assert hull_energy_ev_per_atom(oxide, -6.5, raw) == pytest.approx(-6.5 + (-2.256 - 0.687) / 2)
