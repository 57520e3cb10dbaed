"""From an engine's settings to the engine; each loads its libraries when it is opened, not before."""

from __future__ import annotations

from dft.engines.base import Engine
from dft.engines.config import EngineConfig, GPAWConfig, PotentialEngineConfig, VaspEngineConfig


def open_engine(config: EngineConfig) -> Engine:
    """The engine that these settings are for.

    Raises: TypeError: if there is none.
    """
    if isinstance(config, PotentialEngineConfig):
        from dft.engines.potential import PotentialEngine

        return PotentialEngine(config)
    if isinstance(config, GPAWConfig):
        from dft.engines.gpaw_engine import GPAWEngine

        return GPAWEngine(config)
    if isinstance(config, VaspEngineConfig):
        from dft.engines.vasp import VaspEngine

        return VaspEngine(config)
    raise TypeError(f"settings {type(config).__name__} belong to no engine: expected one of dft/engines/config.py")
