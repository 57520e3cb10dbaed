"""Magpie fingerprints of compositions, equal to matminer's ElementProperty preset "magpie", many at once.

For each of 22 properties of the elements: minimum, maximum, range, mean, mean absolute deviation and mode over the
atoms of a formula unit, 132 numbers. Distances between them mean something only after standardisation (`Scaler`), and
compare with a paper's only after the paper's: CDVAE's constants are in cdvae_magpie_scaler.csv (`cdvae_scaler`).

Source: Ward et al., npj Comput. Mater. 2 (2016) 16028; element data from the installed matminer; CDVAE,
arXiv:2110.06197, for its constants.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from generative.crystal.crystals import Crystal

N_FEATURES = 132
N_STATISTICS = 6
"""minimum, maximum, range, mean, mean absolute deviation, mode; per property, in this order."""
_ELEMENTS = 119
CDVAE_SCALER = "CDVAE's published constants (txie-93/cdvae f857f59)"
CDVAE_CONSTANTS = Path(__file__).with_name("cdvae_magpie_scaler.csv")
SPREAD_FLOOR = 1e-3
"""Smallest deviation of a feature that counts as variation, in standard deviations of its property over the elements.

Below lies the noise of Magpie's data: its magnetic moments of non-magnetic elements are zero to within 2e-5 Bohr
magnetons, so a data set may have a deviation of 4.5e-7 there (MPTS-52) or 5e-6 (Perov-5), 2e-6 and 2e-5 of the spread.
Variation that is real lies above: the smallest of Perov-5, MP-20, MPTS-52 and WBM is 0.0034 of it."""
ROUNDING_FLOOR = 1e-9
"""The same for a table of any other features, in units of the column's largest magnitude: sums in double precision."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """Standardisation of fingerprints; part of every distance between them.

    Attributes:
        means: (f,).
        stds: (f,), positive.
        source: where they come from, such as 'CDVAE' or 'training set, 27136 compositions'.
    """

    means: np.ndarray
    stds: np.ndarray
    source: str

    def __post_init__(self) -> None:
        if self.means.shape != self.stds.shape or self.means.ndim != 1 or not (self.stds > 0).all():
            raise ValueError(
                f"a scaler of {self.means.shape} means and {self.stds.shape} deviations, the smallest "
                f"{np.min(self.stds, initial=math.inf):g}: expected two vectors of one length, deviations above zero"
            )

    @classmethod
    def fit(cls, values: np.ndarray, source: str) -> Scaler:
        """Means and population deviations of the finite rows of `values`, (n, f).

        A feature that does not vary must not be divided by the noise of its data: a deviation below SPREAD_FLOOR of the
        property's spread over the elements is replaced by that spread, so that a crystal which differs there is as far
        as the elements are apart. In a table that is not of Magpie's width, a deviation of rounding noise
        (ROUNDING_FLOOR) becomes 1, which only shifts.

        Raises: ValueError: if no row is finite.
        """
        rows = values[np.isfinite(values).all(axis=1)]
        if not len(rows):
            raise ValueError(
                f"none of {len(values)} fingerprints is finite: expected at least one to standardise by, so check "
                "the training set"
            )
        stds = rows.std(axis=0)
        if rows.shape[1] == N_FEATURES:
            instead = _spread_of_features()
            constant = stds <= SPREAD_FLOOR * instead
        else:
            instead = np.ones_like(stds)
            constant = stds <= ROUNDING_FLOOR * np.abs(rows).max(axis=0)
        n_constant = f", {constant.sum()} features constant" if constant.any() else ""
        name = f"{source}, {len(rows)} fingerprints{n_constant}"
        return cls(rows.mean(axis=0), np.where(constant, instead, stds), name)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """(values - means) / stds, (n, f); NaN stays NaN."""
        return np.asarray((values - self.means) / self.stds)

    def as_dict(self) -> dict[str, Any]:
        """Source, means and deviations as plain numbers."""
        return {"source": self.source, "means": self.means.tolist(), "stds": self.stds.tolist()}


@lru_cache(maxsize=1)
def cdvae_scaler() -> Scaler:
    """The constants that are part of CDVAE's coverage, whatever the data set.

    Raises: ValueError: if they are not those of the features that the installed matminer computes.
    """
    with CDVAE_CONSTANTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    if tuple(row["feature"] for row in rows) != feature_names():
        raise ValueError(
            f"{CDVAE_CONSTANTS.name} has {len(rows)} features, which are not the {len(feature_names())} of the "
            "installed matminer in its order: install a matminer whose preset 'magpie' has them"
        )
    means, stds = (np.array([float(row[column]) for row in rows]) for column in ("mean", "std"))
    return Scaler(means, stds, CDVAE_SCALER)


@lru_cache(maxsize=1)
def _spread_of_features() -> np.ndarray:
    """Standard deviation over the elements of the property behind each feature, (132,)."""
    return np.repeat(np.nanstd(element_table(), axis=0), N_STATISTICS)


@lru_cache(maxsize=2)
def element_table(impute_missing: bool = False) -> np.ndarray:
    """The 22 properties by atomic number, (119, 22); NaN where Magpie has none and nothing is imputed."""
    featurizer = _featurizer(impute_missing)
    from pymatgen.core.periodic_table import Element

    elements = [Element.from_Z(z) for z in range(1, _ELEMENTS)]
    columns = [featurizer.data_source.get_elemental_properties(elements, name) for name in featurizer.features]
    table = np.full((_ELEMENTS, len(columns)), math.nan)
    table[1:] = np.array(columns, dtype=float).T
    table.setflags(write=False)
    return table


def feature_names() -> tuple[str, ...]:
    """matminer's 132 labels, such as 'MagpieData minimum Number'."""
    return tuple(_featurizer(False).feature_labels())


