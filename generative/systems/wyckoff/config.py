"""Settings of the symmetric generator. Free of torch."""

from __future__ import annotations

from pydantic import Field

from generative.config import SamplerSettings
from storage.settings import RoomConfig


class LibrarySizes(RoomConfig):
    """How much a library holds; the training sets it."""

    kinds: int = Field(0, ge=0, description="signatures without their elements")
    kind_sites: int = Field(0, ge=0, description="their occupied positions together")
    types: int = Field(0, ge=0, description="structure types, with cells and coordinates")
    type_sites: int = Field(0, ge=0, description="their occupied positions together")
    voters: int = Field(0, ge=0, description="compositions that vote")
    voter_elements: int = Field(0, ge=0, description="their elements together; 0 in a merged library")
    voter_numbers: int = Field(0, ge=0, description="of a merged library: the numbers of their vectors together")


class WyckoffConfig(RoomConfig):
    """Sizes of the networks, and what is kept of the training crystals."""

    width: int = Field(48, ge=1, description="of the vector of an element in its composition")
    hidden: int = Field(192, ge=1, description="of the layer that makes it")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the hidden layers, while training")
    templates_at_once: int = Field(
        1200, ge=2, description="training: stored crystals that a step compares with, at most"
    )
    sequence_width: int = Field(
        96, ge=1, description="of the vectors of the network that makes signatures site by site"
    )
    sequence_hidden: int = Field(256, ge=1, description="of its hidden layers")
    sequences_at_once: int = Field(512, ge=1, description="training: signatures that it learns from per step")
    merge_distance: float = Field(
        0.0,
        ge=0,
        description="after training, training crystals of one signature whose compositions are so near (squared, by "
        "the learned distance) are joined to one voter, and no elements are kept; 0 keeps every crystal",
    )
    type_members_min: int = Field(
        1,
        ge=1,
        description="with merge_distance: crystals that must agree on cell and coordinates for their mean to be kept; "
        "with 2 or more no crystal can be read from the checkpoint",
    )
    library: LibrarySizes = Field(LibrarySizes(), description="sizes of what is stored; the training sets them")


class WyckoffSampler(SamplerSettings):
    """How signatures are drawn."""

    temperature: float = Field(
        0.0,
        ge=0,
        description="0: the most probable signatures of a composition in turn, whatever the seed; 1: drawn by their "
        "probabilities, none twice before all have come",
    )
