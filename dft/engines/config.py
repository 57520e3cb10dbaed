"""Settings of the engines. Torch-free, and free of any DFT code, so that jobs can be made where none is installed.

Fields that change no number (processes, commands, folders) are left out of `settings()`, and so of the digest by which
results are compared and job folders named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dft.config import Preset, RelaxConfig
from storage.digests import json_digest
from storage.settings import RoomConfig

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


class EngineConfig(RoomConfig):
    """Base of the engines' settings."""

    ENGINE: ClassVar[str] = ""
    """'module:Class' of the dft.engines.base.Engine that computes with these settings."""
    CHANGES_NO_NUMBER: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide how a calculation is run, not what it gives."""

    name: str

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as plain JSON."""
        return self.model_dump(mode="json", exclude=set(self.CHANGES_NO_NUMBER))

    @property
    def settings_digest(self) -> str:
        """SHA-256 of the settings: results with another one share no hull with these."""
        return json_digest(self.settings())

    def follows_from(self, structure: Structure, *, is_static: bool) -> dict[str, Any]:
        """What the engine decides by the crystal alone and that makes another calculation of it; empty for most."""
        return {}

    def with_potentials_in(self, folders: Sequence[Path]) -> Self:
        """The same settings, told where potentials lie unless they say so; the same alone for engines without one."""
        return self


class PotentialEngineConfig(EngineConfig):
    """A machine-learned potential in the place of DFT: rehearses a campaign in seconds, with the same records."""

    ENGINE: ClassVar[str] = "dft.engines.potential:PotentialEngine"
    CHANGES_NO_NUMBER: ClassVar[frozenset[str]] = frozenset({"folders", "device"})

    name: Literal["potential"] = "potential"
    potential: str = Field(
        "M3GNet-MP-2021.2.8-PES",
        description="as `relax.potential`, but looked up in `folders`; never replaced",
    )
    fmax_ev_per_ang: float = Field(0.05, gt=0, le=1, description="largest force (cell forces included), eV/A")
    max_steps: int = Field(300, ge=1, le=100_000, description="optimiser steps")
    pressure_gpa: float = Field(0.0, ge=-100, le=1000, description="external pressure, GPa")
    folders: tuple[str, ...] = Field(
        (), description="folders that hold potentials by name; empty: models/ under HULLWARD_ASSETS, as at submission"
    )
    device: str = Field("cpu", description="torch device")

    def with_potentials_in(self, folders: Sequence[Path]) -> Self:
        """The same settings with these folders, if none are named."""
        return self if self.folders else self.model_copy(update={"folders": tuple(map(str, folders))})

    def relaxation(self) -> RelaxConfig:
        """The same as settings of a relaxation."""
        return RelaxConfig(
            potential=self.potential,
            fallback=None,
            fmax_ev_per_ang=self.fmax_ev_per_ang,
            max_steps=self.max_steps,
            pressure_gpa=self.pressure_gpa,
            vacuum="free" if self.pressure_gpa else "held",  # as DFT's inputs hold the cell of a slab
        )


class Spin(StrEnum):
    """Whether a calculation is spin-polarised."""

    AUTO = "auto"
    """Where the crystal carries moments, or an element of MAGNETIC_MOMENTS."""
    ON = "on"
    OFF = "off"


MAGNETIC_MOMENTS = {"Cr": 3.0, "Mn": 4.0, "Fe": 3.0, "Co": 2.0, "Ni": 1.0}
"""Moments that a spin-polarised calculation starts from where the crystal carries none, Bohr magnetons, parallel."""

LEAST_CUTOFF_EV = 500.0
ELEMENT_CUTOFFS_EV = {"N": 800.0, "O": 800.0, "F": 800.0, "Co": 800.0}
"""Elements for which LEAST_CUTOFF_EV is not enough with GPAW's PAW data; measured in docs/dft-engines.md."""


