"""Which weights of a training are kept: those of lowest validation loss, or of highest valid-and-novel yield.

The loss is not the goal: a generator's loss goes on falling while its samples turn into copies of the training data
(GLASS reports 45.5 % of samples valid and novel at 50,000 steps, 3.2 % at 1,000,000, while validity alone still rises).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from generative import checkpoints
from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.screening import validity
from generative.screening.matching import ReferenceSet, Tolerances, find_known
from generative.systems.interface import Generator

N_DRAWN = 64
"""Crystals drawn to measure a yield: its standard error is at most 6 %, for seconds of sampling."""


def valid_and_novel(system: Generator, requests: Sequence[Request], known: ReferenceSet, seed: int) -> float:
    """Part of one draw per request that is structurally valid and matches no known crystal.

    Args:
        system: a generator in evaluation mode.
        requests: such as the cells of held-out crystals.
        known: the training crystals of these formulas.
        seed: of the draw; the same at every call, so that weights are compared on the same noise.
    """
    screen = ScreenConfig()
    drawn = system.sample(requests, torch.Generator().manual_seed(seed))
    alive = [crystal for crystal in drawn if validity.check(crystal, screen).valid]
    matches = find_known(alive, known, Tolerances.from_config(screen)).matches
    return sum(match is None for match in matches) / len(drawn)


class KeepBest(Callback):
    """After each validation, saves the averaged weights as folder/best if they are the best so far.

    The score lies in the checkpoint's own JSON, so a resumed training goes on comparing with it.
    """

    def __init__(self, rule: str, folder: Path, crystals: Sequence[Crystal], ids: Sequence[str], seed: int) -> None:
        """Args: rule 'loss' or 'yield'; folder of the training; training crystals and their ids; seed of the draws."""
        self._rule, self._folder, self._seed = rule, folder / "best", seed
        self._known = ReferenceSet(list(ids), list(crystals))
        chosen = np.random.default_rng(seed).permutation(len(crystals))[:N_DRAWN]
        self._like = [crystals[i] for i in chosen]

    def score_so_far(self, phase: int = 0) -> float | None:
        """Score of the weights kept so far in a phase of the training (higher is better), None before the first."""
        if not (self._folder / "model.json").is_file():
            return None
        kept = checkpoints.about(str(self._folder))["training"]
        return float(kept["score"]) if kept.get("phase", 0) == phase else None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Called after each validation; one whose loss is not finite is never the best."""
        if not trainer.is_global_zero or not math.isfinite(pl_module.watched_loss):
            return
        if self._rule == "loss":
            score = -pl_module.watched_loss
        else:
            system = pl_module.averaged.eval()
            score = valid_and_novel(system, [system.request_like(c) for c in self._like], self._known, self._seed)
        phase = pl_module.phase_index
        best = self.score_so_far(phase)
        if best is None or score > best:
            about = {
                "score": score,
                "rule": self._rule,
                "step": pl_module.steps_done,
                **({"phase": phase} if phase else {}),
            }
            stored = checkpoints.stored_as(pl_module.config.precision)
            checkpoints.save(self._folder, pl_module.averaged, about, stored)
