"""Whether the atoms of a cell are those a CIF states: by its formula, Z, volume and density.

The last defence against a crystal read wrongly: a wrong setting, a missing operation, a list cut off between two lines
all leave a number of atoms that the rest of the file denies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import reduce

import numpy as np
from pymatgen.core.composition import Composition

from generative.datasets.cif.orbits import Atoms
from generative.datasets.cif.sites import Sites, stated_formula
from generative.datasets.cif.text import CifBlock

VOLUME_TOLERANCE = 0.03
"""Largest relative difference of the stated volume and the cell's: a misprinted length or angle is beyond it."""

DENSITY_TOLERANCE = 0.05
"""The same of the density; wide enough for rounded cells, narrow enough to miss no metal atom in ten."""

_G_CM3_PER_AMU_ANG3 = 1.66053906660


def is_whole_cell(counts: Mapping[str, float], units: float) -> bool:
    """Whether a formula may be the whole cell's, of `units` formula units: pymatgen writes 'Si8' beside Z = 8."""
    if not math.isfinite(units) or units != int(units) or units < 1 or any(n != int(n) for n in counts.values()):
        return False
    return reduce(math.gcd, (int(n) for n in counts.values())) % int(units) == 0


def stated_count(block: CifBlock) -> tuple[str, list[float]] | None:
    """Words on the stated number of atoms, and the numbers they may mean; None if formula or Z is missing."""
    formula, units = stated_formula(block), block.number("_cell_formula_units_z")
    if formula is None or not (math.isfinite(units) and units > 0):
        return None
    name, text, counts = formula
    total = sum(counts.values())
    totals = [units * total] + ([total] if is_whole_cell(counts, units) else [])
    return f"{name} {text!r} with _cell_formula_units_Z {units:g}", totals


def disagreement(block: CifBlock, sites: Sites, atoms: Atoms, lattice_ang: np.ndarray) -> str | None:
    """What the file states otherwise of these atoms, in one sentence; None if all agrees."""
    counts = Counter(sites.symbols[i] for i in atoms.site)
    volume_ang3 = abs(float(np.linalg.det(lattice_ang)))
    return (
        _of_volume(block, volume_ang3)
        or _of_formula(block, counts)
        or _of_number(block, counts, volume_ang3)
        or _of_density(block, counts, volume_ang3)
    )


def _of_volume(block: CifBlock, volume_ang3: float) -> str | None:
    stated = block.number("_cell_volume")
    if not math.isfinite(stated) or abs(stated / volume_ang3 - 1.0) <= VOLUME_TOLERANCE:
        return None
    return (
        f"_cell_volume is {stated:g}, but lengths and angles enclose {volume_ang3:.2f} A^3: expected them to agree "
        f"within {VOLUME_TOLERANCE:.0%}; correct the cell or the volume"
    )


def _words(counts: Mapping[str, int]) -> str:
    return str(Composition(dict(counts)).formula)


def _of_formula(block: CifBlock, found: Mapping[str, int]) -> str | None:
    stated = stated_formula(block)
    if stated is None:
        return None
    name, text, expected = stated
    n_expected, n_found = sum(expected.values()), sum(found.values())
    is_whole = all(n == int(n) for n in expected.values())
    per_unit = n_found / n_expected
    agrees = all(
        # Of whole numbers nothing is lost to rounding; 'Ca0.33' is good to a hundredth.
        abs(found.get(symbol, 0) - expected.get(symbol, 0.0) * per_unit) <= (1e-6 if is_whole else 0.01 * n_found)
        for symbol in {*found, *expected}
    )
    if agrees:
        return None
    if expected.get("H", 0) and not found.get("H", 0):
        hint = "the hydrogens are not listed; add their sites"
    else:
        hint = "the file may be cut off, or its symmetry incomplete"
    return f"the sites amount to {_words(found)!r}, but {name} is {text!r}: expected them to agree; {hint}"


def _of_number(block: CifBlock, found: Mapping[str, int], volume_ang3: float) -> str | None:
    count = stated_count(block)
    n_found = sum(found.values())
    if count is None or any(abs(n_found - total) <= _slack(total) for total in count[1]):
        return None
    words, totals = count
    return (
        f"the cell holds {n_found} atoms ({_words(found)}, {volume_ang3 / n_found:.2f} A^3 per atom), but {words} "
        f"gives {' or '.join(f'{total:g}' for total in totals)} ({volume_ang3 / totals[0]:.2f} A^3 per atom): expected "
        "them to agree; check the symmetry operations, their setting, and Z"
    )


def _slack(total: float) -> float:
    """How far a number of atoms may lie from a stated one: not at all if that is whole, else its rounding."""
    return 1e-6 * total if abs(total - round(total)) < 1e-6 else max(0.5, 0.01 * total)


def _of_density(block: CifBlock, found: Mapping[str, int], volume_ang3: float) -> str | None:
    stated = block.number("_exptl_crystal_density_diffrn")
    if not (math.isfinite(stated) and stated > 0):
        return None
    density = float(Composition(dict(found)).weight) * _G_CM3_PER_AMU_ANG3 / volume_ang3
    if abs(density / stated - 1.0) <= DENSITY_TOLERANCE:
        return None
    return (
        f"the cell's {sum(found.values())} atoms ({_words(found)}) give {density:.3f} g/cm^3, but "
        f"_exptl_crystal_density_diffrn is {stated:g}: expected them to agree within {DENSITY_TOLERANCE:.0%}; check "
        "the symmetry operations, their setting, and the list of atoms"
    )
