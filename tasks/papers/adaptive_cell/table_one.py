"""Table 1: generated crystals beside the test set, with errors; and whether they are what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal
from generative.datasets.checks import SYMPREC_ANG, spacegroup_of
from generative.metrics.adaptive_cell import PROTOCOL, Activations, adaptive_cell
from generative.metrics.distributions import Property, frechet, property_values, wasserstein
from generative.metrics.generation import Prints, prints_of
from generative.metrics.metric import Metric
from generative.metrics.network_features import load_network, network_features
from generative.metrics.shares import percentage
from generative.metrics.validity import verdicts
from tasks.papers.results import Measured, bootstrap_error, share_error


def table_one(
    samples: Sequence[Crystal],
    reference: Sequence[Crystal],
    reference_features: np.ndarray,
    reference_name: str,
    seed: int,
    cache: Path,
    workers: int,
) -> tuple[Measured, ...]:
    """Coverage at 0.4 and 10, Frechet distances and distances of distributions, of the structurally valid samples.

    Args:
        samples: all of them; failed ones as numbers that are no crystal.
        reference: the test set.
        reference_features: of it, by the shipped network.
        reference_name: of it, for the settings of the metrics.
        seed: of the bootstrap.
        cache: folder that keeps fingerprints.
        workers: processes.
    """
    prints, truths = prints_of(samples, workers, cache), prints_of(reference, workers, cache)
    network = load_network()
    features = (network_features(samples, workers, network).values, reference_features)
    evaluation = adaptive_cell(
        samples, reference, reference_name=reference_name, seed=seed, activations=Activations(*features, network.name),
        sample_prints=prints, reference_prints=truths,
    )  # fmt: skip
    chosen = np.array(evaluation.per_sample["drawn"], dtype=bool)
    statistics = _statistics(samples, reference, prints, truths, features, network.name)
    metrics = []
    for metric in evaluation.metrics:
        if metric.unit == "%":
            metrics.append(share_error(metric))
        elif metric.name in statistics:
            values, statistic = statistics[metric.name]
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            metrics.append(bootstrap_error(metric, values[chosen & finite], statistic, seed))
    return tuple(metrics)


def _statistics(
    samples: Sequence[Crystal],
    reference: Sequence[Crystal],
    prints: Prints,
    truths: Prints,
    features: Sequence[np.ndarray],
    network: str,
) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], float]]]:
    """Metric -> values of the samples, and what the metric makes of some of them."""
    found: dict[str, tuple[np.ndarray, Callable[[np.ndarray], float]]] = {
        "Frechet distance, CrystalNN": (
            prints.structure.values, lambda rows: frechet(rows, truths.structure.values, "CrystalNN").distance,
        ),
        "Frechet distance, CGCNN": (features[0], lambda rows: frechet(rows, features[1], network).distance),
    }  # fmt: skip
    for name, kind in (("W density", Property.DENSITY), ("W number of elements", Property.N_ELEMENTS)):
        there = property_values(kind, reference)
        found[name] = (
            property_values(kind, samples),
            lambda values, kind=kind, there=there: wasserstein(kind, values, there, None).distance,  # type: ignore[misc]
        )
    return found


def as_asked(
    samples: Sequence[Crystal], asked: Sequence[Crystal], groups: Sequence[int], workers: int = 1
) -> tuple[Measured, ...]:
    """Shares of samples that are valid, have the group and the composition of the crystal asked for, and match it.

    Args:
        samples: one per crystal; failed ones as numbers that are no crystal.
        asked: the crystals whose sites or atoms were asked for.
        groups: theirs.
        workers: threads of the matcher.
    """
    valid = verdicts(samples).structure
    rows = [i for i, sound in enumerate(valid) if sound]
    in_group = sum(spacegroup_of(samples[i]) == groups[i] for i in rows)
    composed = [i for i in rows if has_composition(samples[i], asked[i])]
    matched = matches([samples[i] for i in composed], [asked[i] for i in composed], workers)
    counts = (
        ("valid samples", len(rows), len(samples)),
        ("asked space group", in_group, len(rows)),
        ("composition of the test crystal", len(composed), len(samples)),
        ("match the test crystal", sum(matched), len(samples)),
    )
    settings = {"symprec_ang": SYMPREC_ANG}
    return tuple(share_error(percentage(PROTOCOL, name, hits, n, settings)) for name, hits, n in counts)


def has_composition(crystal: Crystal, like: Crystal) -> bool:
    """Whether two crystals have one reduced formula: otherwise they cannot match."""
    from generative.datasets.records import formula_of

    return formula_of(crystal.atomic_numbers) == formula_of(like.atomic_numbers)


def matches(crystals: Sequence[Crystal], likes: Sequence[Crystal], workers: int = 1) -> list[bool]:
    """Whether each crystal is the other one's structure, by StructureMatcher with its default tolerances."""
    from generative.screening.matching import Tolerances, pairwise_rms

    found = pairwise_rms(crystals, likes, Tolerances.from_config(ScreenConfig()), workers)
    return [bool(hit) for hit in np.isfinite(found.rms)]


def count(protocol: str, name: str, n: int, of: int) -> Measured:
    """A number of crystals, which has no error."""
    return Measured(Metric(protocol, name, float(n), "crystals", of), 0.0, "count")
