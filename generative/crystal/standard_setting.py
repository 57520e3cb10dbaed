"""The standard setting of a crystal: spglib's primitive cell, one origin, sites in one order.

A system that learns matrices learns the conventions of its data: the same crystal in another cell, from another origin
or with its sites in another order is another matrix. AFLOW's entries come in one setting per prototype; those of other
databases do not, until they pass through here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spglib

from generative.crystal.crystals import Crystal, reduced, wrap_unit
from generative.kept_results import KeptResults, in_processes

SYMPREC_ANG = 0.01

RECIPE = f"standard setting, 1; spglib {spglib.__version__}"
"""Names the computation; the number rises when settings change for the same spglib."""
CACHE_FILE = "standard_settings.sqlite"

_FRACTIONS = (0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75)
_SHIFTS = np.array(list(itertools.product(_FRACTIONS, repeat=3)))
"""Where the origins lie that a group's operations cannot tell apart, polar axes aside."""


def _proper_turns() -> np.ndarray:
    """Integer matrices of determinant 1 with entries -1, 0, 1: among them all rotations of any reduced cell."""
    matrices = np.array(list(itertools.product((-1, 0, 1), repeat=9)), dtype=float).reshape(-1, 3, 3)
    proper: np.ndarray = matrices[np.abs(np.linalg.det(matrices) - 1) < 1e-6]
    return proper


_TURNS = _proper_turns()


def in_standard_setting(crystal: Crystal, symprec_ang: float = SYMPREC_ANG) -> Crystal:
    """The crystal in spglib's standardised primitive cell, sites sorted by atomic number, then by coordinates.

    spglib's standard leaves several origins open, and which of equal axes is which: rock salt may begin at either ion.
    Of the origins with the same operations (multiples of a quarter and a third, and the places of the rarest element)
    and of the turns that keep the cell, those are taken whose sorted coordinates come first.

    A crystal of which spglib makes nothing, or another formula (which happens near the tolerance), comes back in its
    Niggli cell, sites sorted.

    Args:
        crystal: any.
        symprec_ang: tolerance of the symmetry, angstrom.
    """
    try:
        found = spglib.standardize_cell(_cell(crystal), to_primitive=True, no_idealize=False, symprec=symprec_ang)
        if found is None or not _same_formula(np.asarray(found[2]), crystal.atomic_numbers):
            return _sorted(reduced(crystal))
        lattice, frac, numbers = found
        standard = Crystal(np.array(lattice), wrap_unit(np.array(frac)), np.array(numbers, dtype=np.int16))
        symmetry = spglib.get_symmetry(_cell(standard), symprec=symprec_ang)
    except spglib.SpglibError:
        return _sorted(reduced(crystal))
    return standard if symmetry is None else _first_of_equals(standard, np.asarray(symmetry["rotations"]))


def in_standard_settings(crystals: Sequence[Crystal], workers: int = 1, cache: Path | None = None) -> list[Crystal]:
    """`in_standard_setting` of each crystal, in order; some milliseconds each, so they can be kept.

    Args:
        crystals: in any number.
        workers: processes; above 1 they are spawned, so the caller's main module must be importable.
        cache: folder in which settings are kept by the crystal's digest and spglib's version.

    Raises: ValueError: if the folder holds a file of the cache's name that is none.
    """
    digests = [crystal.digest for crystal in crystals]
    wanted = dict(zip(digests, crystals, strict=True))
    with KeptResults(None if cache is None else cache / CACHE_FILE, "standard_settings", RECIPE) as kept:
        found = kept.read(list(wanted)).items()
        ready = {digest: _from_bytes(payload) for digest, (payload, _) in found if payload is not None}
        fresh = {digest: crystal for digest, crystal in wanted.items() if digest not in ready}
        made = in_processes(in_standard_setting, list(fresh.values()), workers)
        for digest, crystal in zip(fresh, made, strict=True):
            ready[digest] = crystal
            kept.write(digest, _as_bytes(crystal), "")
    return [ready[digest] for digest in digests]


def _as_bytes(crystal: Crystal) -> bytes:
    """Lattice, coordinates, numbers, all as float64: 9 + 4 n of them."""
    parts = (crystal.lattice_ang.ravel(), crystal.frac.ravel(), crystal.atomic_numbers)
    return np.concatenate([np.asarray(part, dtype="<f8") for part in parts]).tobytes()


def _from_bytes(payload: bytes) -> Crystal:
    values = np.frombuffer(payload, dtype="<f8").astype(np.float64)
    n = (len(values) - 9) // 4
    return Crystal(values[:9].reshape(3, 3), values[9:-n].reshape(n, 3), values[-n:].astype(np.int16))


def _cell(crystal: Crystal) -> Any:  # spglib takes arrays, its type hints only nested sequences
    return crystal.lattice_ang, crystal.frac, crystal.atomic_numbers


def _same_formula(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two cells hold the same elements in the same proportions."""
    kinds, counts = np.unique(one, return_counts=True)
    other_kinds, other_counts = np.unique(other, return_counts=True)
    return np.array_equal(kinds, other_kinds) and np.array_equal(counts * len(other), other_counts * len(one))


def _first_of_equals(crystal: Crystal, operations: np.ndarray) -> Crystal:
    """The crystal, sorted, from the origin and along the axes that give the first coordinates.

    Args:
        crystal: in a standard setting.
        operations: the rotations W of its space group, (W, 3, 3). A shift s of the origin keeps an operation (W, w) as
            it is if (W - 1) s is a lattice vector.
    """
    kinds, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    rarest = crystal.frac[crystal.atomic_numbers == kinds[counts.argmin()]]
    shifts = np.concatenate([_SHIFTS, -rarest])
    moved = shifts @ (np.unique(operations, axis=0) - np.eye(3)).transpose(0, 2, 1)  # (W, S, 3)
    shifts = shifts[np.abs(moved - np.round(moved)).max((0, 2)) < 1e-4]
    gram = crystal.lattice_ang @ crystal.lattice_ang.T
    turns = _TURNS[np.abs(_TURNS @ gram @ _TURNS.transpose(0, 2, 1) - gram).max((1, 2)) < 1e-4 * gram.max()]
    # New axes are R a, so coordinates become x R^-1; all origins along all axes: (R * S, n, 3).
    frac = (crystal.frac + shifts[:, None]) @ np.linalg.inv(turns)[:, None]
    frac = wrap_unit(frac.reshape(-1, *crystal.frac.shape))
    keys = np.sort(_keys(frac, crystal.atomic_numbers), axis=1)
    left = np.arange(len(keys))
    for column in keys.T:
        left = left[column[left] == column[left].min()]
        if len(left) == 1:
            break
    return _sorted(Crystal(crystal.lattice_ang, frac[left[0]], crystal.atomic_numbers))


def _keys(frac: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One integer per site, which orders sites by atomic number, then by coordinates to three digits: (..., n)."""
    digits = np.round(frac * 1000).astype(np.int64) % 1000  # 0.9999 is 0 where rounding noise was wrapped
    return ((numbers.astype(np.int64) * 1000 + digits[..., 0]) * 1000 + digits[..., 1]) * 1000 + digits[..., 2]


def _sorted(crystal: Crystal) -> Crystal:
    """Sites by atomic number, then by wrapped coordinates."""
    frac = wrap_unit(crystal.frac)
    frac = np.where(frac > 1 - 1e-5, 0.0, frac)
    order = np.argsort(_keys(frac, crystal.atomic_numbers), kind="stable")
    return Crystal(crystal.lattice_ang, frac[order], crystal.atomic_numbers[order])
