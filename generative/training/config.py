"""Settings of a training. Torch-free, as generative/config.py."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from generative.config import ReducedFormula
from generative.datasets.config import DataConfig
from storage.settings import RoomConfig


class TrainConfig(RoomConfig):
    """How a generator is trained. Steps, not minutes, are the budget, so that a run can be repeated."""

    name: str = Field("flow", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="name of the checkpoint folder")
    kind: str = Field("crystal-flow", description="which system is trained; a wrong name is refused with those known")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of initialisation, batches and noise")
    data: DataConfig = Field(DataConfig(), description="training crystals")
    property: str | None = Field(
        "formation_energy_ev_per_atom",
        description="what the system is told as energy: a column of the dataset, a file's name for one, or a key of "
        "its column `extra`; null tells it none",
    )
    exclude: str | None = Field(
        None, description="a source file whose ids are removed from the training data, such as the test file"
    )
    exclude_formulas: tuple[ReducedFormula, ...] = Field(
        (),
        description="reduced formulas, such as [TaB2, AlN], of which training sees no crystal, neither in its data nor "
        "in `labels` or `validation`",
    )
    labels: str | None = Field(
        None,
        description="a Parquet file of further crystals without coordinates (space group, Wyckoff letter of every "
        "atom), from which `wyckoff` learns what sites a composition takes; others do not read it",
    )
    licence: str | None = Field(
        None,
        description="of the training data, as their sources state it, such as 'Materials Project: CC BY 4.0'; the "
        "model card says it",
    )
    init: str | None = Field(
        None,
        description="checkpoint to start from (a folder, or 'package:NAME'), as for fine-tuning; it sets the sizes",
    )
    test: str | None = Field(
        None,
        description="a source file that the finished system is scored on: its compositions are asked of a generator, "
        "its crystals' property of a regressor",
    )
    test_limit: int | None = Field(None, ge=1, description="score on this many of them, at random; null takes all")
    system: dict[str, Any] = Field({}, description="settings of the system, such as its sizes; see below")
    max_steps: int = Field(20_000, ge=1, description="optimiser steps")
    batch_crystals: int = Field(256, ge=1, description="crystals per step")
    batches: Literal["like-size", "random"] = Field(
        "like-size", description="like-size: cut from shuffled pools sorted by atoms, spares padding; random: shuffled"
    )
    optimiser: Literal["muon-adamw", "adam"] = Field(
        "muon-adamw", description="Muon for matrices that the system names and AdamW for the rest, or Adam for all"
    )
    adam_lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW or Adam")
    muon_lr: float = Field(2e-3, gt=0, description="peak learning rate of Muon")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of muon-adamw")
    warmup_steps: int = Field(200, ge=0, description="linear warm-up, steps")
    schedule: Literal["linear-decay", "plateau"] = Field(
        "linear-decay",
        description="rates fall to zero over the last steps, or whenever the validation loss has stopped falling",
    )
    decay_fraction: float = Field(0.4, ge=0, le=1, description="linear-decay: last part of the steps, rates fall")
    plateau_factor: float = Field(0.6, gt=0, lt=1, description="plateau: rates are multiplied by this")
    plateau_patience: int = Field(30, ge=0, description="plateau: validations without a lower loss that are let pass")
    lr_min: float = Field(1e-4, gt=0, description="plateau: adam_lr falls no further; muon_lr keeps its ratio to it")
    clip: Literal["norm", "value"] = Field("norm", description="what of the gradient is clipped: norm, or each value")
    clip_limit: float = Field(
        1.0, gt=0, validation_alias=AliasChoices("clip_limit", "clip_norm"), description="the gradient's limit"
    )
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights, which are kept; 0: plain ones")
    validation: str | None = Field(None, description="a source file to validate on; null: a part of the training data")
    validation_fraction: float = Field(0.02, gt=0, lt=1, description="part of the training data held out")
    split: Literal["formula", "crystal"] = Field(
        "formula", description="formula: no composition on both sides; crystal: at random (data of one formula)"
    )
    validation_every: int = Field(500, ge=1, description="steps between two validations; the last step has one too")
    early_stop_validations: int | None = Field(
        None, ge=1, description="end when the best validation is more than this many validations old; null: never"
    )
    keep: Literal["last", "loss", "yield"] = Field(
        "last",
        description="averaged weights to keep: the last, those of lowest validation loss, or those whose samples "
        "are most often valid and novel (the training loss goes on falling after novelty is lost)",
    )
    save_every: int = Field(500, ge=1, description="steps between two states to resume from")
    precision: Literal["32", "bf16"] = Field("bf16", description="autocast of matrix products")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes every GPU it sees")
    n_devices: int = Field(1, ge=1, description="GPUs (distributed data parallel) when more than one")
    torch_threads: int = Field(2, ge=1, le=256, description="CPU threads")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        chosen = f"optimiser {self.optimiser!r}, schedule {self.schedule!r}, validation {self.validation!r}"
        idle = ["muon_lr", "weight_decay"] if self.optimiser == "adam" else []
        idle += ["decay_fraction"] if self.schedule == "plateau" else ["plateau_factor", "plateau_patience", "lr_min"]
        idle += ["validation_fraction", "split"] if self.validation is not None else []
        for name in idle:
            value = getattr(self, name)
            if value not in (0, type(self).model_fields[name].default):
                raise ValueError(f"{name} is {value!r}, which does nothing with {chosen}: leave it out")
        if self.schedule == "plateau" and self.lr_min > self.adam_lr:
            raise ValueError(f"lr_min {self.lr_min:g} exceeds adam_lr {self.adam_lr:g}: expected at most that")
        return self
