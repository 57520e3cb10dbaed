"""Single settings given beside a file, such as 'sample.n_candidates=32': dotted names, values read as YAML."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from configs.schema import ConfigError, harmless, holds_secret, tells_kind
from configs.yaml_text import YamlError, read_settings_text


def override(settings: dict[str, Any], assignments: Sequence[str], *models: type[BaseModel]) -> dict[str, Any]:
    """Settings with these assignments made; the ones given are left as they are.

    Args:
        settings: as read from YAML.
        assignments: 'dotted.name=value'; a number is an index into a list, as in 'data.sources.0.limit=100'.
        models: that the settings may be of. Settings that come in kinds, such as an engine's, begin anew where another
            kind is assigned ('dft.engine.name=vasp'): what was set of the one kind says nothing of the other.

    Raises: ConfigError: if an assignment has another form, or goes through something that holds no settings.
    """
    changed = copy.deepcopy(settings)
    made: list[list[str]] = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        parts = name.strip().split(".")
        hidden = f"{name}=***" if equals else "***"
        shown = hidden if holds_secret(assignment) else assignment
        if not equals or not all(parts):
            raise ConfigError(f"--set {shown!r}: expected NAME=VALUE, such as sample.n_candidates=32")
        try:
            value = read_settings_text(text)
        except YamlError:
            raise ConfigError(f"--set {shown[:200]!r}: the value is no YAML value; quote it for your shell") from None
        node = _put(changed, parts, value, shown)
        if node is not None and tells_kind(models, parts):
            same = {earlier[len(parts) - 1] for earlier in made if earlier[: len(parts) - 1] == parts[:-1]}
            for other in set(node) - same - {parts[-1]}:
                del node[other]
        made.append(parts)
    return changed


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with these put in; the ones given are left as they are.

    Args:
        settings: as read from YAML.
        changes: of the same form, or by dotted names: {"sample": {"n_candidates": 32}}, {"sample.n_candidates": 32}.
            Settings within settings are merged, anything else replaced.
    """
    changed = copy.deepcopy(dict(settings))
    for name, value in changes.items():
        first, _, rest = str(name).partition(".")
        put, here = ({rest: value} if rest else value), changed.get(first)
        if isinstance(put, Mapping):
            changed[first] = merged(here if isinstance(here, Mapping) else {}, put)
        else:
            changed[first] = copy.deepcopy(put)
    return changed


def name_of_system(elements: Sequence[Any]) -> str:
    """What a run of a chemical system is called, such as 'b-mo-nb'."""
    return "-".join(sorted(map(str, elements))).lower()


def named_by_system(changed: dict[str, Any], stated: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Settings of a run under the name of their chemical system, such as 'b-mo-nb', if that is another one than stated
    and no name has been assigned: results of two systems are not for one folder.
    """
    elements, named = changed.get("elements"), any(a.partition("=")[0].strip() == "name" for a in assignments)
    if not isinstance(elements, list | tuple) or not elements or named or changed.get("name") != stated.get("name"):
        return changed
    if set(map(str, elements)) == set(map(str, stated.get("elements") or ())):
        return changed
    return {**changed, "name": name_of_system(elements)}


def _put(settings: dict[str, Any], parts: list[str], value: Any, assignment: str) -> dict[str, Any] | None:
    """Put a value in its place; the settings around it if it is another than stood there."""
    node: Any = settings
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f"--set {assignment!r}: {'.'.join(parts[:depth])} is a list of {len(node)}, expected an index from "
                    f"0 to {len(node) - 1} instead of {part!r}"
                )
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                is_another = part in node and node[part] != value
                node[part] = value
                return node if is_another else None
            node = node.setdefault(part, {})
        else:
            above = ".".join(parts[:depth])
            kept = "***" if holds_secret(above) else repr(harmless(node))
            raise ConfigError(f"--set {assignment!r}: {above} is {kept}, which holds no settings")
    return None
