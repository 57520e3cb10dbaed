"""The settings of the benchmark of judges: which potentials are held against DFT, on which crystals. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema import ExecutionConfig
from dft.config import RelaxConfig
from generative.datasets.config import FilesSource
from storage.settings import RoomConfig


class JudgedPotential(RoomConfig):
    """One potential, and how much of it is measured."""

    potential: str = Field(description="see `relax.potential` of a run")
    n_crystals: int = Field(
        10_000, ge=100, description="so many of the crystals at most, the first of an order drawn by `seed`"
    )
    n_relaxed: int = Field(
        0, ge=0, description="of these so many relaxed with the potential too, and the phases they compete with"
    )


class JudgesConfig(RoomConfig):
    """The benchmark of judges: distances above the hull by potentials and by DFT, for crystals and phases of files."""

    name: str = Field(
        "judges", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the benchmark and of its folder"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the order of crystals and of the split of curves")
    potentials: tuple[JudgedPotential, ...] = Field(min_length=1, description="who is measured")
    crystals: FilesSource = Field(description="crystals with formation energies by DFT, relaxed by it")
    crystals_scheme: Literal["mp2020", "mp-legacy"] = Field(
        "mp2020",
        description="corrections in those energies: the Materials Project's of 2020, as in the phases', or the ones "
        "before, which are brought to those of 2020",
    )
    phases: tuple[FilesSource, ...] = Field(
        min_length=1, description="competing phases with formation energies by DFT, relaxed by it; elements among them"
    )
    labels: str | None = Field(
        None,
        description="Parquet file of further phases of which formation energies are known and positions are not: they "
        "span the hull by DFT, and tell where that of a potential lacks a phase",
    )
    competing_within_ev_per_atom: float = Field(
        0.02,
        ge=0,
        le=1,
        description="phases at most so far above the hull by DFT are computed with a potential, for they may span its "
        "hull, eV/atom",
    )
    relax: RelaxConfig = Field(RelaxConfig(), description="how crystals are relaxed; `potential` is not used")
    chunk_size: int = Field(128, ge=1, le=4096, description="crystals per file of results: what a killed run loses")
    calibrations: str | None = Field(
        None, description="folder for the calibrations that programs read; null is that of the benchmark"
    )
    workers: int = Field(1, ge=1, le=64, description="processes that parse crystals")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work is done")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.potential for entry in self.potentials]
        if len(set(names)) != len(names):
            raise ValueError(f"potentials are {names}: name each once")
        if bad := [entry for entry in self.potentials if entry.n_relaxed > entry.n_crystals]:
            raise ValueError(
                f"n_relaxed of {bad[0].potential} is {bad[0].n_relaxed}, more than its {bad[0].n_crystals} crystals"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return self.shared_folder / self.name

    @property
    def shared_folder(self) -> Path:
        """Where crystals that were read and energies that were computed lie, for all such benchmarks."""
        return Path(self.execution.runs_folder) / "judges"

    @property
    def calibrations_folder(self) -> Path:
        """Where calibrations are written."""
        return self.folder if self.calibrations is None else Path(self.calibrations)
