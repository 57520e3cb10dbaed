"""The protocol 'CDVAE generation': validity, coverage and property statistics of crystals generated without a target.

Validity as in generative.metrics.validity; a sample is valid as a whole if, besides, CrystalNN places every site, so
that it has a fingerprint. Coverage as in generative.metrics.coverage: over ALL samples, the invalid ones included.
Property statistics: 1-d Wasserstein distance between 1,000 valid samples drawn at random (seeded here; the published
draw is not) and the whole test set, of density, number of elements and an energy that the caller has computed for both
sides with one model; with fewer valid samples than are to be drawn they are undefined, as published.

Source: CDVAE (arXiv:2110.06197), scripts/compute_metrics.py, class GenEval. Magpie fingerprints are standardised by its
constants (magpie.cdvae_scaler). Differences: an element that Magpie does not know (He, Ne, Ar, Rn, Fr and those from Bk
on; 3 of the 9,046 crystals of MP-20's test set) leaves a crystal without a composition fingerprint, not covering and
not covered, but not invalid; CDVAE takes the average for what is missing. Cells that are needles, around which
CrystalNN widens its search for neighbours for minutes, count as cells that it cannot place (validity.too_elongated).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.coverage import Coverage, Cutoffs, FingerprintSet, coverage
from generative.metrics.distributions import CDVAE_DRAWN, Property, Wasserstein, property_values, wasserstein
from generative.metrics.fingerprints import (
    Fingerprints,
    composition_fingerprints,
    structure_fingerprints,
)
from generative.metrics.magpie import Scaler, cdvae_scaler
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.shares import counted, percentage
from generative.metrics.validity import (
    composition_settings,
    structure_settings,
    too_elongated,
    unreadable,
    validity_metrics,
    verdicts,
)
from generative.screening.composition import OxidationStates
from storage.progress import Progress

PROTOCOL = "cdvae generation"
ABOUT = (
    "Validity of generated crystals, coverage of and by the test set, and distances of property distributions "
    "(arXiv:2110.06197, GenEval)."
)


class Prints(NamedTuple):
    """Both fingerprints of the same crystals, so that several protocols need them made once."""

    structure: Fingerprints
    composition: Fingerprints


@dataclass(frozen=True)
class Energies:
    """Energies of both sides by one model, eV/atom; NaN where there is none.

    Attributes:
        samples: one per sample.
        reference: one per reference crystal.
        model: what computed both.
    """

    samples: Sequence[float] | np.ndarray
    reference: Sequence[float] | np.ndarray
    model: str


def prints_of(
    crystals: Sequence[Crystal | None],
    workers: int = 1,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Prints:
    """Structure and composition fingerprints; a crystal that cannot be read has neither, a needle no structure one."""
    faults = {index: fault for index, crystal in enumerate(crystals) if (fault := unreadable(crystal))}
    readable = [None if index in faults else crystal for index, crystal in enumerate(crystals)]
    needles = {
        i: fault for i, crystal in enumerate(readable) if crystal is not None and (fault := too_elongated(crystal))
    }
    compact = [None if index in needles else crystal for index, crystal in enumerate(readable)]
    structure = structure_fingerprints(compact, workers, cache, progress)
    composition = composition_fingerprints(readable)
    return Prints(
        replace(structure, reasons={**structure.reasons, **faults, **needles}),
        replace(composition, reasons={**composition.reasons, **faults}),
    )


def generation(
    samples: Sequence[Crystal | None],
    reference: Sequence[Crystal],
    cutoffs: Cutoffs,
    *,
    reference_name: str,
    scaler: Scaler | None = None,
    states: OxidationStates = OxidationStates.CDVAE,
    with_composition: bool = True,
    energies: Energies | None = None,
    n_drawn: int | None = CDVAE_DRAWN,
    seed: int = 0,
    workers: int = 1,
    cache: Path | None = None,
    sample_prints: Prints | None = None,
    reference_prints: Prints | None = None,
) -> Evaluation:
    """The metrics of CDVAE's generation table.

    Args:
        samples: all that were generated, in order; None is a sample that is no crystal.
        reference: the test set.
        cutoffs: of coverage: coverage.MP_20, PEROV_5, CARBON_24, or others with their source.
        reference_name: what the test set is, with version or fingerprint; part of the metrics.
        scaler: standardisation of Magpie fingerprints; None takes CDVAE's constants.
        states: list of oxidation states; the default is that of the published metrics.
        with_composition: False where composition validity is not reported (Carbon-24).
        energies: for 'W energy'; None leaves it undefined.
        n_drawn: valid samples drawn for the property statistics; None takes all valid ones.
        seed: of that draw.
        workers: processes for fingerprints.
        cache: folder that keeps fingerprints.
        sample_prints: fingerprints of the samples, if they are made already.
        reference_prints: fingerprints of the reference set, if they are made already.

    Raises: ValueError: if energies do not come one per crystal, or without the name of the model.
    """
    _check(energies, len(samples), len(reference))
    started = time.perf_counter()
    found = verdicts(samples, states)
    seconds = {"validity": time.perf_counter() - started}
    sample_prints = sample_prints or prints_of(samples, workers, cache)
    reference_prints = reference_prints or prints_of(reference, workers, cache)
    seconds["fingerprints"] = sample_prints.structure.seconds + reference_prints.structure.seconds
    started = time.perf_counter()
    sides = fingerprint_sets(sample_prints, reference_prints, scaler or cdvae_scaler())
    covered = coverage(*sides, cutoffs)
    seconds["coverage"] = time.perf_counter() - started
    valid = np.array(found.structure, dtype=bool) & np.array(found.composition, dtype=bool)
    valid &= sample_prints.structure.usable
    rules = {**structure_settings(), **composition_settings(states), **sample_prints.structure.versions}
    settings: dict[str, Setting] = {
        "reference": reference_name,
        "n_samples": len(samples),
        "n_reference": len(reference),
    }
    metrics = (
        *validity_metrics(PROTOCOL, found, states, with_composition)[: 2 if with_composition else 1],
        _overall(valid, sample_prints.structure, {**rules, "n_samples": len(samples)}),
        *coverage_metrics(PROTOCOL, covered, {**settings, **sample_prints.structure.versions}),
        *_property_metrics(samples, reference, valid, energies, n_drawn, seed, settings),
        Metric(PROTOCOL, "samples", len(samples), "crystals", len(samples), "", settings),
        Metric(PROTOCOL, "reference crystals", len(reference), "crystals", len(reference), "", settings),
    )
    columns: dict[str, tuple[bool, ...]] = {"structure_valid": found.structure, "valid": tuple(valid.tolist())}
    if with_composition:
        columns["composition_valid"] = found.composition
    return Evaluation(PROTOCOL, ABOUT, metrics, seconds, columns)


def fingerprint_sets(samples: Prints, reference: Prints, scaler: Scaler) -> tuple[FingerprintSet, FingerprintSet]:
    """Both sides as coverage takes them."""
    return FingerprintSet.of(*samples, scaler), FingerprintSet.of(*reference, scaler)


def coverage_metrics(protocol: str, found: Coverage, settings: dict[str, Setting]) -> tuple[Metric, ...]:
    """COV-R, COV-P, AMSD and AMCD as metrics."""
    used: dict[str, Setting] = {
        **settings,
        "cutoff_structure": found.cutoffs.structure,
        "cutoff_composition": found.cutoffs.composition,
        "cutoffs_of": found.cutoffs.source,
        "scaler": found.scaler,
        "n_samples_without_fingerprint": found.n_samples_without,
        "n_reference_without_fingerprint": found.n_reference_without,
    }
    without = "crystal has no fingerprint|crystals have no fingerprint"
    n_samples, n_reference = found.n_samples, found.n_reference
    n_compared = n_samples - found.n_samples_without
    of_samples = found.reason or counted(found.n_samples_without, f"generated {without}")
    of_reference = found.reason or counted(found.n_reference_without, f"reference {without}")
    from_samples, from_reference = (
        "; ".join(filter(None, (missing, f"dominated by {feature}" if feature else "")))
        for missing, feature in ((of_samples, found.dominant_precision), (of_reference, found.dominant_recall))
    )
    return (
        Metric(protocol, "COV-R", 100 * found.cov_recall, "%", n_reference, of_reference, used),
        Metric(protocol, "COV-P", 100 * found.cov_precision, "%", n_samples, of_samples, used),
        Metric(protocol, "AMSD-R", found.amsd_recall, "", n_reference, of_reference, used),
        Metric(protocol, "AMSD-P", found.amsd_precision, "", n_compared, of_samples, used),
        Metric(protocol, "AMCD-R", found.amcd_recall, "", n_reference, from_reference, used),
        Metric(protocol, "AMCD-P", found.amcd_precision, "", n_compared, from_samples, used),
    )


def wasserstein_metric(protocol: str, found: Wasserstein, settings: dict[str, Setting]) -> Metric:
    """A Wasserstein distance as a metric, named 'W density', 'W number of elements' or 'W energy'."""
    used: dict[str, Setting] = {
        **settings,
        "n_drawn": found.n_drawn,
        "seed": None if found.n_drawn is None else found.seed,
        "n_reference_compared": found.n_reference,
    }
    if found.model:
        used["model"] = found.model
    unit = "" if found.property_name is Property.N_ELEMENTS else found.unit
    missing = counted(found.n_reference_without, "reference crystal has no value|reference crystals have no value")
    name = f"W {found.property_name.value}"
    return Metric(protocol, name, found.distance, unit, found.n_samples, found.reason or missing, used)


def _check(energies: Energies | None, n_samples: int, n_reference: int) -> None:
    if energies is None:
        return
    if len(energies.samples) != n_samples or len(energies.reference) != n_reference:
        raise ValueError(
            f"{len(energies.samples)} and {len(energies.reference)} energies beside {n_samples} samples and "
            f"{n_reference} reference crystals: expected one per crystal"
        )
    if not energies.model:
        raise ValueError("the energies come without the name of their model: name what computed them")


def _overall(valid: np.ndarray, prints: Fingerprints, settings: dict[str, Setting]) -> Metric:
    n_without = int((~prints.usable).sum())
    reason = counted(
        n_without, "sample has no CrystalNN fingerprint: invalid|samples lack a CrystalNN fingerprint: invalid"
    )
    return percentage(PROTOCOL, "validity", int(valid.sum()), len(valid), settings, reason)


def _property_metrics(
    samples: Sequence[Crystal | None],
    reference: Sequence[Crystal],
    valid: np.ndarray,
    energies: Energies | None,
    n_drawn: int | None,
    seed: int,
    settings: dict[str, Setting],
) -> tuple[Metric, ...]:
    """'W density', 'W number of elements' and 'W energy'."""
    used = {**settings, "n_valid": int(valid.sum())}
    metrics = []
    for name in (Property.DENSITY, Property.N_ELEMENTS):
        values = property_values(name, samples)[valid]
        found = wasserstein(name, values, property_values(name, reference), n_drawn, seed)
        metrics.append(wasserstein_metric(PROTOCOL, found, used))
    if energies is None:
        reason = "no energies were given"
        metrics.append(Metric(PROTOCOL, "W energy", np.nan, Property.ENERGY.unit, 0, reason, used))
    else:
        values = np.asarray(energies.samples, dtype=float).reshape(-1)[valid]
        there = np.asarray(energies.reference, dtype=float).reshape(-1)
        found = wasserstein(Property.ENERGY, values, there, n_drawn, seed, energies.model)
        metrics.append(wasserstein_metric(PROTOCOL, found, used))
    return tuple(metrics)
