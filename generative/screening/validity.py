"""Structural validity: can these numbers be a crystal at all?

Conventions: lattice rows, angstrom; fractional coordinates; N atoms. The rule is derived from CDVAE's (Xie et al., ICLR
2022, arXiv:2110.06197, scripts/eval_utils.py): shortest distance at least 0.5 A and cell volume at least 0.1 A^3. It
differs on purpose: an atom's own periodic images count as neighbours, the volume is bounded per atom and from both
sides, and cell angles and vector lengths are bounded, because cells outside stall the structure matcher and DFT codes.
`satisfies_cdvae_rule` is the published rule itself, for figures that must compare with the literature.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from pymatgen.core.structure import Structure
from scipy.spatial import cKDTree

from generative.config import ELEMENTS, ScreenConfig
from generative.crystal.crystals import Crystal, wrap_unit
from generative.screening.slabs import comparable, slab_fault

MAX_VECTOR_ANG = 100.0
"""Longest cell vector accepted, angstrom: the longest among 31,000 Materials Project and WBM cells of up to 52 atoms is
46.7 A, while a sampler that diverges gives thousands, on which lattice mapping takes minutes."""

MAX_IMAGES = 100_000
"""Periodic images searched before a cell is called too skewed; a reduced cell needs 125 at most."""

CDVAE_MIN_DISTANCE_ANG = 0.5
CDVAE_MIN_VOLUME_ANG3 = 0.1


@dataclass(frozen=True)
class Validity:
    """Verdict on one crystal.

    Attributes:
        valid: True if every bound holds.
        reason: empty if valid; otherwise one sentence with the value and the bound.
        min_distance_ang: shortest distance between two atoms, periodic images of the same atom included, angstrom; NaN
            if the numbers allow none.
        volume_per_atom_ang3: signed, so a left-handed cell is negative; NaN if the numbers allow none.
    """

    valid: bool
    reason: str
    min_distance_ang: float
    volume_per_atom_ang3: float


def check(crystal: Crystal | Structure, config: ScreenConfig) -> Validity:
    """Verdict on one crystal, whatever its numbers: never raises on bad ones.

    The bounds are checked in this order, and the first that fails is the reason: ordered sites, shapes, known elements,
    finite numbers, handedness, vector lengths, volume per atom, cell angles as given, shortest distance. Where slabs
    are asked for, that it is one comes after finite numbers, and the rest is of the slab in its standard cell.
    """
    if isinstance(crystal, Structure):
        try:
            crystal = Crystal.from_structure(crystal)
        except (ValueError, AttributeError, OverflowError) as error:  # dummy species have no real atomic number
            return Validity(False, str(error), math.nan, math.nan)
    reason = _unusable(crystal)
    if reason:
        return Validity(False, reason, math.nan, math.nan)
    if config.dimensions == 2:
        if reason := slab_fault(crystal):
            return Validity(False, reason, math.nan, math.nan)
        crystal = comparable(crystal, 2)
    lattice = np.asarray(crystal.lattice_ang, dtype=float)
    frac = np.asarray(crystal.frac, dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):  # 1e200 A is too long, not a warning
        volume = float(np.linalg.det(lattice)) / len(frac)
        reason = _cell_fault(lattice, volume, config)
    if reason:
        return Validity(False, reason, math.nan, volume)
    try:
        distance = min_distance_ang(lattice, frac)
    except ValueError as error:
        return Validity(False, str(error), math.nan, volume)
    if distance < config.min_distance_ang:
        reason = f"two atoms are {distance:.3f} A apart: expected at least {config.min_distance_ang:g} A"
    return Validity(not reason, reason, distance, volume)


def min_distance_ang(lattice_ang: np.ndarray, frac: np.ndarray) -> float:
    """Shortest distance between any two atoms of the infinite crystal, images of the same atom included, angstrom.

    Exact for every cell shape: no set of points at N/V per volume has all distances above (sqrt(2) V/N)^(1/3), the
    close packing, and none has an atom further from its own image than the shortest cell vector. So every image within
    that bound of the cell is searched, however many those are; reducing the cell first only keeps them few.

    Args:
        lattice_ang: rows, (3, 3), angstrom, finite, of non-zero volume.
        frac: fractional coordinates, (N, 3), finite, N >= 1; need not be wrapped.

    Raises: ValueError: if even the reduced cell would need more than MAX_IMAGES images.
    """
    reduced = reduce_lattice(lattice_ang)
    volume = abs(float(np.linalg.det(reduced)))
    shortest_ang = float(np.sqrt((reduced**2).sum(axis=1)).min())
    bound_ang = min((math.sqrt(2.0) * volume / len(frac)) ** (1 / 3), shortest_ang) * (1 + 1e-6)
    heights_ang = volume / np.linalg.norm(np.cross(reduced[[1, 2, 0]], reduced[[2, 0, 1]]), axis=1)
    margin = bound_ang / heights_ang  # fractional width of the shell of images that can matter
    n_images = np.ceil(margin)
    if not np.prod(2 * n_images + 1) <= MAX_IMAGES:
        raise ValueError(
            f"the cell is too skewed: {np.prod(2 * n_images + 1):.0f} images must be searched for the shortest "
            f"distance, expected at most {MAX_IMAGES}"
        )
    wrapped = wrap_unit(frac @ (lattice_ang @ np.linalg.inv(reduced)))
    shifts = np.array(list(itertools.product(*(range(-int(n), int(n) + 1) for n in n_images))), dtype=float)
    points = (wrapped[None, :, :] + shifts[:, None, :]).reshape(-1, 3)
    points = points[((points >= -margin) & (points < 1 + margin)).all(axis=1)]
    nearest, _ = cKDTree(points @ reduced).query(wrapped @ reduced, k=2)  # the first of two neighbours is the atom
    return float(nearest[:, 1].min())


def reduce_lattice(lattice_ang: np.ndarray) -> np.ndarray:
    """The same lattice by short, nearly orthogonal vectors: pairwise (Gauss) reduction, rows, angstrom, (3, 3).

    Each step subtracts from one vector the whole multiple of another that shortens it most. The result may fall short
    of Minkowski's by a little; whoever uses it must not rely on more than that it spans the same lattice.
    """
    rows = [[float(x) for x in row] for row in lattice_ang]  # plain floats: 3x3 arrays cost more in calls than in sums
    for _ in range(1000):
        changed = False
        for i, j in ((0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)):
            a, b = rows[i], rows[j]
            ratio = (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]) / (b[0] * b[0] + b[1] * b[1] + b[2] * b[2])
            if abs(ratio) > 0.5 + 1e-9:
                n = round(ratio)
                rows[i] = [a[0] - n * b[0], a[1] - n * b[1], a[2] - n * b[2]]
                changed = True
        if not changed:
            break
    return np.array(rows)


def satisfies_cdvae_rule(structure: Structure) -> bool:
    """CDVAE's own structure rule: distances between different atoms >= 0.5 A and cell volume >= 0.1 A^3.

    An atom's own images are not looked at, as published.

    Source: CDVAE, scripts/eval_utils.py, structure_validity.
    """
    if not structure.volume >= CDVAE_MIN_VOLUME_ANG3:
        return False
    distances = np.array(structure.distance_matrix)
    np.fill_diagonal(distances, np.inf)
    return bool(distances.min(initial=np.inf) >= CDVAE_MIN_DISTANCE_ANG)


def _unusable(crystal: Crystal) -> str:
    """Why these arrays are no crystal, or an empty string."""
    lattice, frac, numbers = (np.asarray(x) for x in (crystal.lattice_ang, crystal.frac, crystal.atomic_numbers))
    n = numbers.size
    if lattice.shape != (3, 3) or numbers.ndim != 1 or frac.shape != (n, 3):
        return (
            f"lattice has shape {lattice.shape}, frac {frac.shape} and atomic_numbers {numbers.shape}: "
            "expected (3, 3), (n, 3) and (n,)"
        )
    if n == 0:
        return "the crystal has no atoms: expected at least one"
    unknown = numbers[(numbers < 1) | (numbers > len(ELEMENTS))]
    if unknown.size:
        return f"atomic number {unknown[0]} is not an element: expected 1 to {len(ELEMENTS)}"
    if not np.isfinite(lattice).all():
        return "the lattice holds a value that is not finite: expected nine numbers in angstrom"
    if not np.isfinite(frac).all():
        return "a fractional coordinate is not finite: expected three numbers per atom"
    return ""


def _cell_fault(lattice_ang: np.ndarray, volume_per_atom_ang3: float, config: ScreenConfig) -> str:
    """Which bound on the cell fails, or an empty string. `lattice_ang` is finite; the volume is signed."""
    lengths = np.linalg.norm(lattice_ang, axis=1)
    if not lengths.max() <= MAX_VECTOR_ANG:
        return f"a cell vector is {lengths.max():.4g} A long: expected at most {MAX_VECTOR_ANG:g} A"
    if volume_per_atom_ang3 < 0:
        return (
            f"the cell is left-handed, its volume per atom {volume_per_atom_ang3:.3g} A^3: expected a positive "
            "triple product of the lattice rows"
        )
    low, high = config.volume_per_atom_min_ang3, config.volume_per_atom_max_ang3
    if not low <= volume_per_atom_ang3 <= high:
        return f"the volume is {volume_per_atom_ang3:.4g} A^3 per atom: expected {low:g} to {high:g}"
    directions = lattice_ang / lengths[:, None]  # lengths are positive: the volume is
    cosines = (directions[[1, 2, 0]] * directions[[2, 0, 1]]).sum(axis=1)
    angles = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    worst = float(angles[np.abs(angles - 90).argmax()])
    if abs(worst - 90) > config.max_angle_deviation_deg:
        return f"a cell angle is {worst:.1f} degrees: expected 90 +- {config.max_angle_deviation_deg:g}"
    return ""
