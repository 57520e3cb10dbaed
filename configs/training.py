"""Reads the settings of a training run; the model is generative.training.config.TrainConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.schema import read_yaml, validated
from generative.training.config import TrainConfig


def parse_training(settings: dict[str, Any], origin: str) -> TrainConfig:
    """Validate training settings read from `origin` (a file name, said in errors).

    Raises: ConfigError: naming the field, the value, and what is allowed.
    """
    return validated(TrainConfig, settings, origin)


def load_training(path: str | Path) -> TrainConfig:
    """Read a training YAML file, or one shipped with Hullward by its bare name ('train-flow').

    Raises: ConfigError: if the file is missing, is not YAML, or holds a wrong setting.
    """
    file, settings = read_yaml(path)
    return parse_training(settings, str(file))
