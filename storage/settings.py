"""What every settings model is: frozen, strict about names, silent about values, and readable as a form.

Prefect makes the form of a run out of the models' JSON schema, with titles for labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import ComputedFieldInfo, FieldInfo

UNITS = {
    "ev_per_atom": "eV/atom", "ev_per_ang": "eV/Å", "ev_per_electron": "eV/electron", "ev": "eV", "ang3": "Å³",
    "ang": "Å", "gpa": "GPa", "deg": "°", "thz": "THz", "mb": "MB", "gb": "GiB", "s": "s",
}  # fmt: skip
"""How a unit in a setting's name is written; of two that begin alike the longer first."""

SPELLINGS = {
    "e": "E", "n": "N", "dft": "DFT", "gpus": "GPUs", "json": "JSON", "mongodb": "MongoDB", "mpi": "MPI", "uri": "URI",
    "aflow": "AFLOW", "optimade": "OPTIMADE", "project": "Project", "qos": "QOS", "smact": "SMACT", "vasp": "VASP",
}  # fmt: skip

TYPES = {
    "array": "list", "boolean": "yes or no", "integer": "whole number", "null": "null", "number": "number",
    "object": "names and values", "string": "text",
}  # fmt: skip
"""Of JSON, as a form names them where there is a choice."""


def form_title(model: type) -> str:
    """What a form calls a kind of settings: 'Run sample' of RunSampleConfig."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|\d+", re.sub(r"(?<=.)(Config|Settings)$", "", model.__name__))
    return _sentence(word if word.isupper() else word.lower() for word in words)


def field_title(name: str, field: FieldInfo | ComputedFieldInfo) -> str:
    """What a form calls a setting: its name's words, with the unit as it is written: 'Volume per atom min (Å³)'."""
    if unit := re.search(rf"_({'|'.join(UNITS)})(?=_|$)", name):
        return f"{_sentence((name[: unit.start()] + name[unit.end() :]).split('_'))} ({UNITS[unit[1]]})"
    return _sentence(name.split("_"))


def _sentence(words: Iterable[str]) -> str:
    text = " ".join(SPELLINGS.get(word, word) for word in words)
    return text[:1].upper() + text[1:]


def form_hints(schema: dict[str, Any]) -> None:
    """Add to a model's JSON schema what a form says beside the fields; what it allows stays as it is."""
    for name, field in schema.get("properties", {}).items():
        if "$ref" in field:  # a group, which a form would call by the kind of its settings
            field.setdefault("title", _sentence(name.split("_")))
        for choice in field.get("anyOf", ()):
            if "type" in choice:
                choice.setdefault("title", TYPES[choice["type"]])
        if "const" in field:  # a list of one to choose from, and no box to write something else into
            field["enum"] = [field["const"]]


class RoomConfig(BaseModel):
    """Base of every settings model, of whichever room: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # Whoever writes a key or a password among the settings must not find it again in an error.
        hide_input_in_errors=True,
        model_title_generator=form_title,
        field_title_generator=field_title,
        json_schema_extra=form_hints,
    )
