"""Chunks of a plan: each asks for its own part, and none plans those before it again."""

from __future__ import annotations

from typing import Any

import pytest

from configs.schema import DiscoverConfig
from generative import plans
from generative.requests import Request
from tasks.discover.sample import draw_chunk, sample_chunks


def test_chunks_ask_for_the_plan_one_after_the_other_and_it_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = {"n_candidates": 50, "chunk_size": 7}
    config = DiscoverConfig.model_validate({"elements": ["Al", "Ni", "Ti"], "sample": sample, "seed": 11})
    expected = plans.plan(config.conditions, config.elements, 56, config.seed)
    asked: list[Request] = []
    lengths: list[int] = []
    made = plans.plan

    def counted(conditions: Any, elements: Any, n: int, *further: Any) -> list[Request]:
        lengths.append(n)
        return made(conditions, elements, n, *further)

    def drawn(loaded: object, requests: list[Request], *further: object) -> list[object]:
        asked.extend(requests)
        return []

    monkeypatch.setattr("generative.plans.plan", counted)
    monkeypatch.setattr("generative.sampling.sample_chunk", drawn)
    monkeypatch.setattr("tasks.discover.sample.checkpoint", lambda name, execution: None)
    chunks = sample_chunks(config)
    assert len(chunks) == 8
    for chunk in chunks:
        draw_chunk(config, chunk, 7)
    assert asked == expected
    assert lengths == [56]
