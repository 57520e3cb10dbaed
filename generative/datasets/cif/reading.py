"""CIF text to a crystal: a fast reader of the P1 files pymatgen writes, and one for everything else.

The benchmark CSVs hold tens of thousands of CIFs in one fixed layout (pymatgen's CifWriter without symmetry). Reading
that layout needs one regular expression; `fast_p1` does it some thirty times faster than pymatgen's CifParser and gives
the same numbers bit for bit, site order included, or declines.

Everything else goes the long way: blocks (cif_text), elements (cif_sites), symmetry (cif_symmetry), atoms of the cell
(cif_orbits), and at last whether that is the crystal the file states by formula, Z, volume and density (cif_contents).
Where the words of a file leave several crystals open, the one that agrees with these is meant; if several do, or none,
the file is refused.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, wrapped
from generative.datasets.cif.contents import VOLUME_TOLERANCE, disagreement, stated_count
from generative.datasets.cif.orbits import MERGED_ANG, MERGED_IF_COUNTED_ANG, Atoms, NearImagesError, counted, expanded
from generative.datasets.cif.sites import Sites, formula_counts, read_sites, snap_thirds
from generative.datasets.cif.symmetry import REMEDY, Setting, lists_operations, settings_of
from generative.datasets.cif.text import CifBlock, crystal_blocks, plain_number
from generative.datasets.limits import MAX_VECTOR_ANG

_NUMBER = r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
_P1_HEAD = re.compile(
    r"(?:#[^\n]*\n)?data_[^\n]*\n"
    r"_symmetry_space_group_name_H-M +'P 1'\n"
    rf"_cell_length_a +{_NUMBER}\n_cell_length_b +{_NUMBER}\n_cell_length_c +{_NUMBER}\n"
    rf"_cell_angle_alpha +{_NUMBER}\n_cell_angle_beta +{_NUMBER}\n_cell_angle_gamma +{_NUMBER}\n"
    r"_symmetry_Int_Tables_number +1\n"
    r"_chemical_formula_structural +[^\n]*\n"
    r"_chemical_formula_sum +([^\n]*)\n"
    rf"_cell_volume +{_NUMBER}\n_cell_formula_units_Z +([1-9]\d*)\n"
    r"loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n  1  'x, y, z'\n"
    r"loop_\n _atom_site_type_symbol\n _atom_site_label\n _atom_site_symmetry_multiplicity\n"
    r" _atom_site_fract_x\n _atom_site_fract_y\n _atom_site_fract_z\n _atom_site_occupancy\n"
)
_SITE = re.compile(rf" +([A-Z][a-z]?) +(\S+) +1 +{_NUMBER} +{_NUMBER} +{_NUMBER} +1(?:\.0*)?$")
_FORMULA_SUM = re.compile(r"^[ \t]*_chemical_formula_sum[ \t]+(?:'([^'\n]*)'|\"([^\"\n]*)\"|([^'\"\s]+))[ \t]*$", re.M)
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")
_CELL_NAMES = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


@lru_cache(maxsize=256)
def _site_rank(symbol: str) -> tuple[float, str] | None:
    """Key of pymatgen's site order, (electronegativity, symbol); None where pymatgen has no electronegativity."""
    if symbol not in ELEMENTS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = float(Element(symbol).X)
    return (x, symbol) if math.isfinite(x) else None


def fast_p1(text: str) -> Crystal | None:
    """The crystal of a P1 CIF as pymatgen writes it, equal to CifParser's bit for bit; None for any other text.

    Declines, rather than reports, whatever is unusual: another layout, an unknown element, an occupancy that is not 1,
    a formula sum, Z or volume that disagrees with sites and cell, an element without electronegativity (whose place in
    pymatgen's site order is not defined).
    """
    head = _P1_HEAD.match(text)
    if head is None:
        return None
    a, b, c, alpha, beta, gamma = (float(group) for group in head.groups()[:6])
    if min(a, b, c) <= 0 or max(a, b, c) > MAX_VECTOR_ANG or not all(0 < angle < 180 for angle in (alpha, beta, gamma)):
        return None
    sites: list[tuple[str, tuple[float, float, float]]] = []
    for line in text[head.end() :].rstrip("\n").split("\n"):
        site = _SITE.match(line)
        if site is None or _site_rank(site[1]) is None:
            return None
        sites.append((site[1], (float(site[3]), float(site[4]), float(site[5]))))
    counts = _counts(head[7].strip().strip("'\""))
    if counts != Counter(symbol for symbol, _ in sites) or math.gcd(*counts.values()) % int(head[9]):
        return None
    sites.sort(key=lambda site: _site_rank(site[0]) or (0.0, ""))
    frac = snap_thirds(np.array([coords for _, coords in sites], dtype=float))
    numbers = np.array([ELEMENTS.index(symbol) + 1 for symbol, _ in sites], dtype=np.int16)
    lattice_ang = np.array(Lattice.from_parameters(a, b, c, alpha, beta, gamma).matrix, dtype=float)
    # pymatgen puts c along z and a into the xz plane: the determinant is the diagonal's product.
    volume_ang3 = lattice_ang[0, 0] * lattice_ang[1, 1] * lattice_ang[2, 2]
    if not abs(float(head[8]) - volume_ang3) <= VOLUME_TOLERANCE * volume_ang3:
        return None
    return Crystal(lattice_ang, wrapped(frac), numbers)


