"""Odds of the compositions of a chemical system: how likely a known crystal holds so many atoms of each element.

A conditional logit: every candidate, the atoms of each element in the primitive cell, gets a score, and probabilities
are the softmax over all candidates of the same elements. The score is a small network that treats elements alike in any
order: a vector of each element in its company with its count, summed over the elements plainly and by share of atoms,
beside the size of the cell, of the formula unit, and how far common charges are from balance.

The file holds weights alone, no composition of a database. It is read and evaluated with numpy; training (training.py)
follows gradients through the same lines.

Shape letters: B chemical systems of k elements, C candidates, h and g widths, F and G features.
Source: the conditional logit: D. McFadden, in Frontiers in Econometrics (1974), 105. The network is ours.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

PACKAGED = Path(__file__).parents[1] / "weights" / "composition-odds" / "composition_odds.safetensors"

COUNTS, PARTS, UNITS, SIZES, KINDS = 20, 12, 8, 20, 4
"""Up to which atoms of an element, atoms of it in the formula unit, formula units, atoms and elements each number has a
feature of its own; beyond, the last one stands for all, beside logarithms."""

PER_ELEMENT = COUNTS + PARTS + 3
PER_CELL = 2 * SIZES + UNITS + KINDS + 4

Array = TypeVar("Array", np.ndarray, "torch.Tensor")


def candidates(n_elements: int, n_atoms_min: int, n_atoms_max: int) -> np.ndarray:
    """Every way to share out so many atoms to elements in order, each with one at least, (C, k), by ascending size."""
    found = [
        [b - a for a, b in itertools.pairwise((0, *cut, total))]
        for total in range(max(n_elements, n_atoms_min), n_atoms_max + 1)
        for cut in itertools.combinations(range(1, total), n_elements - 1)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, n_elements)


def _one_hot(values: np.ndarray, most: int) -> np.ndarray:
    found: np.ndarray = np.eye(most)[np.minimum(values, most) - 1]
    return found


def features(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the numbers alone say: of each element (C, k, F), and of each cell (C, G)."""
    total, units = counts.sum(1), np.gcd.reduce(counts, axis=1)
    parts = counts // units[:, None]
    share = counts / total[:, None]
    of_elements = np.concatenate(
        [
            _one_hot(counts, COUNTS),
            _one_hot(parts, PARTS),
            np.stack([share, np.log(counts), np.log(parts)], axis=2),
        ],
        axis=2,
    )
    kinds = np.array([len(set(row)) for row in parts.tolist()])
    of_cells = np.concatenate(
        [
            _one_hot(total, SIZES),
            _one_hot(total // units, SIZES),
            _one_hot(units, UNITS),
            _one_hot(np.full_like(total, counts.shape[1]), KINDS),
            np.stack([np.log(total), np.log(units), np.log(total // units), kinds], axis=1),
        ],
        axis=1,
    )
    return of_elements, of_cells


@lru_cache(maxsize=128)
def _charges(z: int) -> tuple[int, ...]:
    from pymatgen.core.periodic_table import Element

    return tuple(Element.from_Z(z).common_oxidation_states) or (0,)


def imbalance(elements: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """Smallest charge per atom, in electrons, that common charges of the elements leave over, (C,)."""
    states = np.array(list(itertools.product(*(_charges(z) for z in elements))))
    least: np.ndarray = np.abs(counts @ states.T).min(1) / counts.sum(1)
    return least


def scores(
    weights: Mapping[str, Array], elements: Array, of_elements: Array, of_cells: Array, unbalanced: Array
) -> Array:
    """Logarithms of odds up to a constant of each system, (B, C); of numpy's arrays or torch's tensors.

    Args:
        weights: by name.
        elements: their vectors, (B, k, d).
        of_elements: (C, k, F).
        of_cells: (C, G).
        unbalanced: charge per atom that is left over and whether it is none, (B, C, 2).
    """
    company = elements.mean(1)
    own = elements @ weights["own"] + (company @ weights["company"])[:, None]
    hidden = _rectified(own[:, None] + (of_elements @ weights["count"])[None])  # (B, C, k, h)
    share = of_elements[:, :, COUNTS + PARTS][None, :, :, None]
    mixed = (
        hidden.sum(2) @ weights["sum"]
        + (hidden * share).sum(2) @ weights["mean"]
        + unbalanced @ weights["charge"]
        + (of_cells @ weights["cell"])[None]
        + (company @ weights["system"])[:, None]
        + weights["bias"]
    )
    found: Array = _rectified(mixed) @ weights["out"] + of_cells @ weights["cell_out"]
    return found


def _rectified(x: Array) -> Array:
    found: Array = (x + abs(x)) / 2
    return found


def charge_features(elements: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """Charge per atom that is left over, and 1 where none is, (C, 2)."""
    left = imbalance(elements, counts)
    return np.stack([left, (left < 1e-6).astype(np.float64)], axis=1)


class CompositionOdds:
    """The trained model."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        # Double precision, so that no machine rounds two compositions into another order.
        self._weights = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}

    @classmethod
    def load(cls, path: Path = PACKAGED) -> CompositionOdds:
        """The one in a file of weights; without, the one that is shipped."""
        from safetensors.numpy import load_file

        return cls(load_file(path))

    @staticmethod
    def digest(path: Path = PACKAGED) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def log_probabilities(self, elements: Sequence[int], counts: np.ndarray) -> np.ndarray:
        """Of candidates of one chemical system, whose probabilities sum to 1, (C,), double precision.

        Args:
            elements: distinct atomic numbers.
            counts: atoms of each element in the primitive cell, (C, k).
        """
        found = np.concatenate([self._scores(elements, counts[i : i + 4096]) for i in range(0, len(counts), 4096)])
        most = found.max()
        normalised: np.ndarray = found - most - np.log(np.exp(found - most).sum())
        return normalised

    def _scores(self, elements: Sequence[int], counts: np.ndarray) -> np.ndarray:
        vectors = self._weights["element"][np.array(elements)][None]
        of_elements, of_cells = features(counts)
        made: np.ndarray = scores(
            self._weights, vectors, of_elements, of_cells, charge_features(elements, counts)[None]
        )[0]
        return made
