"""Settings of the adaptive-cell score model. Free of torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from generative.config import SamplerSettings
from storage.settings import RoomConfig

N_LEVEL_ROWS = 20
"""Rows of the table of noise levels, as published; ten are used."""


class AdaptiveCellConfig(RoomConfig):
    """Graph, network and noise; the defaults are the published ones of the main model."""

    n_neighbours: int = Field(80, ge=1, le=1000, description="nearest images that every site has edges to")
    message_width: int = Field(64, ge=1, description="of the vector of an edge")
    output_width: int = Field(
        64, ge=1, description="of the hidden layers of the output blocks; published for MP-20: 128"
    )
    triplet_width: int = Field(32, ge=1, description="of an edge while it is weighted by angles; for MP-20: 64")
    basis_width: int = Field(8, ge=1, description="of the bases' two-layer projections; for MP-20: 10")
    n_blocks: int = Field(4, ge=1, description="interaction blocks")
    n_spherical: int = Field(7, ge=1, le=12, description="degrees of the angular basis, from 0 up")
    n_radial: int = Field(6, ge=1, description="radial functions, per degree in the angular basis; for MP-20: 10")
    cutoff_ang: float = Field(5.0, gt=0, description="where the radial functions end, angstrom; for MP-20: 6")
    envelope_exponent: int = Field(5, ge=0, description="of the polynomial that lets them end smoothly")
    n_before_skip: int = Field(1, ge=0, description="residual layers of a block before the skip connection")
    n_after_skip: int = Field(2, ge=0, description="and after it")
    n_output_layers: int = Field(3, ge=0, description="hidden layers of an output block")
    weight_limit: float = Field(
        15.0, gt=0, description="what an edge can say of its site's displacement, w, enters as w_max tanh(w / w_max)"
    )
    angles: Literal["turned", "authors"] = Field(
        "turned",
        description="between an edge and those of the site it leads to: turned by the edge's operation into that "
        "site's frame; authors: as the vectors lie, which depends on which of equivalent sites was named",
    )
    n_levels: int = Field(10, ge=2, le=N_LEVEL_ROWS, description="levels of noise")
    position_variance_min_ang2: float = Field(1e-3, gt=0, description="of positions at the finest level, A^2")
    position_variance_max_ang2: float = Field(36.0, gt=0, description="and at the widest")
    cell_variance_min_ang2: float = Field(0.1, gt=0, description="of the free cell numbers at the finest level, A^2")
    cell_variance_max_ang2: float = Field(36.0, gt=0, description="and at the widest")
    cell_loss_weight: float = Field(0.5, ge=0, le=1, description="of the cell's loss; the positions' has the rest")
    stretch_step_ang: float | None = Field(
        None,
        gt=0,
        description="slopes of edge lengths by central differences with this step in the free cell numbers, A "
        "(published: 0.1); null: exact ones",
    )
    low_symmetry: bool = Field(
        False,
        description="train positions on monoclinic and triclinic crystals too (the paper does, its code does not)",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for what in ("position", "cell"):
            low, high = (getattr(self, f"{what}_variance_{end}_ang2") for end in ("min", "max"))
            if low >= high:
                raise ValueError(f"{what}_variance_min_ang2 {low:g} must lie below {what}_variance_max_ang2 {high:g}")
        return self


class AdaptiveCellSampler(SamplerSettings):
    """How positions and cell are walked from noise to a crystal, and what is made of the sites at the end."""

    steps_per_level: int = Field(80, ge=1, le=10_000, description="steps at every level of noise")
    steps_per_site: int = Field(0, ge=0, le=1000, description="further ones for every site that is asked for")
    cell_temperature: float = Field(
        0.15, ge=0, le=1, description="factor of the cell's noise, 1 for Langevin dynamics proper (published code: 0.3)"
    )
    at_once: bool = Field(
        False,
        description="one call of the network a step, for sites and cell of one state, at half the cost; published: a "
        "second one for the cell when the sites have moved",
    )
    redraws: int = Field(10, ge=0, le=1000, description="further draws of a step of the cell that would collapse it")
    attempts: int = Field(2, ge=1, le=100, description="walks for a sample that comes out as no crystal of its group")
    merge_ang: float = Field(
        0.3, gt=0, le=1, description="images of a site nearer than this are one atom, angstrom (published code: 0.4)"
    )
    atoms_max: int = Field(200, ge=1, description="most atoms of the primitive cell; a larger one is no sample")
    batch_crystals: int = Field(32, ge=1, le=4096, description="crystals that are walked at once")
    template_noise_ang: float = Field(
        0.15, ge=0, le=10, description="modifying: standard deviation of the noise that given positions get, angstrom"
    )
