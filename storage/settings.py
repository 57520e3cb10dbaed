"""What every settings model is: frozen, strict about names, silent about values."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RoomConfig(BaseModel):
    """Base of every settings model, of whichever room: frozen, unknown keys refused."""

    # Whoever writes a key or a password among the settings must not find it again in an error.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
