"""Crystals by their Wyckoff positions, many at a time: by several processes, and kept by the crystal's digest.

spglib and the normalizers take some milliseconds per crystal. One that has no description is kept with the reason, so a
second training on the same crystals asks spglib nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import Signature, WyckoffCrystal, WyckoffError
from generative.kept_results import KeptResults, in_processes

RECIPE = "; ".join(
    ["Wyckoff positions, 1", *(f"{name} {version(name)}" for name in ("spglib", "pyxtal", "pymatgen", "pymatgen-core"))]
)
"""Names the computation; the number rises when descriptions change for the same packages."""
CACHE_FILE = "wyckoff_positions.sqlite"

_BYTES, _BYTES_OF_ORBIT = 2 + 6 * 8, 2 * 2 + 3 * 8


class Descriptions:
    """What crystals are described as, or why they cannot be; each is described once."""

    def __init__(self) -> None:
        self._found: dict[str, WyckoffCrystal | str] = {}

    def reasons(self, crystals: Sequence[Crystal], cache: Path | None = None, workers: int = 1) -> list[str]:
        """Why each crystal has no description, one sentence; empty where it has.

        Args:
            crystals: in any number.
            cache: folder in which descriptions are kept by the crystal's digest and the packages' versions.
            workers: processes; above 1 they are spawned, so the caller's main module must be importable. The result
                does not depend on it.

        Raises: ValueError: if the folder holds a file of the cache's name that is none.
        """
        return [one if isinstance(one, str) else "" for one in self._all(crystals, cache, workers)]

    def of(self, crystals: Sequence[Crystal], cache: Path | None = None, workers: int = 1) -> list[WyckoffCrystal]:
        """The description of each crystal, in order; arguments as of `reasons`.

        Raises: WyckoffError: with the reason of the first that has none. ValueError: as `reasons`.
        """
        found = []
        for one in self._all(crystals, cache, workers):
            if isinstance(one, str):
                raise WyckoffError(one)
            found.append(one)
        return found

    def _all(self, crystals: Sequence[Crystal], cache: Path | None, workers: int) -> list[WyckoffCrystal | str]:
        digests = [crystal.digest for crystal in crystals]
        wanted = {d: c for d, c in zip(digests, crystals, strict=True) if d not in self._found}
        if wanted:
            with KeptResults(None if cache is None else cache / CACHE_FILE, "wyckoff_positions", RECIPE) as kept:
                for digest, (payload, reason) in kept.read(list(wanted)).items():
                    self._found[digest] = reason if payload is None else _from_bytes(payload)
                fresh = {digest: crystal for digest, crystal in wanted.items() if digest not in self._found}
                made = in_processes(_described, list(fresh.values()), workers)
                for digest, one in zip(fresh, made, strict=True):
                    self._found[digest] = one
                    payload, reason = (None, one) if isinstance(one, str) else (_as_bytes(one), "")
                    kept.write(digest, payload, reason)
        return [self._found[digest] for digest in digests]


def _described(crystal: Crystal) -> WyckoffCrystal | str:
    """The description, or why there is none."""
    try:
        return WyckoffCrystal.of(crystal)
    except WyckoffError as error:
        return str(error)


def _as_bytes(one: WyckoffCrystal) -> bytes:
    """Group, atomic numbers and letters of the K orbits as int16; cell and coordinates as float64: 50 + 28 K bytes."""
    sites = one.signature.sites
    words = [one.signature.spacegroup, *(z for z, _ in sites), *(ord(letter) for _, letter in sites)]
    numbers = np.concatenate([one.cell, one.xyz.ravel()])
    return np.array(words, dtype="<i2").tobytes() + numbers.astype("<f8").tobytes()


def _from_bytes(payload: bytes) -> WyckoffCrystal:
    k = (len(payload) - _BYTES) // _BYTES_OF_ORBIT
    words = np.frombuffer(payload, dtype="<i2", count=1 + 2 * k).tolist()
    numbers = np.frombuffer(payload, dtype="<f8", offset=2 + 4 * k).astype(np.float64)
    sites = tuple(zip(words[1 : 1 + k], map(chr, words[1 + k :]), strict=True))
    return WyckoffCrystal(Signature(words[0], sites), numbers[:6], numbers[6:].reshape(k, 3))
