"""Bonds of crystals as CrystalNN finds them by geometry alone: the graph that CDVAE's encoders read.

CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False) takes of every site the faces of its Voronoi
cell, weighs them by solid angle, and keeps as many as the most probable coordination number says. A bond is one however
many of its two sites find it, as in pymatgen's StructureGraph, and enters the graph in both directions.

The sites are computed by compiled code, which tells by a status where rounding could decide; pymatgen places those.

Conventions: as in networks.periodic_graph. An edge runs source -> target, `image` is the cell the source stands in
relative to the target's.

Source: Pan et al., Inorg. Chem. 60 (2021) 1590 (CrystalNN); CDVAE, arXiv:2110.06197 (its use).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from generative.crystal.crystals import Crystal, wrap_unit
from generative.crystal.neighbour_search import FAULTS, refuse_unsearchable
from generative.kept_results import KeptResults, in_processes
from storage.progress import Progress

RECIPE = "CrystalNN by solid angle, 1"
"""Names the computation; the number rises when bonds change for the same installed packages."""
CACHE_FILE = "bonds.sqlite"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonds of one crystal, each in both directions: E edges, in pairs 2i and 2i + 1 that run opposite ways.

    Attributes:
        source, target: atom indices, (E,), int32.
        image: the cell the source stands in, relative to the target's, (E, 3), int16.
    """

    source: np.ndarray
    target: np.ndarray
    image: np.ndarray


class PackedBonds(NamedTuple):
    """Bonds of a batch, atoms counted through: source and target (E,), image (E, 3), all int64."""

    source: Tensor
    target: Tensor
    image: Tensor


class _Made(NamedTuple):
    """One crystal: a row (source, target, image) per edge, (E, 5), or None and the reason."""

    rows: np.ndarray | None
    reason: str


def crystal_nn_bonds(
    crystals: Sequence[Crystal],
    workers: int = 1,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Bonds | None]:
    """Bonds of each crystal, in order; None, and a warning with the reason, where there are none to be had.

    Args:
        crystals: images are meant for their coordinates as stored, inside the cell or not.
        workers: processes; above 1 they are spawned, so the caller's main module must be importable. The result does
            not depend on it.
        cache: folder in which bonds are kept by the crystal's digest and the package's version.
        progress: called after each crystal that was not on disk.

    Raises: ValueError: if the folder holds a file of the cache's name that is none.
    """
    digests = [crystal.digest for crystal in crystals]
    wanted = dict(zip(digests, crystals, strict=True))
    recipe = "; ".join([RECIPE, *(f"{name} {version(name)}" for name in ("pymatgen", "pymatgen-core"))])
    with KeptResults(None if cache is None else cache / CACHE_FILE, "bonds", recipe) as kept:
        made = {
            digest: _Made(None if payload is None else np.frombuffer(payload, dtype="<i4").reshape(-1, 5), reason)
            for digest, (payload, reason) in kept.read(list(wanted)).items()
        }
        fresh = {digest: crystal for digest, crystal in wanted.items() if digest not in made}
        results = in_processes(_bonds_of, list(fresh.values()), workers)
        for done, (digest, one) in enumerate(zip(fresh, results, strict=True), start=1):
            made[digest] = one
            if not one.reason.startswith(MemoryError.__name__):  # may well succeed next time
                kept.write(digest, None if one.rows is None else one.rows.tobytes(), one.reason)
            if progress is not None:
                progress(done, len(fresh))
    for index, digest in enumerate(digests):
        if made[digest].rows is None:
            logger.warning("crystal %d of %d has no bonds: %s", index, len(crystals), made[digest].reason)
    ready = {digest: None if one.rows is None else _as_bonds(one.rows) for digest, one in made.items()}
    return [ready[digest] for digest in digests]


