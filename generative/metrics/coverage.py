"""Coverage of a reference set by generated crystals, and of the generated ones by it, as CDVAE defines them.

COV-R: share of reference crystals with a generated crystal within the structure cut-off AND one, maybe another, within
the composition cut-off. COV-P: the same of generated crystals, over ALL generated, those without a fingerprint
included. AMSD and AMCD: mean distance to the nearest in structure and in composition; R over the reference, P over the
generated crystals with fingerprints. Distances are Euclidean on the CrystalNN fingerprint and on the standardised
Magpie fingerprint. Where one of its 132 features makes most of the composition distances, that feature is named: such a
metric says more of the standardisation than of the crystals.

Source: CDVAE (arXiv:2110.06197), scripts/compute_metrics.py and eval_utils.py; cut-offs from its appendix.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from generative.metrics.fingerprints import Fingerprints
from generative.metrics.magpie import N_FEATURES, Scaler, feature_names

PROTOCOL = "CDVAE coverage"
DOMINANT_SHARE = 0.5
"""Of all squared composition distances: a feature that makes more is named. Evenly spread, one of 132 makes 0.008; the
largest share between the validation and test parts of MP-20 is 0.02."""
BLOCK_ROWS = 2048
"""Distances are computed in squares of this edge: 32 MB each, however many crystals there are."""


@dataclass(frozen=True)
class Cutoffs:
    """Below which distance a crystal counts as covered.

    Attributes:
        structure: on the CrystalNN fingerprint.
        composition: on the standardised Magpie fingerprint.
        source: where they come from.
    """

    structure: float
    composition: float
    source: str

    def __post_init__(self) -> None:
        if not (self.structure >= 0 and self.composition >= 0):
            raise ValueError(
                f"cut-offs of {self.structure:g} and {self.composition:g}: expected distances of at least zero"
            )


MP_20 = Cutoffs(0.4, 10.0, "CDVAE, MP-20")
PEROV_5 = Cutoffs(0.2, 4.0, "CDVAE, Perov-5")
CARBON_24 = Cutoffs(0.2, 4.0, "CDVAE, Carbon-24")
TIGHT = Cutoffs(0.1, 2.0, "Hullward, for crystals as alike as bilayers of one family")
"""At MP-20's nearly every such crystal covers every other."""


@dataclass(frozen=True, eq=False)
class FingerprintSet:
    """Both fingerprints of n crystals; a row of NaN in either means the crystal has none.

    Attributes:
        structure: (n, 61).
        composition: standardised, (n, 132).
        scaler: source of the standardisation.
    """

    structure: np.ndarray
    composition: np.ndarray
    scaler: str

    def __post_init__(self) -> None:
        if self.structure.ndim != 2 or self.composition.ndim != 2 or len(self.structure) != len(self.composition):
            raise ValueError(
                f"{self.structure.shape} structure beside {self.composition.shape} composition fingerprints: expected "
                "one row of each per crystal"
            )

    @classmethod
    def of(cls, structure: Fingerprints, composition: Fingerprints, scaler: Scaler) -> FingerprintSet:
        """From the two fingerprints of the same crystals."""
        return cls(structure.values, scaler.transform(composition.values), scaler.source)

    @property
    def usable(self) -> np.ndarray:
        """Whether each crystal has both, (n,)."""
        return np.asarray(np.isfinite(self.structure).all(axis=1) & np.isfinite(self.composition).all(axis=1))


@dataclass(frozen=True)
class Coverage:
    """Result of the protocol. Rates lie in [0, 1]; NaN where undefined, with the reason.

    Attributes:
        protocol: PROTOCOL.
        cov_recall: COV-R.
        cov_precision: COV-P.
        amsd_recall: mean distance of reference crystals to the nearest generated, structure.
        amsd_precision: the reverse.
        amcd_recall: as amsd_recall, composition.
        amcd_precision: the reverse.
        n_samples: generated crystals, the denominator of COV-P.
        n_samples_without: of those, without a fingerprint.
        n_reference: reference crystals with fingerprints, the denominator of COV-R.
        n_reference_without: left out of it, since without a fingerprint.
        cutoffs: used.
        scaler: source of the standardisation of the Magpie fingerprint.
        reason: why metrics are NaN; empty if none is.
        dominant_recall: the feature that makes most of amcd_recall, with its share; empty if none does.
        dominant_precision: the same of amcd_precision.
    """

    protocol: str
    cov_recall: float
    cov_precision: float
    amsd_recall: float
    amsd_precision: float
    amcd_recall: float
    amcd_precision: float
    n_samples: int
    n_samples_without: int
    n_reference: int
    n_reference_without: int
    cutoffs: Cutoffs
    scaler: str
    reason: str
    dominant_recall: str = ""
    dominant_precision: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All of it, as plain types."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.protocol}: COV-R {100 * self.cov_recall:.2f} %, COV-P {100 * self.cov_precision:.2f} % "
            f"(n = {self.n_samples} generated, {self.n_samples_without} without fingerprint, {self.n_reference} "
            f"reference, cut-offs {self.cutoffs.structure:g} / {self.cutoffs.composition:g} ({self.cutoffs.source}), "
            f"scaler {self.scaler})"
        )


