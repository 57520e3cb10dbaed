"""Which classes a stored document may name: monty and matgl import whatever `@module` says and call what they find.

A document is walked before anything decodes it. Nothing is imported on its word: names are compared, as text, with what
this program itself stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MODULE, CLASS, CALLABLE = "@module", "@class", "@callable"

IsAllowed = Callable[[str, str], bool]
"""Whether a document may name this class: module, class."""

CRYSTAL_CLASSES = frozenset(
    {
        ("numpy", "array"),
        ("pymatgen.core.lattice", "Lattice"),
        ("pymatgen.core.sites", "PeriodicSite"),
        ("pymatgen.core.structure", "Structure"),
        ("pymatgen.electronic_structure.core", "Magmom"),
    }
)
"""A crystal, its parts, and what a site's properties may be beside plain values."""

TASK_MODULES = (
    "atomate2.vasp",
    "custodian.vasp",
    "emmet.core",
    "jobflow.core",
    "pymatgen.analysis",
    "pymatgen.core",
    "pymatgen.electronic_structure",
    "pymatgen.entries",
    "pymatgen.io.validation",
    "pymatgen.io.vasp",
    "pymatgen.symmetry",
)
"""Packages whose classes stand in documents of VASP jobs. A package's name covers its modules."""
_TASK_CLASSES = CRYSTAL_CLASSES | {("datetime", "datetime")}


class ForeignClassError(ValueError):
    """A document names a class that documents of its kind do not."""


def in_crystal(module: str, name: str) -> bool:
    """Whether a crystal may name the class."""
    return (module, name) in CRYSTAL_CLASSES


def in_task(module: str, name: str) -> bool:
    """Whether a document of a VASP job, or an entry of a database, may name the class."""
    if (module, name) in _TASK_CLASSES:
        return True
    is_class = name.isidentifier() and name[0].isupper() and all(part.isidentifier() for part in module.split("."))
    return is_class and any(f"{module}.".startswith(f"{package}.") for package in TASK_MODULES)


def nowhere(module: str, name: str) -> bool:
    """For documents that are plain values alone."""
    return False


def check_classes(document: Any, what: str, is_allowed: IsAllowed) -> None:
    """Refuse a document that names a class or a function, at any depth, which documents of its kind do not.

    Args:
        document: plain JSON values, tuples among them.
        what: what to call it in an error, such as the file's name.
        is_allowed: what it may name; functions are allowed nowhere.

    Raises: ForeignClassError: with the module, the class, and its place.
    """
    # A list in the place of recursion: a document may be deeper than Python's stack.
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(document, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, dict):
            if MODULE in value:
                _check_name(value, what, path, is_allowed)
            waiting.extend((inner, (*path[:7], key)) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            waiting.extend((inner, (*path[:7], position)) for position, inner in enumerate(value))


def _check_name(value: dict[Any, Any], what: str, path: tuple[Any, ...], is_allowed: IsAllowed) -> None:
    module, is_function = value[MODULE], CALLABLE in value
    name = value.get(CALLABLE if is_function else CLASS)
    if not is_function and isinstance(module, str) and isinstance(name, str) and is_allowed(module, name):
        return
    where = f" at {'.'.join(map(str, path))}" if path else ""
    kind = "function" if is_function else "class"
    raise ForeignClassError(
        f"{what} names the {kind} {shown(module)}.{shown(name)}{where[:100]}, which no such file needs; nothing of it "
        "was run"
    )


def shown(name: object) -> str:
    """A foreign name in one line of an error: no control characters, not long."""
    text = name if isinstance(name, str) else repr(name)
    return "".join(character if character.isprintable() else "?" for character in text[:80])
