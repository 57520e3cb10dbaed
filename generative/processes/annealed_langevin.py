"""Annealed Langevin dynamics of atoms in fixed cells: noise levels, noisy crystals, their targets, the sampler.

A network is trained on crystals displaced by Gaussian noise of many levels; the sampler starts from atoms anywhere and
walks from the widest level to the finest, some steps at each. Noise and steps are Cartesian, angstrom; coordinates are
fractional. Knows no network: `langevin` takes a function of coordinates and types.

Shape letters: B crystals, A atoms of all crystals end to end, L noise levels. Lattice vectors are rows.
Source: Song and Ermon, arXiv:1907.05600 (algorithm 1); CDVAE, arXiv:2110.06197 (levels, step sizes, types).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from generative.processes.torus_flow import wrap

IMAGES = torch.tensor(sorted(itertools.product((-1, 0, 1), repeat=3), key=lambda image: sum(i * i for i in image)))
"""The cell itself and its 26 neighbours, (27, 3), nearest first."""

SIGMA_LAST_ANG = 0.01
"""Finest level CDVAE was trained and sampled with; its step sizes are measured against it."""


class Point(NamedTuple):
    """A state of the reverse process: frac (A, 3) and types (A,), atomic numbers."""

    frac: Tensor
    types: Tensor


def geometric_levels(first: float, last: float, n: int) -> Tensor:
    """n levels evenly spaced in their logarithm, rising or falling, both ends exact, (n,), float64.

    CDVAE: (10, 0.01, 50) angstrom for coordinates and (5, 0.01, 50) for types.
    Raises: ValueError: if an end is not positive or there are fewer than two levels.
    """
    if not (first > 0 and last > 0 and n >= 2):
        raise ValueError(f"levels from {first} to {last} in {n}: expected positive ends and at least two levels")
    levels = torch.linspace(math.log(first), math.log(last), n, dtype=torch.float64).exp()
    levels[0], levels[-1] = first, last
    return levels


def displaced(frac: Tensor, lattice_ang: Tensor, crystal: Tensor, sigma_ang: Tensor, rng: torch.Generator) -> Tensor:
    """Coordinates with Cartesian Gaussian noise, wrapped into [0, 1), (A, 3).

    Args:
        frac: (A, 3).
        lattice_ang: cell in which the noise is measured, (B, 3, 3); may be singular (pseudo-inverse).
        crystal: index of each atom's crystal, (A,).
        sigma_ang: standard deviation along each Cartesian axis, per crystal, (B,), angstrom.
        rng: draws the noise, on its own device.
    """
    noise = _normal_like(frac, rng) * sigma_ang.to(frac.dtype)[crystal, None]
    return wrap(frac + _rows_times(noise, torch.linalg.pinv(lattice_ang)[crystal]))


def nearest_displacement_ang(frac_to: Tensor, frac_from: Tensor, lattice_ang: Tensor, crystal: Tensor) -> Tensor:
    """Cartesian displacement to the nearest periodic image of another place, (A, 3), angstrom.

    The fractional difference is brought into [-0.5, 0.5] and the shortest of 27 images taken. That is the minimum image
    wherever the cell is reduced (Niggli, Minkowski), as the cells of the training data are. In a strongly skewed cell a
    shorter image can lie outside the 27 (a vector that leans over by 3.5 lengths of another: one displacement in five):
    reduce such a cell first. CDVAE takes the 27 about the difference as it is; in reduced cells both agree.

    Args:
        frac_to: where the displacement ends, (A, 3).
        frac_from: where it starts, (A, 3).
        lattice_ang: (B, 3, 3).
        crystal: index of each atom's crystal, (A,).
    """
    delta = frac_to - frac_from
    images = IMAGES.to(delta)  # device and dtype
    candidates = (delta - delta.round())[:, None] + images  # (A, 27, 3)
    cart_ang = candidates @ lattice_ang[crystal]
    nearest = cart_ang.detach().square().sum(-1).argmin(1)  # (A,)
    return cart_ang.gather(1, nearest[:, None, None].expand(-1, 1, 3)).squeeze(1)


def step_size_ang2(sigma_ang: float, step_scale: float = 1e-4, sigma_last_ang: float = SIGMA_LAST_ANG) -> float:
    """Length a of a Langevin step at a level, step_scale * (sigma / sigma_last)^2, angstrom^2.

    As published a = sigma^2: a step goes all the way to where a perfect score of the level points, plus noise of
    standard deviation sqrt(2) sigma. So at each level, the last included, atoms rest sqrt(2) sigma from their sites.
    """
    return step_scale * (sigma_ang / sigma_last_ang) ** 2


def langevin_step(
    frac: Tensor, output: Tensor, noise: Tensor, sigma_ang: float, step_ang2: float, inverse_lattice: Tensor
) -> Tensor:
    """One step, x + a * score + sqrt(2 a) * noise with score = output / sigma, wrapped into [0, 1), (A, 3).

    Args:
        frac: (A, 3).
        output: of the network, Cartesian, (A, 3): the score times sigma, without unit.
        noise: standard normal, Cartesian, (A, 3).
        sigma_ang: the level.
        step_ang2: a.
        inverse_lattice: of each atom's cell, (A, 3, 3), 1/angstrom.
    """
    move_ang = output * (step_ang2 / sigma_ang) + noise * math.sqrt(2 * step_ang2)
    return wrap(frac + _rows_times(move_ang, inverse_lattice))


@torch.no_grad()
def langevin(
    predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start: Point,
    lattice_ang: Tensor,
    crystal: Tensor,
    sigmas_ang: Tensor,
    rng: torch.Generator,
    steps_per_level: int = 100,
    step_scale: float = 1e-4,
    sigma_last_ang: float = SIGMA_LAST_ANG,
    stop_below_ang: float = 0.0,
    progress: Callable[[int], None] | None = None,
    shown: Callable[[Tensor, float], Tensor] | None = None,
) -> Point:
    """Walk through the levels in the order given; len(sigmas_ang) * steps_per_level calls of the network.

    Args:
        predict: (frac (A, 3), types (A,)) -> (Cartesian output (A, 3) = score * sigma, new types (A,)). It is not told
            the level: CDVAE's network reads it off the crystal. To keep types, return those that came.
        start: CDVAE: coordinates uniform in the cell, types drawn from the predicted composition.
        lattice_ang: (B, 3, 3), fixed; may be singular (pseudo-inverse).
        crystal: index of each atom's crystal, (A,).
        sigmas_ang: levels, falling, (L,). Fewer of the published ones make a coarser, cheaper ladder.
        rng: draws the noise, on its own device.
        steps_per_level: inner steps.
        step_scale: length of a step at sigma_last_ang, angstrom^2.
        sigma_last_ang: the finest published level, whichever levels are walked.
        stop_below_ang: the walk ends before the first level under it (CDVAE's min_sigma).
        progress: called with the number of finished network calls.
        shown: (types, level in angstrom) -> the types that the network is given; None gives them as they are.
    """
    point, done = Point(wrap(start.frac), start.types), 0
    # Once, since the lattice never changes; a pseudo-inverse, since a decoded one may have no volume.
    inverse_lattice = torch.linalg.pinv(lattice_ang)[crystal]  # (A, 3, 3)
    for sigma_ang in levels_down_to(sigmas_ang, stop_below_ang):
        step_ang2 = step_size_ang2(sigma_ang, step_scale, sigma_last_ang)
        for _ in range(steps_per_level):
            # Types are named anew at every call: the network that says where an atom goes also says what it is there.
            output, types = predict(point.frac, point.types if shown is None else shown(point.types, sigma_ang))
            noise = _normal_like(point.frac, rng)
            point = Point(langevin_step(point.frac, output, noise, sigma_ang, step_ang2, inverse_lattice), types)
            done += 1
            if progress is not None:
                progress(done)
    return point


def levels_down_to(sigmas_ang: Tensor, stop_below_ang: float) -> list[float]:
    """The levels before the first one under the bound, in their order, as numbers."""
    # The tolerance keeps a level equal to the bound when it comes in single precision.
    return list(itertools.takewhile(lambda sigma: sigma >= stop_below_ang * (1 - 1e-6), sigmas_ang.tolist()))


def _rows_times(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Each row vector times its matrix, (A, 3), (A, 3, 3) -> (A, 3)."""
    return torch.bmm(vectors[:, None], matrices).squeeze(1)


def _normal_like(frac: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(frac.shape, generator=rng, device=rng.device, dtype=frac.dtype).to(frac.device)
