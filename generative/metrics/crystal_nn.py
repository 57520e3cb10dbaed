"""CrystalNN "ops" fingerprints of crystals, equal to matminer's: compiled where that is provable, matminer's elsewhere.

matminer's CrystalNNFingerprint.from_preset("ops") gives 61 numbers per site: for each coordination number 1 to 24 its
weight among those CrystalNN finds possible, and for 1 to 12 the weight times each order parameter. The crystal's
fingerprint is the mean over its sites, as in CDVAE (arXiv:2110.06197). Here the sites are computed by two compiled
modules, which tell by a status where rounding could decide; matminer computes those. Parameters, radii and
electronegativities come from the installed pymatgen and matminer; an order parameter unknown here leaves every site to
matminer.

Source: Zimmermann and Jain, RSC Adv. 10 (2020) 6063; Ward et al., Comput. Mater. Sci. 152 (2018) 60 (matminer).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from generative.crystal.crystals import Crystal, wrap_unit
from generative.crystal.neighbour_search import refuse_unsearchable

PRESET = "ops"

_FAMILIES = {
    "T": "PYRAMID",
    "tri_pyr": "PYRAMID",
    "sq_pyr": "PYRAMID",
    "pent_pyr": "PYRAMID",
    "hex_pyr": "PYRAMID",
    "tri_bipyr": "BIPYRAMID",
    "pent_bipyr": "BIPYRAMID",
    "hex_bipyr": "BIPYRAMID",
    "oct_max": "BIPYRAMID",
    "sq_plan_max": "BIPYRAMID",
    "hex_plan_max": "BIPYRAMID",
    "see_saw_rect": "BIPYRAMID",
    "tri_plan_max": "POLYHEDRAL",
    "tet_max": "POLYHEDRAL",
    "pent_plan_max": "PENTAGON",
    "cuboct_max": "CUBOCTAHEDRON",
    "bcc": "CUBE",
    "bent": "BENT",
    "sgl_bd": "SINGLE",
    "q2": "STEINHARDT",
    "q4": "STEINHARDT",
    "q6": "STEINHARDT",
}
"""The family of order_parameters that computes each of pymatgen's types."""


@dataclass(frozen=True)
class FingerprintTables:
    """What the compiled fingerprint reads, taken from the installed packages.

    Attributes:
        parameters: one row per feature, (61, order_parameters.N_COLUMNS).
        first_row: feature of the weight of coordination number i + 1, and 61 at the end, (25,).
        electronegativity: Pauling's by atomic number, NaN where unknown, (119,).
        radius_ang: CrystalNN's default radius by atomic number, NaN where unknown, (119,).
    """

    parameters: np.ndarray
    first_row: np.ndarray
    electronegativity: np.ndarray
    radius_ang: np.ndarray


@dataclass(frozen=True)
class StructureFingerprint:
    """A crystal's fingerprint and who computed it.

    Attributes:
        values: mean over sites, (61,).
        left_to_matminer: number of sites per reason for which matminer was asked; empty if none.
    """

    values: np.ndarray
    left_to_matminer: dict[str, int]


def structure_fingerprint(crystal: Crystal) -> StructureFingerprint:
    """The 61 numbers of CDVAE's structure fingerprint.

    Raises: ValueError: if the crystal holds numbers that are not finite, has no volume or no atoms, or a cell so flat
        or dense that the search for neighbours would not end. Else whatever pymatgen raises on a site that CrystalNN
        cannot place.
    """
    refuse_unsearchable(crystal)
    features, reasons = site_fingerprints(crystal)
    return StructureFingerprint(features.mean(axis=0), reasons)


def site_fingerprints(crystal: Crystal) -> tuple[np.ndarray, dict[str, int]]:
    """Fingerprints of all sites, (n, 61), and how many sites were left to matminer, by reason."""
    tables = fingerprint_tables()
    if tables is None:
        reason = "numba is not installed, or pymatgen's order parameters are not those known here"
        return _by_matminer(crystal, range(len(crystal.frac))), {reason: len(crystal.frac)}
    features, left = _compiled_sites(crystal, tables)
    if left:
        features[list(left)] = _by_matminer(crystal, list(left))
    return features, dict(Counter(left.values()))


