"""Which command a settings file is for: files do not say so, but each kind has settings that no other has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel

from configs.campaign import CampaignConfig
from configs.command_line import SYSTEM, run_settings
from configs.ingest import IngestConfig
from configs.modification import ModifyConfig
from configs.overrides import override
from configs.reproduction import AnyReproduction, model_of
from configs.schema import ConfigError, DiscoverConfig, parse, read_yaml
from generative.training.config import TrainConfig

Plannable = DiscoverConfig | CampaignConfig | IngestConfig | ModifyConfig | TrainConfig | AnyReproduction
"""Settings of the commands that cost."""

KINDS: tuple[type[BaseModel], ...] = (
    *(DiscoverConfig, CampaignConfig, IngestConfig, ModifyConfig, TrainConfig),
    *get_args(AnyReproduction),
)


def settings_named(what: str, assignments: Sequence[str] = ()) -> Plannable:
    """Settings by the name of shipped ones, from a YAML file, or of a chemical system, whichever command they are for.

    A file that a run and an ingest could have is a run's, unless its name begins with 'ingest'.

    Raises: ConfigError: if it is a file of none of these commands, or a setting is wrong.
    """
    if SYSTEM.fullmatch(what) is not None and not Path(what).exists():
        return run_settings(what, {}, assignments)
    file, stated = read_yaml(what)
    model = _model_of(stated, file)
    if model is DiscoverConfig:
        return run_settings(what, {}, assignments)
    # Of a model chosen just now, which no type can tell.
    return cast(Plannable, parse(model, override(stated, assignments, model), str(file)))


def _model_of(stated: dict[str, Any], file: Path) -> type[BaseModel]:
    if "paper" in stated:
        return model_of(stated)
    fitting = [kind for kind in KINDS if set(stated) <= set(kind.model_fields)]
    if not fitting:
        kinds = "a run, a campaign, an ingest, a modification, a training or a reproduction"
        raise ConfigError(f"{file}: has the settings of none of {kinds}, of which alone a plan can be told")
    return IngestConfig if file.stem.startswith("ingest") and IngestConfig in fitting else fitting[0]
