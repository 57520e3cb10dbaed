"""What every settings model is: frozen, strict about names, silent about values."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict


def form_title(model: type) -> str:
    """What a form calls a group of settings: 'Run sample' of RunSampleConfig. Prefect's shows no other name of it."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|\d+", re.sub(r"(?<=.)(Config|Settings)$", "", model.__name__))
    return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])


class RoomConfig(BaseModel):
    """Base of every settings model, of whichever room: frozen, unknown keys refused."""

    # Whoever writes a key or a password among the settings must not find it again in an error.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, model_title_generator=form_title)