def _compiled_sites(crystal: Crystal, tables: FingerprintTables) -> tuple[np.ndarray, dict[int, str]]:
    """Fingerprints of the sites, (n, 61), and why those that rounding could decide are not computed, by site."""
    from generative.native import order_parameters
    from generative.native import voronoi as kernel

    # Copies: a read-only or Fortran-ordered array is another type to numba, and would be compiled for anew.
    matrix = np.array(crystal.lattice_ang, dtype=np.float64, order="C")
    frac = np.array(wrap_unit(crystal.frac), dtype=np.float64, order="C")
    numbers = np.array(crystal.atomic_numbers, dtype=np.int64)
    features = np.zeros((len(frac), len(tables.parameters)))
    left: dict[int, str] = {}
    for site in range(len(frac)):
        vectors, rounded, raw, status = kernel.bonds(
            matrix, frac, numbers, site, tables.electronegativity, tables.radius_ang
        )
        if status == kernel.COINCIDENT:  # other atoms share their face with such a pair as Qhull has it
            return features, dict.fromkeys(range(len(frac)), kernel.STATUS_NAMES[status])
        if status != kernel.PLACED:
            left[site] = kernel.STATUS_NAMES[status]
            continue
        status = order_parameters.add_site(vectors, rounded, raw, tables.parameters, tables.first_row, features[site])
        if status != order_parameters.CLEAR:
            left[site] = order_parameters.STATUS_NAMES[status]
    return features, left


@lru_cache(maxsize=1)
def _featurizer() -> Any:
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    return CrystalNNFingerprint.from_preset(PRESET)


def _by_matminer(crystal: Crystal, sites: Iterable[int]) -> np.ndarray:
    structure = crystal.to_structure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per bond: crystals here carry no oxidation states
        return np.array([_featurizer().featurize(structure, site) for site in sites], dtype=float).reshape(-1, 61)


def feature_names() -> tuple[str, ...]:
    """matminer's 61 labels, such as 'wt CN_1'."""
    return tuple(_featurizer().feature_labels())


@lru_cache(maxsize=1)
def fingerprint_tables() -> FingerprintTables | None:
    """The tables of the installed packages; None if numba is missing or pymatgen knows other order parameters."""
    try:
        from generative.native import order_parameters as op
    except ImportError:
        return None
    featurizer = _featurizer()
    rows: list[np.ndarray] = []
    first_row: list[int] = []
    for coordination in range(1, max(featurizer.op_types) + 1):
        first_row.append(len(rows))
        for parameter in featurizer.ops.get(coordination, ()):
            row = np.zeros(op.N_COLUMNS) if parameter == "wt" else _row(parameter)
            if row is None or (parameter != "wt" and coordination > op.N_MAX):
                return None
            rows.append(row)
    first_row.append(len(rows))
    return FingerprintTables(np.array(rows), np.array(first_row), *_element_tables())


def _row(parameter: Any) -> np.ndarray | None:
    """A LocalStructOrderParams of one type as a row of the table; None if its type is not known."""
    from generative.native import order_parameters as op

    kind, given = parameter.get_type(0), parameter.get_parameters(0) or {}
    if kind not in _FAMILIES or given.get("exp_cos_AA", 2) != 2:
        return None
    row = np.zeros(op.N_COLUMNS)
    row[op.FAMILY] = getattr(op, _FAMILIES[kind])
    row[op.SHARPNESS] = given.get("IGW_EP", given.get("IGW_TA", given.get(5, 0.0)))
    row[op.TARGET] = given.get("TA", 0.5)
    row[op.FOLD] = given.get("fac_AA", 1.0)
    row[op.SOUTH] = given.get("min_SPP", math.inf)
    row[op.SOUTH_SHARPNESS] = given.get("IGW_SPP", 0.0)
    row[op.PHI_MAX] = 0.75 * math.pi if kind == "see_saw_rect" else math.inf
    row[op.ABSOLUTE] = kind == "hex_plan_max"
    row[op.EXTRA] = int(kind[1:]) if kind in ("q2", "q4", "q6") else given.get("w_SPP", 0.0)
    row[op.LOW], row[op.HIGH], row[op.CAP_SHARPNESS] = given.get(4, 0.0), given.get(2, 0.0), given.get(6, 0.0)
    return row


def _element_tables() -> tuple[np.ndarray, np.ndarray]:
    """Pauling electronegativity and CrystalNN's default radius (angstrom) by atomic number, NaN where unknown."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from pymatgen.core.periodic_table import Element

    electronegativity, radius_ang = np.full(119, math.nan), np.full(119, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an element without electronegativity
        for z in range(1, 119):
            element = Element.from_Z(z)
            electronegativity[z] = element.X
            radius = CovalentRadius.radius.get(element.symbol, element.atomic_radius)
            radius_ang[z] = math.nan if radius is None else float(radius)
    return electronegativity, radius_ang
