"""Settings of the engines. Torch-free, and free of any DFT code, so that jobs can be made where none is installed.

Fields that change no number (processes, commands, folders) are left out of `settings()`, and so of the digest by which
results are compared and job folders named.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter

from dft.config import RelaxConfig, RoomConfig
from dft.structures import digest_of


class EngineConfig(RoomConfig):
    """Base of the engines' settings."""

    CHANGES_NO_NUMBER: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide how a calculation is run, not what it gives."""

    name: str

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as plain JSON."""
        return self.model_dump(mode="json", exclude=set(self.CHANGES_NO_NUMBER))

    @property
    def settings_digest(self) -> str:
        """SHA-256 of the settings: results with another one share no hull with these."""
        return digest_of(self.settings())


class PotentialEngineConfig(EngineConfig):
    """A machine-learned potential in the place of DFT: rehearses a campaign in seconds, with the same records."""

    CHANGES_NO_NUMBER: ClassVar[frozenset[str]] = frozenset({"folders", "device"})

    name: Literal["potential"] = "potential"
    potential: str = Field(
        "M3GNet-MP-2021.2.8-PES", description="a name looked up in `folders`, a folder, or 'CHGNet'; never replaced"
    )
    fmax_ev_per_ang: float = Field(0.05, gt=0, le=1, description="largest force (cell forces included), eV/A")
    max_steps: int = Field(300, ge=1, le=100_000, description="optimiser steps")
    pressure_gpa: float = Field(0.0, ge=-100, le=1000, description="external pressure, GPa")
    folders: tuple[str, ...] = Field((), description="folders that hold potentials by name")
    device: str = Field("cpu", description="torch device")

    def relaxation(self) -> RelaxConfig:
        """The same as settings of a relaxation."""
        return RelaxConfig(
            potential=self.potential,
            fallback=None,
            fmax_ev_per_ang=self.fmax_ev_per_ang,
            max_steps=self.max_steps,
            pressure_gpa=self.pressure_gpa,
        )


AnyEngineConfig = Annotated[PotentialEngineConfig, Field(discriminator="name")]

_ANY: TypeAdapter[EngineConfig] = TypeAdapter(AnyEngineConfig)


def parse_engine(document: Any) -> EngineConfig:
    """The settings in plain JSON values, by their `name`.

    Raises: pydantic.ValidationError: if the name is unknown or a field is wrong.
    """
    return _ANY.validate_python(document)
