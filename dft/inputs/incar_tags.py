"""INCAR tags: which change no number, and the others in one form, so that INCARs are compared by what they compute.

Torch-free, and free of atomate2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PARALLEL_TAGS: dict[str, str] = {
    "NCORE": "cores that work on one band",
    "NPAR": "bands that are worked on side by side; NCORE by its other name",
    "KPAR": "k-points that are worked on side by side",
    "NSIM": "bands in one block of RMM-DIIS: the same iteration in larger matrix products",
    "LPLANE": "whether a core holds whole planes of the FFT grid",
    "LSCALAPACK": "whether ScaLAPACK diagonalises",
    "LSCALU": "whether ScaLAPACK orthonormalises",
    "LSCAAWARE": "whether matrices are set up distributed over the cores",
}
"""Tags that share the work out, each with what it decides. They depend on the machine, so its owner may set them."""

OUTPUT_TAGS: dict[str, str] = {
    "SYSTEM": "a title",
    "LWAVE": "writes WAVECAR, which no run of a preset reads",
    "LVTOT": "writes LOCPOT",
    "LVHAR": "writes LOCPOT",
    "LELF": "writes ELFCAR",
    "LAECHG": "writes AECCAR",
}
"""Tags that decide what is written besides the results. LCHARG and LORBIT are not among them: the second relaxation of
mp-relax begins with CHGCAR, and the moments of a record are read from what LORBIT has written."""

CHANGES_NO_NUMBER: dict[str, str] = PARALLEL_TAGS | OUTPUT_TAGS
"""The only tags that may come from outside a preset. All that are not here count as physics, unknown ones included."""

LEVEL_TAGS = (
    "AEXX",
    "ENCUT",
    "GGA",
    "HFSCREEN",
    "ISPIN",
    "IVDW",
    "LASPH",
    "LHFCALC",
    "LNONCOLLINEAR",
    "LSORBIT",
    "LUSE_VDW",
    "METAGGA",
    "PREC",
    "PSTRESS",
)
"""Tags that make a level of theory and that custodian never touches: they hold for a record made before presets were
checked against what was written, too."""

_LOGICAL = dict.fromkeys(("T", ".T.", "TRUE", ".TRUE."), True) | dict.fromkeys(("F", ".F.", "FALSE", ".FALSE."), False)


def physics_tags(incar: Mapping[str, Any]) -> dict[str, Any]:
    """The tags that decide numbers, sorted, each value in one form: 500 is 500.0, 'Pe' is 'PE', '.TRUE.' is True."""
    tags = {str(tag).strip().upper(): canonical(value) for tag, value in incar.items()}
    return {tag: tags[tag] for tag in sorted(tags) if tag not in CHANGES_NO_NUMBER}


def canonical(value: Any) -> Any:
    """A tag's value as JSON: numbers to ten digits (INCAR holds no more), text in capitals without blanks around it."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float(f"{value:.10g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): canonical(one) for name, one in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    text = " ".join(str(value).split()).upper()
    if text in _LOGICAL:
        return _LOGICAL[text]
    try:
        return canonical(float(text))
    except ValueError:
        return text


def shown(value: Any) -> str:
    """A canonical value as INCAR would have it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def changed(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Tags on which two sets of physics tags differ, with both values; 'absent' where one lacks it."""
    names = sorted(set(expected) | set(found))
    both = {name: (expected.get(name, "absent"), found.get(name, "absent")) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}
