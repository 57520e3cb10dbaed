"""What is made of a walk's end: sites put on positions of higher symmetry, atoms, and a check of the space group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import spglib
import torch

from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import WyckoffError
from generative.requests import Request, atomic_number
from generative.systems.adaptive_cell.config import AdaptiveCellSampler
from generative.systems.adaptive_cell.free_cell import angles_deg, length_of, owners
from generative.systems.adaptive_cell.noise import CellState
from generative.systems.adaptive_cell.operations import SiteTable
from generative.systems.adaptive_cell.site_crystal import SiteCrystal

SYMPREC_ANG = 0.01
"""Distance tolerance at which spglib must find the asked group again."""


def one_of_each_site(request: Request) -> tuple[int, ...]:
    """Atomic numbers of the sites that are asked for, ascending."""
    return tuple(atomic_number(symbol) for symbol, n in request.sites for _ in range(n))


def require_sites(requests: Sequence[Request], z_max: int) -> None:
    """Raises: ValueError: if a request names no sites, or an element above z_max; the first is told."""
    for i, request in enumerate(requests):
        if not request.sites:
            raise ValueError(
                f"request {i} is {request}: expected numbers of inequivalent sites in a space group, as of "
                "conditions.policy 'sites' or --sites; compositions follow from where the sites come to lie"
            )
        if max(one_of_each_site(request)) > z_max:
            raise ValueError(f"request {i} is {request}: expected elements up to atomic number {z_max}")


def asked_for(requests: Sequence[Request]) -> CellState:
    """The sites that requests name, all at the origin, in cells of which nothing is known yet."""
    groups = torch.tensor([request.spacegroup or 0 for request in requests])
    n_sites = [len(one_of_each_site(request)) for request in requests]
    sites = SiteTable.of(groups.tolist(), n_sites)
    return CellState(torch.zeros(sum(n_sites), 3), torch.zeros(len(groups), 3), groups, angles_deg(groups), sites)


def site_crystals(state: CellState, atomic_numbers: torch.Tensor) -> list[SiteCrystal]:
    """The crystals of a state, double precision."""
    lengths = length_of(state.numbers.double()).gather(1, owners(state.group)).cpu().numpy()
    cells = np.concatenate([lengths, state.angles_deg.double().cpu().numpy()], axis=1)
    frac, numbers = state.frac.double().cpu().numpy(), atomic_numbers.cpu().numpy().astype(np.int16)
    ends = state.sites.n_sites.cumsum(0).tolist()
    return [
        SiteCrystal(group, cell, frac[first:end], numbers[first:end])
        for group, cell, first, end in zip(state.group.tolist(), cells, [0, *ends[:-1]], ends, strict=True)
    ]


def finished(one: SiteCrystal, how: AdaptiveCellSampler) -> tuple[Crystal | None, str]:
    """The crystal and "", or None and why it is none."""
    if not np.isfinite(one.frac).all() or not np.isfinite(one.cell).all():
        return None, "numbers are not finite"
    try:
        crystal = one.crystal(how.merge_ang)
    except WyckoffError:
        return None, "images of a site lie near each other where no position of higher symmetry is"
    if len(crystal.frac) > how.atoms_max:
        return None, f"the primitive cell has more than {how.atoms_max} atoms"
    cell = crystal.lattice_ang.tolist(), crystal.frac.tolist(), crystal.atomic_numbers.tolist()
    try:
        found = spglib.get_symmetry_dataset(cell, SYMPREC_ANG)
    except spglib.SpglibError:
        found = None
    if found is None:
        return None, "spglib finds no space group, as where atoms lie upon each other"
    if found.number != one.spacegroup:
        return None, "its symmetry is above the space group that was asked for"
    return crystal, ""
