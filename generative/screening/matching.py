"""Uniqueness among candidates and novelty against known crystals, with the verdicts of pymatgen's StructureMatcher.

Two crystals are the same if StructureMatcher.fit says so at the given tolerances, all else at its defaults: primitive
and Niggli reduction, volumes scaled to be equal, no supercell attempts, elements compared (crystals here carry no
oxidation states). fit is neither symmetric nor transitive, so "same" is defined as StructureMatcher.group_structures
does: the earlier crystal is the first argument, and a crystal belongs to the first group whose first member it fits.

What is spared is only work that cannot change a verdict: each crystal is reduced once, crystals of different reduced
formula or different primitive atom count are never compared, and the search ends at the first hit.
"""

from __future__ import annotations

import math
import multiprocessing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pymatgen.core.structure import Structure

from generative.config import ELEMENTS, ScreenConfig
from generative.crystals import Crystal, crystals_of

if TYPE_CHECKING:
    import pyarrow as pa

MATCHER_FAULTS = (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError, MemoryError)
"""What reduction and mapping raise on degenerate cells (numpy's LinAlgError is a ValueError)."""

FormulaKey = tuple[tuple[int, int], ...]
"""A reduced formula as (atomic number, count), sorted: equal exactly where pymatgen's fractional compositions are."""


@dataclass(frozen=True)
class Tolerances:
    """By which measure two crystals were called the same; part of every result.

    Attributes:
        ltol: fractional tolerance on lattice lengths.
        stol: site tolerance, units of (V/N)^(1/3).
        angle_tol_deg: tolerance on lattice angles, degrees.
        pymatgen_version: whose StructureMatcher was used.
    """

    ltol: float
    stol: float
    angle_tol_deg: float
    pymatgen_version: str

    @classmethod
    def of(cls, ltol: float, stol: float, angle_tol_deg: float) -> Tolerances:
        """These tolerances with the installed pymatgen."""
        return cls(ltol, stol, angle_tol_deg, version("pymatgen"))

    @classmethod
    def from_config(cls, config: ScreenConfig) -> Tolerances:
        """The tolerances of a run's settings with the installed pymatgen."""
        return cls.of(config.ltol, config.stol, config.angle_tol_deg)

    def matcher(self) -> Any:
        """pymatgen's StructureMatcher at these tolerances, all else at its defaults."""
        from pymatgen.analysis.structure_matcher import StructureMatcher  # 0.2 s of SciPy: when first asked for

        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol_deg)

    def __str__(self) -> str:
        return f"ltol {self.ltol:g}, stol {self.stol:g}, angle {self.angle_tol_deg:g} degrees"


@dataclass(frozen=True)
class Grouping:
    """Which crystals are copies of which.

    Attributes:
        first_members: for each crystal the index of its group's first member; its own index if it opens a group.
        failures: reason for each crystal (by index) that the matcher could not handle; such a crystal, or pair, counts
            as different.
        n_fits: pairs given to the matcher.
        tolerances: of the matcher.
    """

    first_members: list[int]
    failures: dict[int, str]
    n_fits: int
    tolerances: Tolerances


@dataclass(frozen=True)
class KnownMatch:
    """The first known crystal, in reference order, that a candidate is the same as.

    Attributes:
        reference_id: of the known crystal.
        rms: StructureMatcher.get_rms_dist(known, candidate)[0], root mean square displacement of paired atoms in units
            of (V/N)^(1/3).
    """

    reference_id: str
    rms: float


@dataclass(frozen=True)
class KnownSearch:
    """Which crystals are already known.

    Attributes:
        matches: one per crystal; None means new.
        failures: reason for each crystal (by index) that the matcher could not handle; it counts as new.
        n_fits: pairs given to the matcher.
        tolerances: of the matcher.
    """

    matches: list[KnownMatch | None]
    failures: dict[int, str]
    n_fits: int
    tolerances: Tolerances


@dataclass(frozen=True)
class PairRms:
    """Displacements of pairs of crystals.

    Attributes:
        rms: StructureMatcher.get_rms_dist(first, second)[0] per pair, (n,), units of (V/N)^(1/3); NaN where the pair
            does not match or could not be compared.
        failures: reason for each pair (by index) that could not be compared.
        tolerances: of the matcher.
    """

    rms: np.ndarray
    failures: dict[int, str]
    tolerances: Tolerances


class _Reduced(NamedTuple):
    """A crystal as the matcher compares it: its primitive Niggli cell, or the reason why there is none."""

    structure: Structure | None
    fault: str


