"""What happens between the steps of a training: validation, curves, the clock, states to resume from.

Validation is done here and not by Lightning's own loop: its place among the steps, and what follows from it (rates,
choice of weights, early end), must be the same in a training that was killed and went on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from generative.training.data import TrainingSet
from storage.atomic import staging
from storage.checksums import add_checksum

CURVE_EVERY = 50
"""Steps between two rows of training losses."""


class Clock(Callback):
    """Seconds of training and crystals trained on, those of interrupted calls included: kept in resume.ckpt."""

    def __init__(self) -> None:
        self.crystals, self._earlier_s, self._aside_s, self._started = 0, 0.0, 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """So far, s."""
        return self._earlier_s + time.monotonic() - self._started

    @property
    def seconds_in_steps(self) -> float:
        """So far, without validations, s."""
        return self.seconds - self._aside_s

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens within is no training: a validation."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._aside_s += time.monotonic() - began

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Called after each step."""
        self.crystals += len(batch) * trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return {"seconds": self.seconds, "aside_s": self._aside_s, "crystals": self.crystals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self._earlier_s, self._started = float(state_dict["seconds"]), time.monotonic()
        self._aside_s, self.crystals = float(state_dict["aside_s"]), int(state_dict["crystals"])


class TrainingCurve(Callback):
    """Writes every part of the training loss, the learning rate and the throughput, every CURVE_EVERY steps."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._last = clock, (0.0, 0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Throughput is counted from here: an interrupted training has no rate between its parts."""
        self._last = (self._clock.seconds_in_steps, self._clock.crystals)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Called after each step; the row is that of the weights before it."""
        step = pl_module.steps_done - 1
        if step % CURVE_EVERY:
            return
        now = (self._clock.seconds_in_steps, self._clock.crystals)
        seconds, crystals = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        rates = {"learning_rate": pl_module.learning_rate, "crystals_per_s": crystals / max(seconds, 1e-9)}
        write_curve(trainer, {"epoch": pl_module.epoch_of(step), **rates, **pl_module.losses_of_last_step()}, step)


class Validation(Callback):
    """Measures the averaged weights on held-out crystals, and does what follows from it."""

    def __init__(self, held: TrainingSet, clock: Clock, then: Sequence[Callback]) -> None:
        """Args: crystals held out; a clock to stop; callbacks whose on_validation_end is called."""
        self._held, self._clock, self._then = held, clock, tuple(then)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Called after each step."""
        step, config = pl_module.steps_done, pl_module.config
        if step % config.validation_every and step != config.max_steps:
            return
        with self._clock.aside():
            # All devices must draw the same conclusions, and sums of several need not agree to the last digit.
            measured = trainer.strategy.broadcast(pl_module.held_out_loss(self._held))
            pl_module.validated(measured)
            for callback in self._then:
                callback.on_validation_end(trainer, pl_module)
        write_curve(trainer, {"epoch": pl_module.epoch_of(step), **measured}, step)
        if pl_module.is_stale:
            trainer.should_stop = True


class StopAtStep(Callback):
    """Ends the fit at the configured number of optimiser steps."""

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: object) -> None:
        """Called after each step."""
        if pl_module.steps_done >= pl_module.config.max_steps:
            trainer.should_stop = True


class SaveState(Callback):
    """Keeps a state to resume from. Comes last: what is saved has its validation behind it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: object) -> None:
        """Called after each step."""
        if pl_module.steps_done % pl_module.config.save_every == 0:
            save_state(trainer, self._file)


def save_state(trainer: lightning.Trainer, file: Path) -> None:
    """Write the state of a training; the file is the old one or the new one, never half of it, and has a checksum.

    Raises: DiskFullError: if there is no room; the file is then the old one.
    """
    with ExitStack() as stack:
        partial = file.with_name(f".{file.name}.none")  # of the other devices, which write nothing
        if trainer.is_global_zero:
            # Lightning's own writing moves the file from the temporary folder, which may be a copy on another disk.
            partial = stack.enter_context(staging(file)) / file.name
        trainer.save_checkpoint(partial, weights_only=False)  # optimisers too; they are read as plain data
        if trainer.is_global_zero:
            add_checksum(partial)
            os.replace(partial, file)


def write_curve(trainer: Any, row: dict[str, float], step: int) -> None:
    """Add a row to the curve, on disk at once: a killed training keeps it."""
    trainer.logger.log_metrics(row, step)
    trainer.logger.save()
