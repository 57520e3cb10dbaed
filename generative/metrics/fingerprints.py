"""Fingerprints of many crystals: in parallel, kept on disk, and with a reason wherever there is none.

Structure: 61 numbers, mean over sites of matminer's CrystalNNFingerprint "ops" (`crystal_nn`). Composition: 132
numbers, Magpie (`magpie`). Both as in CDVAE (arXiv:2110.06197); coverage and Frechet distance are defined on them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from generative.crystal.crystals import Crystal
from generative.crystal.neighbour_search import FAULTS
from generative.kept_results import Kept, KeptResults, in_processes
from generative.metrics import magpie
from storage.progress import Progress

N_STRUCTURE = 61
STRUCTURE_RECIPE = "CrystalNN ops, mean over sites, 1"
"""Names the computation; the number rises when the values change for the same installed packages."""
COMPOSITION_RECIPE = "Magpie, 1"
CACHE_FILE = "fingerprints.sqlite"

_BY = "CrystalNN"


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of n crystals, in order.

    Attributes:
        values: (n, f); a row of NaN where there is none.
        reasons: why there is none, by index.
        seconds: wall time.
        recipe: what was computed.
        versions: of the packages whose definitions and tables were used.
        n_cached: crystals whose fingerprint was on disk, or a copy of an earlier one.
        n_sites_by_reason: sites left to matminer by the compiled computation, by reason; not those on disk.
    """

    values: np.ndarray
    reasons: dict[int, str]
    seconds: float
    recipe: str
    versions: dict[str, str]
    n_cached: int = 0
    n_sites_by_reason: dict[str, int] | None = None

    @property
    def usable(self) -> np.ndarray:
        """Whether each crystal has a fingerprint, (n,)."""
        return np.asarray(np.isfinite(self.values).all(axis=1))

    def as_dict(self) -> dict[str, Any]:
        """Everything but the values, as plain types."""
        return {
            "recipe": self.recipe,
            "versions": dict(self.versions),
            "n_crystals": len(self.values),
            "n_without": len(self.reasons),
            "reasons": dict(self.reasons),
            "n_cached": self.n_cached,
            "n_sites_by_reason": dict(self.n_sites_by_reason or {}),
            "seconds": self.seconds,
        }


class _Made(NamedTuple):
    """One crystal: its values or None, the reason if None, sites left to matminer by reason."""

    values: np.ndarray | None
    reason: str
    left: dict[str, int]


def structure_fingerprints(
    crystals: Sequence[Crystal | None],
    workers: int = 1,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Fingerprints:
    """CrystalNN "ops" fingerprints, (n, 61).

    Args:
        crystals: None is a failed sample, which gets a reason.
        workers: processes; above 1 they are spawned, so the caller's main module must be importable. The result does
            not depend on it.
        cache: folder in which fingerprints are kept by the crystal's digest and the packages' versions.
        progress: called after each crystal that was not on disk.

    Raises: ValueError: if the folder holds a file of the cache's name that is none.
    """
    started_s = time.perf_counter()
    versions = _versions()
    key = "; ".join([STRUCTURE_RECIPE, *(f"{name} {number}" for name, number in versions.items())])
    digests = [None if crystal is None else crystal.digest for crystal in crystals]
    wanted = {digest: crystal for digest, crystal in zip(digests, crystals, strict=True) if digest and crystal}
    made: dict[str, _Made] = {}
    with KeptResults(None if cache is None else cache / CACHE_FILE, "fingerprints", key) as kept:
        made.update(_restored(kept.read(list(wanted))))
        fresh = {digest: crystal for digest, crystal in wanted.items() if digest not in made}
        results = in_processes(_fingerprint, list(fresh.values()), workers)
        for done, (digest, one) in enumerate(zip(fresh, results, strict=True), start=1):
            made[digest] = one
            if not one.reason.startswith(f"{_BY}: MemoryError"):  # may well succeed next time
                kept.write(digest, None if one.values is None else one.values.astype("<f8").tobytes(), one.reason)
            if progress is not None:
                progress(done, len(fresh))
    return _assembled(digests, made, fresh, versions, time.perf_counter() - started_s)


def composition_fingerprints(crystals: Sequence[Crystal | None], impute_missing: bool = False) -> Fingerprints:
    """Magpie fingerprints, (n, 132), not standardised; see magpie.composition_values for the arguments."""
    started_s = time.perf_counter()
    values, reasons = magpie.composition_values(crystals, impute_missing)
    recipe = COMPOSITION_RECIPE + (", missing properties imputed" if impute_missing else "")
    return Fingerprints(values, reasons, time.perf_counter() - started_s, recipe, _versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("matminer", "pymatgen", "pymatgen-core")}


def _assembled(
    digests: Sequence[str | None],
    made: dict[str, _Made],
    fresh: dict[str, Crystal],
    versions: dict[str, str],
    seconds: float,
) -> Fingerprints:
    values = np.full((len(digests), N_STRUCTURE), math.nan)
    reasons: dict[int, str] = {}
    for i, digest in enumerate(digests):
        one = _Made(None, "there is no crystal", {}) if digest is None else made[digest]
        if one.values is None:
            reasons[i] = one.reason
        else:
            values[i] = one.values
    left: Counter[str] = Counter()
    for digest in fresh:
        left.update(made[digest].left)
    n_cached = sum(digest is not None for digest in digests) - len(fresh)
    return Fingerprints(values, reasons, seconds, STRUCTURE_RECIPE, versions, n_cached, dict(left))


def _fingerprint(crystal: Crystal) -> _Made:
    from generative.metrics.crystal_nn import structure_fingerprint

    try:
        found = structure_fingerprint(crystal)
    except FAULTS as error:
        return _Made(None, f"{_BY}: {type(error).__name__}: {error}", {})
    if not np.isfinite(found.values).all():
        return _Made(None, f"{_BY}: the fingerprint is not finite", found.left_to_matminer)
    return _Made(found.values, "", found.left_to_matminer)


def _restored(kept: dict[str, Kept]) -> dict[str, _Made]:
    """What was kept, as computed; a payload of another length is no fingerprint and is computed anew."""
    found = {}
    for digest, (payload, reason) in kept.items():
        values = None if payload is None else np.frombuffer(payload, dtype="<f8")
        if values is None or len(values) == N_STRUCTURE:
            found[digest] = _Made(values, reason, {})
    return found
