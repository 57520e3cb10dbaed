"""By which measure two crystals are the same."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from generative.config import ScreenConfig
from generative.screening.slabs import STANDARD_VACUUM_ANG


@dataclass(frozen=True)
class Tolerances:
    """By which measure two crystals were called the same; part of every result.

    Attributes:
        ltol: fractional tolerance on lattice lengths.
        stol: site tolerance, units of (V/N)^(1/3).
        angle_tol_deg: tolerance on lattice angles, degrees.
        pymatgen_version: whose StructureMatcher was used.
        dimensions: 2 where slabs were compared in cells of one vacuum (generative.screening.slabs).
    """

    ltol: float
    stol: float
    angle_tol_deg: float
    pymatgen_version: str
    dimensions: int = 3

    @classmethod
    def of(cls, ltol: float, stol: float, angle_tol_deg: float, dimensions: int = 3) -> Tolerances:
        """These tolerances with the installed pymatgen."""
        return cls(ltol, stol, angle_tol_deg, version("pymatgen"), dimensions)

    @classmethod
    def from_config(cls, config: ScreenConfig) -> Tolerances:
        """The tolerances of a run's settings with the installed pymatgen."""
        return cls.of(config.ltol, config.stol, config.angle_tol_deg, config.dimensions)

    def matcher(self) -> Any:
        """pymatgen's StructureMatcher at these tolerances, all else at its defaults."""
        from pymatgen.analysis.structure_matcher import StructureMatcher  # 0.2 s of SciPy: when first asked for

        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol_deg)

    def __str__(self) -> str:
        vacuum = f", slabs with {STANDARD_VACUUM_ANG:g} A of vacuum" if self.dimensions == 2 else ""
        return f"ltol {self.ltol:g}, stol {self.stol:g}, angle {self.angle_tol_deg:g} degrees{vacuum}"
