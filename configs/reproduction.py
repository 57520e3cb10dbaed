"""The settings of a reproduction: tables of a paper made again with our systems, at a stated budget. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from configs.adaptive_cell_reproduction import AdaptiveCellReproductionConfig
from configs.comparison import ComparisonConfig, NamedEntry
from configs.condition_reproduction import ConditionReproductionConfig
from configs.schema import ConfigError
from configs.unet_reproduction import UNetReproductionConfig
from dft.config import RelaxConfig
from generative.config import SampleConfig
from generative.training.config import TrainConfig
from storage.settings import RoomConfig

StageName = Literal["train", "regressor", "ceiling", "reconstruct", "generate", "ground-state"]
SystemName = Literal["cdvae", "cdvae-fourier", "dp-cdvae", "dp-cdvae-na", "dp-cdvae-gine", "dp-cdvae-na-gine"]
SetName = Literal["perov-5", "carbon-24", "mp-20"]
Reverse = Literal["langevin", "eq7", "eq6"]

STAGES: tuple[StageName, ...] = get_args(StageName)
SYSTEMS: tuple[SystemName, ...] = get_args(SystemName)

OFFICIAL: dict[SetName, dict[str, Any]] = {
    "perov-5": {"property_name": "heat_ref", "max_atoms": 20},
    "carbon-24": {"property_name": "energy_per_atom", "max_atoms": 24},
    "mp-20": {"property_name": "formation_energy_per_atom", "max_atoms": 20},
}
"""Data sets of the papers: the property that the energy regressor learns, and the published limit on atoms."""


class DatasetEntry(NamedEntry):
    """One data set: what is trained on, what is tested on, and how long."""

    name: SetName = Field(description="the paper's data set whose rows stand beside, and whose cut-offs coverage takes")
    train: str = Field(description="training crystals: a file or folder that ingest reads")
    validation: str | None = Field(
        None, description="crystals that training validates on; null holds a part of the training crystals out"
    )
    test: str = Field(description="test crystals: a file or folder that ingest reads; training never sees their ids")
    property_name: str = Field(description="column of both files that the energy regressor learns, eV/atom")
    energy_regressor: str | None = Field(
        None,
        description="file of CDVAE's own regressor (carbon, perovskite or mp20 .safetensors, NAME.hparams.yaml beside) "
        "for the energies of samples and test crystals; null takes the one that the stage `regressor` trains",
    )
    max_atoms: int = Field(20, ge=1, description="most atoms of a cell")
    max_steps: int | None = Field(None, ge=1, description="optimiser steps of every system; null: training.max_steps")
    batch_crystals: int | None = Field(None, ge=1, description="crystals per step; null: training.batch_crystals")
    n_reconstruct: int | None = Field(
        None, ge=1, description="test crystals that are reconstructed, at random; null takes all"
    )
    n_generate: int = Field(1000, ge=1, le=100_000, description="crystals that each system generates; published: 10240")


class GroundStateConfig(RoomConfig):
    """The ground-state test: how close generated crystals are to what they relax to."""

    systems: tuple[SystemName, ...] = Field(
        ("cdvae", "cdvae-fourier", "dp-cdvae"), description="whose crystals are relaxed; published: these three"
    )
    dataset: SetName = Field("carbon-24", description="on which they were trained")
    n: int = Field(100, ge=1, description="the first so many generated crystals of each system; published: 100")
    relax: RelaxConfig = Field(
        RelaxConfig(pressure_gpa=10.0), description="potential in the place of DFT, pressure, and criteria"
    )

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """(data set, system) of every test."""
        return frozenset((self.dataset, system) for system in self.systems)


class ReproductionConfig(ComparisonConfig[DatasetEntry]):
    """A reproduction: systems trained on data sets at one budget, and measured as the paper measures."""

    paper: Literal["dp-cdvae"] = Field("dp-cdvae", description="says which paper is made again")
    name: str = Field("dp-cdvae", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the folder of results")
    size: Literal["paper", "cpu", "tiny"] = Field("cpu", description="widths of the networks; paper is published")
    systems: tuple[SystemName, ...] = Field(SYSTEMS, min_length=1, description="which systems are compared")
    stages: tuple[StageName, ...] = Field(STAGES, description="which stages are run; the others are taken as they lie")
    reverses: tuple[Literal["eq7", "eq6"], ...] = Field(
        ("eq7", "eq6"), min_length=1, description="reverse steps by which DP-CDVAE reconstructs (Tables 1 and S1)"
    )
    regressor: TrainConfig = Field(
        TrainConfig(), description="of the energy regressor of each data set; the same ones are set for each"
    )
    sample: SampleConfig = Field(
        SampleConfig(),
        description="decoding: chunk_size, and in sampler settings of the family; reverse is set for each",
    )
    n_drawn: int | None = Field(
        1000, ge=1, description="valid samples drawn for the distances of distributions, published: 1000; null: all"
    )
    ground_state: GroundStateConfig = Field(GroundStateConfig(), description="Table 3")

    def reverses_of(self, system: str) -> tuple[Reverse, ...]:
        """The ways in which a system is asked to place atoms when it reconstructs."""
        return tuple(self.reverses) if system.startswith("dp-") else ("langevin",)

    def reverse_of_samples(self, system: str) -> Reverse:
        """The way in which a system generates: the paper's own."""
        return "eq7" if system.startswith("dp-") else "langevin"


