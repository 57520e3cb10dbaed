"""YAML of settings to plain values, bounded: a few lines of YAML can state more than any memory holds.

An alias stands for all that its anchor holds, so ten lines of aliases to aliases are 10^10 values; nesting as deep as
Python's stack, and numbers of thousands of digits, end its reader.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_YAML_CHARACTERS = 1_000_000
"""Longest text of settings; the longest shipped has 3,000 characters, and a list of 10,000 formulas 100,000."""

MAX_YAML_VALUES = 100_000
"""Most values, those that aliases stand for counted each time."""

MAX_YAML_DEPTH = 30
"""Deepest nesting; settings have 6 levels."""


class YamlError(ValueError):
    """Text that is no YAML of settings; the message says why, without repeating the text."""


def read_settings_text(text: str) -> Any:
    """The value that a YAML text states.

    Raises:
        YamlError: if it is no YAML, or beyond a limit.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise YamlError(f"it has {len(text)} characters: expected at most {MAX_YAML_CHARACTERS}")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_large(node)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise YamlError(f"it is nested deeper than {MAX_YAML_DEPTH} levels: expected settings") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise YamlError(f"{error.problem}{where}") from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())[:200]) from None
    except (ValueError, ArithmeticError, TypeError) as error:
        if isinstance(error, YamlError):
            raise
        said = " ".join(str(error).split())[:200]
        raise YamlError(f"a value is none that YAML has ({said}): expected numbers, texts, lists and keys") from None
    return value


def _refuse_large(root: yaml.Node) -> None:
    """Counts what the nodes stand for, each node once."""
    sizes: dict[int, tuple[int, int]] = {}
    open_: set[int] = set()

    def size_of(node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node."""
        key = id(node)
        if key in sizes:
            return sizes[key]
        if key in open_:
            raise YamlError(
                f"an alias stands for what it is part of (line {node.start_mark.line + 1}): expected values"
            )
        open_.add(key)
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        parts = [size_of(part) for part in inner]
        n_values, depth = 1 + sum(n for n, _ in parts), 1 + max((d for _, d in parts), default=0)
        if n_values > MAX_YAML_VALUES:
            raise YamlError(f"it states {n_values} values, aliases counted: expected at most {MAX_YAML_VALUES}")
        if depth > MAX_YAML_DEPTH:
            raise YamlError(f"it is nested {depth} levels deep: expected at most {MAX_YAML_DEPTH}")
        open_.discard(key)
        sizes[key] = n_values, depth
        return sizes[key]

    size_of(root)
