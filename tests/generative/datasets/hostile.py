"""Records and files as nobody should write them: generators and mutators for the fuzzed tests of readers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    -1e308,
    1e-320,
    0,
    -1,
    22.7,
    1e8,
    10**30,
    10**400,
    int("9" * 4000),
)
TEXTS: tuple[str, ...] = (
    "",
    "\0",
    "\ud800",
    "\udcff",
    "a\nb\r\nc",
    "\ufeff",
    "é" * 3,
    "x" * 200_000,
    "Fe22.7",
    "nan",
    "1e999",
    "9" * 5000,
    "\u0663",
    "'" * 50,
    "=1+1",
    "../../etc",
)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    [[]],
    {"": {}},
    [None],
    {"a": [1]},
    [[1, 2], [3]],
    {"@class": "os.system"},
)


def pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def odd_value(rng: np.random.Generator) -> Any:
    kind = rng.integers(4)
    if kind == 0:
        return pick(rng, NUMBERS)
    if kind == 1:
        return pick(rng, TEXTS)
    if kind == 2:
        return copy.deepcopy(pick(rng, OTHERS))
    return nested(int(pick(rng, (3, 90, 200, 400))))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within a value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            found += places(inner, (*path, i))
    return found


def changed(rng: np.random.Generator, record: dict[str, Any]) -> dict[str, Any]:
    """The record with one to three of its values replaced, removed, renamed or repeated."""
    record = copy.deepcopy(record)
    for _ in range(int(rng.integers(1, 4))):
        path = pick(rng, places(record) or [("a",)])
        owner: Any = record
        for part in path[:-1]:
            owner = owner[part]
        kind = rng.integers(5)
        if kind == 0 and isinstance(owner, dict):
            owner.pop(path[-1], None)
        elif kind == 1 and isinstance(owner, dict):
            owner[pick(rng, TEXTS)] = owner.pop(path[-1], None)
        elif kind == 2 and isinstance(owner, list):
            owner.extend(copy.deepcopy(owner[:50]) * int(pick(rng, (1, 3, 40))))
        else:
            owner[path[-1]] = odd_value(rng)
    return record


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes cut, spliced, overwritten, repeated, in another encoding, or with a number made absurd."""
    for _ in range(int(rng.integers(1, 4))):
        a, b = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
        content = pick(rng, DAMAGES)(rng, content, a, b)
    return content


def _absurd_number(rng: np.random.Generator, content: bytes, a: int, b: int) -> bytes:
    words = content[a:].split(b" ")
    at = next((i for i, word in enumerate(words) if word.strip(b"[],\n").replace(b".", b"").isdigit()), None)
    if at is None:
        return content
    words[at] = pick(
        rng, (b"nan", b"1e308", b"-1e308", b"9" * 5000, b"1e8", b"1" * 17, b"0", b"-7", b"22.7", b"*", b"1e-9")
    )
    return content[:a] + b" ".join(words)


def _in_latin(rng: np.random.Generator, content: bytes, a: int, b: int) -> bytes:
    return content[:a] + "é°".encode("latin-1") + content[a:]


DAMAGES: tuple[Callable[[np.random.Generator, bytes, int, int], bytes], ...] = (
    lambda rng, content, a, b: content[:a],
    lambda rng, content, a, b: content[b:],
    lambda rng, content, a, b: content[:a] + content[b:],
    lambda rng, content, a, b: content[:a] + content[b:] + content[a:b],
    lambda rng, content, a, b: content[:b] + content[a:b] * 3 + content[b:],
    lambda rng, content, a, b: content[:a] + bytes(rng.integers(0, 256, 9, dtype=np.uint8)) + content[a:],
    lambda rng, content, a, b: (
        content[:a] + bytes([content[a] ^ 1 << int(rng.integers(8))]) + content[a + 1 :]
        if a < len(content)
        else content
    ),
    lambda rng, content, a, b: b"\xef\xbb\xbf" + content,
    lambda rng, content, a, b: content.replace(b"\n", b"\r\n"),
    lambda rng, content, a, b: content.replace(b"\n", b"\r"),
    lambda rng, content, a, b: content[:a] + b"\0" * 5 + content[a:],
    lambda rng, content, a, b: content[:a] + b"[" * 3000 + content[a:],
    _in_latin,
    _absurd_number,
    _absurd_number,
    _absurd_number,
)


def json_of(value: Any) -> str:
    """JSON as any program may write it: NaN, numbers of any length, half characters."""
    return json.dumps(value)


def cif_seeds(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.cif"))]
