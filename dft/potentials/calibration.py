"""How far a potential's distance above the hull can be trusted, as measured against DFT.

A file of `calibrations/` for each potential that was measured, found by the potential's fingerprint: the same weights
read otherwise are another potential, of which nothing is known. `hullward benchmark judges` writes these files;
docs/numbers.md says on what they were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).with_name("calibrations")
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Curve:
    """Probability by predicted distance, piecewise linear; at both ends that of the nearest knot.

    Attributes:
        e_above_hull_ev_per_atom: (K,) predicted distances, ascending, eV/atom.
        probability: (K,), never rising.
    """

    e_above_hull_ev_per_atom: tuple[float, ...]
    probability: tuple[float, ...]

    def at(self, e_above_hull_ev_per_atom: float) -> float:
        """The probability at a predicted distance."""
        return float(np.interp(e_above_hull_ev_per_atom, self.e_above_hull_ev_per_atom, self.probability))


@dataclass(frozen=True)
class Calibration:
    """What was measured of one potential.

    Attributes:
        method: the potential's label.
        fingerprint: the potential's.
        n: crystals whose distance above hull was compared.
        data: what it was measured on, one sentence.
        mae_ev_per_atom: mean absolute error of the distance above hull, eV/atom.
        mae_formation_ev_per_atom: the same of the formation energy.
        curves: by the bound, eV/atom: probability that the distance by DFT is at most the bound.
    """

    method: str
    fingerprint: str
    n: int
    data: str
    mae_ev_per_atom: float
    mae_formation_ev_per_atom: float
    curves: Mapping[float, Curve]

    def probability(self, e_above_hull_ev_per_atom: float, within_ev_per_atom: float = 0.1) -> float | None:
        """Probability that a crystal lies within a bound of the hull by DFT.

        Args:
            e_above_hull_ev_per_atom: predicted by the potential, crystal and competing phases alike; negative below.
            within_ev_per_atom: the bound.

        Returns: Between 0 and 1; None for a bound that was not measured, or a distance that is no number.
        """
        curve = next((c for bound, c in self.curves.items() if abs(bound - within_ev_per_atom) < 1e-9), None)
        if curve is None or not np.isfinite(e_above_hull_ev_per_atom):
            return None
        return curve.at(e_above_hull_ev_per_atom)


def calibration_of(fingerprint: str) -> Calibration | None:
    """The calibration of the potential with this fingerprint; None if it was not measured."""
    return _shipped().get(fingerprint)


def calibration_from(document: Mapping[str, Any]) -> Calibration:
    """The calibration in a file's document.

    Raises: ValueError: if it is of another version of this program.
    """
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"the calibration has schema_version {document.get('schema_version')!r}: expected {SCHEMA_VERSION}; "
            "measure again with `hullward benchmark judges`"
        )
    curves = {
        float(bound): Curve(tuple(knots["e_above_hull_ev_per_atom"]), tuple(knots["probability"]))
        for bound, knots in document["curves"].items()
    }
    return Calibration(
        method=document["method"],
        fingerprint=document["fingerprint"],
        n=document["n"],
        data=document["data"],
        mae_ev_per_atom=float(document["mae_ev_per_atom"]),
        mae_formation_ev_per_atom=float(document["mae_formation_ev_per_atom"]),
        curves=curves,
    )


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Calibration]:
    documents = (json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json")))
    return {found.fingerprint: found for found in map(calibration_from, documents)}
