"""The name of a draw is the same in every version that makes the same draw."""

from __future__ import annotations

import pytest

from generative.config import SamplerSettings
from generative.requests import Request
from generative.sampling import candidate_id
from generative.systems.cdvae.config import CDVAESampler
from generative.systems.crystal_flow import FlowSampler
from generative.systems.unet.config import UNetSampler

ASKED = Request.of({"Ti": 2, "Al": 1, "N": 1})


@pytest.mark.parametrize(
    ("settings", "chunk_size", "name"),
    [
        # Written down from the versions in which all systems shared one set of settings.
        (FlowSampler(), 64, "a891bbbf25a0bc6d"),
        (SamplerSettings(), 64, "a891bbbf25a0bc6d"),
        (CDVAESampler(), 64, "a891bbbf25a0bc6d"),
        (FlowSampler(n_steps=100, guidance=3.0), 32, "503a8caffede8dc1"),
        (CDVAESampler(stride=7, steps_per_level=3), 64, "e263af9072a914b5"),
        (UNetSampler(n_steps=100), 128, "1175f34cbb81ae05"),
    ],
)
def test_a_name_that_was_given_once_is_still_given(settings: SamplerSettings, chunk_size: int, name: str) -> None:
    assert candidate_id("0" * 64, ASKED, chunk_size, settings, 7, 3) == name


def test_only_what_differs_from_the_defaults_and_is_read_by_the_system_is_part_of_the_name() -> None:
    names = {
        candidate_id("0" * 64, ASKED, 64, settings, 7, 3)
        for settings in (
            CDVAESampler(),
            CDVAESampler(stride=2),
            FlowSampler(churn=0.2),
            UNetSampler(deterministic=True),
        )
    }
    assert len(names) == 4


def test_what_can_be_asked_in_a_later_version_changes_no_digest_of_what_could_be_asked_before() -> None:
    assert (
        Request.of({"W": 2, "B": 4, "Ta": 2}, 194, -0.3).digest
        == "61177c4f05b46d8a9ba6db3b16e98234b83ccbe34be19ad01bb2e3b2e833e154"
    )
    further = Request.of({"W": 2, "B": 4, "Ta": 2}, 194, -0.3, {"band_gap_ev": 1.0})
    assert further.digest != Request.of({"W": 2, "B": 4, "Ta": 2}, 194, -0.3).digest
