"""Numbers for a signature that no stored crystal has: spheres packed within its symmetry.

Cell shape and free coordinates are drawn, then moved downhill together on the overlap of soft spheres at a fixed
volume; of several trials the one that overlaps least is taken. All moves are made in the free coordinates themselves,
so the space group is kept. This is a start for a relaxation, not a structure to trust as it stands.

Contact distances are in units of the radii that atoms have by their volumes, r = (3 V / 4 pi)^(1/3). Measured on 3,000
crystals of the Materials Project (MP-20's validation and training part): the shortest distance of two unlike atoms is
0.92 (r + r') in the median at equal electronegativity and falls to 0.75 where it differs by 1.5 or more; between atoms
of one element it is 1.10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from generative.crystal.wyckoff import Signature, WyckoffCrystal, space_group

STEPS, STEP = 30, 0.03
"""Of the descent (Adam), in fractional coordinates and logarithms of edges."""

IMAGES = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)

PAIRS_MAX = 4_000_000
"""Pairs of atoms and images that are held at once; a larger cell has fewer trials."""


def contact(radius_ang: Sequence[float], electronegativity: Sequence[float]) -> np.ndarray:
    """How near two atoms come, (K, K), angstrom, for orbits of these radii and electronegativities; see above."""
    r, x = np.array(radius_ang), np.array(electronegativity)
    apart = np.abs(x[:, None] - x)
    found: np.ndarray = (r[:, None] + r) * np.where(apart > 0, np.clip(0.92 - 0.12 * apart, 0.73, 0.92), 1.05)
    return found


def packed(
    signature: Signature,
    shapes: np.ndarray,
    volume_ang3: float,
    contact_ang: np.ndarray,
    rng: torch.Generator,
    trials: int = 16,
    followed: int = 2,
) -> WyckoffCrystal:
    """The signature with a cell and free coordinates in which its atoms overlap least.

    Args:
        signature: K orbits.
        shapes: cells to begin with, a, b, c in any unit and angles in degrees as the group demands them, (n, 6).
        volume_ang3: of the primitive cell.
        contact_ang: distances at which orbits begin to overlap, (K, K).
        rng: draws shapes and coordinates.
        trials: starts.
        followed: of them, those that overlap least, are moved.
    """
    spheres = Spheres(signature, contact_ang)
    trials = max(1, min(trials, PAIRS_MAX // spheres.n_pairs))
    chosen = torch.randint(len(shapes), (trials,), generator=rng, device=rng.device).cpu().numpy()
    xyz = torch.rand(trials, len(signature.sites), 3, generator=rng, device=rng.device).cpu().double().numpy()
    xyz *= spheres.free
    cells = spheres.at_volume(shapes[chosen], volume_ang3)
    energy = spheres.overlap(xyz, np.zeros((trials, 3)), spheres.lattice(cells))[0]
    least = energy.argsort(kind="stable")[:followed]
    cells, xyz = cells[least], xyz[least]
    edges = np.zeros((len(least), 3))
    best = 0
    if spheres.free.any() or spheres.tied.any():
        xyz, edges = _descended(spheres, xyz, edges, spheres.lattice(cells))
        best = int(spheres.overlap(xyz, edges, spheres.lattice(cells))[0].argmin())
    cell = cells[best].copy()
    cell[:3] *= np.exp(spheres.stretch(edges[best]))
    return WyckoffCrystal(signature, cell, xyz[best] % 1)


def _descended(
    spheres: Spheres, xyz: np.ndarray, edges: np.ndarray, lattice: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and edges after STEPS of Adam (Kingma and Ba 2015) with a step that shrinks to nothing."""
    shape = xyz.shape
    at = np.concatenate([xyz.reshape(len(xyz), -1), edges], 1)
    mean, square = np.zeros_like(at), np.zeros_like(at)
    for step in range(STEPS):
        _, by_xyz, by_edges = spheres.overlap(at[:, :-3].reshape(shape), at[:, -3:], lattice)
        slope = np.concatenate([by_xyz.reshape(len(xyz), -1), by_edges], 1)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        root = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
        at = at - STEP * (1 - step / STEPS) * mean / (1 - 0.9 ** (step + 1)) / root
    return at[:, :-3].reshape(shape), at[:, -3:]


