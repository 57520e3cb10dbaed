"""The six members of the CDVAE family as settings: what differs between them is here and nowhere else.

Losses and weights are those of the published configurations (CDVAE: arXiv:2110.06197; DP-CDVAE: Sci. Rep. 14, 1275, of
which only those for Carbon-24 are published; they serve all data sets here).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from generative.config import MAX_ATOMS, SamplerSettings
from storage.settings import RoomConfig

SizeName = Literal["paper", "cpu", "tiny"]


class LatentSampler(SamplerSettings):
    """How a latent vector is decoded by annealed Langevin dynamics; the defaults are the published ones."""

    level_stride: int = Field(
        1, ge=1, le=50, description="CDVAE: take every so many-th of the 50 noise levels; 1 is published"
    )
    steps_per_level: int = Field(100, ge=1, le=1000, description="CDVAE: Langevin steps per noise level")
    step_scale: float = Field(1e-4, gt=0, le=1, description="CDVAE: Langevin step at the finest level, A^2")
    stop_below_ang: float = Field(0.0, ge=0, description="CDVAE: leave out noise levels below this; 0 takes all")
    type_noise: float = Field(
        0.0,
        ge=0,
        le=100,
        description="types shown to the denoiser while it decodes are exchanged by chance as in training, at this "
        "multiple of the level that goes with the coordinates'; 0 shows them as last named, as published",
    )
    keep_composition: bool = Field(
        False,
        description="elements are shared out among the atoms so that the composition read from the latent vector is "
        "kept; false: each atom takes its likeliest element at every step, as published",
    )
    force_atom_count: bool = Field(False, description="reconstruction takes the true number of atoms")
    force_types: bool = Field(False, description="reconstruction takes the true elements, and their number")
    latent_steps: int = Field(
        200, ge=0, le=20_000, description="steps of Adam on the latent vector toward what is asked; 0 asks nothing"
    )
    latent_rate: float = Field(0.05, gt=0, le=1, description="learning rate of Adam on the latent vector")
    latent_prior: float = Field(
        0.01, ge=0, description="weight of the latent vector's own square length, which keeps it where it was trained"
    )


class CDVAESampler(LatentSampler):
    """How the family decodes a latent vector; the defaults are the published ones."""

    reverse: Literal["eq7", "eq6", "ddim"] = Field(
        "eq7",
        description="reverse step of DP-CDVAE's diffusion: eq7 is the paper's own, eq6 the standard one, ddim draws no "
        "noise and takes few steps best",
    )
    stride: int = Field(
        1, ge=1, le=500, description="DP-CDVAE: take every so many-th of the 999 reverse steps; 1 is published"
    )

    def in_id(self) -> dict[str, Any]:
        """As ids have held these settings since there are any: all of them, by the name they had then, or none."""
        return {} if self == CDVAESampler() else {"denoising": self.model_dump(mode="json")}


@dataclass(frozen=True)
class Sizes:
    """Widths that the members have in common.

    Attributes:
        latent: of the latent vector.
        hidden: of the heads that read it, and of the second encoder.
        dimenet: fields of DimeNetConfig that differ from the published ones.
        gemnet: fields of GemNetConfig that differ from the published ones.
        atom: width of a type's embedding, and of an atom inside CDVAE's denoiser.
        time: width of the embedded time.
        wide: DP-CDVAE's atoms are as wide inside the denoiser as all their inputs together (published); else `atom`.
        join: width of the layers that join several encoders' features; None as published.
        naming: width of a hidden layer that reads types from an atom's state and the latent vector together; None: one
            linear layer of the state, as published. In a narrow network the elements of both cages of a perovskite
            hardly fit into a state beside the place that tells which of them it is.
    """

    latent: int
    hidden: int
    dimenet: dict[str, Any]
    gemnet: dict[str, Any]
    atom: int
    time: int
    wide: bool
    join: int | None = None
    naming: int | None = None


SIZES: dict[SizeName, Sizes] = {
    "paper": Sizes(latent=256, hidden=256, dimenet={}, gemnet={}, atom=128, time=128, wide=True),
    "cpu": Sizes(
        latent=256,
        hidden=256,
        dimenet={"edge_width": 64, "n_blocks": 2, "triplet_width": 32, "atom_width": 128},
        gemnet={
            "n_blocks": 2, "edge_width": 64, "triplet_width": 32, "bilinear_width": 32, "n_radial": 64,
            "max_neighbours": 12, "n_after_skip": 1, "n_atom": 2,
        },
        atom=128,
        time=128,
        wide=False,
        join=256,
        naming=256,
    ),
    "tiny": Sizes(
        latent=16,
        hidden=32,
        dimenet={
            "edge_width": 16, "n_blocks": 1, "triplet_width": 8, "atom_width": 32, "n_spherical": 3, "n_radial": 3,
            "n_output_layers": 1,
        },
        gemnet={
            "n_blocks": 1, "edge_width": 16, "triplet_width": 8, "bilinear_width": 8, "radial_width": 8,
            "circular_width": 8, "n_radial": 32, "n_spherical": 3, "max_neighbours": 8, "n_after_skip": 1, "n_atom": 1,
        },
        atom=16,
        time=16,
        wide=False,
    ),
}  # fmt: skip


class LatentModelConfig(RoomConfig):
    """What all have that encode a crystal and decode it by heads and a denoiser: losses, their weights and epochs."""

    max_atoms: int = Field(20, ge=1, le=MAX_ATOMS, description="most atoms of a cell; published: 20, Carbon-24 24")
    lattice_scaling: Literal["standard", "min-max"] = Field(
        "standard", description="how the six numbers of a lattice are scaled before they are compared"
    )
    images: Literal["paper", "all"] = Field(
        "paper", description="images of an atom searched for neighbours: 27 (published), or all within the cutoff"
    )
    count_weight: float = Field(1.0, ge=0, description="weight of the number of atoms")
    lattice_weight: float = Field(10.0, ge=0, description="weight of the lattice's six scaled numbers")
    composition_weight: float = Field(1.0, ge=0, description="weight of the composition")
    coordinate_weight: float = Field(10.0, ge=0, description="weight of the denoised coordinates")
    late_coordinate_factor: float = Field(
        1.0, gt=0, description="the weight of coordinates is multiplied by this from late_epoch on"
    )
    late_epoch: int = Field(0, ge=0, description="see late_coordinate_factor")
    type_weight: float = Field(1.0, ge=0, description="weight of the denoised types")
    kl_weight: float = Field(0.01, ge=0, description="weight of the latent prior (beta)")
    kl_warmup_epochs: int = Field(
        0,
        ge=0,
        description="epochs over which the weight of the prior rises from a hundredth of itself; 0: constant, as "
        "published. At full weight from the start, few steps teach the latent vector little of what a crystal holds",
    )
    denoiser_from_epoch: int = Field(
        0,
        ge=0,
        description="encoder and heads train alone before this epoch; 0: all together, as published. The denoiser "
        "takes most of a step's time, and what it learns of a latent vector that says nothing yet is lost",
    )
    epochs_scale: float = Field(
        1.0,
        gt=0,
        description="late_epoch, teacher_forcing_epochs, kl_warmup_epochs and denoiser_from_epoch are multiplied by "
        "this: below 1 for a training that is so much shorter than the published 3000 to 4000 epochs",
    )
    teacher_forcing_epochs: int = Field(
        1500, ge=0, description="epochs in which the denoiser trains in the true cell; afterwards in the decoded one"
    )


class CDVAEConfig(LatentModelConfig):
    """CDVAE: DimeNet++ encodes, GemNet-T predicts the score of Gaussian noise on Cartesian coordinates."""

    size: SizeName = Field("cpu", description="widths of the networks: paper (published), cpu, or tiny (for tests)")
    process: Literal["langevin", "ddpm"] = Field(
        "langevin", description="langevin: score matching on Cartesian coordinates; ddpm: on fractional ones"
    )
    fourier: bool = Field(False, description="the denoiser also sees Fourier features of the noisy coordinates")
    encode_atom_count: bool = Field(False, description="the encoder also embeds the number of atoms (N_a)")
    encode_gine: bool = Field(False, description="a second encoder, GINE, beside DimeNet++")
    atom_count_width: int = Field(256, ge=1, description="width of the embedded number of atoms at size paper")
    recentre: bool = Field(False, description="coordinates are taken relative to their mean")
    predict_energy: bool = Field(
        False, description="a head predicts the energy from the latent vector, for latent optimisation"
    )
    energy_weight: float = Field(1.0, ge=0, description="weight of the predicted energy")


def published(name: str, value: Any, of: type[RoomConfig] = CDVAEConfig) -> Any:
    """The field of a model of settings, limits and description included, with another default."""
    field = copy(of.model_fields[name])
    field.default = value
    return field


class CDVAEFourierConfig(CDVAEConfig):
    """CDVAE whose denoiser sees Fourier features of the coordinates."""

    fourier: bool = published("fourier", True)


class DPCDVAEConfig(CDVAEConfig):
    """DP-CDVAE: the denoiser predicts the noise of a diffusion on fractional coordinates."""

    process: Literal["langevin", "ddpm"] = published("process", "ddpm")
    fourier: bool = published("fourier", True)
    lattice_scaling: Literal["standard", "min-max"] = published("lattice_scaling", "min-max")
    recentre: bool = published("recentre", True)
    lattice_weight: float = published("lattice_weight", 100.0)
    coordinate_weight: float = published("coordinate_weight", 1.0)
    late_coordinate_factor: float = published("late_coordinate_factor", 10.0)
    late_epoch: int = published("late_epoch", 1000)
    type_weight: float = published("type_weight", 0.1)
    teacher_forcing_epochs: int = published("teacher_forcing_epochs", 400)


class DPCDVAENaConfig(DPCDVAEConfig):
    """DP-CDVAE that also encodes the number of atoms."""

    encode_atom_count: bool = published("encode_atom_count", True)
    recentre: bool = published("recentre", False)
    count_weight: float = published("count_weight", 0.1)
    late_epoch: int = published("late_epoch", 800)
    teacher_forcing_epochs: int = published("teacher_forcing_epochs", 200)


class DPCDVAEGineConfig(DPCDVAEConfig):
    """DP-CDVAE with GINE beside DimeNet++."""

    encode_gine: bool = published("encode_gine", True)
    recentre: bool = published("recentre", False)
    late_epoch: int = published("late_epoch", 800)
    teacher_forcing_epochs: int = published("teacher_forcing_epochs", 200)


class DPCDVAENaGineConfig(DPCDVAENaConfig):
    """DP-CDVAE with both."""

    encode_gine: bool = published("encode_gine", True)
    atom_count_width: int = published("atom_count_width", 128)
