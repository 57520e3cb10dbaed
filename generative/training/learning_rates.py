"""Learning rates of a training, as factors on the configured peak rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from generative.training.config import TrainConfig

IMPROVEMENT = 1e-4
"""A loss counts as lower if it is so by this share of itself: torch's ReduceLROnPlateau, which both CDVAE codes use."""


def learning_factor(step: int, config: TrainConfig, n_steps: int | None = None) -> float:
    """Warm-up, then by schedule 'linear-decay' a plateau and linear decay to zero over the last part of the steps.

    Args: step, counted from 0; settings; how many steps there are, None for config.max_steps.

    The plateau can be cut short at any step. Under schedule 'plateau' only the warm-up is a function of the step.
    """
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "plateau":
        return rise
    n_steps = config.max_steps if n_steps is None else n_steps
    decay = max(1, round(config.decay_fraction * n_steps))
    return rise * min(1.0, max(0.0, (n_steps - step) / decay))


@dataclass(frozen=True)
class Plateau:
    """How far rates have been lowered, each time that the validation loss had not fallen for some validations.

    Attributes:
        factor: on the peak rates now.
        best: lowest loss seen that was lower by more than IMPROVEMENT.
        waited: validations since then, or since the rates were lowered.
    """

    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def after(self, loss: float, config: TrainConfig) -> Plateau:
        """The plateau after a further validation; a loss that is not a number has not fallen."""
        needed = self.best - IMPROVEMENT * abs(self.best) if math.isfinite(self.best) else math.inf
        if loss < needed:
            return Plateau(self.factor, loss, 0)
        if self.waited < config.plateau_patience:
            return Plateau(self.factor, self.best, self.waited + 1)
        return Plateau(max(self.factor * config.plateau_factor, config.lr_min / config.adam_lr), self.best, 0)
