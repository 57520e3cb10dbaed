"""Real crystals and perturbed copies of them as samples, seeded; the same for every protocol's test."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal, wrap_unit
from tests.servers.real import real_records

N_REAL = 200


@lru_cache(maxsize=2)
def real_crystals(n: int = N_REAL) -> tuple[Crystal, ...]:
    """Every second of the smallest real crystals, 2 to 6 atoms: pymatgen matches them in seconds, not minutes."""
    return tuple(Crystal.from_structure(structure) for structure in _by_size()[: 2 * n : 2])


def other_real_crystals(n: int = N_REAL) -> tuple[Crystal, ...]:
    """As many crystals of the same sizes, none of which is among real_crystals."""
    return tuple(Crystal.from_structure(structure) for structure in _by_size()[1 : 2 * n : 2])


@lru_cache(maxsize=1)
def _by_size() -> list[Structure]:
    return sorted((record.structure for record in real_records()), key=len)


def perturbed(crystal: Crystal, sigma_ang: float, rng: np.random.Generator) -> Crystal:
    """The crystal with displaced atoms and strained cell."""
    shift = rng.normal(scale=sigma_ang, size=crystal.frac.shape) @ np.linalg.inv(crystal.lattice_ang)
    strain = np.eye(3) + rng.normal(scale=0.03, size=(3, 3))
    return Crystal(crystal.lattice_ang @ strain, wrap_unit(crystal.frac + shift), crystal.atomic_numbers)


@lru_cache(maxsize=2)
def samples_of_real(n: int = N_REAL) -> tuple[Crystal | None, ...]:
    """One sample per real crystal: some close, some far, some repeated, some that are no crystal."""
    rng = np.random.default_rng(7)
    crystals = real_crystals(n)
    samples: list[Crystal | None] = []
    for index, crystal in enumerate(crystals):
        if index % 29 == 28:
            samples.append(None)
        elif index % 31 == 30:
            samples.append(Crystal(np.full((3, 3), np.nan), crystal.frac, crystal.atomic_numbers))
        elif index % 37 == 36:  # all atoms on one spot
            samples.append(Crystal(crystal.lattice_ang, np.zeros_like(crystal.frac), crystal.atomic_numbers))
        elif index % 11 == 10:
            samples.append(samples[index - 4])
        else:
            samples.append(perturbed(crystal, (0.05, 0.25, 0.6, 1.0)[index % 4], rng))
    return tuple(samples)


def structure_of(crystal: Crystal | None) -> Structure | None:
    """The crystal as pymatgen's Structure by pymatgen alone; None if its numbers are not finite."""
    if crystal is None or not np.isfinite(crystal.lattice_ang).all():
        return None
    return Structure(crystal.lattice_ang, [int(z) for z in crystal.atomic_numbers], crystal.frac)


def same_formula(first: Structure, second: Structure) -> bool:
    """Without which pymatgen's matcher refuses at once, after a slower comparison."""
    return formula_of(first) == formula_of(second)


def formula_of(structure: Structure) -> str:
    """The reduced formula, worked out once per structure."""
    if "formula" not in structure.properties:
        structure.properties["formula"] = structure.composition.reduced_formula
    return str(structure.properties["formula"])


@lru_cache(maxsize=1)
def csp_rms() -> dict[tuple[int, int], float]:
    """(sample, real crystal) -> rms of every pair that matches at 0.3/0.5/10, by pymatgen alone."""
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    real = [structure_of(crystal) for crystal in real_crystals()]
    matched = {}
    for i, sample in enumerate(map(structure_of, samples_of_real())):
        for j, known in enumerate(real):
            if sample is None or not same_formula(sample, known):
                continue
            found = matcher.get_rms_dist(sample, known)
            if found is not None:
                matched[i, j] = found[0]
    return matched


KNOWN = slice(None, None, 2)
"""Every second real crystal is known, so that some samples are new even where they match their own origin."""


@lru_cache(maxsize=3)
def fits_no_known(ltol: float, stol: float, angle_deg: float) -> tuple[bool | None, ...]:
    """Whether pymatgen's fit accepts no known crystal, per sample; None where the sample is no crystal."""
    matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_deg)
    known = [structure_of(crystal) for crystal in real_crystals()[KNOWN]]
    return tuple(
        None if sample is None else not any(same_formula(k, sample) and matcher.fit(k, sample) for k in known)
        for sample in map(structure_of, samples_of_real())
    )


@lru_cache(maxsize=3)
def first_of_groups(ltol: float, stol: float, angle_deg: float) -> frozenset[int]:
    """Indices of the samples that are first in their group, by pymatgen's group_structures."""
    structures = [structure_of(sample) for sample in samples_of_real()]
    for index, structure in enumerate(structures):
        if structure is not None:
            structure.properties["index"] = index
    matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_deg)
    groups = matcher.group_structures([structure for structure in structures if structure is not None])
    return frozenset(min(member.properties["index"] for member in members) for members in groups)