def _counts(formula_sum: str) -> dict[str, int]:
    return {symbol: int(float(count or 1)) for symbol, count in _FORMULA_PART.findall(formula_sum)}


def elements_of_cif(text: str) -> frozenset[str] | None:
    """Elements named by the formula sum; None if there is none or more than one, or it names a non-element."""
    found = _FORMULA_SUM.findall(text)
    if len(found) != 1:
        return None
    counts = formula_counts(next((group for group in found[0] if group), "?"))
    return None if counts is None else frozenset(counts)


@dataclass(frozen=True)
class CifReading:
    """A crystal and what a user should know of how it was read.

    Attributes:
        crystal: the cell as the file gives it, sites by electronegativity.
        notes: one sentence each; mostly none.
    """

    crystal: Crystal
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """One setting a file may mean: its atoms, what the file states against them, why they are no crystal by themselves.

    The last is no evidence against the setting: a split atom is refused in the right one, and may pass in a wrong one.
    """

    setting: Setting
    atoms: Atoms
    objection: str | None
    flaw: RecordError | None = None


def read_cif(text: str, max_atoms: int) -> CifReading:
    """The crystal of a CIF with one block that lists atoms.

    Args:
        text: the file.
        max_atoms: refuse lists of more sites, and cells of more atoms, before the costly steps.

    Raises:
        RecordError: if it is empty, cut off, disordered, incomplete, contradicts itself, or may mean several crystals.
    """
    crystal = fast_p1(text)
    if crystal is not None:
        return CifReading(crystal)
    if not text.strip():
        raise RecordError("the text is empty: expected a CIF")
    block = _one_block(text)
    lattice_ang = _lattice(block)
    sites = read_sites(block, max_atoms)
    chosen, notes = _chosen(block, sites, lattice_ang, max_atoms)
    order = sorted(range(len(chosen.site)), key=lambda k: _order(sites.symbols[chosen.site[k]]))
    numbers = [ELEMENTS.index(sites.symbols[chosen.site[k]]) + 1 for k in order]
    return CifReading(Crystal(lattice_ang, chosen.frac[order], np.array(numbers, dtype=np.int16)), tuple(notes))


def _order(symbol: str) -> tuple[float, str]:
    return _site_rank(symbol) or (math.inf, symbol)


def _one_block(text: str) -> CifBlock:
    blocks = crystal_blocks(text)
    if not blocks:
        raise RecordError(
            "the CIF lists no atom (_atom_site_fract_x is missing): expected at least one; the file may be cut off"
        )
    if len(blocks) > 1:
        raise RecordError(f"the CIF holds {len(blocks)} crystals: expected one, so write each to a file of its own")
    block = blocks[0]
    read = [name for name in sorted(block.repeated) if name.startswith(("_cell", "_atom_site", "_space", "_symm"))]
    if read:
        raise RecordError(f"{read[0]} stands twice in the data block: expected it once; remove the wrong one")
    modulated = block.stated("_cell_modulation_dimension", "_space_group_ssg_name", "_space_group_ssg_name_wjj")
    if modulated not in (None, "0"):
        raise RecordError(f"the CIF describes a modulated structure ({modulated}): expected a crystal with a cell")
    if any(name.startswith("_space_group_symop_magn_") for name in block.values) and not lists_operations(block):
        raise RecordError(
            "the CIF lists the operations of a magnetic group alone: expected those of the crystal; call the file .mcif"
        )
    return block


