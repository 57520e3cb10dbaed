"""Requests to crystals, one seeded chunk at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from generative.checkpoints import Checkpoint
from generative.config import SampleConfig, SamplerSettings
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.systems.interface import Progress
from storage.digests import json_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampled:
    """A crystal as drawn.

    Attributes:
        id: hash of (checkpoint, request, sampler settings, seed, index): the same on every machine.
        index: place in the run's plan.
        request: what was asked.
        crystal: what came.
    """

    id: str
    index: int
    request: Request
    crystal: Crystal


_IN_EVERY_ID = {"n_steps": 50, "velocity_slope": 5.0, "churn": 0.1, "guidance": 1.0}
"""What ids have held since the first version, whose only generator had these settings at these defaults: they are held
still, so that a draw keeps its name, and a system's own settings stand beside them or in their place."""


def candidate_id(
    checkpoint_digest: str, request: Request, chunk_size: int, settings: SamplerSettings, seed: int, index: int
) -> str:
    """Sixteen hexadecimal digits that name a draw before it is made.

    The number of candidates and the path of the checkpoint folder do not enter: they do not change the draw. Of the
    settings only those enter that the system reads and that differ from its defaults.
    """
    sampler = {"chunk_size": chunk_size, **_IN_EVERY_ID, **settings.in_id()}
    return json_digest([checkpoint_digest, request.digest, sampler, seed, index], spaced=True)[:16]


def chunk_generator(seed: int, stage: str, chunk: int) -> torch.Generator:
    """The generator of one chunk of one stage; streams of different chunks are independent."""
    stage_number = int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "big")
    state = np.random.SeedSequence((seed, stage_number, chunk)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def sample_chunk(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    settings: SampleConfig,
    seed: int,
    chunk: int,
    progress: Progress | None = None,
) -> list[Sampled]:
    """Draw chunk number `chunk` of a plan: one crystal per request, in order.

    Args:
        checkpoint: the generator.
        requests: those of this chunk; the first has index chunk * settings.chunk_size in the plan.
        settings: size of chunks, and `sampler` for the generator.
        seed: the run's seed.
        chunk: number of the chunk.
        progress: told of the share of the work done.

    Raises: CheckpointError: if the checkpoint holds no generator.
        ValueError: if a setting of the sampler is none of the generator's, or it cannot answer a request.
    """
    generator = checkpoint.generator
    sampler = generator.sampler_settings(settings.sampler)
    if unheeded := sorted(frozenset().union(*(request.asks for request in requests)) - generator.heeds):
        logger.warning("%s does not heed what is asked of %s", generator.name, ", ".join(unheeded))
    crystals = generator.sample(requests, chunk_generator(seed, "sample", chunk), sampler, progress)
    first = chunk * settings.chunk_size
    return [
        Sampled(
            candidate_id(checkpoint.digest, request, settings.chunk_size, sampler, seed, first + i),
            first + i,
            request,
            crystal,
        )
        for i, (request, crystal) in enumerate(zip(requests, crystals, strict=True))
    ]
