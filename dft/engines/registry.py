"""Every engine by the `name` of its settings; each loads its libraries when it is opened, not before.

The union below is the registry: one member per engine, whose settings say in `ENGINE` what computes with them. It is
no group of entry points as potentials have: pydantic needs all members when a run's settings are defined, so every
command would import every package that adds an engine, and none could start where one of them is broken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, TypeAdapter

from dft.engines.config import EngineConfig, GPAWConfig, PotentialEngineConfig, VaspEngineConfig
from storage.registry import imported

if TYPE_CHECKING:
    from dft.engines.base import Engine

AnyEngineConfig = Annotated[PotentialEngineConfig | GPAWConfig | VaspEngineConfig, Field(discriminator="name")]

_ANY: TypeAdapter[EngineConfig] = TypeAdapter(AnyEngineConfig)


def parse_engine(document: Any) -> EngineConfig:
    """The settings in plain JSON values, by their `name`.

    Raises: pydantic.ValidationError: if the name is unknown or a field is wrong.
    """
    return _ANY.validate_python(document)


def open_engine(config: EngineConfig) -> Engine:
    """The engine that these settings are for.

    Raises: TypeError: if they name none.
    """
    if not config.ENGINE:
        raise TypeError(f"settings {type(config).__name__} belong to no engine: expected one's place as ENGINE")
    return cast("Callable[[EngineConfig], Engine]", imported(config.ENGINE))(config)
