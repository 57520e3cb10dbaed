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
from torch import Tensor

from generative.crystal.wyckoff import Signature, WyckoffCrystal, space_group

STEPS, STEP = 30, 0.03
"""Of the descent (Adam), in fractional coordinates and logarithms of edges."""

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
    group = space_group(signature.spacegroup)
    positions = [group.positions[letter] for _, letter in signature.sites]
    of = np.repeat(np.arange(len(positions)), [p.multiplicity for p in positions])
    maps = torch.tensor(np.concatenate([p.operations for p in positions]), dtype=torch.float32)
    free = torch.tensor(np.stack([p.free for p in positions]), dtype=torch.float32)
    n_images = 27
    trials = max(1, min(trials, PAIRS_MAX // (len(of) ** 2 * n_images)))
    chosen = torch.randint(len(shapes), (trials,), generator=rng, device=rng.device).cpu()
    start = torch.tensor(shapes[chosen.numpy()], dtype=torch.float32)
    xyz = torch.rand(trials, len(positions), 3, generator=rng, device=rng.device, dtype=torch.float32).cpu() * free
    edges = torch.zeros(trials, 3, dtype=torch.float32)
    tied = torch.tensor(_tied_edges(signature.spacegroup), dtype=torch.float32)
    primitive, origin = torch.tensor(group.primitive, dtype=torch.float32), torch.tensor(of)
    cells = torch.cartesian_prod(*[torch.arange(-1, 2, dtype=torch.float32)] * 3)
    sigma = torch.tensor(contact_ang, dtype=torch.float32)[origin][:, origin]

    def cell_of(edges: Tensor) -> Tensor:
        cell = torch.cat([start[:, :3] * (edges @ tied).exp(), start[:, 3:]], 1)
        lattice = primitive @ _lattice(cell)
        scale = (volume_ang3 / torch.linalg.det(lattice).abs()) ** (1 / 3)
        return torch.cat([cell[:, :3] * scale[:, None], cell[:, 3:]], 1)

    def overlap(xyz: Tensor, edges: Tensor) -> Tensor:
        lattice = _lattice(cell_of(edges))
        atoms = torch.einsum("aij,taj->tai", maps[:, :, :3], xyz[:, origin]) + maps[:, :, 3]
        between = (atoms[:, None] - atoms[:, :, None]) @ torch.linalg.inv(primitive)
        between = between - between.detach().round()
        moved = (between[..., None, :] + cells) @ (primitive @ lattice)[:, None, None]
        squared = moved.square().sum(-1)
        itself = torch.eye(len(of), dtype=torch.bool)[..., None] & (cells == 0).all(-1)
        distance = squared.masked_fill(itself, torch.inf).clamp_min(1e-6).sqrt()
        summed: Tensor = (1 - distance / sigma[..., None]).clamp_min(0).square().sum((1, 2, 3))
        return summed

    with torch.no_grad():
        least = overlap(xyz, edges).argsort(stable=True)[:followed]
    start, xyz, edges = start[least], xyz[least], edges[least]
    moving = [xyz.requires_grad_(), edges.requires_grad_()]
    if not free.any() and not tied.any():
        return WyckoffCrystal(signature, cell_of(edges)[0].detach().numpy(), xyz[0].detach().numpy())
    descent = torch.optim.Adam(moving, lr=STEP)
    with torch.enable_grad():
        for step in range(STEPS):
            for of_step in descent.param_groups:
                of_step["lr"] = STEP * (1 - step / STEPS)
            xyz.grad, edges.grad = torch.autograd.grad(overlap(xyz * free, edges).sum(), moving)
            descent.step()
    with torch.no_grad():
        best = int(overlap(xyz * free, edges).argmin())
        cell = cell_of(edges)[best].numpy()
        return WyckoffCrystal(signature, cell, (xyz * free)[best].numpy() % 1)


def _lattice(cell: Tensor) -> Tensor:
    """Rows a, b, c of cells (t, 6): a along x, b in the plane of x and y, (t, 3, 3). Another orientation than
    pymatgen's, which does not matter to distances.
    """
    a, b, c = cell[:, :3].unbind(1)
    cos, sin_gamma = torch.deg2rad(cell[:, 3:]).cos(), torch.deg2rad(cell[:, 5]).sin()
    cx, cy = cos[:, 1], (cos[:, 0] - cos[:, 1] * cos[:, 2]) / sin_gamma
    zero = torch.zeros_like(a)
    rows = [
        a,
        zero,
        zero,
        b * cos[:, 2],
        b * sin_gamma,
        zero,
        c * cx,
        c * cy,
        c * (1 - cx**2 - cy**2).clamp_min(1e-9).sqrt(),
    ]
    return torch.stack(rows, 1).reshape(-1, 3, 3)


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
