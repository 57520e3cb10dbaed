"""For many crystals against many others: the smallest displacement among those that match, either way round."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from generative.crystal.crystals import Crystal
from generative.screening.matching import FormulaKey, ReferenceSet, Tolerances, formula_key, pairwise_rms

TILE = 500
"""Crystals of one formula on either side that are compared in one go: the matcher prepares each crystal once a tile,
and memory stays bounded where all share one formula (20 million pairs of 2,000 and 10,000 carbon cells)."""


@dataclass(frozen=True)
class NearestMatch:
    """Smallest rms of matching pairs, units of (V/N)^(1/3).

    Attributes:
        of_sample: over all references, (n,); NaN where none matches.
        of_reference: over all samples, (m,); NaN where none matches.
        failures: why a pair of this sample (by index) could not be compared; one reason per sample.
        n_pairs: pairs of equal formula: no other pair can match.
    """

    of_sample: np.ndarray
    of_reference: np.ndarray
    failures: dict[int, str]
    n_pairs: int


def nearest_match(
    samples: Sequence[Crystal | None], references: ReferenceSet, tolerances: Tolerances, workers: int = 1
) -> NearestMatch:
    """The smallest StructureMatcher.get_rms_dist(sample, reference)[0] of each sample and of each reference.

    Args:
        samples: None matches nothing.
        references: by formula.
        tolerances: of the matcher.
        workers: of the matcher; the result does not depend on it.
    """
    of_sample, of_reference = np.full(len(samples), math.nan), np.full(len(references), math.nan)
    failures: dict[int, str] = {}
    n_pairs = 0
    pairs = _same_formula(samples, references)
    while block := list(islice(pairs, TILE * TILE)):
        of_block = [(i, j) for i, j, _, _ in block]
        found = pairwise_rms([s for _, _, s, _ in block], [r for _, _, _, r in block], tolerances, workers)
        rows, columns = np.array(of_block).T
        np.fmin.at(of_sample, rows, found.rms)
        np.fmin.at(of_reference, columns, found.rms)
        for place, reason in found.failures.items():
            failures.setdefault(of_block[place][0], reason)
        n_pairs += len(block)
    return NearestMatch(of_sample, of_reference, failures, n_pairs)


def _same_formula(
    samples: Sequence[Crystal | None], references: ReferenceSet
) -> Iterator[tuple[int, int, Crystal, Crystal]]:
    """(sample's index, reference's index, sample, reference) of equal reduced formula, tile by tile."""
    of_formula: dict[FormulaKey, list[tuple[int, Crystal]]] = defaultdict(list)
    for i, sample in enumerate(samples):
        if sample is not None:
            of_formula[formula_key(sample)].append((i, sample))
    for key, members in of_formula.items():
        indices = list(references.with_formula(key))
        for first in range(0, len(indices), TILE):
            # The same object for every sample of the tile, so that the matcher knows it again.
            known = [(j, references.crystal_of(j)) for j in indices[first : first + TILE]]
            for start in range(0, len(members), TILE):
                for i, sample in members[start : start + TILE]:
                    for j, crystal in known:
                        yield i, j, sample, crystal
