"""Every engine's settings name what computes with them, and are stored as they always were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from dft.engines.config import EngineConfig
from dft.engines.registry import AnyEngineConfig, open_engine, parse_engine

(UNION, *_) = get_args(AnyEngineConfig)
STORED = {
    "potential": "12631b1a83ee3641ec4b05caa9987139e177abed7c55668bc55a11a63ed467ee",
    "gpaw": "65a9f3db614f054fc04c23cc5f8238ef78789669a14eb3efdab5d1a044050e7c",
    "vasp": "97ce15ee605cb9e8a09aa0f9a32d3ff15e43f5927f98506df56ac115ff4f05d6",
}
"""Digest of the default settings, by which results of earlier campaigns are compared."""


@pytest.mark.parametrize("model", get_args(UNION))
def test_each_engine_is_opened_by_its_settings_whose_digest_stays(model: type[EngineConfig]) -> None:
    config = model.model_validate({})
    engine = open_engine(config)
    assert f"{type(engine).__module__}:{type(engine).__name__}" == config.ENGINE
    assert callable(engine.run)
    assert parse_engine({"name": config.name}) == config
    assert config.settings_digest == STORED[config.name]
    assert "ENGINE" not in config.model_dump()


def test_settings_of_no_engine_are_refused() -> None:
    class Abacus(EngineConfig):
        name: str = "abacus"

    with pytest.raises(TypeError, match="settings Abacus belong to no engine"):
        open_engine(Abacus())
    with pytest.raises(ValidationError, match="'gpaw', 'vasp'"):
        parse_engine({"name": "abacus"})


def test_settings_of_engines_are_read_without_torch_or_a_dft_code() -> None:
    code = "import sys, dft.engines.registry; print([m for m in ('torch', 'gpaw', 'custodian') if m in sys.modules])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