class Spheres:
    """Soft spheres on the Wyckoff positions of a signature, K orbits and N atoms in the primitive cell.

    Attributes:
        free: 1 where a coordinate of an orbit can be chosen, else 0, (K, 3).
        tied: which of three free numbers stretches which edge, (3, 3): each its own, or equal edges together.
        n_pairs: distances in one evaluation.
    """

    def __init__(self, signature: Signature, contact_ang: np.ndarray) -> None:
        """Args: contact_ang: distances at which orbits begin to overlap, (K, K)."""
        group = space_group(signature.spacegroup)
        positions = [group.positions[letter] for _, letter in signature.sites]
        multiplicity = np.array([p.multiplicity for p in positions])
        of = np.repeat(np.arange(len(positions)), multiplicity)
        self.free = np.stack([p.free for p in positions]).astype(float)
        self.tied = _tied_edges(signature.spacegroup)
        self.n_pairs = len(positions) * len(of) * len(IMAGES)
        self._of, self._first = of, np.concatenate([[0], multiplicity.cumsum()[:-1]])
        self._maps = np.concatenate([p.operations for p in positions])
        self._primitive = np.asarray(group.primitive, dtype=float)
        self._to_primitive = np.linalg.inv(self._primitive)
        self._images = IMAGES @ self._primitive
        self._sigma = contact_ang[:, of][..., None]
        itself = (self._first[:, None] == np.arange(len(of)))[..., None] & (IMAGES == 0).all(1)
        self._weight = np.where(itself, 0.0, multiplicity[:, None, None])

    def at_volume(self, shapes: np.ndarray, volume_ang3: float) -> np.ndarray:
        """Cells of the shapes, (t, 6), whose primitive cells have the volume."""
        now = np.abs(np.linalg.det(self._primitive @ self.lattice(shapes)))
        return np.concatenate([shapes[:, :3] * np.cbrt(volume_ang3 / now)[:, None], shapes[:, 3:]], 1)

    def stretch(self, edges: np.ndarray) -> np.ndarray:
        """Logarithms of the factors of a, b and c for three free numbers, (..., 3); the volume stays."""
        along = edges @ self.tied
        stretched: np.ndarray = along - along.mean(-1, keepdims=True)
        return stretched

    @staticmethod
    def lattice(cell: np.ndarray) -> np.ndarray:
        """Rows a, b, c of cells (t, 6): a along x, b in the plane of x and y, (t, 3, 3). Another orientation than
        pymatgen's, which does not matter to distances.
        """
        a, b, c = cell[:, :3].T
        cos, sin_gamma = np.cos(np.deg2rad(cell[:, 3:])), np.sin(np.deg2rad(cell[:, 5]))
        cx, cy = cos[:, 1], (cos[:, 0] - cos[:, 1] * cos[:, 2]) / sin_gamma
        cz = np.sqrt(np.clip(1 - cx**2 - cy**2, 1e-9, None))
        zero = np.zeros_like(a)
        rows = [a, zero, zero, b * cos[:, 2], b * sin_gamma, zero, c * cx, c * cy, c * cz]
        return np.stack(rows, 1).reshape(-1, 3, 3)

    def overlap(
        self, xyz: np.ndarray, edges: np.ndarray, lattice: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum of (1 - d / contact)^2 over all pairs nearer than contact, and its derivatives.

        One atom of each orbit is compared with all others and counts as often as the orbit has atoms.

        Args:
            xyz: of the orbits' first atoms, in the conventional cell, (t, K, 3).
            edges: free numbers of the cell, (t, 3).
            lattice: at edges of zero, (t, 3, 3).

        Returns: energies (t,), derivatives by xyz (t, K, 3) and by edges (t, 3).
        """
        lattice = lattice * np.exp(self.stretch(edges))[..., None]
        atoms = (self._maps[:, :, :3] @ xyz[:, self._of, :, None])[..., 0] + self._maps[:, :, 3]
        between = atoms[:, self._first, None] - atoms[:, None]
        between = between - np.rint(between @ self._to_primitive) @ self._primitive
        moved = between[:, :, :, None] + self._images
        vector = moved @ lattice[:, None, None]
        distance = np.sqrt(np.einsum("...i,...i->...", vector, vector).clip(1e-6))
        depth = (1 - distance / self._sigma).clip(0) * self._weight
        energy = np.einsum("tkbm,tkbm->t", depth, 1 - distance / self._sigma)
        slope = (-2 * depth / (self._sigma * distance))[..., None] * vector
        by_edge = (moved.reshape(len(xyz), -1, 3).swapaxes(1, 2) @ slope.reshape(len(xyz), -1, 3) * lattice).sum(2)
        by_between = slope.sum(3) @ lattice.swapaxes(1, 2)[:, None]
        by_atom = -by_between.sum(1)
        by_atom[:, self._first] += by_between.sum(2)
        by_xyz = np.add.reduceat((by_atom[:, :, None] @ self._maps[:, :, :3])[:, :, 0], self._first, axis=1)
        return energy, by_xyz * self.free, (by_edge - by_edge.mean(1, keepdims=True)) @ self.tied.T


def _tied_edges(number: int) -> np.ndarray:
    """Which of three free numbers stretches which edge, (3, 3): all, or equal ones together."""
    if number <= 74:
        return np.eye(3)
    if number <= 194:
        return np.array([[1.0, 1, 0], [0, 0, 1], [0, 0, 0]])
    return np.zeros((3, 3))


def radii_ang(atomic_volumes: Mapping[int, float] | np.ndarray, numbers: Sequence[int]) -> list[float]:
    """Radii of spheres of these volumes, angstrom^3 by atomic number."""
    return [(3 * float(atomic_volumes[z]) / (4 * np.pi)) ** (1 / 3) for z in numbers]