def pack_bonds(bonds: Sequence[Bonds], n_atoms: Sequence[int]) -> PackedBonds:
    """Bonds of crystals whose atoms stand end to end.

    Args:
        bonds: one per crystal.
        n_atoms: of each crystal.

    Raises: ValueError: if there is not one number of atoms per crystal.
    """
    if len(bonds) != len(n_atoms):
        raise ValueError(f"bonds of {len(bonds)} crystals beside {len(n_atoms)} numbers of atoms: expected as many")
    first = np.repeat(np.cumsum([0, *n_atoms])[:-1], [len(one.source) for one in bonds])
    rows = [np.column_stack([one.source, one.target, one.image]) for one in bonds]
    packed = np.concatenate([np.zeros((0, 5), np.int64), *rows], axis=0, dtype=np.int64)
    packed[:, :2] += first[:, None]
    edges = torch.from_numpy(packed)
    return PackedBonds(edges[:, 0].contiguous(), edges[:, 1].contiguous(), edges[:, 2:].contiguous())


def _as_bonds(rows: np.ndarray) -> Bonds:
    return Bonds(
        np.ascontiguousarray(rows[:, 0], dtype=np.int32),
        np.ascontiguousarray(rows[:, 1], dtype=np.int32),
        np.ascontiguousarray(rows[:, 2:], dtype=np.int16),
    )


def _bonds_of(crystal: Crystal) -> _Made:
    try:
        refuse_unsearchable(crystal)
        found, left = _compiled_bonds(crystal)
        if left:
            found = np.concatenate([found, _by_pymatgen(crystal, left)])
    except FAULTS as error:
        return _Made(None, f"{type(error).__name__}: {error}")
    return _Made(_both_ways(found), "")


def _compiled_bonds(crystal: Crystal) -> tuple[np.ndarray, list[int]]:
    """Rows (site, atom it is bonded to, that atom's cell), (b, 5), and the sites that are left to pymatgen."""
    try:
        from generative.native import voronoi as kernel
    except ImportError:  # numba is not installed
        return np.zeros((0, 5), np.int64), list(range(len(crystal.frac)))
    # Copies: a read-only or Fortran-ordered array is another type to numba, and would be compiled for anew.
    matrix = np.array(crystal.lattice_ang, dtype=np.float64, order="C")
    frac = np.array(wrap_unit(crystal.frac), dtype=np.float64, order="C")
    sites, atoms, images, statuses = kernel.bonds_by_solid_angle(matrix, frac)
    cells = np.rint(frac - crystal.frac).astype(np.int64)  # how far each atom was moved into the cell
    images += cells[atoms] - cells[sites]
    return np.column_stack([sites, atoms, images]), np.flatnonzero(statuses != kernel.PLACED).tolist()


@lru_cache(maxsize=1)
def _crystal_nn() -> Any:
    from pymatgen.analysis.local_env import CrystalNN

    made: Any = CrystalNN  # its constructor is not annotated
    return made(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)


def _by_pymatgen(crystal: Crystal, sites: Iterable[int]) -> np.ndarray:
    structure = crystal.to_structure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per bond: crystals here carry no oxidation states
        found = [
            (site, neighbour["site_index"], *(int(k) for k in neighbour["image"]))
            for site in sites
            for neighbour in _crystal_nn().get_nn_info(structure, site)
        ]
    return np.array(found, dtype=np.int64).reshape(-1, 5)


def _both_ways(found: np.ndarray) -> np.ndarray:
    """Edges (source, target, image), (E, 5), int32, of bonds that one or both of their sites found, (b, 5)."""
    steps = found[:, 2:]
    # One name for a bond and its opposite: from the lower index, and between images of one atom along the first axis.
    signs = np.sign(np.column_stack([found[:, 1] - found[:, 0], steps]))
    leading = signs[np.arange(len(signs)), (signs != 0).argmax(axis=1)]
    turned = np.column_stack([found[:, 1], found[:, 0], -steps])
    once = np.unique(np.where((leading < 0)[:, None], turned, found)[leading != 0], axis=0)
    towards = np.column_stack([once[:, 1], once[:, 0], once[:, 2:]])
    away = np.column_stack([once[:, 0], once[:, 1], -once[:, 2:]])
    return np.stack([towards, away], axis=1).reshape(-1, 5).astype("<i4")
