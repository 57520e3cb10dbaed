"""Pieces of HTML that several pages are made of."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from typing import Any


def asset(name: str) -> str:
    """A file of style or behaviour beside this one."""
    return (importlib.resources.files("tasks.report") / name).read_text(encoding="utf-8")


def data_element(name: str, value: Any) -> str:
    """JSON in a script element that no value can close: every '<' is written as its escape."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def table_of_pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names beside values, both HTML."""
    body = "".join(f'<tr><th scope="row">{key}</th><td>{value}</td></tr>' for key, value in rows)
    return f'<div class="scroll"><table class="pairs"><tbody>{body}</tbody></table></div>'
