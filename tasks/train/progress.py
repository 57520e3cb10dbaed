"""Progress of a training on its run's page."""

from __future__ import annotations

from typing import Any

from generative.training.config import TrainConfig


def progress_artifact(config: TrainConfig) -> Any:
    """A Lightning callback that keeps a progress artifact up to date: steps done and all parts of the last losses."""
    from lightning.pytorch.callbacks import Callback  # loads torch

    from tasks.report.run.artifacts import Progress

    class ProgressArtifact(Callback):
        def __init__(self) -> None:
            self.progress = Progress(f"training-{config.name}", f"training {config.name}")

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            losses = ", ".join(f"{name} {value:.4f}" for name, value in sorted(pl_module.metrics.items()))
            note = f"step {pl_module.steps_done:,} of {config.max_steps:,}"
            self.progress.update(pl_module.steps_done, config.max_steps, f"{note}; {losses}" if losses else note)

    return ProgressArtifact()
