"""Damage to a file, drawn at random: a flipped bit, an end that is missing, nothing at all left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def flip_a_bit(path: Path, rng: np.random.Generator) -> str:
    """What was done, in words."""
    content = bytearray(path.read_bytes())
    place, bit = int(rng.integers(len(content))), int(rng.integers(8))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} of {len(content)} of {path.name} flipped"


def cut(path: Path, rng: np.random.Generator) -> str:
    """What was done, in words."""
    content = path.read_bytes()
    length = int(rng.integers(1, len(content)))
    path.write_bytes(content[:length])
    return f"{path.name} cut to {length} of {len(content)} bytes"


def empty(path: Path, _: np.random.Generator) -> str:
    """What was done, in words."""
    path.write_bytes(b"")
    return f"{path.name} emptied"


DAMAGES: tuple[Callable[[Path, np.random.Generator], str], ...] = (flip_a_bit, cut, empty)
