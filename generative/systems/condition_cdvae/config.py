"""Settings of ConditionCDVAE+; the defaults are the published ones but for the size. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from generative.requests import FORMATION_ENERGY
from generative.systems.cdvae.config import LatentModelConfig, LatentSampler, published

SizeName = Literal["paper", "cpu", "tiny"]

COMPOSITION = "composition"
"""Name of the condition that is no number: the formula."""


@dataclass(frozen=True)
class Sizes:
    """Widths of all networks.

    Attributes:
        latent: of the latent vector.
        hidden: of the encoder's features and of the heads.
        equiformer: fields of EquiformerConfig, the same in encoder and decoder, that differ from the published ones.
        max_neighbours: edges to an atom in the decoder, before the graph is made symmetric.
        generator, critic: of the hidden layers.
        element: of an embedded element of a formula.
    """

    latent: int = 256
    hidden: int = 256
    equiformer: Mapping[str, Any] = field(default_factory=dict)
    max_neighbours: int = 20
    generator: tuple[int, ...] = (512, 512, 1024, 1024, 512)
    critic: tuple[int, ...] = (512, 512, 512)
    element: int = 128


SIZES: dict[SizeName, Sizes] = {
    "paper": Sizes(),
    "cpu": Sizes(
        latent=64,
        hidden=128,
        equiformer={
            "n_blocks": 2, "l_max": 2, "channels": 32, "attention_hidden": 16, "n_heads": 4, "alpha_width": 16,
            "value_width": 8, "feed_hidden": 32, "edge_width": 32, "n_distances": 64, "n_polar": 8,
        },
        max_neighbours=12,
        generator=(256, 256, 512, 512, 256),
        critic=(256, 256, 256),
        element=32,
    ),
    "tiny": Sizes(
        latent=16,
        hidden=32,
        equiformer={
            "n_blocks": 1, "l_max": 1, "m_max": 1, "channels": 16, "attention_hidden": 8, "n_heads": 2,
            "alpha_width": 8, "value_width": 8, "feed_hidden": 16, "edge_width": 16, "n_distances": 32, "n_polar": 6,
        },
        max_neighbours=8,
        generator=(64, 64),
        critic=(64, 64),
        element=8,
    ),
}  # fmt: skip


class ConditionCDVAESampler(LatentSampler):
    """How a latent vector is found for what is asked, and decoded; the defaults are the published ones."""

    screening: int = Field(
        100,
        ge=1,
        le=100_000,
        description="latent vectors drawn for each crystal, of which the one is kept that by the heads comes nearest "
        "to the condition",
    )
    latents: Literal["generator", "prior"] = Field(
        "generator",
        description="what draws them: the generator of the GAN, or the prior N(0, 1) as where there is no GAN",
    )


class ConditionCDVAEConfig(LatentModelConfig):
    """CDVAE with EquiformerV2 as encoder and decoder; with conditions, these are fused into the latent vector."""

    size: SizeName = Field("cpu", description="widths of the networks: paper (published), cpu, or tiny (for tests)")
    conditions: tuple[str, ...] = Field(
        (),
        description=f"what the latent vector is fused with, any number of: {COMPOSITION}; {FORMATION_ENERGY}, which is "
        "whatever `property` names; other columns of numbers, such as band_gap_ev. Empty: nothing, as for the paper's "
        "tables",
    )
    rank: int = Field(4, ge=1, le=64, description="of the low-rank fusion")
    n_gaussians: int = Field(50, ge=2, description="functions that a number is expanded in")
    gaussian_span: float = Field(
        2.0, gt=0, description="their centres lie within so many standard deviations; numbers far beyond say nothing"
    )
    learn_gaussians: bool = Field(
        False, description="centres and widths are learned (the paper's text) and not fixed (its code)"
    )
    readout: Literal["mean", "sum"] = Field(
        "mean",
        description="of atoms to the crystal: mean, or the published sum over the mean number of atoms, which grows "
        "with the cell",
    )
    drop_alpha: float = Field(0.1, ge=0, lt=1, description="part of attention weights dropped while training")
    drop_path: float = Field(0.1, ge=0, lt=1, description="part of crystals that a block passes by while training")
    property_weight: float = Field(1.0, ge=0, description="weight of the numbers read from the latent vector")
    gan_share: float = Field(
        0.5,
        ge=0,
        le=100,
        description="steps of the second phase, in which the GAN learns to draw latent vectors, over those of the "
        "first; published: 499 epochs after 1001. 0 leaves it out; without conditions there is none",
    )
    gan_rate: float = Field(2e-4, gt=0, description="peak rate of Adam (betas 0.5, 0.999) of generator and critic")
    critic_steps: int = Field(5, ge=1, description="steps of the critic to one of the generator")
    critic_dropout: float = Field(0.5, ge=0, lt=1, description="of the critic's hidden layers while training")
    gradient_penalty: float = Field(10.0, ge=0, description="weight of the critic's gradient penalty")
    generator_property_weight: float = Field(
        10.0,
        ge=0,
        description="weight of the error of the numbers read from generated latent vectors (in the code, not in the "
        "paper)",
    )
    generator_property_floor: float = Field(0.01, ge=0, description="below this mean squared error it counts nothing")
    teacher_forcing_epochs: int = published("teacher_forcing_epochs", 500, LatentModelConfig)

    @model_validator(mode="after")
    def _conditions_are_names(self) -> Self:
        if len(set(self.conditions)) < len(self.conditions) or "" in self.conditions:
            raise ValueError(f"conditions is {list(self.conditions)}: expected names, each once")
        return self

    @property
    def properties(self) -> tuple[str, ...]:
        """Those of the conditions that are numbers."""
        return tuple(name for name in self.conditions if name != COMPOSITION)


class EnergyConditionConfig(ConditionCDVAEConfig):
    """ConditionCDVAE+ asked for an energy."""

    conditions: tuple[str, ...] = published("conditions", (FORMATION_ENERGY,), ConditionCDVAEConfig)


class FormulaConditionConfig(ConditionCDVAEConfig):
    """ConditionCDVAE+ asked for a formula."""

    conditions: tuple[str, ...] = published("conditions", (COMPOSITION,), ConditionCDVAEConfig)
