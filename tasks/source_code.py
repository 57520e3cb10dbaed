"""The source files that a function can reach, read off their imports: what a result made by it depends on.

A stage names the function that computes it, never a list of files, so no helper can be forgotten. From the function's
module every import is followed within the project, into each module for the names that are taken from it alone: whoever
needs `tasks.loading.potential` reaches the potentials, not the generators that the same module loads. What cannot be
seen in imports, such as a system that a registry loads by its name, is given by the caller as a further entry.

Files count whole: a changed comment counts too. Rather once too often than once too seldom.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from configs.paths import PROJECT

ROOMS = ("configs", "dft", "flows", "generative", "storage", "tasks")
EVERYTHING = "*"
"""All names of a module."""

Entry = Callable[..., Any] | str
"""A function or class by itself, or a module by its name."""


@dataclass(frozen=True)
class Need:
    """A name that is needed of a module; EVERYTHING for all."""

    module: str
    name: str


@dataclass
class Definition:
    """A function, a class, or all that a module does when it is imported.

    Attributes:
        names: of its own module that it mentions.
        needs: what it imports inside its body.
    """

    names: set[str] = field(default_factory=set)
    needs: set[Need] = field(default_factory=set)


@dataclass
class Module:
    """What one file defines, and where the names come from that it does not define.

    Attributes:
        path: the file.
        definitions: functions and classes by name; those of the module's own level are in `executed`.
        imported: name -> what an import at the module's level binds it to.
        executed: statements that run when the module is imported.
    """

    path: Path
    definitions: dict[str, Definition] = field(default_factory=dict)
    imported: dict[str, Need] = field(default_factory=dict)
    executed: Definition = field(default_factory=Definition)


def sources(*entries: Entry) -> tuple[Path, ...]:
    """Every file of the project that the entries can reach, their own included, in order.

    Raises: ValueError: if an entry lies in no module that is there, as after a move.
    """
    wanted = [_entry(entry) for entry in entries]
    if gone := [need.module for need in wanted if _file_of(need.module) is None]:
        raise ValueError(f"there is no module {gone[0]}: name the one that computes the stage now")
    inside = frozenset(ROOMS) | {need.module.split(".")[0] for need in wanted}
    return _sources(frozenset(wanted), inside)


def code_digest(*entries: Entry) -> str:
    """SHA-256 over the files that the entries can reach, with their places in the project."""
    h = hashlib.sha256()
    for path in sources(*entries):
        h.update(_place(path).encode() + b"\0" + _bytes_of(path) + b"\0")
    return h.hexdigest()


@lru_cache(maxsize=1)
def project_digest() -> str:
    """SHA-256 over all source files of the project but its flows, which order work and compute nothing."""
    h = hashlib.sha256()
    for room in ROOMS:
        if room != "flows":
            for file in sorted((PROJECT / room).rglob("*.py")):
                h.update(_place(file).encode() + b"\0" + _bytes_of(file) + b"\0")
    return h.hexdigest()


def _entry(entry: Entry) -> Need:
    if isinstance(entry, str):
        return Need(entry, EVERYTHING)
    # The outermost definition: a method counts as its class, a function within a function as the outer one. Prefect
    # loads a flow's file under another module name; tasks are imported by theirs.
    entry = getattr(entry, "fn", entry)
    return Need(entry.__module__, entry.__qualname__.split(".")[0])


def _place(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else path.name


@cache
def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _sources(wanted: frozenset[Need], inside: frozenset[str]) -> tuple[Path, ...]:
    found: set[Path] = set()
    seen: set[Need] = set()
    waiting = list(wanted)
    while waiting:
        need = waiting.pop()
        if need in seen or need.module.split(".")[0] not in inside:
            continue
        seen.add(need)
        for package in _packages(need.module):
            found.add(package)
        path = _file_of(need.module)
        if path is None:  # a name of a package that is no module of its own
            continue
        found.add(path)
        waiting += _followed(_read(path, need.module), need.name, inside)
    return tuple(sorted(found))


def _followed(module: Module, name: str, inside: frozenset[str]) -> Iterator[Need]:
    """What a module needs of others, where `name` is needed of it."""
    reached: set[str] = set()
    names = set(module.definitions) | set(module.imported) if name == EVERYTHING else {name}
    names |= module.executed.names
    yield from module.executed.needs
    while names:
        name = names.pop()
        if name in reached:
            continue
        reached.add(name)
        if definition := module.definitions.get(name):
            names |= definition.names
            yield from definition.needs
        if name in module.imported:
            yield module.imported[name]


def _packages(module: str) -> Iterator[Path]:
    parts = module.split(".")
    for n in range(1, len(parts)):
        path = _file_of(".".join(parts[:n]))
        if path is not None:
            yield path


@cache
def _file_of(module: str) -> Path | None:
    """The file of a module; None if there is none, as for a name that a package defines."""
    top, *rest = module.split(".")
    if top in ROOMS:
        base = PROJECT.joinpath(top, *rest)
    else:  # a package of somebody else's, whose systems are computed with as ours are
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            return None
        if not rest:
            return Path(spec.origin)
        base = Path(spec.origin).parent.joinpath(*rest)
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _read(path: Path, name: str) -> Module:
    module = Module(path)
    for statement in ast.parse(_bytes_of(path)).body:
        _add(module, statement, name)
    return module


def _add(module: Module, statement: ast.stmt, name: str) -> None:
    """File a statement of a module's own level."""
    if isinstance(statement, ast.If) and _is_type_checking(statement.test):
        for other in statement.orelse:
            _add(module, other, name)
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        module.imported |= _bound(statement, name)
    elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        module.definitions[statement.name] = _definition([statement], name)
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and _targets(statement):
        # A constant is a definition: whoever needs it needs what it is made of; but making it may also do something.
        made = _definition([statement], name)
        for target in _targets(statement):
            module.definitions.setdefault(target, Definition())
            module.definitions[target].names |= made.names
            module.definitions[target].needs |= made.needs
        if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
            module.executed.names |= made.names
            module.executed.needs |= made.needs
    else:
        made = _definition([statement], name)
        module.executed.names |= made.names
        module.executed.needs |= made.needs


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _definition(statements: Iterable[ast.stmt], name: str) -> Definition:
    found = Definition()
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.needs |= set(_bound(node, name).values())
        elif isinstance(node, ast.Name):
            found.names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.names.add(node.value)  # an annotation in quotes
        waiting += ast.iter_child_nodes(node)
    return found


def _bound(statement: ast.Import | ast.ImportFrom, name: str) -> dict[str, Need]:
    """Name -> what it stands for, of one import statement."""
    if isinstance(statement, ast.Import):
        return {alias.asname or alias.name.split(".")[0]: Need(alias.name, EVERYTHING) for alias in statement.names}
    if statement.level:  # relative, in somebody else's package; ours has none
        package = name.split(".")[: -statement.level]
        source = ".".join([*package, *([statement.module] if statement.module else [])])
    else:
        source = statement.module or ""
    bound = {}
    for alias in statement.names:
        submodule = f"{source}.{alias.name}"
        whole = alias.name == "*" or _file_of_if_ours(submodule, name)
        need = Need(submodule if alias.name != "*" and whole else source, EVERYTHING if whole else alias.name)
        bound[alias.asname or alias.name] = need
    return bound


def _file_of_if_ours(module: str, name: str) -> bool:
    ours = (*ROOMS, name.split(".")[0])
    return module.split(".")[0] in ours and _file_of(module) is not None


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
