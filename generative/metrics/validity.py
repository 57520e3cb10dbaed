"""Validity of samples as the generation tables of the field count it: by structure, by composition, by both.

A crystal is structurally valid by CDVAE's own rule (distances between different atoms >= 0.5 A, cell volume >= 0.1
A^3; generative.screening.validity.satisfies_cdvae_rule), which is looser than this project's screening. Its composition
is valid if it is a single element, or made of metals only, or balances by SMACT (generative.screening.composition), as
published with the tables of SMACT 2.2.1; another list of states moves the share by points, so it is in the metrics. The
composition of numbers that are no crystal is judged all the same, as published: only the structure is invalid then.

Source: CDVAE (arXiv:2110.06197), scripts/eval_utils.py (smact_validity, structure_validity) and compute_metrics.py,
class Crystal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from generative.crystal.crystals import Crystal
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.shares import counted, percentage
from generative.screening import composition
from generative.screening.composition import OxidationStates
from generative.screening.matching import MATCHER_FAULTS, counts_of
from generative.screening.validity import (
    CDVAE_MIN_DISTANCE_ANG,
    CDVAE_MIN_VOLUME_ANG3,
    reduce_lattice,
    satisfies_cdvae_rule,
)

PROTOCOL = "cdvae validity"
ABOUT = "Share of samples that CDVAE's rules call valid by structure, by composition and by both (arXiv:2110.06197)."


MATCHABLE_HEIGHT_ANG = 0.02
"""Distance between opposite faces of the cell as given, below which reduction takes minutes or all memory."""
MAX_ELONGATION = 50.0
"""Longest vector of the reduced cell by its smallest height; the most elongated of 12,000 real cells has 13."""


@dataclass(frozen=True)
class Verdicts:
    """What the rules say of each sample, in order.

    Attributes:
        structure: whether the structure is valid.
        composition: whether the composition is valid.
        reasons: one sentence per sample (by index) that could not be judged in full.
    """

    structure: tuple[bool, ...]
    composition: tuple[bool, ...]
    reasons: dict[int, str]


def unreadable(crystal: Crystal | None) -> str:
    """Why these numbers are no crystal that pymatgen can build, in one sentence; empty if they are one."""
    if crystal is None:
        return "the sample holds no crystal"
    lattice, frac, numbers = (np.asarray(x) for x in (crystal.lattice_ang, crystal.frac, crystal.atomic_numbers))
    if lattice.shape != (3, 3) or numbers.ndim != 1 or frac.shape != (numbers.size, 3) or numbers.size == 0:
        return (
            f"lattice has shape {lattice.shape}, frac {frac.shape} and atomic_numbers {numbers.shape}: "
            "expected (3, 3), (n, 3) and (n,) with at least one atom"
        )
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return "the crystal holds a value that is not finite"
    with np.errstate(over="ignore", invalid="ignore"):
        volume_ang3 = abs(float(np.linalg.det(lattice)))
    if not 0 < volume_ang3 < np.inf:
        return f"the cell's volume is {volume_ang3:g} A^3: expected a finite one above zero"
    try:
        counts_of(crystal)
    except ValueError as error:
        return str(error)
    return ""


def unmatchable(crystal: Crystal | None) -> str:
    """Why the structure matcher must not see these numbers, in one sentence; empty if it may.

    Besides what cannot be read: cells whose reduction or lattice mapping takes minutes or all memory, in pymatgen and
    here alike. A sampler that diverges makes such cells.
    """
    fault = unreadable(crystal)
    if fault or crystal is None:
        return fault
    height_ang = _heights_ang(np.asarray(crystal.lattice_ang, dtype=float)).min()
    if not height_ang >= MATCHABLE_HEIGHT_ANG:
        return f"the cell is {height_ang:.3g} A high: the matcher takes cells of at least {MATCHABLE_HEIGHT_ANG:g} A"
    return too_elongated(crystal)


def too_elongated(crystal: Crystal) -> str:
    """Why the cell is so thin that matcher and neighbour search take minutes, in one sentence; empty if it is not.

    Args:
        crystal: readable, so that its cell has a volume.
    """
    reduced = reduce_lattice(crystal.lattice_ang)
    elongation = np.linalg.norm(reduced, axis=1).max() / _heights_ang(reduced).min()
    if elongation <= MAX_ELONGATION:
        return ""
    return (
        f"the cell's longest vector is {elongation:.3g} times its smallest height: cells of up to {MAX_ELONGATION:g} "
        "can be searched for neighbours and matched"
    )


def verdicts(samples: Sequence[Crystal | None], states: OxidationStates = OxidationStates.CDVAE) -> Verdicts:
    """The rules' verdict on every sample.

    Args:
        samples: None is a sample that is no crystal: invalid by both rules.
        states: list of oxidation states; the default is that of the published metrics.
    """
    structure, compositions, reasons = [], [], {}
    for index, sample in enumerate(samples):
        fault = unreadable(sample)
        valid = False
        if sample is not None and not fault:
            try:
                valid = satisfies_cdvae_rule(sample.to_structure())
            except MATCHER_FAULTS as error:  # pymatgen's own limits on cells: as published, not constructed is invalid
                fault = f"pymatgen could not build the crystal ({type(error).__name__}: {error})"
        structure.append(valid)
        compositions.append(sample is not None and _has_valid_composition(sample, states))
        if fault:
            reasons[index] = fault
    return Verdicts(tuple(structure), tuple(compositions), reasons)


def validity(
    samples: Sequence[Crystal | None],
    states: OxidationStates = OxidationStates.CDVAE,
    with_composition: bool = True,
) -> Evaluation:
    """Structural, composition and joint validity in % of all samples.

    Args:
        samples: in order; None is a sample that is no crystal.
        states: list of oxidation states; the default is that of the published metrics.
        with_composition: False where the field does not report it (Carbon-24, one element); the joint share is that of
            the structure alone then.
    """
    started = time.perf_counter()
    found = verdicts(samples, states)
    metrics = validity_metrics(PROTOCOL, found, states, with_composition)
    columns: dict[str, tuple[bool, ...]] = {"structure_valid": found.structure}
    if with_composition:
        columns["composition_valid"] = found.composition
    return Evaluation(PROTOCOL, ABOUT, metrics, {"validity": time.perf_counter() - started}, columns)


def validity_metrics(
    protocol: str, found: Verdicts, states: OxidationStates, with_composition: bool
) -> tuple[Metric, ...]:
    """The metrics 'structural validity', 'composition validity' and 'structure and composition validity'."""
    n = len(found.structure)
    structure_rule = structure_settings()
    composition_rule = composition_settings(states)
    reason = counted(len(found.reasons), "sample could not be read and is invalid|samples could not be read: invalid")
    metrics = [percentage(protocol, "structural validity", sum(found.structure), n, structure_rule, reason)]
    if with_composition:
        n_both = sum(s and c for s, c in zip(found.structure, found.composition, strict=True))
        both = {**structure_rule, **composition_rule}
        metrics += [
            percentage(protocol, "composition validity", sum(found.composition), n, composition_rule),
            percentage(protocol, "structure and composition validity", n_both, n, both, reason),
        ]
    return tuple(metrics)


def structure_settings() -> dict[str, Setting]:
    """What structural validity depends on."""
    return {"distance_min_ang": CDVAE_MIN_DISTANCE_ANG, "volume_min_ang3": CDVAE_MIN_VOLUME_ANG3}


def composition_settings(states: OxidationStates) -> dict[str, Setting]:
    """What composition validity depends on."""
    return {
        "smact": version("smact"),
        "oxidation_states": states.value,
        "single_element_valid": True,
        "all_metal_valid": True,
    }


def _heights_ang(lattice_ang: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of the cell, (3,), angstrom."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(lattice_ang), axis=0))


def _has_valid_composition(sample: Crystal, states: OxidationStates) -> bool:
    try:
        return composition.check(counts_of(sample), states).valid
    except ValueError:  # no atoms, or numbers that are no elements; `unreadable` has the sentence
        return False
