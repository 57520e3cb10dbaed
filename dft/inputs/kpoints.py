"""How densely a calculation samples the Brillouin zone, and whether several calculations do so alike.

Density is pymatgen's and the Materials Project's: k-points of the whole mesh per A^-3 of the reciprocal cell, 2 pi
included, so a number in A^3. Spacing is VASP's KSPACING: the largest |b_i| / n_i, in A^-1, 2 pi included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.io.vasp.inputs import Kpoints

ADEQUATE_METAL_DENSITY_ANG3 = 3.5**3
"""k-points per A^-3 that a metal needs: at 3.5 per A^-1 the energies of docs/dft-engines.md are within 2 meV/atom."""

_ROUNDING_SLACK = 1.02
"""pymatgen raises a density by 1 % where its number of k-points is a cube; the rest is rounding."""

_DENOMINATOR_MAX = 200
_MULTIPLICITY_MAX = 96
"""Images of a k-point under a point group and time reversal, at most."""


@dataclass(frozen=True)
class KPointSampling:
    """The k-points of one calculation.

    Attributes:
        density_ang3: points of the whole mesh per A^-3 of the reciprocal cell; at least so many, for a list of points.
        mesh: divisions of the reciprocal lattice vectors; None where the points are no such mesh.
        spacing_per_ang: largest distance of neighbouring points along a reciprocal vector, A^-1; None without mesh.
    """

    density_ang3: float
    mesh: tuple[int, int, int] | None = None
    spacing_per_ang: float | None = None

    @property
    def text(self) -> str:
        """'5x5x5, 5.95 A^3'."""
        mesh = "" if self.mesh is None else "x".join(map(str, self.mesh)) + ", "
        return f"{mesh}{self.density_ang3:.3g} A^3"

    def as_document(self) -> dict[str, Any]:
        """Plain JSON values."""
        mesh = None if self.mesh is None else list(self.mesh)
        return {"density_ang3": self.density_ang3, "mesh": mesh, "spacing_per_ang": self.spacing_per_ang}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The sampling in plain JSON values.

        Raises: KeyError, TypeError, ValueError: if they are none.
        """
        mesh, spacing = document["mesh"], document["spacing_per_ang"]
        return cls(
            density_ang3=float(document["density_ang3"]),
            mesh=None if mesh is None else _triple(mesh),
            spacing_per_ang=None if spacing is None else float(spacing),
        )


def sampling_of_mesh(mesh: Sequence[int], lattice: Lattice) -> KPointSampling:
    """The sampling of a regular mesh in a cell.

    Args:
        mesh: divisions of the three reciprocal lattice vectors.
        lattice: of the cell, A.
    """
    divisions, reciprocal = _triple(mesh), lattice.reciprocal_lattice
    spacing = max(length / n for length, n in zip(reciprocal.abc, divisions, strict=True))
    return KPointSampling(float(math.prod(divisions) / reciprocal.volume), divisions, float(spacing))


def sampling_of_kpoints(kpoints: Kpoints, lattice: Lattice) -> KPointSampling | None:
    """The sampling that a KPOINTS file, or vasprun.xml, states; None where it is no sampling of the zone.

    Meshes, VASP's automatic length and its generating vectors are taken as VASP takes them. Of a list of points,
    weighted as VASP writes the irreducible ones of a mesh, the mesh is found again as far as weights and coordinates
    tell.

    Args:
        kpoints: as pymatgen reads it.
        lattice: of the cell, A.
    """
    modes = Kpoints.supported_modes
    points = [tuple(map(float, one)) for one in kpoints.kpts]
    if kpoints.style == modes.Automatic and points:
        lengths = lattice.reciprocal_lattice_crystallographic.abc
        return sampling_of_mesh([max(1, int(points[0][0] * length + 0.5)) for length in lengths], lattice)
    if kpoints.style in (modes.Gamma, modes.Monkhorst) and points and len(points[0]) == 3:
        return sampling_of_mesh([int(n) for n in points[0]], lattice)
    if kpoints.style != modes.Reciprocal or not points:
        return None  # lines of a band structure, or Cartesian lists, which no preset writes
    if not kpoints.num_kpts and len(points) == 3:
        n_points = 1 / abs(float(np.linalg.det(np.array(points))))
        return KPointSampling(float(n_points / lattice.reciprocal_lattice.volume))
    return _sampling_of_list(np.array(points), kpoints.kpts_weights, lattice)


