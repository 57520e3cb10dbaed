"""The name of a draw is the same in every version that makes the same draw."""

from __future__ import annotations

from generative.requests import Request
from generative.config import DenoisingConfig, SampleConfig
from generative.sampling import candidate_id

ASKED = Request.of({"Ti": 2, "Al": 1, "N": 1})


def test_a_name_given_before_denoising_could_be_set_is_still_given() -> None:
    assert candidate_id("0" * 64, ASKED, SampleConfig(), 7, 3) == "a891bbbf25a0bc6d"


def test_how_a_latent_vector_is_decoded_is_part_of_the_name() -> None:
    other = SampleConfig(denoising=DenoisingConfig(stride=2))
    assert candidate_id("0" * 64, ASKED, other, 7, 3) != candidate_id("0" * 64, ASKED, SampleConfig(), 7, 3)