AnyReproduction = (
    ReproductionConfig | UNetReproductionConfig | AdaptiveCellReproductionConfig | ConditionReproductionConfig
)
"""Of every paper that can be made again."""


def model_of(settings: dict[str, Any]) -> type[AnyReproduction]:
    """The model of these settings, by the paper they name.

    Raises: ConfigError: if it is none that can be made again.
    """
    models: dict[object, type[AnyReproduction]] = {
        name: model for model in get_args(AnyReproduction) for name in get_args(model.model_fields["paper"].annotation)
    }
    paper = settings.get("paper", "dp-cdvae")
    if paper not in models:
        raise ConfigError(f"paper is {paper!r}: expected one of {', '.join(map(str, models))}")
    return models[paper]


def with_choice(
    settings: dict[str, Any], systems: list[str] | None, datasets: list[str] | None, stages: list[str] | None
) -> dict[str, Any]:
    """The settings restricted to these systems, data sets and stages; None leaves them as they are.

    Raises: ConfigError: if a data set is chosen that the settings do not hold.
    """
    changed = dict(settings)
    if systems is not None:
        changed["systems"] = systems
    if stages is not None:
        changed["stages"] = stages
    if datasets is not None:
        entries = {entry.get("name"): entry for entry in settings.get("datasets", [])}
        if unknown := [name for name in datasets if name not in entries]:
            raise ConfigError(f"--datasets {unknown[0]}: the settings hold {', '.join(map(str, entries))}")
        changed["datasets"] = [entries[name] for name in datasets]
    return changed


def with_official_files(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings with every data set that the folder holds, in the layout of the CDVAE repository.

    Args:
        settings: as read from YAML; of a data set in it the budget is kept.
        folder: holds perov_5/, carbon_24/ or mp_20/, each with train.csv, val.csv and test.csv (or .csv.gz).

    Raises: ConfigError: if the settings are of another paper, or the folder holds none of them, or one without its
        three files.
    """
    if settings.get("paper", "dp-cdvae") != "dp-cdvae":
        raise ConfigError(f"--data {folder}: paper {settings['paper']!r} has no official splits: state datasets")
    stated = {entry.get("name"): entry for entry in settings.get("datasets", [])}
    entries = []
    for name, defaults in OFFICIAL.items():
        place = folder / name.replace("-", "_")
        if not place.is_dir():
            continue
        files = {}
        for setting, part in (("train", "train"), ("validation", "val"), ("test", "test")):
            found = [place / f"{part}{ending}" for ending in (".csv", ".csv.gz")]
            present = [file for file in found if file.is_file()]
            if not present:
                raise ConfigError(f"--data {folder}: {found[0]} is not there; expected the official split's file")
            files[setting] = str(present[0])
        entries.append({"name": name, **defaults, **stated.get(name, {}), **files})
    if not entries:
        expected = ", ".join(name.replace("-", "_") for name in OFFICIAL)
        raise ConfigError(f"--data {folder}: holds none of {expected}; expected the layout of the CDVAE repository")
    return {**settings, "datasets": entries}
