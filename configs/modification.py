"""The settings of a modification: crystals go in, polymorphs of lower energy come out. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from configs.schema import DiscoverConfig, ExecutionConfig
from dft.config import BestPhononsConfig, RelaxConfig
from generative.config import SampleConfig, ScreenConfig
from storage.settings import RoomConfig

COMMON_GROUPS = (6, 8, 10, 12, 25, 35, 44, 47, 65, 71, 99, 119, 123, 129, 139, 160, 166, 216, 225)
"""The 19 space groups of the paper on conditional generation and modification."""


class ModifyConfig(RoomConfig):
    """Crystals, and what is asked of their polymorphs."""

    name: str = Field("modification", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the folder of results")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of every random draw")
    crystals: tuple[str, ...] = Field(min_length=1, description="files or folders that ingest reads; also assets:...")
    above_hull_min_ev_per_atom: float | None = Field(
        None,
        ge=0,
        description="take only crystals whose source states at least this energy above hull, eV/atom; null: all",
    )
    limit: int | None = Field(None, ge=1, description="take so many crystals at most, at random; null: all")
    reference: str | None = Field(None, description="known crystals, so that a polymorph which is one is named")
    n_candidates: int = Field(64, ge=1, le=100_000, description="polymorphs drawn for each crystal")
    spacegroups: tuple[int, ...] = Field(
        COMMON_GROUPS, description="international numbers to ask for in turn, after leaving it open; empty: always open"
    )
    energy_changes_ev_per_atom: tuple[float, ...] = Field(
        (-0.05, -0.1, -0.2, -0.4),
        description="changes of energy to ask for in turn, eV/atom; a generator is asked for the crystal's formation "
        "energy with the change, where that energy is known",
    )
    lower_by_ev_per_atom: float = Field(
        0.001, ge=0, description="a polymorph counts as lower if it is by more than this, eV/atom"
    )
    sample: SampleConfig = Field(
        SampleConfig(),
        description="modifier or generator; a chunk holds the polymorphs of as many crystals as fit into chunk_size, "
        "at least of one; n_candidates is not read here",
    )
    screen: ScreenConfig = Field(ScreenConfig(), description="validity, and when two crystals are the same")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential and relaxation")
    phonons: BestPhononsConfig = Field(
        BestPhononsConfig(), description="dynamical stability of the lowest polymorphs of each crystal"
    )
    execution: ExecutionConfig = Field(ExecutionConfig(), description="where the work runs")

    @model_validator(mode="after")
    def _groups(self) -> Self:
        bad = [s for s in self.spacegroups if not 1 <= s <= 230]
        if bad:
            raise ValueError(f"spacegroups contains {bad[0]}: international numbers run from 1 to 230")
        return self

    @property
    def folder(self) -> Path:
        """Where the results are written."""
        return Path(self.execution.runs_folder) / "modifications" / self.name

    def as_run(self) -> DiscoverConfig:
        """The settings of a run with the same potential, tolerances and machine, as the stages take them."""
        return DiscoverConfig(
            name=self.name,
            seed=self.seed,
            screen=self.screen,
            relax=self.relax,
            phonons=self.phonons,
            execution=self.execution,
        )
