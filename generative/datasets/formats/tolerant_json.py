"""JSON of which one value is out of bounds, so that it costs its own record and not the whole text.

Python's reader gives up on a text with nesting as deep as its stack, or with a number of more digits than it converts.
Such a text is read once more, with what is too deep or too long replaced by words that say so: where a number or a
crystal was expected, the record is then refused, and they are in its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from generative.datasets.limits import BYTES_PER_JSON_VALUE, MAX_JSON_DEPTH, MAX_JSON_DIGITS

TOO_DEEP = f"nested deeper than {MAX_JSON_DEPTH} levels"

_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DIGITS_SHOWN = 20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)((?:\\\\)*+)(?:(\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)

Pairs = Callable[[list[tuple[str, Any]]], Any]


def parsed(
    text: str | bytes, object_pairs_hook: Pairs | None = None, parse_constant: Callable[[str], Any] | None = None
) -> tuple[Any, bool]:
    """The value of a JSON text, and whether anything of it was replaced.

    Args:
        text: bytes are UTF-8.
        object_pairs_hook: as of `json.loads`.
        parse_constant: as of `json.loads`.

    Raises:
        ValueError: if it is no JSON; json.JSONDecodeError with its place.
    """
    hooks: dict[str, Any] = {"object_pairs_hook": object_pairs_hook, "parse_constant": parse_constant}
    try:
        return json.loads(text, **hooks), False
    except RecursionError:
        pass
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "digits" not in str(error):  # a hook's own complaint, or bytes that are no UTF-8
            raise
    hooks["parse_int"] = _whole
    try:
        return json.loads(text, **hooks), True
    except RecursionError:
        text = text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")
        return json.loads(shallow(text), **hooks), True


def _whole(digits: str) -> Any:
    if len(digits) <= MAX_JSON_DIGITS:
        return int(digits)
    return f"{digits[:_DIGITS_SHOWN]}... of {len(digits)} digits"


def may_be_deep(text: bytes) -> bool:
    """Whether a JSON text is nested deeper than MAX_JSON_DEPTH, going by its brackets, those within texts included."""
    brackets = np.frombuffer(text.translate(None, _NO_BRACKETS), dtype=np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return bool(len(steps)) and int(np.cumsum(steps).max()) > MAX_JSON_DEPTH


def shallow(text: str) -> str:
    """The text with whatever is nested deeper than MAX_JSON_DEPTH replaced by the text TOO_DEEP."""
    pieces: list[str] = []
    depth = kept = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in "[{":
            depth += 1
            if depth == MAX_JSON_DEPTH + 1:
                pieces += [text[kept : found.start()], json.dumps(TOO_DEEP)]
        elif token in "]}":
            depth -= 1
            if depth == MAX_JSON_DEPTH:
                kept = found.end()
    if depth <= MAX_JSON_DEPTH:  # else the text is cut off inside: what is left is no JSON, as its reader will say
        pieces.append(text[kept:])
    return "".join(pieces)


def too_many_values(text: bytes, n_bytes_max: int) -> str:
    """Why a JSON text holds more values than memory is meant for, in one sentence; empty if it does not."""
    most = n_bytes_max // BYTES_PER_JSON_VALUE
    n_values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if n_values <= most:
        return ""
    return f"holds {n_values} values: expected at most {most}, one per {BYTES_PER_JSON_VALUE} bytes of its limit"


def without_lone_surrogates(text: bytes) -> bytes:
    r"""JSON text in which half a character (an escape such as \ud800 without its other half) is U+FFFD.

    No file, database or log can hold half a character.
    """
    if b"\\u" not in text:
        return text
    return _LONE_SURROGATE.sub(lambda found: found[0] if found[2] else found[1] + b"\\ufffd", text)
