"""Requests from plain lists, as tests write them."""

from __future__ import annotations

from collections.abc import Sequence

from generative.requests import Request


def asked(
    cells: Sequence[Sequence[int]],
    spacegroups: Sequence[int | None] | None = None,
    energies_ev_per_atom: Sequence[float | None] | None = None,
) -> list[Request]:
    """One request per cell, given by its atomic numbers; an empty one asks for anything."""
    nothing = [None] * len(cells)
    told = zip(cells, spacegroups or nothing, energies_ev_per_atom or nothing, strict=True)
    return [Request.for_atoms(cell, group, energy) for cell, group, energy in told]
