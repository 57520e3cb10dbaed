"""The settings of a reproduction of ConditionCDVAE+ (Gao et al.). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from configs.comparison import ComparisonConfig, NamedEntry
from dft.config import RelaxConfig
from generative.datasets.config import DataConfig, FilesSource, FilterConfig
from generative.training.config import TrainConfig
from storage.settings import RoomConfig

ConditionStage = Literal[
    "train", "judge", "ceiling", "reconstruct", "generate", "relax", "energies", "formulas", "labels", "properties",
    "readings", "latents",
]  # fmt: skip
ConditionSystem = Literal[
    "condition-cdvae", "condition-cdvae-energy", "condition-cdvae-formula", "condition-cdvae-properties", "cdvae",
    "dp-cdvae", "crystal-flow",
]  # fmt: skip

CONDITION_STAGES: tuple[ConditionStage, ...] = get_args(ConditionStage)
CONDITION_SYSTEMS: tuple[ConditionSystem, ...] = get_args(ConditionSystem)

FOR_ENERGIES: ConditionSystem = "condition-cdvae-energy"
FOR_FORMULAS: ConditionSystem = "condition-cdvae-formula"
FOR_PROPERTIES: ConditionSystem = "condition-cdvae-properties"
"""The model whose conditions are the `properties` of a data set, all at once; no kind of its own."""
FLOW: ConditionSystem = "crystal-flow"
"""Stands for DiffCSP, which is not made again; it has no encoder, and is told every composition."""
JUDGE = "cgcnn-features"
"""Kind of the network that judges energies and other numbers; no generator is trained with it."""


class AskedProperty(RoomConfig):
    """A column of numbers that the model is conditioned on."""

    name: str = Field(min_length=1, description="column, or key of `extra`, such as band_gap_ev")
    unit: str = Field("eV", description="of its numbers")
    within: float = Field(0.5, gt=0, description="how close to a target counts as met, in that unit")


class ConditionData(NamedEntry):
    """One data set: what is trained on, what is tested on, and how long."""

    name: Literal["j2dh-8", "mp-20", "c2db"] = Field(
        description="the paper's data set whose rows stand beside; beside c2db, monolayers, stand none"
    )
    systems: tuple[ConditionSystem, ...] | None = Field(
        None, description="which of the systems are made on these data; null: all that can be"
    )
    files: tuple[str, ...] = Field(min_length=1, description="crystals: files, folders or datasets that ingest reads")
    test: str | None = Field(
        None, description="test crystals, a file or folder; null holds test_share of `files` out, with the seed"
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="part that is held out where no test file is named")
    property_name: str | None = Field(
        None,
        description="column, or key of `extra`, of the energy that is asked for; null: nothing is asked for on these "
        "data",
    )
    unit: str = Field("eV/atom", description="of that energy")
    properties: tuple[AskedProperty, ...] = Field(
        (),
        description="further columns of numbers: one model is conditioned on all of them, and asked for `targets`",
    )
    targets: tuple[Mapping[str, float], ...] = Field(
        (),
        description="what is asked of it: values of one of the properties or of several at once; one that is not named "
        "is then that of a training crystal drawn at random",
    )
    max_atoms: int = Field(20, ge=1, description="most atoms of a cell")
    max_steps: Mapping[str, int] = Field(
        {}, description="optimiser steps of a system, by its name; the others take those of `training`"
    )
    system: Mapping[str, Any] = Field(
        {},
        description="settings of the latent models on these data, over those of `training.system`: epochs, in which "
        "some are told, are longer where there are more crystals",
    )
    n_reconstruct: int | None = Field(
        None, ge=1, description="test crystals that are reconstructed, at random; null takes all"
    )
    n_generate: int = Field(9600, ge=1, le=100_000, description="crystals that each system generates; published")
    n_beside: int | None = Field(
        None, ge=1, description="test crystals, at random, that generated ones are compared with; null takes all"
    )

    @model_validator(mode="after")
    def _targets_are_of_properties(self) -> Self:
        known = [one.name for one in self.properties]
        if len(set(known)) < len(known):
            raise ValueError(f"properties {known} names one twice: list each once")
        for target in self.targets:
            if not target or set(target) - set(known):
                raise ValueError(f"target {dict(target)} of {self.name}: expected values of its properties, {known}")
        return self

    def asked_property(self, name: str) -> AskedProperty:
        """The property of this name."""
        return {one.name: one for one in self.properties}[name]


class EnergiesConfig(RoomConfig):
    """Crystals for an energy."""

    targets: tuple[float, ...] = Field((-0.2, 0.0), min_length=1, description="energies asked for; published")
    n: int = Field(100, ge=1, le=100_000, description="crystals for each; published: 100")
    within: float = Field(0.1, gt=0, description="how close counts as met, in the unit of the energy")
    relax: RelaxConfig | None = Field(
        None,
        description="for bilayers whose energy is that of two monolayers on each other: a potential that computes it "
        "anew of every valid crystal, relaxed; null leaves it to the network that judges",
    )


class PropertiesConfig(RoomConfig):
    """Crystals for the properties of a data set."""

    n: int = Field(100, ge=1, le=100_000, description="crystals for each of a data set's `targets`, and for none")


class FormulasConfig(RoomConfig):
    """Crystals for a formula."""

    formulas: tuple[str, ...] = Field((), description="of a cell, such as Ga4S2Se2; the paper asked for three")
    n: int = Field(50, ge=1, le=100_000, description="crystals for each; published: 50")


class RelaxationsConfig(RoomConfig):
    """What relaxation makes of generated crystals."""

    systems: tuple[ConditionSystem, ...] = Field(("condition-cdvae", "cdvae"), description="whose; published: these")
    dataset: Literal["j2dh-8", "mp-20"] = Field("j2dh-8", description="on which they were trained")
    n: int = Field(400, ge=1, description="the first so many valid crystals of each; published: 400 novel ones")
    relax: RelaxConfig = Field(RelaxConfig(), description="potential in the place of DFT, and criteria")


class ConditionReproductionConfig(ComparisonConfig[ConditionData]):
    """ConditionCDVAE+ beside CDVAE, DP-CDVAE and a flow, and what it makes of an energy or a formula."""

    paper: Literal["condition-cdvae"] = Field(description="says which paper is made again")
    name: str = Field(
        "condition-cdvae", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the results' folder"
    )
    size: Literal["paper", "cpu", "tiny"] = Field("cpu", description="widths of the networks; paper is published")
    systems: tuple[ConditionSystem, ...] = Field(CONDITION_SYSTEMS, min_length=1, description="which systems are made")
    stages: tuple[ConditionStage, ...] = Field(
        CONDITION_STAGES, description="which are run; others are taken as they lie"
    )
    conditioned: dict[str, Any] = Field(
        {}, description="further settings of the three variants of ConditionCDVAE+, beside training.system"
    )
    samplers: dict[str, dict[str, Any]] = Field(
        {},
        description="further settings of a system's sampler, by its name; `sample` is of all but crystal-flow",
    )
    flow: TrainConfig = Field(TrainConfig(), description="of crystal-flow; the same ones are set as in `training`")
    judge: TrainConfig = Field(TrainConfig(), description="of the CGCNN that judges energies; the same ones are set")
    n_drawn: int | None = Field(
        1000, ge=1, description="valid samples drawn for the distances of distributions, published: 1000; null: all"
    )
    relaxations: RelaxationsConfig = Field(RelaxationsConfig(), description="Table 3")
    energies: EnergiesConfig = Field(EnergiesConfig(), description="crystals for an energy")
    formulas: FormulasConfig = Field(FormulasConfig(), description="crystals for a formula")
    properties: PropertiesConfig = Field(PropertiesConfig(), description="crystals for other numbers than an energy")

    def systems_on(self, entry: ConditionData) -> tuple[ConditionSystem, ...]:
        """The systems that are made on a data set."""
        return tuple(name for name in self.systems if entry.systems is None or name in entry.systems)

    def training_of(self, entry: ConditionData, system: str, judged: str = "") -> TrainConfig:
        """The settings of one training.

        Args:
            entry: the data set.
            system: its name; JUDGE for a network that judges.
            judged: the property that it judges; empty: the energy.
        """
        common = {FLOW: self.flow, JUDGE: self.judge}.get(system, self.training)
        sizes: dict[str, Any] = dict(common.system)
        if system not in (FLOW, JUDGE):
            sizes = {"size": self.size, "max_atoms": entry.max_atoms, **sizes, **entry.system}
        if system.startswith("condition-"):
            sizes |= self.conditioned
        told = entry.property_name if system in (FOR_ENERGIES, JUDGE) else None
        kind = system
        if system == FOR_PROPERTIES:
            kind, sizes = "condition-cdvae", {**sizes, "conditions": [one.name for one in entry.properties]}
        stated = common.model_dump() | {
            "name": "model",
            "kind": kind,
            "seed": self.seed,
            "data": DataConfig(
                sources=tuple(FilesSource(path=path) for path in entry.files),
                filters=FilterConfig(n_atoms_max=entry.max_atoms),
                workers=self.workers,
            ).model_dump(),
            "property": judged or told,
            "system": sizes,
            "max_steps": entry.max_steps.get(system, common.max_steps),
            "device": self.execution.device,
            "torch_threads": self.execution.torch_threads,
        }
        return TrainConfig.model_validate(stated)