class GPAWConfig(EngineConfig):
    """GPAW, plane waves: the open DFT code."""

    ENGINE: ClassVar[str] = "dft.engines.gpaw_engine:GPAWEngine"
    CHANGES_NO_NUMBER: ClassVar[frozenset[str]] = frozenset(
        {"element_cutoffs_ev", "command", "processes", "mpi_command"}
    )

    name: Literal["gpaw"] = "gpaw"
    functional: Literal["PBE"] = Field("PBE", description="the PAW data are made for it")
    cutoff_ev: float = Field(
        800.0, ge=200, le=3000, description="plane-wave cut-off of every crystal, eV: energies at different ones differ"
    )
    element_cutoffs_ev: dict[str, float] = Field(
        ELEMENT_CUTOFFS_EV,
        description="cut-off that an element needs, eV; a crystal with one that cutoff_ev does not reach is refused",
    )
    kpoint_density_ang: float = Field(
        3.5,
        gt=0,
        le=30,
        description="k-points per A^-1 of the reciprocal lattice vectors (2 pi included), Gamma-centred",
    )
    smearing_ev: float = Field(0.05, gt=0, le=1, description="width of the Fermi-Dirac occupations, eV")
    spin: Spin = Field(Spin.AUTO, description="auto: where the crystal carries moments, or holds Cr Mn Fe Co Ni")
    pressure_gpa: float = Field(0.0, ge=-100, le=1000, description="external pressure, GPa")
    fmax_ev_per_ang: float = Field(0.02, gt=0, le=1, description="largest force (cell forces included), eV/A")
    ionic_steps_max: int = Field(60, ge=1, le=10_000, description="optimiser steps")
    electronic_steps_max: int = Field(150, ge=10, le=10_000, description="electronic steps per geometry and mixing")
    energy_convergence_ev_per_electron: float = Field(1e-5, gt=0, le=0.01, description="eV per valence electron")
    command: tuple[str, ...] = Field(
        ("gpaw", "python"), min_length=1, description="starts GPAW's Python; it has its own ASE and NumPy"
    )
    processes: int = Field(1, ge=1, le=4096, description="MPI processes, where mpi_command does not say")
    mpi_command: str | None = Field(
        None,
        description="how GPAW is started in parallel, such as 'srun'; null takes HULLWARD_MPI_COMMAND, or mpirun for "
        "more than one process",
    )

    @model_validator(mode="after")
    def _known_elements(self) -> Self:
        further = sorted(set(self.element_cutoffs_ev) - set(ELEMENT_CUTOFFS_EV))
        if not further:
            return self
        from pymatgen.core.periodic_table import Element  # here, so that most settings are read without it

        if unknown := [symbol for symbol in further if not Element.is_valid_symbol(symbol)]:
            raise ValueError(f"{', '.join(unknown)} in element_cutoffs_ev: expected symbols of elements")
        return self

    @classmethod
    def for_elements(cls, elements: Iterable[str], **fields: Any) -> Self:
        """Settings whose cut-off is just enough for these elements together: those of a whole campaign.

        Args:
            elements: symbols.
            fields: further settings.
        """
        needed = fields.get("element_cutoffs_ev", ELEMENT_CUTOFFS_EV)
        cutoff_ev = max([LEAST_CUTOFF_EV, *(needed.get(symbol, LEAST_CUTOFF_EV) for symbol in elements)])
        return cls(**{"cutoff_ev": cutoff_ev, **fields})


class VaspEngineConfig(EngineConfig):
    """VASP through atomate2's makers and custodian."""

    ENGINE: ClassVar[str] = "dft.engines.vasp:VaspEngine"
    CHANGES_NO_NUMBER: ClassVar[frozenset[str]] = frozenset(
        {
            "command",
            "gamma_command",
            "max_errors",
            "wall_time_s",
            "wall_time_margin_s",
            "poll_s",
            "monitor_every",
        }
    )

    name: Literal["vasp"] = "vasp"
    preset: Preset = Field(Preset.CONDITIONAL_GENERATION, description="VASP settings; docs/dft.md lists each one")
    potcar_functional: str = Field("PBE_54", description="pseudopotential family; mp-relax always takes PBE, its own")
    preset_edition: Literal[1] = Field(1, description="raised when the tags of a preset change")
    command: str = Field(
        "", description="such as 'srun vasp_std'; empty: ATOMATE2_VASP_CMD of the job's environment, then vasp_std"
    )
    gamma_command: str = Field("", description="for meshes of the Gamma point alone; empty: the same as command")
    max_errors: int = Field(5, ge=0, le=100, description="corrections that custodian tries before it gives up")
    wall_time_s: int | None = Field(
        None,
        ge=60,
        description="time limit, counted from the start of the allocation: custodian has VASP end in good order before "
        "it, s; null: submission.walltime_s, and none outside an allocation",
    )
    wall_time_margin_s: int = Field(
        300, ge=1, description="how long before the limit at the latest, s; a job is not begun with less than that left"
    )
    poll_s: float = Field(10.0, gt=0, le=300, description="how often custodian looks whether VASP has ended, s")
    monitor_every: int = Field(
        30, ge=1, le=1000, description="every so many looks custodian searches the running VASP's output for errors"
    )

    @property
    def pressure_gpa(self) -> float:
        """External pressure of the preset, GPa."""
        return 10.0 if self.preset is Preset.DP_CDVAE_10GPA else 0.0

    def follows_from(self, structure: Structure, *, is_static: bool) -> dict[str, Any]:
        """That the cell of a slab is held, and what `vdw` says of its mesh and its dipole."""
        from dft.inputs.slabs import slab_settings

        slab = slab_settings(structure, self.preset, is_static=is_static)
        if slab is None:
            return {}
        across = {} if slab.mesh is None else {"across": "one k-point", "dipole": slab.is_polar}
        return {**({} if is_static else {"cell": "held"}), **across}
