"""The four generators of the conditional UNet as settings: what differs between them is here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from generative.config import SamplerSettings
from generative.networks.condition_encoders import EncoderSizes
from generative.networks.unet import UNetConfig
from storage.settings import RoomConfig

SizeName = Literal["paper", "small", "tiny"]


class Sizes(NamedTuple):
    """Of the UNet, and of the encoders of what is asked."""

    network: UNetConfig
    encoders: EncoderSizes


SIZES: dict[SizeName, Sizes] = {
    "paper": Sizes(UNetConfig(), EncoderSizes()),
    "small": Sizes(
        UNetConfig(channels=64, multipliers=(1, 2, 3), n_blocks=2, n_groups=16, attention_from=1),
        EncoderSizes(64, 64, 128),
    ),
    "tiny": Sizes(
        UNetConfig(channels=32, multipliers=(1, 2, 2), n_blocks=1, n_groups=8, attention_from=1),
        EncoderSizes(32, 32, 32),
    ),
}


class ConditionalUNetConfig(RoomConfig):
    """A UNet over the structure matrix, conditioned on elements, space group and formation energy."""

    size: SizeName = Field("small", description="of the network: paper (published, 305 million weights), small, tiny")
    setting: Literal["standard", "niggli"] = Field(
        "standard",
        description="how crystals are turned before they are matrices: spglib's standard primitive cell, one origin, "
        "sites sorted by coordinates; or the Niggli cell, sites as stored (published: AFLOW's own cells)",
    )
    spacegroup_as: Literal["operations", "number"] = Field(
        "operations", description="operations: the group's 4 x 4 matrices (published); number: a learned vector"
    )
    raw_properties: bool = Field(
        False, description="22 properties of each element as they are (published), not standardised"
    )
    raw_energy: bool = Field(False, description="formation energies in eV/atom as they are (published), not scaled")
    predicts: Literal["crystal", "noise-velocity"] = Field(
        "crystal",
        description="what the network tells: the crystal at the end of the way, from which noise and velocity follow; "
        "or the noise of a diffusion and the velocity of a flow (published)",
    )
    mask_padding: bool = Field(
        True,
        description="rows without a site are kept at zero and cost nothing; false: noise and loss there too, as "
        "published",
    )
    lattice_unit_ang: float = Field(
        5.0, gt=0, description="lattice vectors stand in the matrix in this unit, angstrom; published: 1"
    )
    time_scale: float = Field(
        1000.0, gt=0, description="times of flow matching, 0 to 1, are embedded as multiples of this; published: 1"
    )
    drop_spacegroup: float = Field(
        0.2, ge=0, le=1, description="probability that training hides the space group; published: 0"
    )
    drop_energy: float = Field(
        0.2, ge=0, le=1, description="probability that training hides the formation energy; published: 0"
    )


class StepsSampler(SamplerSettings):
    """How many steps are taken."""

    n_steps: int = Field(50, ge=1, le=1000, description="network calls per crystal; published: 100")


class UNetSampler(StepsSampler):
    """How a generator walks from noise to a crystal."""

    deterministic: bool = Field(
        False, description="unet-ddpm: walk its diffusion without noise, as unet-ddim always does"
    )


@dataclass(frozen=True)
class Way:
    """How a generator comes from noise to crystals.

    Attributes:
        process: diffusion learns the noise, flow the velocity.
        start: what the way begins with.
        deterministic: whether the diffusion is walked without noise (DDIM).
    """

    process: Literal["diffusion", "flow"]
    start: Literal["normal", "uniform"] = "normal"
    deterministic: bool = False
