"""A machine-learned potential as an engine: the same jobs and records as DFT, in seconds."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dft.engines.base import EngineError, FaultKind
from dft.engines.config import PotentialEngineConfig
from dft.job_folder import Job, Purpose
from dft.records import DFTRecord, enthalpy_ev
from dft.results import NoEnergy, RelaxStatus

if TYPE_CHECKING:
    from dft.potentials.loading import LoadedPotential


class PotentialEngine:
    """Relaxation with a potential."""

    def __init__(self, config: PotentialEngineConfig) -> None:
        self.config = config

    def run(self, job: Job, folder: Path) -> DFTRecord:
        """Relax the job's crystal, or evaluate it as it is; nothing is left in the folder.

        Raises: EngineError: if the potential cannot be loaded, or not take the crystal.
        """
        from dft.potentials.relaxation import points_or_reasons, relax  # torch loads here

        began_s = time.monotonic()
        potential = _loaded(self.config.potential, self.config.folders, self.config.device)
        unknown = sorted({site.specie.symbol for site in job.structure} - set(potential.elements))
        if unknown:
            raise EngineError(
                FaultKind.NO_DATA,
                f"{potential.method} knows no {', '.join(unknown)}: use another potential, or leave the element out",
                is_retryable=False,
            )
        final, n_steps, is_converged, warnings = job.structure, 1, True, list(potential.notes)
        initial_ev_per_atom: float | None = None
        if job.purpose is not Purpose.STATIC:
            (relaxation,) = relax([job.structure], potential, self.config.relaxation())
            if relaxation.structure is None:
                raise EngineError(
                    FaultKind.STRUCTURE_REFUSED, f"{potential.method}: {relaxation.reason}", is_retryable=False
                )
            final, n_steps = relaxation.structure, relaxation.n_steps + 1
            is_converged = relaxation.status is RelaxStatus.CONVERGED
            initial_ev_per_atom = relaxation.initial_energy_ev_per_atom
            warnings += [relaxation.reason] if relaxation.reason else []
        (point,) = points_or_reasons([final], potential)
        if isinstance(point, NoEnergy):
            raise EngineError(
                FaultKind.STRUCTURE_REFUSED,
                f"{potential.method} gives no energy for {final.composition.reduced_formula}: {point.reason}",
                is_retryable=False,
            )
        energy_ev = point.energy_ev_per_atom * len(final)
        if job.purpose is Purpose.STATIC:
            initial_ev_per_atom = point.energy_ev_per_atom
        pressure_gpa = self.config.pressure_gpa
        return DFTRecord(
            key=job.key,
            engine=self.config.name,
            engine_version=potential.method,
            settings=self.config.settings(),
            settings_digest=self.config.settings_digest,
            candidate_id=job.candidate_id,
            purpose=job.purpose.value,
            structure=final,
            initial_structure=job.structure,
            energy_ev=energy_ev,
            pressure_gpa=pressure_gpa,
            enthalpy_ev=enthalpy_ev(energy_ev, pressure_gpa, float(final.volume)),
            forces_ev_per_ang=point.forces_ev_per_ang,
            stress_gpa=point.stress_gpa,
            n_ionic_steps=n_steps,
            n_electronic_steps=None,
            is_converged=is_converged,
            wall_time_s=time.monotonic() - began_s,
            warnings=tuple(warnings),
            lineage=job.lineage,
            data={"potential": potential.fingerprint},
            initial_energy_ev=None if initial_ev_per_atom is None else initial_ev_per_atom * len(final),
        )


@lru_cache(maxsize=2)
def _loaded(name: str, folders: tuple[str, ...], device: str) -> LoadedPotential:
    from dft.potentials.errors import PotentialError, PotentialNotFoundError
    from dft.potentials.loading import load_potential

    try:
        return load_potential(name, fallback=None, search=[Path(one) for one in folders], device=device)
    except PotentialNotFoundError as error:
        raise EngineError(
            FaultKind.ENGINE_MISSING, f"{error}; name its folder in engine.folders", is_retryable=False
        ) from error
    except PotentialError as error:
        raise EngineError(FaultKind.NO_DATA, str(error), is_retryable=False) from error
