"""Vacuum in a periodic cell: the widest empty slabs in any cell of a crystal, and the crystal set apart from them.

Equal planes (h k l) of a lattice have one distance d, and the atoms of a cell lie at fractions of it. The widest empty
stretch between them is the gap along the normal. All (h k l) with d above the threshold are looked at, so a slab is
found in a skewed or a multiplied cell as well.

Conventions: lattice vectors are rows, angstrom; fractional coordinates (n, 3), n of 1 or more, need not be wrapped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VACUUM_ANG = 8.0
"""Wider than any gap inside a crystal (van der Waals gaps have 3 to 4 A between atoms), narrower than that of slabs."""


@dataclass(frozen=True)
class Vacuum:
    """An empty slab of a periodic cell.

    Attributes:
        width_ang: distance between the planes of atoms on its two sides, A.
        normal: (h k l) of the planes.
    """

    width_ang: float
    normal: tuple[int, int, int]

    @property
    def axis(self) -> int | None:
        """The lattice vector that crosses it while the other two lie in its plane: 0, 1 or 2; None if there is none."""
        return self.normal.index(1) if sorted(self.normal) == [0, 0, 1] else None

    @property
    def where(self) -> str:
        """In words: 'along c', or 'normal to (1 0 1)'."""
        axis = self.axis
        return f"along {'abc'[axis]}" if axis is not None else f"normal to ({' '.join(map(str, self.normal))})"

    def direction(self, lattice_ang: np.ndarray) -> np.ndarray:
        """The unit vector across it, Cartesian, (3,)."""
        across = np.linalg.inv(lattice_ang) @ np.array(self.normal, dtype=float)
        return np.asarray(across / np.linalg.norm(across))


def find_vacuum(lattice_ang: np.ndarray, frac: np.ndarray, above_ang: float = VACUUM_ANG) -> tuple[Vacuum, ...]:
    """Empty slabs wider than a threshold, the widest first; of equal widths, those along lattice vectors first.

    Args:
        lattice_ang: rows, (3, 3), of non-zero volume.
        frac: of the atoms, (n, 3).
        above_ang: the threshold, A.
    """
    reciprocal = np.linalg.inv(lattice_ang).T  # rows, per A, no 2 pi
    # |h| = |G . a| <= |a| / d bounds the indices of planes that are far enough apart.
    most = np.floor(np.linalg.norm(lattice_ang, axis=1) / above_ang).astype(int)
    axes = [np.arange(-m, m + 1) for m in most]
    normals = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    with np.errstate(divide="ignore"):  # (0 0 0)
        distances_ang = 1.0 / np.linalg.norm(normals @ reciprocal, axis=1)
    # Of a normal and its opposite one is looked at, and of (2 0 0) and (1 0 0) the second, whose planes are the same.
    is_new = (np.gcd.reduce(normals, axis=1) == 1) & (normals @ [4 * most.max() ** 2 + 4, 2 * most.max() + 2, 1] > 0)
    found = []
    for normal in np.flatnonzero(is_new & (distances_ang > above_ang)):
        heights = np.sort((frac @ normals[normal]) % 1.0)
        width_ang = float(np.diff(heights, append=heights[0] + 1.0).max() * distances_ang[normal])
        if width_ang > above_ang:
            first, second, third = (int(index) for index in normals[normal])
            found.append(Vacuum(width_ang, (first, second, third)))
    return tuple(sorted(found, key=lambda one: (-round(one.width_ang, 6), sum(map(abs, one.normal)), one.normal)))


@dataclass(frozen=True)
class Slab:
    """A crystal with vacuum in one direction, set apart from its vacuum.

    Attributes:
        plane_ang: the two shortest lattice vectors of the plane, rows, (2, 3), A, so that with `direction` behind them
            they are right-handed.
        direction: unit vector across the plane, (3,).
        cart_ang: the atoms in the order given, (n, 3), A, images of one slab: none is wrapped to its other face.
        heights_ang: of the atoms above the lowest, along `direction`, (n,).
        vacuum: as found.
    """

    plane_ang: np.ndarray
    direction: np.ndarray
    cart_ang: np.ndarray
    heights_ang: np.ndarray
    vacuum: Vacuum

    @property
    def thickness_ang(self) -> float:
        """Between the lowest and the highest atom."""
        return float(self.heights_ang.max())

    @property
    def widest_gap_ang(self) -> float:
        """The widest distance of neighbouring planes of atoms inside the slab; 0 where all lie in one plane."""
        return float(np.diff(np.sort(self.heights_ang)).max(initial=0.0))

    def with_vacuum(self, width_ang: float) -> tuple[np.ndarray, np.ndarray]:
        """The slab in a cell with so much vacuum, its third vector across the plane, half of the vacuum below.

        Args:
            width_ang: distance of the highest atom from the lowest of the slab above, above 0.

        Returns: Lattice rows (3, 3), angstrom; fractional coordinates (n, 3), those in the plane not wrapped.
        """
        period_ang = self.thickness_ang + width_ang
        lattice = np.vstack([self.plane_ang, period_ang * self.direction])
        frac = self.cart_ang @ np.linalg.inv(lattice)
        frac[:, 2] = (self.heights_ang + 0.5 * width_ang) / period_ang
        return lattice, frac


def slab_of(lattice_ang: np.ndarray, frac: np.ndarray, above_ang: float = VACUUM_ANG) -> Slab | None:
    """The slab that a crystal is; None if it has no vacuum, or ends in another direction too, as a wire does.

    Args:
        lattice_ang: rows, (3, 3), of non-zero volume.
        frac: of the atoms, (n, 3).
        above_ang: empty stretches wider than this are vacuum, A.
    """
    found = find_vacuum(lattice_ang, frac, above_ang)
    if not found:
        return None
    vacuum = found[0]
    normal, direction = np.array(vacuum.normal), vacuum.direction(lattice_ang)
    plane = _plane_vectors(lattice_ang, normal)
    if np.linalg.det(np.vstack([plane, direction])) < 0:
        plane = plane[::-1]
    if _is_empty_in_plane(plane, direction, frac @ lattice_ang, above_ang):
        return None
    height = frac @ normal.astype(float)
    levels = np.sort(height % 1.0)
    lowest = levels[(int(np.argmax(np.diff(levels, append=levels[0] + 1.0))) + 1) % len(levels)]
    # Whole periods down, so that every atom lies within one period above the lowest.
    periods = np.floor(height - lowest + 1e-9)
    cart = (frac - periods[:, None] * _across(normal)) @ lattice_ang
    heights = cart @ direction
    return Slab(plane, direction, cart, heights - heights.min(), vacuum)


def _is_empty_in_plane(plane: np.ndarray, direction: np.ndarray, cart_ang: np.ndarray, above_ang: float) -> bool:
    """Whether the atoms, seen along the vacuum, leave an empty stripe wider than the threshold."""
    flat = np.vstack([plane, direction])
    frac = cart_ang @ np.linalg.inv(flat)
    frac[:, 2] = 0.0
    return any(vacuum.normal[2] == 0 for vacuum in find_vacuum(flat, frac, above_ang))


def _across(normal: np.ndarray) -> np.ndarray:
    """Whole numbers v with normal . v = 1; there are some, since the indices have no common divisor."""
    h, k, l = (int(index) for index in normal)  # noqa: E741
    g, x, y = _bezout(h, k)
    one, u, v = _bezout(g, l)
    assert one == 1
    return np.array([x * u, y * u, v], dtype=float)


def _bezout(a: int, b: int) -> tuple[int, int, int]:
    """(g, x, y) with a x + b y = g, the greatest common divisor, not negative."""
    if b == 0:
        return (abs(a), 1 if a >= 0 else -1, 0)
    g, x, y = _bezout(b, a % b)
    return g, y, x - (a // b) * y


def _plane_vectors(lattice_ang: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The two shortest lattice vectors in the planes of a normal, rows, (2, 3), A, at an angle of 60 to 90 degrees."""
    h, k, l = (int(index) for index in normal)  # noqa: E741
    g, x, y = _bezout(h, k)
    if g == 0:
        whole = np.array([[1, 0, 0], [0, 1, 0]])
    else:
        whole = np.array([[k // g, -h // g, 0], [-x * l, -y * l, g]])
    first, second = whole.astype(float) @ lattice_ang
    while True:  # Gauss
        if first @ first > second @ second:
            first, second = second, first
        n = round(float(first @ second / (first @ first)))
        if n == 0:
            break
        second = second - n * first
    if first @ second < -1e-9 * (first @ first):
        second = -second
    return np.vstack([first, second])
