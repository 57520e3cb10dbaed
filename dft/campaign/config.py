"""Settings of the DFT leg: what is computed, by which engine, where. Torch-free."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from dft.engines.config import GPAWConfig
from dft.engines.registry import AnyEngineConfig
from dft.submission.config import SubmissionConfig
from storage.settings import RoomConfig


class DftConfig(RoomConfig):
    """DFT of the best candidates and of the phases they compete with, all by one engine at the same settings."""

    run: bool = Field(False, description="submit DFT jobs at the end of a run; the run then waits without a process")
    top_n: int = Field(5, ge=0, le=10_000, description="this many best-ranked candidates are computed")
    references_max: int = Field(
        20,
        ge=0,
        le=10_000,
        description="most competing phases computed, lowest above the potential's hull first, of these what the "
        "candidates decompose into; phases of the hull that are left out are named",
    )
    references_within_ev_per_atom: float = Field(
        0.05, ge=0, le=10, description="competing phases this near the potential's hull are computed, eV/atom"
    )
    jobs_folder: str | None = Field(
        None, description="folder of the job folders, shared by all runs; null is .dft beside the runs"
    )
    with_generated: bool = Field(
        True,
        description="also compute each candidate as it was generated, unrelaxed: the energy that relaxation gained",
    )
    engine: AnyEngineConfig = Field(GPAWConfig(), description="the DFT code and its settings")
    submission: SubmissionConfig = Field(SubmissionConfig(), description="where jobs run")

    @field_validator("engine", mode="before")
    @classmethod
    def _default_engine(cls, stated: Any) -> Any:
        """Settings that name no engine are those of the default one."""
        is_nameless = isinstance(stated, dict) and "name" not in stated
        return {"name": cls.model_fields["engine"].default.name, **stated} if is_nameless else stated
