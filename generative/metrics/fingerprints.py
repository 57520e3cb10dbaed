"""Fingerprints of many crystals: in parallel, kept on disk, and with a reason wherever there is none.

Structure: 61 numbers, mean over sites of matminer's CrystalNNFingerprint "ops" (`crystal_nn`). Composition: 132
numbers, Magpie (`magpie`). Both as in CDVAE (arXiv:2110.06197); coverage and Frechet distance are defined on them.
"""

from __future__ import annotations

import math
import multiprocessing
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from generative.crystals import Crystal
from generative.metrics import magpie

N_STRUCTURE = 61
N_COMPOSITION = magpie.N_FEATURES
STRUCTURE_RECIPE = "CrystalNN ops, mean over sites, 1"
"""Names the computation; the number rises when the values change for the same installed packages."""
COMPOSITION_RECIPE = "Magpie, 1"
CACHE_FILE = "fingerprints.sqlite"

Progress = Callable[[int, int], None]
"""Called with the number of crystals done and of all."""

FAULTS = (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError, AttributeError, MemoryError)
"""What pymatgen, matminer and Qhull raise on degenerate cells (QhullError is a RuntimeError)."""

_CHUNK = 64
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
    with _Cache(cache, key) as kept:
        made.update(kept.read(list(wanted)))
        fresh = {digest: crystal for digest, crystal in wanted.items() if digest not in made}
        results = _computed(list(fresh.values()), workers)
        for done, (digest, one) in enumerate(zip(fresh, results, strict=True), start=1):
            made[digest] = one
            kept.write(digest, one)
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


def _computed(crystals: Sequence[Crystal], workers: int) -> Iterator[_Made]:
    if workers == 1 or len(crystals) < 2:
        yield from map(_fingerprint, crystals)
        return
    yield _fingerprint(crystals[0])  # compiles for all workers where the compiled code can be kept on disk
    # Spawned, not forked: a fork of a process whose torch threads hold locks may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_fingerprint, crystals[1:], chunksize=max(1, min(_CHUNK, len(crystals) // (4 * workers))))


def _fingerprint(crystal: Crystal) -> _Made:
    from generative.metrics.crystal_nn import structure_fingerprint

    try:
        found = structure_fingerprint(crystal)
    except FAULTS as error:
        return _Made(None, f"{_BY}: {type(error).__name__}: {error}", {})
    if not np.isfinite(found.values).all():
        return _Made(None, f"{_BY}: the fingerprint is not finite", found.left_to_matminer)
    return _Made(found.values, "", found.left_to_matminer)


class _Cache:
    """Fingerprints by digest in one SQLite file; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder, self._key = folder, key
        self._rows: list[tuple[str, str, bytes | None, str]] = []

    def __enter__(self) -> _Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def read(self, digests: Sequence[str]) -> dict[str, _Made]:
        """What is on disk of these digests."""
        if self._folder is None:
            return {}
        self._folder.mkdir(parents=True, exist_ok=True)
        found = {}
        with closing(self._open()) as connection:
            for begin in range(0, len(digests), 500):
                part = digests[begin : begin + 500]
                marks = ",".join("?" * len(part))
                query = f"SELECT digest, vector, reason FROM fingerprints WHERE recipe = ? AND digest IN ({marks})"
                for digest, vector, reason in connection.execute(query, (self._key, *part)):
                    values = None if vector is None else np.frombuffer(vector, dtype="<f8")
                    if values is None or len(values) == N_STRUCTURE:
                        found[digest] = _Made(values, reason, {})
        return found

    def write(self, digest: str, one: _Made) -> None:
        if self._folder is None or one.reason.startswith(f"{_BY}: MemoryError"):  # may well succeed next time
            return
        vector = None if one.values is None else np.ascontiguousarray(one.values, dtype="<f8").tobytes()
        self._rows.append((self._key, digest, vector, one.reason))
        if len(self._rows) >= 1000:  # few transactions, and little lost if the process is killed
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with closing(self._open()) as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?, ?)", self._rows)
            self._rows.clear()

    def _open(self) -> sqlite3.Connection:
        assert self._folder is not None
        path = self._folder / CACHE_FILE
        connection = sqlite3.connect(path, timeout=60)
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS fingerprints (recipe TEXT, digest TEXT, vector BLOB, reason TEXT, "
                "PRIMARY KEY (recipe, digest)) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ValueError(
                f"{path} is not a cache of fingerprints ({error}): expected an SQLite file written here, so delete it "
                "or name another folder"
            ) from error
        return connection
