"""Distances between the distributions of generated and of reference crystals.

Wasserstein: the 1-d earth mover's distance of density, of the number of elements, or of an energy that the caller has
computed. CDVAE draws 1,000 valid generated crystals at random and takes the whole test set; fewer valid ones leave the
distance undefined. Frechet: |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2)) of means and sample
covariances of fingerprints.

Source: CDVAE (arXiv:2110.06197), scripts/compute_metrics.py; Dowson and Landau, J. Multivar. Anal. 12 (1982) 450;
Heusel et al. (arXiv:1706.08500).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from generative.crystal.crystals import Crystal

CDVAE_DRAWN = 1000
"""Valid generated crystals that CDVAE draws for its property statistics."""
_G_CM3_PER_U_ANG3 = 1.66053906892  # CODATA 2022: 1 u = 1.66053906892e-24 g


class Property(StrEnum):
    """What is compared."""

    DENSITY = "density"
    """Mass density, g/cm^3."""
    N_ELEMENTS = "number of elements"
    """Distinct elements per crystal."""
    ENERGY = "energy"
    """As given by the caller, in eV/atom, with the name of the model that computed it."""

    @property
    def unit(self) -> str:
        """Of the values and of the distance."""
        return {"density": "g/cm^3", "number of elements": "1", "energy": "eV/atom"}[self.value]


@dataclass(frozen=True)
class Wasserstein:
    """1-d Wasserstein distance between a property of generated and of reference crystals.

    Attributes:
        property_name: what was compared.
        unit: of the distance.
        distance: NaN where undefined.
        n_samples: values of generated crystals that were compared.
        n_samples_given: generated crystals given.
        n_samples_without: of those, without a finite value.
        n_reference: values of reference crystals that were compared.
        n_reference_without: reference crystals without a finite value.
        n_drawn: how many generated crystals were to be drawn; None for all.
        seed: of the draw.
        model: what computed the energies; empty for other properties.
        reason: why the distance is NaN; empty if it is not.
    """

    property_name: Property
    unit: str
    distance: float
    n_samples: int
    n_samples_given: int
    n_samples_without: int
    n_reference: int
    n_reference_without: int
    n_drawn: int | None
    seed: int
    model: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """All of it, as plain types."""
        return asdict(self) | {"property_name": self.property_name.value}

    def __str__(self) -> str:
        by = f" by {self.model}" if self.model else ""
        return (
            f"Wasserstein distance of {self.property_name.value}{by}: {self.distance:.4f} {self.unit} "
            f"({self.n_samples} of {self.n_samples_given} generated, seed {self.seed}, {self.n_reference} reference"
            f"{'; ' + self.reason if self.reason else ''})"
        )


@dataclass(frozen=True)
class Frechet:
    """Frechet distance between normal distributions fitted to fingerprints.

    Attributes:
        feature: which fingerprint.
        distance: squared, as is the custom, in the fingerprint's units squared; NaN where undefined.
        n_samples: generated crystals with fingerprints.
        n_samples_without: those without.
        n_reference: reference crystals with fingerprints.
        n_reference_without: those without.
        n_features: dimension; a covariance from fewer crystals is singular, and the distance biased upwards.
        stabilisation: how the matrix root was kept real.
        reason: why the distance is NaN; empty if it is not.
    """

    feature: str
    distance: float
    n_samples: int
    n_samples_without: int
    n_reference: int
    n_reference_without: int
    n_features: int
    stabilisation: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """All of it, as plain types."""
        return asdict(self)


@lru_cache(maxsize=1)
def _masses_u() -> np.ndarray:
    """Standard atomic masses by atomic number, (119,), NaN where there is no such element."""
    from pymatgen.core.periodic_table import Element

    return np.array([math.nan, *(float(Element.from_Z(z).atomic_mass) for z in range(1, 119))])


def property_values(name: Property, crystals: Sequence[Crystal | None]) -> np.ndarray:
    """The property of each crystal, (n,), in its unit; NaN for None, for no atoms and where the cell has no volume.

    Raises: ValueError: for energies, which no crystal carries.
    """
    if name is Property.ENERGY:
        raise ValueError("a crystal carries no energy: expected density or number of elements, so give energies")
    values = np.full(len(crystals), math.nan)
    for i, crystal in enumerate(crystals):
        if crystal is None or not len(crystal.atomic_numbers):
            continue
        numbers = crystal.atomic_numbers
        if numbers.min() < 1 or numbers.max() > 118:
            continue
        if name is Property.N_ELEMENTS:
            values[i] = len(np.unique(numbers))
            continue
        volume_ang3 = abs(np.linalg.det(crystal.lattice_ang)) if np.isfinite(crystal.lattice_ang).all() else 0.0
        if volume_ang3 > 0:
            values[i] = _masses_u()[numbers].sum() / volume_ang3 * _G_CM3_PER_U_ANG3
    return values


def wasserstein(
    name: Property,
    samples: np.ndarray,
    reference: np.ndarray,
    n_drawn: int | None = CDVAE_DRAWN,
    seed: int = 0,
    model: str = "",
) -> Wasserstein:
    """1-d Wasserstein distance between a property's values.

    Args:
        name: what the values are.
        samples: of valid generated crystals, (n,); those that are not finite are left out and counted.
        reference: of the test set, (m,).
        n_drawn: draw as many of the generated without replacement, as CDVAE does; None compares all.
        seed: of the draw.
        model: what computed the energies; needed for energies only.

    Raises: ValueError: if energies come without the name of a model.
    """
    if name is Property.ENERGY and not model:
        raise ValueError("energies came without the name of what computed them: expected a model's name, so give it")
    samples, reference = np.asarray(samples, dtype=float), np.asarray(reference, dtype=float)
    given, there = samples[np.isfinite(samples)], reference[np.isfinite(reference)]
    reason, distance = "", math.nan
    if n_drawn is not None and len(given) < n_drawn:
        reason = f"{len(given)} valid generated crystals: the protocol draws {n_drawn}"
    elif not len(given) or not len(there):
        reason = f"{len(given)} generated and {len(there)} reference values: expected at least one of each"
    else:
        from scipy.stats import wasserstein_distance

        if n_drawn is not None:
            given = np.random.default_rng(seed).choice(given, n_drawn, replace=False)
        distance = float(wasserstein_distance(given, there))
    return Wasserstein(
        property_name=name,
        unit=name.unit,
        distance=distance,
        n_samples=0 if reason else len(given),
        n_samples_given=len(samples),
        n_samples_without=int((~np.isfinite(samples)).sum()),
        n_reference=len(there),
        n_reference_without=len(reference) - len(there),
        n_drawn=n_drawn,
        seed=seed,
        model=model,
        reason=reason,
    )


def frechet(samples: np.ndarray, reference: np.ndarray, feature: str) -> Frechet:
    """Frechet distance between fingerprints.

    The root of S1^(1/2) S2 S1^(1/2) is taken from eigenvalues of that symmetric matrix, negative ones (rounding) set to
    zero: the real part of the general matrix root that is often used, without its failure on singular covariances.

    Args:
        samples: fingerprints of generated crystals, (n, f); rows that are not finite are left out and counted.
        reference: (m, f).
        feature: name of the fingerprint, recorded.

    Raises: ValueError: if the two are of different dimension.
    """
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"fingerprints of shape {samples.shape} beside {reference.shape}: expected two tables of one width"
        )
    here = samples[np.isfinite(samples).all(axis=1)]
    there = reference[np.isfinite(reference).all(axis=1)]
    reason, distance = "", math.nan
    if len(here) < 2 or len(there) < 2:
        reason = f"{len(here)} generated and {len(there)} reference fingerprints: a covariance needs two of each"
    else:
        distance = _frechet_distance(here, there)
    return Frechet(
        feature=feature,
        distance=distance,
        n_samples=len(here),
        n_samples_without=len(samples) - len(here),
        n_reference=len(there),
        n_reference_without=len(reference) - len(there),
        n_features=samples.shape[1],
        stabilisation="symmetric root, eigenvalues below zero set to zero",
        reason=reason,
    )


def _frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    shift = first.mean(axis=0) - second.mean(axis=0)
    one, two = np.atleast_2d(np.cov(first, rowvar=False)), np.atleast_2d(np.cov(second, rowvar=False))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    product = root @ two @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0.0, None)).sum()
    return float(max(0.0, shift @ shift + np.trace(one) + np.trace(two) - 2 * overlap))
