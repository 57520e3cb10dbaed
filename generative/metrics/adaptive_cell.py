"""The comparison of the paper on adaptive crystal cells: coverage and Frechet distances of 1,000 structures.

Coverage with CDVAE's definitions at the cut-offs 0.4 and 10, of structurally valid samples only (the published code
draws 986 of them; composition validity plays no part), so COV-P is over those drawn and not over all generated.
Frechet distance between normal distributions fitted to CrystalNN fingerprints, and to the activations of the layer
before the last of a CGCNN. That network is not published, so its values compare only where one network made both
sides; the activations are the caller's, and without them the metric is undefined. The published script also prints
distances of densities and numbers of elements and mean distances to the nearest crystal, which are here, and a
diversity, whose definition the paper does not give, which is not.

Source: 'Data-Driven Score-Based Models for Generating Stable Structures with Adaptive Crystal Cells',
arXiv:2310.10695, section 5.2, Table 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.coverage import MP_20, coverage
from generative.metrics.distributions import Frechet, Property, frechet, property_values, wasserstein
from generative.metrics.fingerprints import Fingerprints
from generative.metrics.generation import (
    Prints,
    coverage_metrics,
    fingerprint_sets,
    prints_of,
    wasserstein_metric,
)
from generative.metrics.magpie import Scaler, cdvae_scaler
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.shares import counted
from generative.metrics.validity import structure_settings, verdicts

PROTOCOL = "adaptive-cell"
ABOUT = (
    "Coverage at 0.4 and 10 and Frechet distances of structurally valid crystals from the test set (arXiv:2310.10695, "
    "Table 1)."
)


@dataclass(frozen=True)
class Activations:
    """Features of both sides by one network.

    Attributes:
        samples: one row per sample, (n, f); NaN where there is none.
        reference: one row per reference crystal, (m, f).
        network: which one, with its weights' fingerprint.
    """

    samples: np.ndarray
    reference: np.ndarray
    network: str


def adaptive_cell(
    samples: Sequence[Crystal | None],
    reference: Sequence[Crystal],
    *,
    reference_name: str,
    n_drawn: int | None = None,
    seed: int = 0,
    scaler: Scaler | None = None,
    activations: Activations | None = None,
    workers: int = 1,
    cache: Path | None = None,
    sample_prints: Prints | None = None,
    reference_prints: Prints | None = None,
) -> Evaluation:
    """The metrics of the paper's Table 1, and what its script prints besides.

    Args:
        samples: all that were generated, in order; None is a sample that is no crystal.
        reference: the test set.
        reference_name: what the test set is, with version or fingerprint; part of the metrics.
        n_drawn: structurally valid samples drawn at random (published: 986); None takes all of them. With fewer valid
            ones than that every metric is undefined.
        seed: of that draw.
        scaler: standardisation of Magpie fingerprints; None takes CDVAE's constants, as the paper did.
        activations: of a CGCNN's layer before the last; None leaves that metric undefined.
        workers: processes for fingerprints.
        cache: folder that keeps fingerprints.
        sample_prints: fingerprints of the samples, if they are made already.
        reference_prints: fingerprints of the reference set, if they are made already.

    Raises: ValueError: if activations do not come one row per crystal.
    """
    _check(activations, len(samples), len(reference))
    valid = np.flatnonzero(verdicts(samples).structure)
    missing = (
        ""
        if n_drawn is None or len(valid) >= n_drawn
        else (f"{len(valid)} structurally valid samples: the protocol draws {n_drawn}")
    )
    drawn = valid if n_drawn is None or missing else np.random.default_rng(seed).choice(valid, n_drawn, replace=False)
    settings: dict[str, Setting] = {
        "reference": reference_name,
        "n_samples": len(samples),
        "n_structurally_valid": len(valid),
        "n_drawn": n_drawn,
        "seed": None if n_drawn is None else seed,
        "n_reference": len(reference),
        **structure_settings(),
    }
    if missing:
        return Evaluation(PROTOCOL, ABOUT, _undefined(missing, settings))
    reference_prints = reference_prints or prints_of(reference, workers, cache)
    chosen = [samples[i] for i in drawn.tolist()]
    if sample_prints is None:
        prints = prints_of(chosen, workers, cache)
    else:
        prints = Prints(_rows(sample_prints.structure, drawn), _rows(sample_prints.composition, drawn))
    seconds = {"fingerprints": prints.structure.seconds + reference_prints.structure.seconds}
    started = time.perf_counter()
    covered = coverage(*fingerprint_sets(prints, reference_prints, scaler or cdvae_scaler()), MP_20)
    settings |= prints.structure.versions
    metrics = (
        *coverage_metrics(PROTOCOL, covered, settings),
        _frechet_metric(frechet(prints.structure.values, reference_prints.structure.values, "CrystalNN"), settings),
        _activations_metric(activations, drawn, settings),
        *_property_metrics(chosen, reference, settings),
    )
    seconds["distances"] = time.perf_counter() - started
    flags = np.isin(np.arange(len(samples)), drawn)
    return Evaluation(PROTOCOL, ABOUT, metrics, seconds, {"drawn": tuple(flags.tolist())})


_UNITS = {
    "COV-R": "%",
    "COV-P": "%",
    "AMSD-R": "",
    "AMSD-P": "",
    "AMCD-R": "",
    "AMCD-P": "",
    "Frechet distance, CrystalNN": "",
    "Frechet distance, CGCNN": "",
    "W density": Property.DENSITY.unit,
    "W number of elements": "",
}


def _undefined(reason: str, settings: dict[str, Setting]) -> tuple[Metric, ...]:
    return tuple(Metric(PROTOCOL, name, math.nan, unit, 0, reason, settings) for name, unit in _UNITS.items())


def _check(activations: Activations | None, n_samples: int, n_reference: int) -> None:
    if activations is None:
        return
    if len(activations.samples) != n_samples or len(activations.reference) != n_reference:
        raise ValueError(
            f"{len(activations.samples)} and {len(activations.reference)} rows of activations beside {n_samples} "
            f"samples and {n_reference} reference crystals: expected one row per crystal"
        )


def _rows(prints: Fingerprints, rows: np.ndarray) -> Fingerprints:
    """The fingerprints of some of the crystals."""
    reasons = {new: prints.reasons[old] for new, old in enumerate(rows.tolist()) if old in prints.reasons}
    return Fingerprints(prints.values[rows], reasons, prints.seconds, prints.recipe, prints.versions)


def _frechet_metric(found: Frechet, settings: dict[str, Setting]) -> Metric:
    used: dict[str, Setting] = {
        **settings,
        "feature": found.feature,
        "n_features": found.n_features,
        "n_reference_compared": found.n_reference,
        "matrix_root": found.stabilisation,
    }
    missing = counted(found.n_samples_without, "generated crystal has no features|generated crystals have no features")
    name = "CrystalNN" if found.feature == "CrystalNN" else "CGCNN"
    return Metric(
        PROTOCOL, f"Frechet distance, {name}", found.distance, "", found.n_samples, found.reason or missing, used
    )


def _activations_metric(activations: Activations | None, drawn: np.ndarray, settings: dict[str, Setting]) -> Metric:
    if activations is None:
        reason = "no activations of a CGCNN were given, and the paper's network is not published"
        return Metric(PROTOCOL, "Frechet distance, CGCNN", math.nan, "", 0, reason, settings)
    given = np.asarray(activations.samples, dtype=float)[drawn]
    settings = {**settings, "compares_with": "figures of the same network and reference alone"}
    return _frechet_metric(
        frechet(given, np.asarray(activations.reference, dtype=float), activations.network), settings
    )


def _property_metrics(
    samples: Sequence[Crystal | None], reference: Sequence[Crystal], settings: dict[str, Setting]
) -> tuple[Metric, ...]:
    metrics = []
    for name in (Property.DENSITY, Property.N_ELEMENTS):
        # Drawn already: all of them are compared.
        found = wasserstein(name, property_values(name, samples), property_values(name, reference), None)
        metrics.append(wasserstein_metric(PROTOCOL, found, settings))
    return tuple(metrics)
