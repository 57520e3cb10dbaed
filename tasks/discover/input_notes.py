"""Notes on VASP inputs as sentences for the terminal, the log and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NAMED_MAX = 3
"""So many crystals are named beside a note that they share; the rest is counted."""


def shared_notes(notes_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes of several crystals as sentences, each once with the crystals that it is about.

    Args:
        notes_of: notes by the crystal's name, in order.
    """
    crystals: dict[str, list[str]] = {}
    for name, notes in notes_of.items():
        for note in notes:
            crystals.setdefault(note, []).append(name)
    said = []
    for note, names in crystals.items():
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        said.append(f"Inputs of {', '.join(names[:NAMED_MAX])}{more}: {note.removesuffix('.')}.")
    return said
