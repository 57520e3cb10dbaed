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
from dft.corrections import RUN_TYPES
from dft.presets import MP_POTCAR_FUNCTIONAL
from dft.records import DFTRecord


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
    found += [*_other_potcars(record), *_other_hubbards(record)]
    incar = record.resolved.get("incar")
    if not incar:
        return (*found, *([] if preset == Preset.MP_RELAX.value else [f"preset: {preset} / mp-relax"])), (
            "its INCAR is not in the record: the preset vouches for it",
        )
    return (*found, *_incar_faults(record.structure, incar, has_functional_tag="GGA" in incar)), ()


def _other_potcars(record: DFTRecord) -> list[str]:
    expected = {e.symbol: str(MPRelaxSet.CONFIG["POTCAR"].get(e.symbol)) for e in _elements(record)}
    titles = [str(title).split() for title in record.resolved.get("potcars", ())]
    symbols = {words[1] for words in titles if len(words) > 1}
    if not symbols:
        return ["pseudopotentials: not in the record / " + ", ".join(sorted(expected.values()))]
    if other := sorted(symbols - set(expected.values())):
        return [f"pseudopotentials: {', '.join(other)} / {', '.join(sorted(set(expected.values()) - symbols))}"]
    return []


def _other_hubbards(record: DFTRecord) -> list[str]:
    elements = sorted(_elements(record), key=lambda element: element.X)
    expected = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {}) if len(elements) > 1 else {}
    used = record.resolved.get("hubbards_ev") or {}
    pairs = ((e.symbol, float(used.get(e.symbol, 0)), float(expected.get(e.symbol, 0))) for e in elements)
    return [f"U of {symbol}: {ours:g} / {theirs:g} eV" for symbol, ours, theirs in pairs if ours != theirs]


def _elements(record: DFTRecord) -> Any:
    return list(record.structure.composition.element_composition)


def _incar_faults(structure: Structure, incar: dict[str, Any], *, has_functional_tag: bool) -> list[str]:
    """The validator's reasons; PBE written out where POTCAR decided on it, since the validator sees no POTCAR."""
    tags = incar if has_functional_tag else {**incar, "GGA": "PE"}
    plain = Structure(structure.lattice, [site.specie.symbol for site in structure], structure.frac_coords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = VaspFiles(user_input=VaspInputSafe(incar=Incar(tags), structure=plain))
        reasons, _ = VaspValidator.run_checks(files, [CheckIncar])
    return [f"INCAR: {reason.removeprefix('INPUT SETTINGS --> ').rstrip('.')}" for reason in reasons]
