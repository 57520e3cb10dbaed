"""How far a training is."""

from __future__ import annotations

from typing import Any

from generative.training.config import TrainConfig
from storage.progress import NotedProgress


def steps_told(config: TrainConfig, tell: NotedProgress) -> Any:
    """A Lightning callback that tells of every step: how many are done, and all parts of the last losses."""
    from lightning.pytorch.callbacks import Callback  # loads torch

    class Told(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            losses = ", ".join(f"{name} {value:.4f}" for name, value in sorted(pl_module.metrics.items()))
            note = f"step {pl_module.steps_done:,} of {config.max_steps:,}"
            tell(pl_module.steps_done, config.max_steps, f"{note}; {losses}" if losses else note)

    return Told()
