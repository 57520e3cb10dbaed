"""The parameter of `flows/dft_jobs.py:dft`: submit the best of a finished run, or follow what is under way."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dft.campaign.config import DftConfig
from storage.settings import RoomConfig


class DftJobsConfig(RoomConfig):
    """DFT jobs of discovery runs: `submit` begins them, `collect` brings them on and their results home."""

    action: Literal["submit", "collect"] = Field("collect", description="begin jobs, or follow those under way")
    runs_folder: str = Field(
        "runs", description="folder that holds one folder per run; all campaigns in it are followed"
    )
    run: str | None = Field(
        None, description="one run, by its name; needed to submit, and to follow this one alone when collecting"
    )
    dft: DftConfig | None = Field(None, description="engine and submission; null takes those of the run's settings")

    @model_validator(mode="after")
    def _run_named(self) -> Self:
        if self.action == "submit" and self.run is None:
            raise ValueError("run is null: name the finished run whose best candidates are to be computed")
        return self