def coverage(samples: FingerprintSet, reference: FingerprintSet, cutoffs: Cutoffs) -> Coverage:
    """COV-R, COV-P, AMSD and AMCD of generated against reference crystals.

    Args:
        samples: ALL generated crystals, those without a fingerprint as rows of NaN.
        reference: the test set.
        cutoffs: MP_20, PEROV_5, CARBON_24, or others with their source.

    Raises: ValueError: if the two were standardised differently.
    """
    if samples.scaler != reference.scaler:
        raise ValueError(
            f"generated crystals are standardised by {samples.scaler!r}, reference crystals by {reference.scaler!r}: "
            "expected one scaler for both"
        )
    here, there = samples.usable, reference.usable
    n_samples, n_reference = len(here), int(there.sum())
    metrics = dict.fromkeys(
        ("cov_recall", "cov_precision", "amsd_recall", "amsd_precision", "amcd_recall", "amcd_precision"), math.nan
    )
    reason, dominant = "", ("", "")
    if not n_reference or not n_samples:
        reason = f"{n_samples} generated and {n_reference} usable reference crystals: expected at least one of each"
    elif not here.any():
        reason = "no generated crystal has a fingerprint, so there are no distances"
        metrics["cov_recall"] = metrics["cov_precision"] = 0.0
    else:
        by_sample, by_reference = nearest(samples.structure[here], reference.structure[there])
        given, wanted = samples.composition[here], reference.composition[there]
        to_sample, to_reference = nearest_rows(given, wanted)
        by_sample_c, by_reference_c = to_sample.distance, to_reference.distance
        dominant = dominant_feature(wanted - given[to_reference.row]), dominant_feature(given - wanted[to_sample.row])
        metrics = {
            "cov_recall": float(_within(by_reference, by_reference_c, cutoffs).mean()),
            "cov_precision": float(_within(by_sample, by_sample_c, cutoffs).sum() / n_samples),
            "amsd_recall": float(by_reference.mean()),
            "amsd_precision": float(by_sample.mean()),
            "amcd_recall": float(by_reference_c.mean()),
            "amcd_precision": float(by_sample_c.mean()),
        }
    return Coverage(
        protocol=PROTOCOL,
        **metrics,
        n_samples=n_samples,
        n_samples_without=int((~here).sum()),
        n_reference=n_reference,
        n_reference_without=int((~there).sum()),
        cutoffs=cutoffs,
        scaler=samples.scaler,
        reason=reason,
        dominant_recall=dominant[0],
        dominant_precision=dominant[1],
    )


class Nearest(NamedTuple):
    """The nearest of another set to each row: its distance, (n,), and its row there, (n,), the first of equals."""

    distance: np.ndarray
    row: np.ndarray


def nearest(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance of each row of `first`, (n, f), to the nearest of `second`, (m, f), and the reverse.

    Memory does not grow with n times m.

    Returns:
        (n,) and (m,).
    """
    of_first, of_second = nearest_rows(first, second)
    return of_first.distance, of_second.distance


def nearest_rows(first: np.ndarray, second: np.ndarray) -> tuple[Nearest, Nearest]:
    """As `nearest`, with the rows that are nearest."""
    from scipy.spatial.distance import cdist

    found = [Nearest(np.full(len(rows), math.inf), np.zeros(len(rows), dtype=np.int64)) for rows in (first, second)]
    for i in range(0, len(first), BLOCK_ROWS):
        for j in range(0, len(second), BLOCK_ROWS):
            block = cdist(first[i : i + BLOCK_ROWS], second[j : j + BLOCK_ROWS])
            _take_nearer(found[0], block, i, j)
            _take_nearer(found[1], block.T, j, i)
    return found[0], found[1]


def _take_nearer(found: Nearest, block: np.ndarray, first: int, other: int) -> None:
    """Put into `found` what the distances of `block`, whose corner is (first, other), have nearer than it holds."""
    rows = block.argmin(axis=1)
    distances = np.take_along_axis(block, rows[:, None], axis=1)[:, 0]
    part = slice(first, first + len(block))
    nearer = distances < found.distance[part]
    found.distance[part][nearer] = distances[nearer]
    found.row[part][nearer] = other + rows[nearer]


def dominant_feature(differences: np.ndarray) -> str:
    """The feature that makes more than DOMINANT_SHARE of all squared distances, with its share; empty if none does.

    Args:
        differences: of standardised Magpie fingerprints, or of tables of any other width, (n, f).
    """
    squares = (differences**2).sum(axis=0)
    total = squares.sum()
    if not total > 0:
        return ""
    most = int(squares.argmax())
    share = squares[most] / total
    if share <= DOMINANT_SHARE:
        return ""
    named = feature_names()[most] if len(squares) == N_FEATURES else f"feature {most}"
    return f"{named}, {100 * share:.3g} % of the squared distances"


def _within(structure: np.ndarray, composition: np.ndarray, cutoffs: Cutoffs) -> np.ndarray:
    return np.asarray((structure <= cutoffs.structure) & (composition <= cutoffs.composition))