class ReferenceSet:
    """Known crystals, bucketed by reduced formula; each is reduced when first compared, and once.

    Args:
        ids: unique names, in the order in which references are tried.
        crystals: one per id.

    Raises: ValueError: if the lengths differ.
    """

    def __init__(self, ids: Sequence[str], crystals: Sequence[Crystal]) -> None:
        if len(ids) != len(crystals):
            raise ValueError(f"{len(ids)} ids beside {len(crystals)} crystals: expected one id per crystal")
        self._ids = list(ids)
        self._crystals = list(crystals)
        self._reduced: dict[int, _Reduced] = {}
        self._buckets: dict[FormulaKey, list[int]] = defaultdict(list)
        for index, crystal in enumerate(self._crystals):
            self._buckets[formula_key(crystal)].append(index)

    @classmethod
    def from_table(cls, table: pa.Table) -> ReferenceSet:
        """The crystals of a dataset table (generative.datasets.table), in row order; rows without one are left out."""
        crystals = crystals_of(table)
        named = zip(table.column("id").to_pylist(), crystals, strict=True)
        pairs = [(name, crystal) for name, crystal in named if crystal is not None]
        return cls([name for name, _ in pairs], [crystal for _, crystal in pairs])

    def __len__(self) -> int:
        return len(self._ids)

    def with_formula(self, key: FormulaKey) -> Sequence[int]:
        """Indices of the references of this reduced formula, in order."""
        return self._buckets.get(key, ())

    def id_of(self, index: int) -> str:
        """The reference's name."""
        return self._ids[index]

    def crystal_of(self, index: int) -> Crystal:
        """The reference as given."""
        return self._crystals[index]

    def reduced(self, index: int) -> _Reduced:
        """The reference's primitive Niggli cell, computed at the first call."""
        if index not in self._reduced:
            self._reduced[index] = _reduce(self._crystals[index])
        return self._reduced[index]


def group(crystals: Sequence[Crystal], tolerances: Tolerances) -> Grouping:
    """Group crystals that are the same, as StructureMatcher.group_structures does; the first member is the earliest.

    Cost: one fit (0.3 to 5 ms) per crystal and earlier group of the same formula and primitive atom count.
    """
    matcher = tolerances.matcher()
    first_members: list[int] = []
    failures: dict[int, str] = {}
    openers: dict[FormulaKey, list[tuple[int, Structure]]] = defaultdict(list)
    n_fits = 0
    for index, crystal in enumerate(crystals):
        reduced = _reduce(crystal)
        first = index
        if reduced.structure is None:
            failures[index] = reduced.fault
        else:
            bucket = openers[formula_key(crystal)]
            for earlier, structure in bucket:
                if len(structure) != len(reduced.structure):
                    continue
                n_fits += 1
                same, fault = _fit(matcher, structure, reduced.structure)
                if fault:
                    failures.setdefault(index, f"compared with candidate {earlier}: {fault}")
                if same:
                    first = earlier
                    break
            else:
                bucket.append((index, reduced.structure))
        first_members.append(first)
    return Grouping(first_members, failures, n_fits, tolerances)


def find_known(crystals: Sequence[Crystal], references: ReferenceSet, tolerances: Tolerances) -> KnownSearch:
    """For each crystal the first reference, in reference order, that StructureMatcher.fit(reference, crystal) accepts.

    Cost: one fit per crystal and reference of the same formula and primitive atom count, up to the first hit; a
    reference is reduced (2 to 5 ms) when first needed. A reference that cannot be reduced is passed over.
    """
    matcher = tolerances.matcher()
    matches: list[KnownMatch | None] = []
    failures: dict[int, str] = {}
    n_fits = 0
    for index, crystal in enumerate(crystals):
        match = None
        bucket = references.with_formula(formula_key(crystal))
        reduced = _reduce(crystal) if bucket else _Reduced(None, "")
        if reduced.fault:
            failures[index] = reduced.fault
        if reduced.structure is not None:
            for number in bucket:
                known = references.reduced(number)
                if known.structure is None or len(known.structure) != len(reduced.structure):
                    continue
                n_fits += 1
                same, fault = _fit(matcher, known.structure, reduced.structure)
                if fault:
                    failures.setdefault(index, f"compared with {references.id_of(number)}: {fault}")
                if same:
                    match = KnownMatch(references.id_of(number), _rms(matcher, references.crystal_of(number), crystal))
                    break
        matches.append(match)
    return KnownSearch(matches, failures, n_fits, tolerances)


