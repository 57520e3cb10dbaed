"""At which level of theory energies were made, and which of them may be compared.

A level is a functional (GGA is the Materials Project's word for PBE), with or without a Hubbard U, or a named scheme
that brings several functionals to one scale. Energies are compared, ordered, or put on one hull only within a level:
`level_of` is what decides, wherever that is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "unknown"
"""Column `method` where nobody says at which level of theory the energies are."""

MP2020 = "PBE/PBE+U, MP2020 corrections (Materials Project)"
"""MaterialsProject2020Compatibility (Wang et al., Sci. Rep. 11, 15496 (2021)): GGA and GGA+U on one scale."""

MP_R2SCAN = "r2SCAN (Materials Project)"
MP_MIXED = "PBE/PBE+U and r2SCAN, mixed (Materials Project)"
"""MaterialsProjectDFTMixingScheme (Kingsbury et al., npj Comput. Mater. 8, 195 (2022))."""

SCHEME_OF_THERMO_TYPE: Mapping[str, str] = {"GGA_GGA+U": MP2020, "R2SCAN": MP_R2SCAN, "GGA_GGA+U_R2SCAN": MP_MIXED}
"""The Materials Project's names of its schemes, upper case."""

_SCHEMES = frozenset(SCHEME_OF_THERMO_TYPE.values())

# The mixed scheme takes what it mixes.
_RUN_TYPES_OF_THERMO_TYPE: Mapping[str, tuple[str, ...]] = {"GGA_GGA+U": ("GGA", "GGA+U"), "R2SCAN": ("r2SCAN",)}

# The project calls PBE calculations GGA; newer documents say PBE. PS and CA are VASP's tags of PBEsol and LDA.
_NAMED = ("PBEsol", "LDA", "r2SCAN", "SCAN", "HSE06", "HSE03", "PBE0", "revPBE", "SCAN-rVV10", "r2SCAN-rVV10")
_FUNCTIONALS = {name.lower(): name for name in _NAMED} | {"ps": "PBEsol", "ca": "LDA"}
_FUNCTIONALS |= dict.fromkeys(("gga", "pbe", "pe"), "GGA")


def functional_of(run_type: str | None) -> str | None:
    """A run type in one spelling: 'PBE_U', 'pbe+u' and 'GGA+U' are 'GGA+U'; 'R2SCAN' is 'r2SCAN'; None if empty."""
    text = "".join((run_type or "").split())
    if not text:
        return None
    base, hubbard = text, ""
    for ending in ("+U", "_U"):
        if text.upper().endswith(ending):
            base, hubbard = text[: -len(ending)], "+U"
    return _FUNCTIONALS.get(base.lower(), base) + hubbard


def level_of(method: str | None, run_type: str | None) -> str:
    """The level of theory at which a row's energies may be compared: rows share a hull or an order only if it is equal.

    Args:
        method: column `method`.
        run_type: column `run_type`.

    Returns: A scheme's name where the method is one, since it corrects what it mixes; else the method with the run type
        behind it, unless the method names it already.
    """
    said, functional = (method or "").strip() or UNKNOWN, functional_of(run_type)
    if functional is None or said in _SCHEMES:
        return said
    if said == UNKNOWN:
        return functional
    return said if functional in said.split(", ") else f"{said}, {functional}"


def method_of(method: str, run_type: str | None, correction: str | None) -> str:
    """Column `method` of a record.

    Args:
        method: what is known of the source as a whole.
        run_type: as the record states it.
        correction: scheme by which the record's energies were corrected, or names of corrections; None: uncorrected.
    """
    if correction in _SCHEMES:
        return str(correction)
    level = level_of(method, run_type)
    said = f"corrected by {correction!r}"
    return level if correction is None or said in level else f"{level}, {said}"


def scheme_of(adjustments: Sequence[Any], correction_ev: float) -> str | None:
    """The scheme that corrected a pymatgen entry.

    Args:
        adjustments: its `energy_adjustments`, as dictionaries.
        correction_ev: their sum, eV per cell.

    Returns: MP2020, MP_MIXED, the names of other corrections, or None for an entry without any.
    """
    found = [one for one in adjustments if isinstance(one, Mapping)]
    names = sorted({str(one.get("name") or "unnamed") for one in found})
    classes = {str(made.get("@class")) for one in found if isinstance(made := one.get("cls"), Mapping)}
    if "MaterialsProjectDFTMixingScheme" in classes or any("mixing adjustment" in name for name in names):
        return MP_MIXED
    if names and all(name.startswith("MP2020") for name in names):
        return MP2020
    if names:
        return "; ".join(names)[:120]
    return "an unnamed correction" if abs(correction_ev) > 1e-9 else None


def needs_no_mp2020(elements: Sequence[str], run_type: str | None, oxidation_states: Any) -> bool:
    """Whether the scheme of 2020 leaves an energy as it is, so that an uncorrected entry is at its level too.

    Args:
        elements: of the entry.
        run_type: as the entry states it; only GGA can go without.
        oxidation_states: `data.oxidation_states` of the entry, written by the scheme: element -> charge.
    """
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    if functional_of(run_type) != "GGA":
        return False
    if len(set(elements)) == 1:
        return True
    names = set(MaterialsProject2020Compatibility(check_potcar=False).comp_correction)
    anions = {element for element in elements if element in names or element == "O"}
    states = oxidation_states if isinstance(oxidation_states, Mapping) else {}
    return all(isinstance(charge := states.get(anion), int | float) and charge >= 0 for anion in anions)


def contradiction(thermo_type: str, run_type: str | None) -> str:
    """Why an energy is not of the Materials Project's scheme that is named beside it; empty if it may be."""
    allowed = _RUN_TYPES_OF_THERMO_TYPE.get(thermo_type.upper())
    if allowed and functional_of(run_type) not in allowed:
        return (
            f"energy_type is {run_type!r}: expected {' or '.join(allowed)} for thermo_type {thermo_type!r}, since "
            "energies of different functionals share no hull; ask for the mixed scheme, 'GGA_GGA+U_R2SCAN'"
        )
    return ""
