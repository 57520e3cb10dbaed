"""The settings of a reproduction of the adaptive-cell score model (Sultanov et al.). Torch-free."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from configs.comparison import ComparisonConfig, NamedEntry
from dft.config import BestPhononsConfig, HullConfig, RelaxConfig
from generative.config import ElementSymbol
from generative.datasets.config import DataConfig, FilesSource
from generative.training.config import TrainConfig
from storage.settings import RoomConfig

CellStage = Literal["train", "generate", "known", "compounds"]
CellSystem = Literal["adaptive-cell", "wyckoff", "prototype-substitution", "random-symmetric"]

CELL_STAGES: tuple[CellStage, ...] = get_args(CellStage)
CELL_SYSTEMS: tuple[CellSystem, ...] = get_args(CellSystem)

MODEL: CellSystem = "adaptive-cell"
COPIES = "training-structures"
"""A row without a system: training crystals as if they had been generated, the paper's own check of its metrics."""
LOWEST_GROUP = 16
"""Of the space groups that the paper's data are restricted to: those of cells with fixed angles."""


class SiteData(NamedEntry):
    """The data set: what is trained on, and what is tested on, both without monoclinic and triclinic crystals."""

    name: Literal["mp-20-sg16"] = Field("mp-20-sg16", description="name of the data set, whose rows of papers compare")
    train: tuple[str, ...] = Field(min_length=1, description="training crystals: files or folders that ingest reads")
    test: str = Field(description="test crystals: a file or folder; training never sees their ids")
    n_generate: int = Field(
        1000, ge=1, le=100_000, description="test crystals whose sites and groups are asked for, at random; published"
    )


class KnownStructuresConfig(RoomConfig):
    """Known structures that no system has learned from, asked for by their group and sites."""

    crystals: str = Field(
        "assets:data/mp_20_biternary_test.csv.gz",
        description="a file or folder with energies above hull, of which the structures are chosen",
    )
    n_structures: int = Field(36, ge=1, le=10_000, description="so many, drawn with the seed; published: 36")
    n_elements: tuple[int, ...] = Field((3,), min_length=1, description="distinct elements; the published are ternary")
    n_sites_max: int = Field(4, ge=1, description="most inequivalent sites")
    e_above_hull_max_ev_per_atom: float = Field(
        0.0, ge=0, le=1, description="energy above hull, as the file states it, up to which a structure is chosen"
    )
    n_samples: int = Field(50, ge=1, le=10_000, description="samples for each structure; published: 50")
    systems: tuple[CellSystem, ...] = Field(CELL_SYSTEMS, description="which of the systems are asked")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential in the place of DFT, and criteria")


class CompoundsConfig(RoomConfig):
    """New compounds of chemical systems: a campaign each, by sites in the published space groups."""

    systems: tuple[Literal["adaptive-cell", "wyckoff"], ...] = Field(
        ("adaptive-cell", "wyckoff"), description="which are asked; the others do not heed numbers of sites"
    )
    chemistries: tuple[tuple[ElementSymbol, ...], ...] = Field(
        (("Cu", "Si", "K"), ("Fe", "Ta", "Sn"), ("Sb", "Ta", "V"), ("Al", "K", "Pd")),
        min_length=1,
        description="chemical systems; the paper states results of the default ones",
    )
    n_candidates: int = Field(
        7680,
        ge=1,
        le=1_000_000,
        description="crystals drawn in each: 128 are one of every numbers of sites in each of 32 groups; published: 60 "
        "times these",
    )
    data: DataConfig = Field(DataConfig(), description="known crystals, the competing phases")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential in the place of DFT, and criteria")
    # A decorated prototype would be a candidate of every system's campaign, and is nobody's.
    hull: HullConfig = Field(HullConfig(prototypes_within_ev_per_atom=None), description="competing phases")
    phonons: BestPhononsConfig = Field(BestPhononsConfig(n_best=3), description="dynamical stability of the best")


class AdaptiveCellReproductionConfig(ComparisonConfig[SiteData]):
    """The adaptive-cell model beside three systems that are asked the same, measured as the paper measures."""

    paper: Literal["adaptive-cell"] = Field(description="says which paper is made again")
    name: str = Field("adaptive-cell", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the results' folder")
    size: str = Field("cpu", description="what tables call the size of the network, which training.system states")
    systems: tuple[CellSystem, ...] = Field(CELL_SYSTEMS, min_length=1, description="which systems are compared")
    stages: tuple[CellStage, ...] = Field(
        CELL_STAGES,
        description="which stages are run; others are taken as they lie, but for a given "
        "checkpoint, which is taken over in any case",
    )
    datasets: tuple[SiteData, ...] = Field(min_length=1, max_length=1, description="the one data set")
    checkpoint: str | None = Field(
        None,
        description="folder of an adaptive-cell checkpoint that the stage `train` takes over; null trains one there",
    )
    training: TrainConfig = Field(
        TrainConfig(),
        description="of the adaptive-cell model; kind, name, data, exclude, property, seed and device are set",
    )
    known: KnownStructuresConfig = Field(KnownStructuresConfig(), description="known structures, section 5.3")
    compounds: CompoundsConfig = Field(CompoundsConfig(), description="new compounds, Table 3")

    @model_validator(mode="before")
    @classmethod
    def _takes_its_checkpoint_over(cls, settings: Any) -> Any:
        """Of a checkpoint that is given, `train` is a copy, without which no other stage has the model."""
        stages = settings.get("stages") if isinstance(settings, dict) else None
        if isinstance(stages, list | tuple) and stages and "train" not in stages and settings.get("checkpoint"):
            return {**settings, "stages": ("train", *stages)}
        return settings

    @property
    def data(self) -> SiteData:
        """The one data set."""
        return self.datasets[0]

    def training_of_model(self) -> TrainConfig:
        """The settings of the model's training."""
        stated: dict[str, Any] = self.training.model_dump() | {
            "name": "model",
            "kind": MODEL,
            "seed": self.seed,
            "data": DataConfig(
                sources=tuple(FilesSource(path=path) for path in self.data.train), workers=self.workers
            ).model_dump(),
            "exclude": self.data.test,
            "property": None,
            "device": self.execution.device,
            "torch_threads": self.execution.torch_threads,
        }
        return TrainConfig.model_validate(stated)

    def elements_of(self, dataset: str) -> tuple[str, ...]:
        """The elements of a chemistry, by the name that its results have."""
        return {name_of_chemistry(elements): elements for elements in self.compounds.chemistries}[dataset]


def name_of_chemistry(elements: tuple[str, ...]) -> str:
    """What the results of a chemical system are called, such as 'cu-si-k'."""
    return "-".join(elements).lower()
