"""A potential's energy as a hull in the Materials Project's scheme of 2020 takes it.

Potentials that learned total energies of PBE and PBE+U as VASP prints them lack the scheme's corrections
(dft/hull/corrections.py): beside Fe, computed without U, Fe2O3, computed with U, then lies about 0.9 eV/atom too high.
Those that learned corrected energies have them, and get none. docs/numbers.md tells how this was settled by data.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.hull.corrections import Corrected, correct, mp_hubbards
from dft.results import EnergyScheme

if TYPE_CHECKING:
    from dft.potentials.loading import LoadedPotential


def corrected_energy(structure: Structure, energy_ev_per_atom: float, scheme: EnergyScheme) -> Corrected:
    """The energy that a potential of this scheme gives, with what it lacks of the Materials Project's scheme.

    Args:
        structure: the crystal.
        energy_ev_per_atom: potential energy, eV/atom; a PV term may be in it.
        scheme: what the potential's energies are.

    Returns: The corrected energy with the terms of its correction, or why there is none; no correction for any scheme
        but RAW, with a note where the potential states none.
    """
    if scheme is not EnergyScheme.RAW:
        return Corrected(energy_ev_per_atom, 0.0, notes=scheme.notes)
    entry = ComputedStructureEntry(structure, energy_ev_per_atom * len(structure), parameters=parameters_of(structure))
    # Not divided again by the number of atoms: without a correction the energy stays what it was to the last bit.
    return replace(correct(entry), uncorrected_ev_per_atom=energy_ev_per_atom)


def hull_energy_ev_per_atom(
    structure: Structure, energy_ev_per_atom: float, potential: LoadedPotential
) -> float | None:
    """The energy of a crystal that goes on a hull, eV/atom; None where the scheme's corrections cannot be found."""
    return corrected_energy(structure, energy_ev_per_atom, potential.scheme).energy_ev_per_atom


def parameters_of(structure: Structure) -> dict[str, object]:
    """What the Materials Project would have computed the crystal with, as far as corrections depend on it."""
    composition = structure.composition.element_composition
    hubbards = mp_hubbards(composition)
    return {
        "run_type": "GGA+U" if hubbards else "GGA",
        "is_hubbard": bool(hubbards),
        "hubbards": hubbards,
        "potcar_symbols": [f"PBE {_potcar(element.symbol)}" for element in composition],
    }


@lru_cache(maxsize=128)
def _potcar(symbol: str) -> str:
    return str(MPRelaxSet.CONFIG["POTCAR"][symbol])
