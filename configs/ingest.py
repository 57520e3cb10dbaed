"""The settings of an ingest: known crystals from files and databases into a dataset of its own, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.schema import DiscoverConfig, ExecutionConfig, parse
from dft.config import RelaxConfig
from generative.config import ElementSymbol
from generative.datasets.config import DataConfig
from storage.settings import RoomConfig


class IngestExecution(RoomConfig):
    """Where the work is done. Changes no result."""

    runs_folder: str = Field(
        "runs", description="datasets are kept in datasets/<name> below it, downloads in .downloads, shared by all"
    )
    torch_threads: int = Field(2, ge=1, le=256, description="CPU threads of a potential, for prototypes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where a potential runs, for prototypes")


class IngestConfig(RoomConfig):
    """One dataset: which sources, which part of them, and where it goes."""

    name: str = Field(
        "known-crystals", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the dataset and of its folder"
    )
    elements: tuple[ElementSymbol, ...] | None = Field(
        None, min_length=1, description="keep to this chemical system, such as [Ta, W, B]; null keeps all"
    )
    data: DataConfig = Field(DataConfig(), description="sources and filters")
    relax: RelaxConfig = Field(RelaxConfig(), description="scores prototypes; other sources do not use it")
    out: str | None = Field(
        None, min_length=1, description="folder of the dataset; null is datasets/<name> in execution.runs_folder"
    )
    execution: IngestExecution = Field(IngestExecution(), description="where the work is done")

    @property
    def folder(self) -> Path:
        """Where the dataset is written."""
        return Path(self.out) if self.out else Path(self.execution.runs_folder) / "datasets" / self.name

    @property
    def downloads(self) -> Path:
        """Where records of databases are kept, so that an interrupted download goes on."""
        return Path(self.execution.runs_folder) / ".downloads"


def ingest_of_run(run: DiscoverConfig) -> IngestConfig:
    """The ingest that a discovery run begins with, as a dataset of its own."""
    return IngestConfig(
        name=run.name,
        elements=run.elements,
        data=run.data,
        relax=run.relax,
        execution=IngestExecution(**run.execution.model_dump(include=set(IngestExecution.model_fields))),
    )


def parse_ingest(settings: dict[str, Any], origin: str) -> IngestConfig:
    """Validate the settings of an ingest, or of a run, read from `origin` (a file name, said in errors).

    Raises: ConfigError: naming the field, the value, and what is allowed.
    """
    if _is_run(settings):
        return ingest_of_run(parse(DiscoverConfig, settings, origin))
    return parse(IngestConfig, settings, origin)


def _is_run(settings: dict[str, Any]) -> bool:
    """Whether these settings name something that only a run has."""
    execution = settings.get("execution")
    of_run = set(DiscoverConfig.model_fields) - set(IngestConfig.model_fields)
    of_run_execution = set(ExecutionConfig.model_fields) - set(IngestExecution.model_fields)
    return bool(of_run & set(settings)) or (isinstance(execution, dict) and bool(of_run_execution & set(execution)))
