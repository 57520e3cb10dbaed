"""The energy of a generated bilayer by a potential: that of the relaxed slab less those of its two relaxed layers.

It is what the source `bilayers` states of its crystals (generative/datasets/bilayers.py), computed of crystals of which
nobody knows what layers they were put together from: the slab is cut at its widest gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.condition_reproduction import ConditionReproductionConfig
from dft.config import RelaxConfig
from generative.crystal.crystals import Crystal, crystals_of
from storage.vacuum import slab_of
from tasks.papers.results import Progress
from tasks.papers.samples import Drawn, relaxed

N_PLANES = 4
"""Atoms of a monolayer X-M-M-X in its smallest cell: a half with fewer is a piece of one."""
VACUUM_ANG = 20.0
"""Of the cells in which layers are relaxed, as in the source's dataset."""


def layers_of(crystal: Crystal) -> tuple[Crystal, Crystal] | None:
    """The two halves of a slab at its widest gap, each in a cell with vacuum; None if it is no slab of two layers.

    Inside a layer X-M-M-X the two planes of metal are the farthest apart (2.4 to 2.9 A), those of two layers that lie
    on each other 2.9 A and more: where the widest gap leaves less than a layer on a side, there are no two layers.
    """
    slab = slab_of(np.asarray(crystal.lattice_ang, dtype=float), np.asarray(crystal.frac, dtype=float))
    if slab is None:
        return None
    order = np.argsort(slab.heights_ang, kind="stable")
    gaps = np.diff(slab.heights_ang[order])
    if len(gaps) < 2 * N_PLANES - 1:
        return None
    at = int(gaps.argmax()) + 1
    halves = []
    for rows in (np.sort(order[:at]), np.sort(order[at:])):
        if len(rows) < N_PLANES:
            return None
        heights = slab.heights_ang[rows]
        lattice = np.vstack([slab.plane_ang, (float(np.ptp(heights)) + VACUUM_ANG) * slab.direction])
        frac = slab.cart_ang[rows] @ np.linalg.inv(lattice)
        frac[:, 2] = (heights - heights.min() + 0.5 * VACUUM_ANG) / (float(np.ptp(heights)) + VACUUM_ANG)
        halves.append(Crystal(lattice, frac, np.asarray(crystal.atomic_numbers)[rows]))
    return halves[0], halves[1]


def energies_by_potential(
    config: ConditionReproductionConfig, relax: RelaxConfig, drawn: Drawn, folder: Path, progress: Progress
) -> list[float]:
    """Of each crystal, eV per cell; NaN where it, or a layer of it, does not come to rest, or it is no bilayer.

    Args:
        config: seed, and where the work is done.
        relax: potential and criteria; it must hold the vacuum.
        drawn: crystals with their ids.
        folder: of the relaxations.
        progress: told of every crystal.
    """
    wholes = _at_rest(relaxed(config, relax, drawn, folder / "bilayers", progress))
    cut = {name: layers for name, (crystal, _) in wholes.items() if (layers := layers_of(crystal)) is not None}
    ids = [f"{name}/{which}" for name in cut for which in ("lower", "upper")]
    halves: Sequence[Crystal] = [half for layers in cut.values() for half in layers]
    parts = _at_rest(relaxed(config, relax, Drawn(tuple(ids), tuple(halves), {}), folder / "layers", progress))

    def energy(name: str) -> float:
        found = [parts.get(f"{name}/{which}") for which in ("lower", "upper")]
        if name not in cut or any(part is None for part in found):
            return math.nan
        return wholes[name][1] - sum(part[1] for part in found if part is not None)

    return [energy(name) for name in drawn.ids]


def _at_rest(table: pa.Table) -> dict[str, tuple[Crystal, float]]:
    """Id -> relaxed crystal and its energy, eV per cell, of those that converged."""
    found = {}
    columns = ("id", "relax_status", "energy_ev_per_atom")
    rows = zip(*(table.column(name).to_pylist() for name in columns), crystals_of(table, "relaxed_"), strict=True)
    for name, status, energy, crystal in rows:
        if status == "converged" and crystal is not None and energy is not None:
            found[str(name)] = (crystal, float(energy) * len(crystal.atomic_numbers))
    return found
