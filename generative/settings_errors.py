"""Settings of a system, checked: what is wrong with them in one sentence, with the names that a user has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from storage.settings import RoomConfig

Model = TypeVar("Model", bound=RoomConfig)


def validated(model: type[Model], given: Mapping[str, Any], owner: str, prefix: str) -> Model:
    """The settings as their model.

    Args:
        model: of the settings.
        given: what a user has written.
        owner: the system whose they are.
        prefix: where they stand, such as 'sample.sampler'.

    Raises: ValueError: if one is unknown to the owner, or has a value that it cannot have.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError("; ".join(_said(fault, model, owner, prefix) for fault in error.errors())) from None


def _said(fault: Any, model: type[RoomConfig], owner: str, prefix: str) -> str:
    name = ".".join([prefix, *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields) or "none: it has nothing to set there"
        return f"{name} is no setting of {owner}: expected {known}"
    return f"{name} is {fault['input']!r}: {fault['msg']}"
