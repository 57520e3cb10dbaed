"""Baseline 'random-symmetric': random crystals with a space group, of the asked atoms. No data at all.

The floor: what symmetry and distances between atoms give by themselves, as in random structure searching. A random
point is put on random Wyckoff positions of the group until the atoms are used up; lattice parameters are random within
the crystal system, at a random volume between those of covalent and of van der Waals spheres, and atoms keep the
distances of covalent radii.
Source: PyXtal, Fredericks et al., Comput. Phys. Commun. 261, 107810 (2021), whose random_crystal draws each crystal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from pydantic import Field

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal, wrap_unit
from generative.requests import Request
from generative.screening.validity import reduce_lattice
from generative.systems.baselines.stored import Baseline, Drawn, content_of, in_order
from storage.settings import RoomConfig

SYMPREC_ANG = 0.01
"""Distance tolerance at which spglib must find the asked group again."""


class RandomSymmetricConfig(RoomConfig):
    """How long to try, and how dense the crystals are."""

    n_attempts: int = Field(
        20, ge=1, le=1000, description="crystals tried per sample; each has at most 400 sets of coordinates in PyXtal"
    )
    volume_factor: float = Field(
        1.1, gt=0, le=10, description="cell volume in units of one drawn between covalent and van der Waals spheres"
    )


@lru_cache(maxsize=230)
def _group(number: int) -> Any:
    from pyxtal.symmetry import Group

    return Group(number)


class RandomSymmetric(Baseline):
    """Random crystals in the asked group, or in a group drawn at random among those whose orbits fit the atoms.

    Each sample has a generator of its own, seeded from the one given, and a bound on attempts instead of on time: so
    the same seed gives the same crystals on a slow machine. What fails: an asked group in whose primitive cell the
    asked atoms form no set of orbits, or bad luck in every attempt.
    """

    name = "random-symmetric"
    config_type = RandomSymmetricConfig
    open_composition = False
    config: RandomSymmetricConfig

    def __init__(self, config: RandomSymmetricConfig) -> None:
        super().__init__(config)

    def draw(
        self, requests: Sequence[Request], rng: torch.Generator, done: Callable[[int], None] | None = None
    ) -> list[Drawn]:
        """See Baseline.draw."""
        # Drawn at once: how often one sample had to be tried must not change the next.
        seeds = torch.randint(2**62, (len(requests),), generator=rng)
        drawn = []
        for n_done, (wish, seed) in enumerate(zip(requests, seeds, strict=True), start=1):
            drawn.append(self._one(wish, np.random.default_rng(int(seed))))
            if done is not None:
                done(n_done)
        return drawn

    def _one(self, asked: Request, rng: np.random.Generator) -> Drawn:
        n_tried = 0
        for number in self._groups(asked, rng):
            n_tried += 1
            crystal = random_crystal(asked, number, self.config.volume_factor, rng)
            if crystal is not None:
                return Drawn(crystal)
        if n_tried == 0:
            return Drawn(None, f"the orbits of the group cannot hold {asked}: ask for another group or cell")
        return Drawn(None, f"{n_tried} attempts gave no crystal of {asked}: raise n_attempts or volume_factor")

    def _groups(self, asked: Request, rng: np.random.Generator) -> Iterator[int]:
        """The groups to try in turn, at most `n_attempts`: the asked one again and again, or compatible ones."""
        if asked.spacegroup is not None:
            if fits(asked, asked.spacegroup):
                yield from [asked.spacegroup] * self.config.n_attempts
            return
        n_given = 0
        while n_given < self.config.n_attempts:  # P1 fits every cell, so a round over all groups gives at least one
            for number in rng.permutation(230) + 1:
                if n_given < self.config.n_attempts and fits(asked, int(number)):
                    n_given += 1
                    yield int(number)


def fits(asked: Request, number: int) -> bool:
    """Whether orbits of the group make up the asked atoms in its primitive cell."""
    group = _group(number)
    compatible, _ = group.check_compatible(np.array([n for _, n in asked.content]) * group.cellsize())
    return bool(compatible)


def random_crystal(asked: Request, number: int, volume_factor: float, rng: np.random.Generator) -> Crystal | None:
    """One attempt at a crystal in the primitive cell, sites in the asked order.

    None if PyXtal finds no place for every atom, if the cell found is smaller than asked (a translation by chance), or
    if chance has raised the symmetry above the asked group.
    """
    import spglib
    from pyxtal.crystal import random_crystal as pyxtal_crystal
    from pyxtal.msg import VolumeError

    symbols = [ELEMENTS[z - 1] for z, _ in asked.content]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyXtal tells of each volume it had to raise
        try:
            made = pyxtal_crystal(
                3, _group(number), symbols, [n for _, n in asked.content], volume_factor, conventional=False,
                random_state=rng,
            )  # fmt: skip
        except (VolumeError, RuntimeError):
            return None
    if not made.valid:
        return None
    sites = [(point, site.specie) for site in made.atom_sites for point in site.coords]
    numbers = [ELEMENTS.index(symbol) + 1 for _, symbol in sites]
    cell: Any = (made.lattice.matrix, wrap_unit(np.array([point for point, _ in sites])), numbers)
    try:
        if asked.spacegroup is not None:
            found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC_ANG)
            if found is None or found.number != asked.spacegroup:
                return None
        primitive = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC_ANG)
    except spglib.SpglibError:
        return None
    if primitive is None or content_of(primitive[2]) != asked.content:
        return None
    rows, points, kept = (np.array(part) for part in primitive)
    lattice = reduce_lattice(rows)  # of a centred cell the primitive vectors may be long and skewed
    frac = wrap_unit(points @ rows @ np.linalg.inv(lattice))
    return in_order(Crystal(lattice, frac, kept.astype(np.int16)), asked.atomic_numbers)
