"""Payloads for loaders: whatever runs one of them leaves a file behind."""

from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("evil", "helpers", "_m3gnet", "matgl2", "numpy_", "core")


class Trap:
    """A place where running code would leave its mark, and what names such code.

    Args:
        place: a folder that is on Python's path while the trap is set.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.mark = place, place / "it-ran"
        self.modules: list[str] = []

    @property
    def has_sprung(self) -> bool:
        """Whether something was run, or a module of the trap imported."""
        return self.mark.exists() or any(name in sys.modules for name in self.modules)

    def reset(self) -> None:
        """Set it again."""
        self.mark.unlink(missing_ok=True)
        for name in self.modules:
            sys.modules.pop(name, None)

    def module(self, rng: np.random.Generator) -> str:
        """A module of its own name that leaves the mark when it is imported."""
        name = f"{rng.choice(WORDS)}_{rng.integers(1 << 40):x}"
        (self.place / f"{name}.py").write_text(
            f"import pathlib\npathlib.Path({str(self.mark)!r}).touch()\n"
            "class Trap:\n    from_dict = classmethod(lambda cls, content: cls())\n"
            "    def __init__(self, *args, **kwargs): pass\n"
        )
        self.modules.append(name)
        return name

    def named(self, rng: np.random.Generator) -> dict[str, Any]:
        """A dictionary that has a loader of monty's or matgl's kind run something."""
        mark = str(self.mark)
        call = ["touch", mark]
        choices: list[dict[str, Any]] = [
            {"@module": self.module(rng), "@class": "Trap"},
            {"@module": "subprocess", "@class": "Popen", "init_args": {"args": call}, "args": call},
            {"@module": "os", "@class": "system", "init_args": {"command": f"touch '{mark}'"}},
            {"@module": "os", "@callable": "system"},
            {"@module": "builtins", "@class": "exec", "init_args": {"source": f"open({mark!r}, 'w')"}},
            {"@module": "matgl.utils.io", "@class": "subprocess.Popen", "init_args": {"args": call}},
            {"@module": self.module(rng), "@callable": "Trap"},
            {"@module": f"matgl.models._m3gnet.{self.module(rng)}", "@class": "Trap", "init_args": {}},
            {"@module": "pymatgen.core.structure.os", "@class": "system", "init_args": {"command": f"touch '{mark}'"}},
        ]
        chosen = choices[int(rng.integers(len(choices)))]
        return {"init_args": {}, "@version": None, "@model_version": 1, **chosen}

    def reducing(self) -> object:
        """An object whose unpickling leaves the mark."""
        return _Reducing(self.mark)

    def pickled(self, rng: np.random.Generator) -> bytes:
        """A pickle that leaves the mark, by one of the opcodes that can."""
        mark = str(self.mark)
        by_hand = {
            "GLOBAL": b"cos\nsystem\n(" + _text(f"touch '{mark}'") + b"tR.",
            "INST": b"(" + _text(f"touch '{mark}'") + b"ios\nsystem\n.",
            "OBJ": b"(cos\nsystem\n" + _text(f"touch '{mark}'") + b"o.",
            "dotted": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + _text(f"touch '{mark}'") + b"\x85R.",
            "inside": b"\x80\x02}X\x05\x00\x00\x00modelccodecs\nopen\n(" + _text(mark) + _text("w") + b"tRs.",
            "import": b"c" + self.module(rng).encode() + b"\nTrap\n)R.",
        }
        how = str(rng.choice([*by_hand, *map(str, range(pickle.HIGHEST_PROTOCOL + 1))]))
        return by_hand[how] if how in by_hand else pickle.dumps({"model": self.reducing()}, protocol=int(how))


class _Reducing:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


def _text(word: str) -> bytes:
    encoded = word.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place below a document's root at which a value stands."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        inner = list(document.items())
    elif isinstance(document, list | tuple):
        inner = list(enumerate(document))[:3]
    found: list[tuple[Any, ...]] = []
    for key, value in inner:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a document with another value at one place."""
    if not path:
        return value
    first, *rest = path
    if isinstance(document, dict):
        return {**document, first: with_value(document[first], tuple(rest), value)}
    items = list(document)
    items[first] = with_value(items[first], tuple(rest), value)
    return type(document)(items)
