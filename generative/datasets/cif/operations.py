"""Symmetry operations as CIFs list them: their text, the group they must form, the cell they must fit.

An operation takes fractional coordinates x (a column) to W x + w. Rotations W: (n, 3, 3) integers; translations w:
(n, 3) in [0, 1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from generative.datasets.checks import RecordError
from generative.datasets.limits import MAX_CENTRINGS, MAX_OPERATIONS

_TERM = re.compile(r"([+-]?)(?:(\d+/\d+|\d*\.\d+|\d+\.?)\*?)?([xyz]?)")
_SAME_TRANSLATION = 0.005
"""Translations nearer than this, in fractional units, are the same: written with two decimals, 1/3 is 0.33."""

METRIC_TOLERANCE = 0.02
"""Largest misfit of cell and operations: 1 % in a length, 1.1 degrees in an angle. Cells refined or relaxed under
their symmetry fit to rounding; a rhombohedral cell under hexagonal operations misses by more than 0.5."""


@dataclass(frozen=True)
class Operations:
    """Symmetry operations modulo lattice translations, each once.

    Attributes:
        rotations: W, (n, 3, 3), integers.
        translations: w, (n, 3), in [0, 1).
    """

    rotations: np.ndarray
    translations: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    def same_as(self, other: Operations) -> bool:
        """Whether both hold the same operations modulo lattice translations."""
        return len(self) == len(other) and bool(_contained(self, other).all())

    def metric_misfit(self, lattice_ang: np.ndarray) -> float:
        """Largest change of the cell's metric under a rotation, relative: 0 where the cell has the symmetry."""
        metric = lattice_ang @ lattice_ang.T
        turned = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations
        lengths = np.sqrt(np.diag(metric))
        return float(np.abs((turned - metric) / np.outer(lengths, lengths)).max())


IDENTITY = Operations(np.eye(3, dtype=int)[None], np.zeros((1, 3)))


def _contained(some: Operations, others: Operations) -> np.ndarray:
    """For each operation of the first, whether the second holds it."""
    turned = (some.rotations[:, None] == others.rotations[None]).all(axis=(2, 3))
    delta = some.translations[:, None] - others.translations[None]
    shifted = (np.abs(delta - np.round(delta)) < _SAME_TRANSLATION).all(axis=2)
    return np.asarray((turned & shifted).any(axis=1))


def _amount(text: str) -> float:
    """A translation's component; decimals that a simple fraction rounds to (0.333, 0.67) become that fraction."""
    if "/" in text:
        return float(Fraction(text))
    half_unit = 0.5001 * 10.0 ** -len(text.partition(".")[2])
    near = Fraction(text).limit_denominator(24)
    return float(near) if abs(float(near) - float(text)) <= half_unit and 24 % near.denominator == 0 else float(text)


def _row(text: str) -> tuple[list[int], float]:
    """One component, such as '-x+y+1/3', as its row of W and its part of w.

    Raises: ValueError: if it is anything else.
    """
    row, shift, position = [0, 0, 0], 0.0, 0
    while position < len(text):
        found = _TERM.match(text, position)
        if found is None or found.end() == position or not (found[2] or found[3]) or (position and not found[1]):
            raise ValueError(text)
        sign = -1 if found[1] == "-" else 1
        if found[3]:
            row["xyz".index(found[3])] += sign * int(found[2] or 1)
        else:
            shift += sign * _amount(found[2])
        position = found.end()
    if not text:
        raise ValueError(text)
    return row, shift


def operation(text: str) -> tuple[np.ndarray, np.ndarray]:
    """W and w of an operation such as '-y, x-y, z+1/3'.

    Raises:
        RecordError: if the text is none.
    """
    try:
        rows = [_row(part) for part in re.sub(r"[\s'\"]", "", text).lower().split(",")]
        rotation = np.array([row for row, _ in rows])
        if rotation.shape != (3, 3) or abs(round(np.linalg.det(rotation))) != 1:
            raise ValueError(text)
    except (ValueError, TypeError, ArithmeticError):  # numbers that no array holds among them
        raise RecordError(
            f"{text[:60]!r} is no symmetry operation: expected three parts such as '-y, x-y, z+1/3'"
        ) from None
    return rotation, np.array([shift for _, shift in rows])


