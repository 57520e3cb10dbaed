"""Conditions to crystals, one seeded chunk at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from generative.checkpoints import Checkpoint
from generative.conditions import Condition
from generative.config import DenoisingConfig, SampleConfig
from generative.crystals import Crystal


@dataclass(frozen=True)
class Sampled:
    """A crystal as drawn.

    Attributes:
        id: hash of (checkpoint, condition, sampler settings, seed, index): the same on every machine.
        index: place in the run's plan.
        condition: what was asked.
        crystal: what came.
    """

    id: str
    index: int
    condition: Condition
    crystal: Crystal


def candidate_id(checkpoint_digest: str, condition: Condition, settings: SampleConfig, seed: int, index: int) -> str:
    """Sixteen hexadecimal digits that name a draw before it is made.

    The number of candidates and the path of the checkpoint folder do not enter: they do not change the draw. Nor does
    `denoising` at its defaults, so that draws of systems that heed none keep the names they had before it was there.
    """
    sampler = settings.model_dump(mode="json", exclude={"checkpoint", "n_candidates"})
    if settings.denoising == DenoisingConfig():
        del sampler["denoising"]
    word = json.dumps([checkpoint_digest, condition.digest, sampler, seed, index], sort_keys=True)
    return hashlib.sha256(word.encode()).hexdigest()[:16]


def chunk_generator(seed: int, stage: str, chunk: int) -> torch.Generator:
    """The generator of one chunk of one stage; streams of different chunks are independent."""
    stage_number = int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "big")
    state = np.random.SeedSequence((seed, stage_number, chunk)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def sample_chunk(
    checkpoint: Checkpoint,
    conditions: Sequence[Condition],
    settings: SampleConfig,
    seed: int,
    chunk: int,
    progress: Callable[[int], None] | None = None,
) -> list[Sampled]:
    """Draw chunk number `chunk` of a plan: one crystal per condition, in order.

    Args:
        checkpoint: the generator.
        conditions: those of this chunk; the first has index chunk * settings.chunk_size in the plan.
        settings: sampler settings.
        seed: the run's seed.
        chunk: number of the chunk.
        progress: called with the number of finished integration steps.
    """
    crystals = checkpoint.system.sample(
        [c.atomic_numbers for c in conditions],
        chunk_generator(seed, "sample", chunk),
        settings,
        [c.spacegroup for c in conditions],
        [c.formation_energy_ev_per_atom for c in conditions],
        progress,
    )
    first = chunk * settings.chunk_size
    return [
        Sampled(candidate_id(checkpoint.digest, condition, settings, seed, first + i), first + i, condition, crystal)
        for i, (condition, crystal) in enumerate(zip(conditions, crystals, strict=True))
    ]
