"""The settings of a reproduction of conditional generation and modification (AIRI). Torch-free."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from configs.comparison import ComparisonConfig, NamedEntry
from generative.config import SampleConfig

UNetStage = Literal["train", "generate", "modify"]
Generator = Literal["unet-ddpm", "unet-ddim", "unet-flow-normal", "unet-flow-uniform"]
Modifier = Literal["unet-modify-regression", "unet-modify-diffusion", "unet-modify-flow"]

UNetSystem = Literal[
    "unet-ddpm",
    "unet-ddim",
    "unet-flow-normal",
    "unet-flow-uniform",
    "unet-modify-regression",
    "unet-modify-diffusion",
    "unet-modify-flow",
]
"""One literal, not the union of both: a wrong name is then refused with one list."""

UNET_STAGES: tuple[UNetStage, ...] = get_args(UNetStage)
GENERATORS: tuple[Generator, ...] = get_args(Generator)
MODIFIERS: tuple[Modifier, ...] = get_args(Modifier)

COPY = "prototype-copy"
"""A row without a network: a training crystal of the asked space group and pattern of counts, its elements replaced."""
SAME = "source-unchanged"
"""A row without a network: the crystal that is to be modified, as it is."""


class PolymorphData(NamedEntry):
    """One data set: its crystals, and how they are divided and tested."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="name of the data set")
    files: tuple[str, ...] = Field(min_length=1, description="crystals: files or folders that ingest reads")
    test: str | None = Field(
        None,
        description="test crystals, a file or folder; null: the shares below of the formulas of `files`. Data of one "
        "formula need it",
    )
    property_name: str = Field("formation_energy_ev_per_atom", description="column of the energies, eV/atom")
    max_atoms: int = Field(60, ge=1, le=60, description="most atoms of a cell")
    generation_steps: int | None = Field(None, ge=1, description="of each generator; null: training.max_steps")
    modification_steps: int | None = Field(None, ge=1, description="of each modifier; null: training.max_steps")
    per_formula: int | None = Field(
        2, ge=1, description="so many of the lowest of each formula may be asked for; published: 2; null: all"
    )
    n_generate: int | None = Field(
        None,
        ge=1,
        description="test crystals that are asked for; null: as many as test formulas (published)",
    )
    n_lowest: int = Field(1, ge=1, description="so many of the lowest polymorphs of a group are good targets")
    n_modify: int | None = Field(
        None, ge=1, description="test pairs of polymorphs; null: one of each group (published)"
    )


class UNetReproductionConfig(ComparisonConfig[PolymorphData]):
    """Seven systems, measured as the paper measures."""

    paper: Literal["conditional-unet"] = Field(description="says which paper is made again")
    name: str = Field("unet", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the folder of results")
    size: Literal["paper", "small", "tiny"] = Field("tiny", description="of the networks; paper is published")
    systems: tuple[UNetSystem, ...] = Field(
        (*GENERATORS, *MODIFIERS), min_length=1, description="which systems are compared"
    )
    stages: tuple[UNetStage, ...] = Field(UNET_STAGES, description="which stages are run; others are taken as they lie")
    generation_share: float = Field(0.05, gt=0, lt=1, description="of the formulas, tested by generation; published")
    modification_share: float = Field(0.2, gt=0, lt=1, description="of the formulas, tested by modification; published")
    sample: SampleConfig = Field(
        SampleConfig(sampler={"n_steps": 100}),
        description="chunk_size, and the samplers' settings, of which n_steps is published as 100",
    )

    @property
    def generators(self) -> tuple[Generator, ...]:
        """Those chosen, in the paper's order."""
        return tuple(name for name in GENERATORS if name in self.systems)

    @property
    def modifiers(self) -> tuple[Modifier, ...]:
        """Those chosen, in the paper's order."""
        return tuple(name for name in MODIFIERS if name in self.systems)