def sampling_of_resolved(resolved: dict[str, Any], lattice: Lattice) -> KPointSampling | None:
    """The sampling that an older record states in other words: a mesh, or the text of KPOINTS; None without either."""
    try:
        if mesh := resolved.get("mesh"):
            return sampling_of_mesh(mesh, lattice)
        text = resolved.get("kpoints")
        return sampling_of_kpoints(Kpoints.from_str(text), lattice) if isinstance(text, str) and text else None
    except (ValueError, TypeError, IndexError, KeyError):
        return None


def density_bounds(sampling: KPointSampling, lattices: Iterable[Lattice]) -> tuple[float, float]:
    """Between which densities lies the one that this mesh was made for, A^3.

    A mesh has whole divisions, so its own density lies up to a factor of eight off the one asked for. The bounds hold
    for the rules in use: pymatgen's (rounded down, by the cell's edges), ASE's and KSPACING's (rounded up, by the
    reciprocal vectors) and VASP's automatic length (to the nearest). A mesh made by one of them at density d has d
    within its bounds.

    Args:
        sampling: of the calculation.
        lattices: cells that the mesh may have been made for: before and after relaxation.
    """
    if sampling.mesh is None:
        edge = max(1.0, round(sampling.density_ang3 ** (1 / 3), 6))
        return sampling.density_ang3 * ((edge - 1) / edge) ** 3, sampling.density_ang3 * ((edge + 1) / edge) ** 3
    low, high = math.inf, 0.0
    n = np.array(sampling.mesh, dtype=float)
    for lattice in lattices:
        lengths, reciprocal = np.array(lattice.abc), lattice.reciprocal_lattice
        by_edges = lengths / (lengths.prod() * reciprocal.volume) ** (1 / 3)
        by_vectors = 1 / np.array(reciprocal.abc)
        for scale, below, above in ((by_edges, 0.0, 1.0), (by_vectors, 1.0, 0.0), (by_vectors, 0.5, 0.5)):
            bounded = np.where(n > 1, n - below, 0.0)  # one division is the least, however low the density
            low = min(low, float((bounded * scale).max() ** 3))
            high = max(high, float(((n + above) * scale).min() ** 3))
    return low / _ROUNDING_SLACK, high * _ROUNDING_SLACK


def _sampling_of_list(points: np.ndarray, weights: Sequence[float] | None, lattice: Lattice) -> KPointSampling | None:
    """Of explicit points in fractions of the reciprocal vectors."""
    volume = lattice.reciprocal_lattice.volume
    # Differences of a mesh's points are whole multiples of its steps; with each k the mesh holds -k too.
    steps = np.vstack([points - points[0], 2 * points[:1]])
    mesh = _triple(math.lcm(*(_denominator(x) for x in column)) for column in steps.T)
    shares = np.ones(len(points)) if weights is None or not any(weights) else np.array(weights, dtype=float)
    by_weight = _n_points(shares / shares.sum())
    if by_weight is None or by_weight > math.prod(mesh):
        n_points = max(len(points), by_weight or 0, math.prod(mesh))
        return KPointSampling(float(n_points / volume))
    return sampling_of_mesh(mesh, lattice)


def _denominator(value: float) -> int:
    return Fraction(float(value)).limit_denominator(_DENOMINATOR_MAX).denominator


def _n_points(shares: np.ndarray) -> int | None:
    """The least number of equal points whose sums the weights are; None if there is none."""
    smallest = shares[shares > 1e-8].min()
    for multiplicity in range(1, _MULTIPLICITY_MAX + 1):
        counts = shares * multiplicity / smallest
        if np.abs(counts - counts.round()).max() < 0.01:
            return int(round(float(counts.sum())))
    return None


def _triple(values: Iterable[int]) -> tuple[int, int, int]:
    first, second, third = (int(value) for value in values)
    if min(first, second, third) < 1:
        raise ValueError(f"a k-point mesh of {first}x{second}x{third}: expected at least one division each")
    return first, second, third
