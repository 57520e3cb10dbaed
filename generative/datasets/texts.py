"""Texts of foreign records as files can hold them: whole characters, bounded length."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

from generative.datasets.limits import MAX_RECORD_CHARACTERS


def plain_text(text: str) -> str:
    """Text that is UTF-8: bytes read with 'surrogateescape' and half characters become escapes."""
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, as JSON can write it
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def is_whole(text: str) -> bool:
    """Whether a text holds whole characters only, so that it can be written anywhere."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cut(text: str, n_characters: int) -> str:
    """The text, on one line, ending in '...' where it is longer than allowed."""
    line = " ".join(text[: n_characters + 1].split()) if "\n" in text or "\r" in text else text
    return line if len(line) <= n_characters else line[: n_characters - 3] + "..."


def listed(names: Iterable[str]) -> list[str]:
    """The first twelve names of columns, as a sentence may repeat them."""
    return [cut(plain_text(name), 60) for name in islice(names, 12)]


def fault_of(error: BaseException) -> str:
    """One sentence on what a reader did not expect."""
    if isinstance(error, RecursionError):
        return "the record is nested too deeply: expected a crystal and its properties, a few levels deep"
    said = cut(" ".join(str(error)[:400].split()), 200).rstrip(".")
    kind = type(error).__name__
    return f"the record cannot be read ({kind}{f': {said}' if said else ''}): expected a crystal with its properties"


def shown(value: Any) -> str:
    """A foreign value as JSON text, bounded; whatever cannot be written that way is named by its type."""
    try:
        return json.dumps(value, default=str)[:MAX_RECORD_CHARACTERS]
    except Exception:  # nesting, keys and numbers that no text can hold
        return f"a {type(value).__name__} that no text can hold"
