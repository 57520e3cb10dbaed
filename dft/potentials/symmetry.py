"""The space group of a crystal as a projection: what of forces and stress keeps it.

A crystal moved by projected forces stays in its group without another word. Cartesian rotations do not change while it
moves: a strain that keeps the group commutes with all of them. And what rounding breaks the projection never feeds, so
positions are made symmetric once, at the start, and never again.

Averages over the operations are taken once per crystal, as one 3x3 block for each pair of atoms of an orbit and one 9x9
matrix for the stress. So a step costs the same whether a group has 2 operations or 192.
Lattice vectors are rows; an operation takes the fractional x to W x + w.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from torch import Tensor


@dataclass(frozen=True)
class SpaceGroup:
    """A crystal's space group in its own cell, with n atoms and P pairs of atoms that an operation brings together.

    Attributes:
        number: international number.
        n_operations: of the cell; the translations of a centred one among them.
        source, target: atoms of each pair, (P,).
        block: the force on `target`, a row, is the sum over its pairs of the force on `source` times this, (P, 3, 3).
        strain: makes a tensor as a row of nine symmetric, (9, 9).
    """

    number: int
    n_operations: int
    source: Tensor
    target: Tensor
    block: Tensor
    strain: Tensor


def in_its_group(structure: Structure, symprec_ang: float, device: torch.device) -> tuple[SpaceGroup, Structure] | None:
    """The group of a crystal, and the crystal with every atom and the cell moved onto it, by `symprec_ang` or so.

    None where no operation but the identity is found (the crystal is then to be left as it is), or spglib gives up, as
    it does on overlapping atoms.

    Args:
        structure: ordered and finite.
        symprec_ang: how far an atom may lie from its symmetric place, angstrom.
        device: of the group's tensors.
    """
    rows, frac = np.array(structure.lattice.matrix, dtype=float), np.array(structure.frac_coords, dtype=float)
    cell: Any = (rows, frac, [site.specie.Z for site in structure])  # spglib takes arrays, unlike its hints
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, on its own change of error handling
            found = spglib.get_symmetry_dataset(cell, symprec=symprec_ang)
    except spglib.SpglibError:
        return None
    if found is None or len(found.rotations) == 1:
        return None
    rotations, translations = found.rotations.astype(float), found.translations
    images = _images(frac, rows, rotations, translations)
    if images is None:
        return None
    rows = _symmetric_cell(rows, rotations)
    frac = _symmetric_positions(frac, rotations, translations, images)
    # x' = x W^T, so Cartesian rows turn by A^-1 W^T A
    turns = np.linalg.inv(rows) @ rotations.transpose(0, 2, 1) @ rows
    group = _group(int(found.number), turns, images, device)
    return group, Structure(Lattice(rows), structure.species, frac)


def broken_by_ang(group: SpaceGroup, symmetric: Structure, other: Structure) -> float:
    """How far the atoms of a crystal lie from where the group would have them, at most, angstrom.

    Args:
        group: of the symmetric crystal.
        symmetric: in the group.
        other: the same atoms in the same order, moved a little, in a cell that may have changed too.
    """
    change = other.frac_coords - symmetric.frac_coords
    moved = torch.from_numpy((change - np.round(change)) @ symmetric.lattice.matrix)
    moved -= moved.mean(dim=0)
    kept = torch.zeros_like(moved).index_add(
        0, group.target.cpu(), _turned(moved, group.source.cpu(), group.block.cpu())
    )
    deform = torch.from_numpy(np.linalg.inv(symmetric.lattice.matrix) @ other.lattice.matrix)
    metric = (deform @ deform.T).reshape(9)  # of the cell, free of its orientation
    strain = (metric - group.strain.cpu() @ metric).abs().max() / 2
    length = float(np.max(symmetric.lattice.abc))
    return max(float((moved - kept).norm(dim=1).max()), float(strain) * length)


class Projection:
    """The groups of a batch's crystals, those without one left as they are, bit for bit."""

    def __init__(self, groups: Sequence[SpaceGroup | None], n_atoms: Sequence[int]) -> None:
        """Nothing is projected yet.

        Args:
            groups: of the crystals of a batch, at least one.
            n_atoms: per crystal.
        """
        first = np.concatenate([[0], np.cumsum(n_atoms)[:-1]]).tolist()
        held = [(i, start, group) for i, (start, group) in enumerate(zip(first, groups, strict=True)) if group]
        device = next(group for group in groups if group).block.device
        self._crystals = torch.tensor([i for i, _, _ in held], device=device)
        self._source = torch.cat([group.source + start for _, start, group in held])
        self._target = torch.cat([group.target + start for _, start, group in held])
        self._atoms = torch.unique(self._target)
        self._block = torch.cat([group.block for _, _, group in held])
        self._strain = torch.stack([group.strain for _, _, group in held])

    def forces(self, forces: Tensor) -> Tensor:
        """Forces on the atoms of the batch, (N, 3), as their groups allow them."""
        symmetric = forces.index_fill(0, self._atoms, 0.0)
        return symmetric.index_add_(0, self._target, _turned(forces, self._source, self._block))

    def stress(self, stress: Tensor) -> Tensor:
        """Stresses of the crystals, (B, 3, 3), as their groups allow them."""
        rows = stress.index_select(0, self._crystals).view(-1, 9, 1)
        return stress.index_copy(0, self._crystals, (self._strain @ rows).view(-1, 3, 3))