def _lattice(block: CifBlock) -> np.ndarray:
    """Rows, angstrom, (3, 3). An angle that is not stated is 90 degrees, as in the CIF dictionary."""
    values = []
    for name in _CELL_NAMES:
        is_length = name.startswith("length")
        text = block.stated(f"_cell_{name}") or ("?" if is_length else "90")
        value = plain_number(text)
        if not 0 < value < (math.inf if is_length else 180.0):
            expected = "a positive number (angstrom)" if is_length else "a number between 0 and 180 (degrees)"
            raise RecordError(f"_cell_{name} is {text!r}: expected {expected}")
        values.append(value)
    a, b, c, alpha, beta, gamma = values
    if max(a, b, c) > MAX_VECTOR_ANG:
        raise RecordError(
            f"a cell length is {max(a, b, c):g} A: expected at most {MAX_VECTOR_ANG:g} A; give the crystal in its "
            "reduced cell"
        )
    try:
        lattice_ang = np.array(Lattice.from_parameters(a, b, c, alpha, beta, gamma).matrix, dtype=float)
    except (ValueError, ZeroDivisionError):
        lattice_ang = np.full((3, 3), np.nan)
    cosines = np.cos(np.radians([alpha, beta, gamma]))
    volume = a * b * c * math.sqrt(max(0.0, 1 - (cosines**2).sum() + 2 * cosines.prod()))
    if not np.isfinite(lattice_ang).all() or not math.isclose(abs(np.linalg.det(lattice_ang)), volume, rel_tol=1e-6):
        raise RecordError(f"angles of {alpha:g}, {beta:g} and {gamma:g} degrees enclose no cell: expected a volume")
    return lattice_ang


def _chosen(block: CifBlock, sites: Sites, lattice_ang: np.ndarray, max_atoms: int) -> tuple[Atoms, list[str]]:
    """The atoms of the one setting that agrees with what the file states, and notes on how it was found."""
    settings = settings_of(block, lattice_ang)
    if len(settings) == 1:
        atoms = _atoms(block, sites, settings[0], lattice_ang, max_atoms)
        objection = disagreement(block, sites, atoms, lattice_ang)
        if objection is not None:
            raise RecordError(objection)
        return atoms, _merging_notes(atoms)
    candidates = [_candidate(block, sites, setting, lattice_ang, max_atoms) for setting in settings]
    agreeing = [one for one in candidates if one.objection is None]
    as_multiplied = [one for one in agreeing if np.array_equal(sites.multiplicities, one.atoms.multiplicities)]
    agreeing = as_multiplied if len(as_multiplied) == 1 else agreeing
    names = ", ".join(repr(setting.name) for setting in settings[:4])
    if not agreeing:
        raise RecordError(
            f"no setting of the space group ({names}) gives the stated crystal; in the first, {candidates[0].objection}"
        )
    if len(agreeing) > 1:
        names = ", ".join(repr(one.setting.name) for one in agreeing[:4])
        raise RecordError(
            f"the file names the space group, but not which of its settings ({names}) the coordinates are in: expected "
            f"one; add it to the symbol, or {REMEDY}"
        )
    (chosen,) = agreeing
    if chosen.flaw is not None:
        raise chosen.flaw
    note = f"of the settings {names} only {chosen.setting.name!r} agrees with the stated contents of the cell"
    return chosen.atoms, [note, *_merging_notes(chosen.atoms)]


def _candidate(block: CifBlock, sites: Sites, setting: Setting, lattice_ang: np.ndarray, max_atoms: int) -> _Candidate:
    flaw = None
    try:
        atoms = _atoms(block, sites, setting, lattice_ang, max_atoms)
    except RecordError as error:
        flaw = error
        try:
            atoms = counted(sites, setting.operations, lattice_ang, max_atoms)
        except RecordError as too_many:
            return _Candidate(setting, Atoms(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0, int), {}), str(too_many))
    return _Candidate(setting, atoms, disagreement(block, sites, atoms, lattice_ang), flaw)


def _atoms(block: CifBlock, sites: Sites, setting: Setting, lattice_ang: np.ndarray, max_atoms: int) -> Atoms:
    """All atoms in one setting; sites written with few digits are merged further where their number is confirmed."""
    try:
        return expanded(sites, setting.operations, lattice_ang, max_atoms, MERGED_ANG)
    except NearImagesError:
        if stated_count(block) is None:
            raise
        atoms = expanded(sites, setting.operations, lattice_ang, max_atoms, MERGED_IF_COUNTED_ANG)
        if disagreement(block, sites, atoms, lattice_ang) is not None:
            raise
        return atoms


def _merging_notes(atoms: Atoms) -> list[str]:
    return [
        f"images of site {label} up to {distance_ang:.3f} A apart were taken as one atom on its special position"
        for label, distance_ang in atoms.merged.items()
    ]
