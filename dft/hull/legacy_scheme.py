"""Formation energies in the Materials Project's scheme before 2021, brought to that of 2020.

The old scheme corrects oxides, sulfides and elements with U by other amounts, no other anion, and gives the gases N2,
F2, Cl2 and H2 fitted energies (Jain et al., Phys. Rev. B 84, 045115 (2011)). So a bromide of WBM stands 0.5 eV per Br
higher than one of today's Materials Project, and a mixed hull is wrong. Both corrections are pymatgen's.
"""

from __future__ import annotations

import warnings

from pymatgen.core.structure import Structure
from pymatgen.entries.compatibility import CompatibilityError, MaterialsProjectCompatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from dft.hull.dialects import corrected_energy, parameters_of
from dft.results import EnergyScheme

GASES_EV_PER_ATOM = {"N": -7.95247 + 8.3365, "F": -1.42055 + 1.9115, "Cl": -1.25385 + 1.8485, "H": -3.23974 + 3.3927}
"""Fitted energies of the gases in the old scheme (pymatgen's MPCompatibility.yaml) less those that PBE gives them (the
Materials Project's elemental references, as matbench-discovery lists them), eV per atom."""


def to_mp2020(structure: Structure) -> float | None:
    """What to add to a formation energy of the old scheme, eV/atom; None where either scheme cannot be applied."""
    new = corrected_energy(structure, 0.0, EnergyScheme.RAW).correction_ev_per_atom
    old = _legacy_correction(structure)
    if new is None or old is None:
        return None
    shares = structure.composition.element_composition.fractional_composition.get_el_amt_dict()
    gases = 0.0 if len(shares) == 1 else sum(x * GASES_EV_PER_ATOM.get(symbol, 0.0) for symbol, x in shares.items())
    return new - old + gases


def _legacy_correction(structure: Structure) -> float | None:
    if len(structure.composition.element_composition) == 1:
        return 0.0
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters_of(structure))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the scheme is old, which is why it is used
        try:
            done = MaterialsProjectCompatibility(check_potcar_hash=False).process_entry(entry)
        except (CompatibilityError, ValueError):
            return None
    return None if done is None else float(done.correction_per_atom)