def listed_operations(texts: Sequence[str]) -> Operations:
    """The operations of a list, each once.

    Raises:
        RecordError: if one cannot be read, or if they form no group: some are then missing or mistyped.
    """
    if len(texts) > MAX_OPERATIONS:
        raise RecordError(
            f"the file lists {len(texts)} symmetry operations: expected at most {MAX_OPERATIONS}; list all atoms with "
            "the single operation 'x, y, z'"
        )
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    seen: set[tuple[int, ...]] = set()
    for text in texts:
        rotation, shift = operation(text)
        shift = shift - np.floor(shift + 1e-9)
        # 840 is divisible by all denominators up to 8; the test for a group below takes up what rounding leaves.
        key = (*rotation.ravel().tolist(), *(np.round(shift * 840).astype(int) % 840).tolist())
        if key not in seen:
            seen.add(key)
            kept.append((rotation, shift))
    operations = Operations(np.array([w for w, _ in kept]), np.array([s for _, s in kept]))
    _check_group(operations)
    return operations


def _check_group(operations: Operations) -> None:
    """Refuses operations that are not closed under multiplication.

    Each rotation must come with the same pure translations (the centring), and the products of one operation per
    rotation must be there modulo these: enough for closure, with 48 x 48 products at most.
    """
    reason = (
        f"the {len(operations)} listed symmetry operations form no group: expected the complete list, centring "
        "included; the file may be cut off, or an operation mistyped"
    )
    unique, which = np.unique(operations.rotations.reshape(-1, 9), axis=0, return_inverse=True)
    n_centring = len(operations) // len(unique)
    if (
        not (np.bincount(which.ravel()) == n_centring).all()
        or not (unique == np.eye(3, dtype=int).ravel()).all(1).any()
    ):
        raise RecordError(reason)
    if n_centring > MAX_CENTRINGS:
        raise RecordError(
            f"the listed operations hold {n_centring} pure translations: expected at most {MAX_CENTRINGS}; give the "
            "crystal in a smaller cell"
        )
    order = np.argsort(which.ravel(), kind="stable")
    shifts = operations.translations[order].reshape(len(unique), n_centring, 3)
    rotations = unique.reshape(-1, 3, 3)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    moved = np.einsum("aij,bj->abi", rotations, shifts[:, 0]) + shifts[:, None, 0]
    index_of = {tuple(row): k for k, row in enumerate(unique.tolist())}
    found = [index_of.get(tuple(row), -1) for row in products.tolist()]
    identity = index_of[tuple(np.eye(3, dtype=int).ravel().tolist())]
    if -1 in found or not _translations_agree(moved.reshape(-1, 3), shifts[found]):
        raise RecordError(reason)
    centring = shifts[identity]
    sums = (centring[:, None] + centring[None]).reshape(-1, 3)
    turned = np.einsum("aij,cj->aci", rotations, centring).reshape(-1, 3)
    of_each = (shifts[:, :, None] - shifts[:, None, :1]).reshape(-1, 3)
    for wanted in (sums, turned, of_each):
        if not _translations_agree(wanted, np.broadcast_to(centring, (len(wanted), *centring.shape))):
            raise RecordError(reason)


def _translations_agree(wanted: np.ndarray, choices: np.ndarray) -> bool:
    """Whether each translation, (n, 3), is among its choices, (n, m, 3), modulo the lattice and twice its rounding."""
    delta = wanted[:, None] - choices
    near = (np.abs(delta - np.round(delta)) < 2 * _SAME_TRANSLATION).all(axis=2)
    return bool(near.any(axis=1).all())