def pairwise_rms(
    first: Sequence[Crystal], second: Sequence[Crystal], tolerances: Tolerances, workers: int = 1
) -> PairRms:
    """StructureMatcher.get_rms_dist(first[i], second[i])[0] for every i.

    Args:
        first: crystals, first arguments of the matcher.
        second: as many crystals, second arguments.
        tolerances: of the matcher.
        workers: processes; above 1 they are spawned, so the caller's main module must be importable. The result does
            not depend on it.

    Raises: ValueError: if the lengths differ or there are no workers.
    """
    if len(first) != len(second) or workers < 1:
        raise ValueError(
            f"{len(first)} first beside {len(second)} second crystals, {workers} workers: expected pairs and a worker"
        )
    size = max(1, min(256, -(-len(first) // workers)))
    chunks = [(first[i : i + size], second[i : i + size]) for i in range(0, len(first), size)]
    if workers == 1 or len(chunks) < 2:
        parts = [_pairwise_chunk(*chunk, tolerances) for chunk in chunks]
    else:
        # Spawned, not forked: a fork of a process whose torch threads hold locks may hang.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(_pairwise_chunk, *chunk, tolerances) for chunk in chunks]
            parts = [job.result() for job in jobs]
    rms = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0)
    failures = {k * size + i: reason for k, part in enumerate(parts) for i, reason in part[1].items()}
    return PairRms(rms, failures, tolerances)


def _pairwise_chunk(
    first: Sequence[Crystal], second: Sequence[Crystal], tolerances: Tolerances
) -> tuple[np.ndarray, dict[int, str]]:
    matcher = tolerances.matcher()
    rms = np.full(len(first), math.nan)
    failures: dict[int, str] = {}
    for i, pair in enumerate(zip(first, second, strict=True)):
        fault = next((f for f in map(_unfit_reason, pair) if f), "")
        try:
            found = None if fault else matcher.get_rms_dist(pair[0].to_structure(), pair[1].to_structure())
        except MATCHER_FAULTS as error:
            found, fault = None, _sentence("the matcher", error)
        if fault:
            failures[i] = fault
        if found is not None:
            rms[i] = found[0]
    return rms, failures


def formula_key(crystal: Crystal) -> FormulaKey:
    """The crystal's reduced formula as sorted (atomic number, count) pairs; empty for a crystal without atoms."""
    numbers, counts = np.unique(np.asarray(crystal.atomic_numbers), return_counts=True)
    divisor = math.gcd(*counts.tolist()) or 1
    return tuple((int(z), int(n) // divisor) for z, n in zip(numbers, counts, strict=True))


def counts_of(crystal: Crystal) -> Mapping[str, int]:
    """Atoms of the cell per element symbol, by atomic number; what the composition check takes.

    Raises: ValueError: if an atomic number is not an element from H to Lr.
    """
    numbers, counts = np.unique(np.asarray(crystal.atomic_numbers), return_counts=True)
    unknown = [int(z) for z in numbers if not 1 <= z <= len(ELEMENTS)]
    if unknown:
        raise ValueError(f"atomic number {unknown[0]} is not an element: expected 1 to {len(ELEMENTS)}")
    return {ELEMENTS[int(z) - 1]: int(n) for z, n in zip(numbers, counts, strict=True)}


def _reduce(crystal: Crystal) -> _Reduced:
    """The primitive Niggli cell as StructureMatcher makes it."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    fault = _unfit_reason(crystal)
    if fault:
        return _Reduced(None, fault)
    try:
        # The one private call: reducing by hand would be a second copy of pymatgen's order of operations.
        return _Reduced(StructureMatcher._get_reduced_structure(crystal.to_structure()), "")
    except MATCHER_FAULTS as error:
        return _Reduced(None, _sentence("reduction to the primitive cell", error))


def _unfit_reason(crystal: Crystal) -> str:
    """Why a crystal must not reach pymatgen, whose Niggli reduction may loop on such numbers; empty if it may."""
    if not (np.isfinite(crystal.lattice_ang).all() and np.isfinite(crystal.frac).all()):
        return "the crystal holds a value that is not finite: it cannot be matched"
    if not abs(np.linalg.det(crystal.lattice_ang)) > 0 or len(crystal.atomic_numbers) == 0:
        return "the cell has no volume or no atoms: it cannot be matched"
    return ""


def _fit(matcher: Any, first: Structure, second: Structure) -> tuple[bool, str]:
    """(same, fault) of two reduced structures; a fault counts as different."""
    try:
        return bool(matcher.fit(first, second, skip_structure_reduction=True)), ""
    except MATCHER_FAULTS as error:
        return False, _sentence("the matcher", error)


def _rms(matcher: Any, first: Crystal, second: Crystal) -> float:
    """Root mean square displacement of a pair that fits; NaN if pymatgen finds none."""
    try:
        found = matcher.get_rms_dist(first.to_structure(), second.to_structure())
    except MATCHER_FAULTS:
        return math.nan
    return math.nan if found is None else float(found[0])


def _sentence(where: str, error: BaseException) -> str:
    return f"{where} failed with {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