def _featurizer(impute_missing: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.composition.composite import ElementProperty

        return ElementProperty.from_preset("magpie", impute_nan=impute_missing)


def composition_values(
    crystals: Sequence[Crystal | None], impute_missing: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Magpie fingerprints, and why there is none, by index.

    Args:
        crystals: of any number of atoms; None for a failed sample.
        impute_missing: whether a property that Magpie lacks for an element is replaced by its mean over all elements,
            which newer matminer does by default and the papers' did not.

    Returns:
        values, (n, 132), rows of NaN where there is a reason; reasons.
    """
    table = element_table(impute_missing)
    missing = np.isnan(table).any(axis=1)
    values = np.full((len(crystals), N_FEATURES), math.nan)
    reasons: dict[int, str] = {}
    good: list[int] = []
    counts: list[tuple[np.ndarray, np.ndarray]] = []
    for i, crystal in enumerate(crystals):
        reason, found = _counted(crystal, missing)
        if reason:
            reasons[i] = reason
        else:
            good.append(i)
            counts.append(found)
    if good:
        values[good] = _statistics(counts, table)
    return values, reasons


def _counted(crystal: Crystal | None, missing: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Atomic numbers and their counts, or a reason against."""
    if crystal is None or not len(crystal.atomic_numbers):
        return "there is no crystal" if crystal is None else "the crystal has no atoms", (np.empty(0), np.empty(0))
    numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    outside = (numbers < 1) | (numbers >= _ELEMENTS)
    if outside.any():
        return f"no element has the atomic number {numbers[outside][0]}: expected 1 to 118", (numbers, counts)
    if missing[numbers].any():
        from pymatgen.core.periodic_table import Element

        lacking = ", ".join(Element.from_Z(int(z)).symbol for z in numbers[missing[numbers]])
        return f"Magpie lacks properties of {lacking}", (numbers, counts)
    return "", (numbers, counts)


def _statistics(counts: list[tuple[np.ndarray, np.ndarray]], table: np.ndarray) -> np.ndarray:
    """The six statistics of each property, (n, 22 * 6), of n compositions padded to the largest, K elements."""
    width = max(len(numbers) for numbers, _ in counts)
    numbers = np.zeros((len(counts), width), dtype=np.int64)
    weights = np.zeros((len(counts), width))
    for row, (z, n) in enumerate(counts):
        numbers[row, : len(z)] = z
        weights[row, : len(z)] = n / n.sum()
    here = (weights > 0)[:, :, None]
    properties = np.where(here, table[numbers], 0.0)  # (n, K, 22)
    share = weights[:, :, None] / weights.sum(axis=1)[:, None, None]
    low = np.where(here, properties, math.inf).min(axis=1)
    high = np.where(here, properties, -math.inf).max(axis=1)
    mean = (share * properties).sum(axis=1)
    deviation = (share * np.abs(properties - mean[:, None, :])).sum(axis=1)
    most = np.isclose(weights, weights.max(axis=1, keepdims=True))[:, :, None]
    mode = np.where(most, properties, math.inf).min(axis=1)
    stacked = np.stack([low, high, high - low, mean, deviation, mode], axis=2)  # (n, 22, 6)
    return stacked.reshape(len(counts), -1)
