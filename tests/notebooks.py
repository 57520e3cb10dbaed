"""Notebooks without Jupyter: their cells in order in one namespace, and what the last line of each would show."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any


def shown_by(notebook: Path) -> list[dict[str, Any]]:
    """Execute a notebook here; for every cell that ends with an expression, what it shows by MIME type."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        where = f"{notebook.name}, cell {number}"
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            shown.append(_shown(eval(compile(ast.Expression(last.value), where, "eval"), names)))
    return shown


def _shown(value: Any) -> dict[str, Any]:
    """As Jupyter asks a value: a bundle, or HTML and text."""
    if bundle := getattr(value, "_repr_mimebundle_", None):
        return dict(bundle(include=None, exclude=None))
    html = getattr(value, "_repr_html_", None)
    return {"text/plain": repr(value), **({"text/html": html()} if html is not None else {})}


if __name__ == "__main__":
    told = shown_by(Path(sys.argv[1]))
    sys.stdout.write(json.dumps([{kind: str(one)[:2000] for kind, one in cell.items()} for cell in told]))
