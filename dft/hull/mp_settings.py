"""Whether a record was computed as the Materials Project computes, so that its corrections and entries hold for it."""

from __future__ import annotations

import warnings
from typing import Any

from pymatgen.core.structure import Structure
from pymatgen.io.validation.check_incar import CheckIncar
from pymatgen.io.validation.common import VaspFiles, VaspInputSafe
from pymatgen.io.validation.validation import VaspValidator
from pymatgen.io.vasp.inputs import Incar
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.config import Preset
from dft.hull.corrections import RUN_TYPES, other_hubbards
from dft.hull.kpoint_notes import METAL_GAP_EV
from dft.inputs.presets import MP_POTCAR_FUNCTIONAL
from dft.records import DFTRecord

SMEARING_TAGS = ("ISMEAR", "SIGMA")
METAL_ISMEAR, METAL_SIGMA_EV = (0, 1, 2), 0.2
"""Smearings that the validator takes where there is no gap, pymatgen.io.validation.check_incar."""


def differences_from_materials_project(record: DFTRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What keeps a record off the Materials Project's hull, and what could not be checked.

    Engine, pressure, functional, pseudopotential family and symbols, Hubbard U, and INCAR by the Materials Project's
    own validator (pymatgen-io-validation), which takes what is at least as converged as its settings.

    Returns: Differences, 'ours / theirs', one phrase each; notes.
    """
    if record.engine != "vasp":
        return (f"engine: {record.engine} / vasp",), ()
    preset = record.settings.get("preset")
    found = [] if not record.pressure_gpa else [f"pressure: {record.pressure_gpa:g} / 0 GPa"]
    if (run_type := record.resolved.get("run_type")) is not None and run_type not in RUN_TYPES:
        found.append(f"functional: {run_type} / GGA or GGA+U (PBE)")
    family = MP_POTCAR_FUNCTIONAL if preset == Preset.MP_RELAX.value else record.settings.get("potcar_functional")
    if family != MP_POTCAR_FUNCTIONAL:
        found.append(f"pseudopotential family: {family} / {MP_POTCAR_FUNCTIONAL}")
    found += _other_potcars(record)
    found += other_hubbards(record.structure.composition, record.resolved.get("hubbards_ev"))
    incar = record.resolved.get("incar")
    if not incar:
        return (*found, *([] if preset == Preset.MP_RELAX.value else [f"preset: {preset} / mp-relax"])), (
            "its INCAR is not in the record: the preset vouches for it",
        )
    return (*found, *_incar_faults(record, incar)), ()


def _other_potcars(record: DFTRecord) -> list[str]:
    expected = {
        element.symbol: str(MPRelaxSet.CONFIG["POTCAR"].get(element.symbol))
        for element in record.structure.composition.element_composition
    }
    titles = [str(title).split() for title in record.resolved.get("potcars", ())]
    symbols = {words[1] for words in titles if len(words) > 1}
    if not symbols:
        return ["pseudopotentials: not in the record / " + ", ".join(sorted(expected.values()))]
    if other := sorted(symbols - set(expected.values())):
        return [f"pseudopotentials: {', '.join(other)} / {', '.join(sorted(set(expected.values()) - symbols))}"]
    return []


def _incar_faults(record: DFTRecord, incar: dict[str, Any]) -> list[str]:
    """The validator's reasons; PBE written out where POTCAR decided on it, since the validator sees no POTCAR."""
    tags = incar if "GGA" in incar else {**incar, "GGA": "PE"}
    symbols = [site.specie.symbol for site in record.structure]
    plain = Structure(record.structure.lattice, symbols, record.structure.frac_coords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = VaspFiles(user_input=VaspInputSafe(incar=Incar(tags), structure=plain))
        reasons, _ = VaspValidator.run_checks(files, [CheckIncar])
    said = [reason.removeprefix("INPUT SETTINGS --> ").rstrip(".") for reason in reasons]
    return [f"INCAR: {one}" for one in said if not (_is_metal_s_smearing(record) and one.startswith(SMEARING_TAGS))]


def _is_metal_s_smearing(record: DFTRecord) -> bool:
    """Whether no gap was found and the smearing is one that the validator takes for metals; it is not told the gap."""
    incar, gap_ev = record.resolved["incar"], record.resolved.get("bandgap_ev")
    ismear, sigma = int(incar.get("ISMEAR", 1)), float(incar.get("SIGMA", 0.2))
    return gap_ev is not None and gap_ev < METAL_GAP_EV and ismear in METAL_ISMEAR and sigma <= METAL_SIGMA_EV
