"""What the settings of every reproduction have in common: systems trained and compared on data sets. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import Field, model_validator

from configs.schema import ExecutionConfig
from generative.config import SampleConfig
from generative.training.config import TrainConfig
from storage.settings import RoomConfig


class NamedEntry(RoomConfig):
    """A data set, told by its name."""

    name: str = Field(description="name of the data set")


Entry = TypeVar("Entry", bound=NamedEntry, covariant=True)
"""Covariant, as settings are frozen: what serves every comparison serves one of any data sets."""


class ComparisonConfig(RoomConfig, Generic[Entry]):
    """Systems trained on data sets at one budget and compared, kept in one folder of results.

    A paper's own settings say what `paper`, `size`, `systems` and `stages` may be, and add their own.
    """

    paper: str = Field(description="says which paper is made again")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the folder of results")
    size: str = Field(description="of the networks")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of splits, of training and of every draw")
    systems: tuple[str, ...] = Field(min_length=1, description="which systems are compared")
    datasets: tuple[Entry, ...] = Field(min_length=1, description="on which data")
    stages: tuple[str, ...] = Field(description="which stages are run; the others are taken as they lie")
    training: TrainConfig = Field(
        TrainConfig(),
        description="of every system alike; kind, name, data, system, property, seed and device are set for each",
    )
    sample: SampleConfig = Field(SampleConfig(), description="chunk_size, and settings of the sampler")
    workers: int = Field(1, ge=1, le=64, description="processes for bonds, settings of cells, fingerprints, matching")
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work is done")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, names in (("systems", self.systems), ("datasets", [entry.name for entry in self.datasets])):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} {list(names)} names one twice: list each once")
        return self

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.execution.runs_folder) / "reproductions" / self.name

    def dataset(self, name: str) -> Entry:
        """The entry of this name.

        Raises: KeyError: if there is none.
        """
        return {entry.name: entry for entry in self.datasets}[name]
