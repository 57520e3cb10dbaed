"""Settings of the symmetric generator. Free of torch."""

from __future__ import annotations

from pydantic import Field

from generative.config import SamplerSettings
from storage.settings import RoomConfig


class WyckoffConfig(RoomConfig):
    """Sizes of the network, and of what it has stored of its training crystals."""

    width: int = Field(48, ge=1, description="of the vector of an element in its composition")
    hidden: int = Field(192, ge=1, description="of the layer that makes it")
    dropout: float = Field(0.1, ge=0, lt=1, description="of that layer, while training")
    templates_at_once: int = Field(
        1200, ge=2, description="training: stored crystals that a step compares with, at most"
    )
    n_templates: int = Field(0, ge=0, description="crystals stored; the training sets it")
    n_orbits: int = Field(0, ge=0, description="their orbits together; the training sets it")


class WyckoffSampler(SamplerSettings):
    """How signatures are drawn."""

    temperature: float = Field(
        0.0,
        ge=0,
        description="0: the most probable signatures of a composition in turn, whatever the seed; 1: drawn by their "
        "probabilities, none twice before all have come",
    )
