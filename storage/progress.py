"""How long work says where it stands: a function that is called now and then, and must be quick."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done (crystals, rows, steps) and what there is to do in all."""

LabelledProgress = Callable[[str, int, int], None]
"""The same, with what is being done before them."""

SourceProgress = Callable[[str, int, int | None], None]
"""Called with a source of records, how many have come, and how many will, None if the source does not say."""