def _turned(vectors: Tensor, source: Tensor, block: Tensor) -> Tensor:
    return torch.bmm(vectors.index_select(0, source).unsqueeze(1), block).squeeze(1)


def _images(frac: np.ndarray, rows: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray | None:
    """The atom that each operation makes of each atom, (operations, n); None if two become one."""
    images = np.empty((len(rotations), len(frac)), dtype=np.int64)
    for image, rotation, translation in zip(images, rotations, translations, strict=True):
        apart = (frac @ rotation.T + translation)[:, None] - frac
        image[:] = np.square((apart - np.round(apart)) @ rows).sum(axis=2).argmin(axis=1)
    is_permutation = (np.sort(images, axis=1) == np.arange(len(frac))).all()
    return images if is_permutation else None


def _symmetric_cell(rows: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """The cell strained, not turned, so that its metric is that of the group."""
    metric = (rotations.transpose(0, 2, 1) @ (rows @ rows.T) @ rotations).mean(axis=0)
    inverse = np.linalg.inv(rows)
    square, axes = np.linalg.eigh(inverse @ metric @ inverse.T)
    return np.asarray(rows @ (axes * np.sqrt(square)) @ axes.T)


def _symmetric_positions(
    frac: np.ndarray, rotations: np.ndarray, translations: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Each atom at the mean of where the operations put it."""
    moves = np.zeros_like(frac)
    for image, rotation, translation in zip(images, rotations, translations, strict=True):
        apart = frac @ rotation.T + translation - frac[image]
        moves[image] += apart - np.round(apart)
    return frac + moves / len(rotations)


def _group(number: int, turns: np.ndarray, images: np.ndarray, device: torch.device) -> SpaceGroup:
    n_operations, n_atoms = images.shape
    atoms = np.broadcast_to(np.arange(n_atoms), images.shape)
    pairs, place = np.unique((images * n_atoms + atoms).ravel(), return_inverse=True)
    block = np.zeros((len(pairs), 3, 3))
    np.add.at(block, place.ravel(), np.repeat(turns, n_atoms, axis=0))
    turned = turns.transpose(0, 2, 1)
    strain = np.einsum("gij,gkl->ikjl", turned, turned).reshape(9, 9)  # row-major: kron(R^T, R^T)
    return SpaceGroup(
        number,
        n_operations,
        torch.from_numpy(pairs % n_atoms).to(device),
        torch.from_numpy(pairs // n_atoms).to(device),
        torch.from_numpy(block / n_operations).to(device),
        torch.from_numpy(strain / n_operations).to(device),
    )
