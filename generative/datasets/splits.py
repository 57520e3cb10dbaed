"""A split of a table into training, validation and test rows.

A random split puts polymorphs and near-duplicates of one compound on both sides, which flatters a model that only
remembers; this one keeps all crystals of one reduced formula together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def formula_split(formulas: Sequence[str], fractions: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Row indices of each part, all rows of one reduced formula in the same part.

    Formulas are taken in random order; each goes to the part that is then furthest below its share of rows, so the
    fractions hold to within the largest formula's rows.

    Args:
        formulas: reduced formula of each row (column 'formula').
        fractions: of the rows, one per part, summing to 1.
        rng: seeded by the caller.

    Returns:
        One ascending array of row indices per fraction; together they hold every row once.

    Raises:
        ValueError: if the fractions are not positive or do not sum to 1, or a part would be empty.
    """
    _check(fractions)
    distinct, group = np.unique(np.asarray(formulas, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(group, minlength=len(distinct))
    missing = np.array(fractions, dtype=float) * len(formulas)
    part_of = np.empty(len(distinct), dtype=int)
    for formula in rng.permutation(len(distinct)):
        part_of[formula] = int(np.argmax(missing))
        missing[part_of[formula]] -= sizes[formula]
    part_of_row = part_of[group] if len(distinct) else np.empty(0, dtype=int)
    parts = [np.flatnonzero(part_of_row == part) for part in range(len(fractions))]
    _refuse_empty(parts, fractions, f"{len(distinct)} distinct formulas in {len(formulas)} rows")
    return parts


def _check(fractions: Sequence[float]) -> None:
    if not fractions or min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-9):
        raise ValueError(f"fractions are {list(fractions)}: expected positive numbers that sum to 1")


def _refuse_empty(parts: Sequence[np.ndarray], fractions: Sequence[float], what: str) -> None:
    for part, fraction in zip(parts, fractions, strict=True):
        if not len(part):
            raise ValueError(f"{what} cannot fill {len(parts)} parts: the part of {fraction:g} would be empty")
