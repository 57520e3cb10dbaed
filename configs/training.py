"""Reads the settings of a training run; the model is generative.config.TrainConfig."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from configs.schema import ConfigError, describe, read_yaml
from generative.config import TrainConfig


def load_training(path: str | Path) -> TrainConfig:
    """Read a training YAML file, or one shipped with Hullward by its bare name ('train-flow').

    Raises: ConfigError: if the file is missing, is not YAML, or holds a wrong setting.
    """
    file, settings = read_yaml(path)
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{file}: " + "; ".join(describe(error))) from None
