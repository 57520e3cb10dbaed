"""Progress of a training on its run's page."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from generative.config import TrainConfig

logger = logging.getLogger(__name__)

UPDATE_EVERY_S = 5.0
"""A server on SQLite takes a few updates per second from all runs together."""


def progress_artifact(config: TrainConfig) -> Any:
    """A Lightning callback that keeps a progress artifact up to date: steps done and the last losses.

    A server that does not answer costs the artifact, never the training.
    """
    from lightning.pytorch.callbacks import Callback  # loads torch

    class ProgressArtifact(Callback):
        def __init__(self) -> None:
            self.artifact: UUID | None = None
            self.updated_at = 0.0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._tell(pl_module.steps_done, {})

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if time.monotonic() - self.updated_at >= UPDATE_EVERY_S:
                self._tell(pl_module.steps_done, trainer.callback_metrics)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._tell(pl_module.steps_done, trainer.callback_metrics)

        def _tell(self, step: int, metrics: Any) -> None:
            self.updated_at = time.monotonic()
            losses = ", ".join(f"{name} {float(value):.4f}" for name, value in sorted(metrics.items()))
            about = f"{config.name}: step {step:,} of {config.max_steps:,}" + (f"; {losses}" if losses else "")
            percent = min(100.0, 100.0 * step / config.max_steps)
            try:
                if self.artifact is None:
                    made = create_progress_artifact(percent, key=f"training-{config.name}", description=about)
                    self.artifact = made if isinstance(made, UUID) else None
                else:
                    update_progress_artifact(self.artifact, progress=percent, description=about)
            except Exception as error:  # httpx, Prefect and asyncio each raise their own kinds
                logger.warning("the progress of step %d was not shown: %s", step, error)

    return ProgressArtifact()
