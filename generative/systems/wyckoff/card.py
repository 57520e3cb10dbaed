"""What the symmetric generator says of itself on the card of a checkpoint."""

from __future__ import annotations

from generative.systems.interface import CardNotes
from generative.systems.wyckoff.library import Library


def card_notes(library: Library) -> CardNotes:
    """Of a checkpoint with this library."""
    sizes, least = library.sizes, int(library.type_members.min()) if library.sizes.types else 0
    types = f"{sizes.types:,} structure types, means of the cells and coordinates of {least} or more crystals each"
    if library.is_merged:
        stored = (
            f"It holds {types}, and {sizes.voters:,} learned vectors that stand for compositions; no composition, and "
            f"no crystal{'' if least > 1 else ' but those that are alone in their types'}, can be read from it."
        )
    else:
        stored = (
            f"It holds training data: {types}, and the composition, space group and Wyckoff positions of "
            f"{len(set(library.voter_identity.tolist())):,} crystals. Whoever gets the checkpoint gets these data, so "
            "their licence holds for it."
        )
    return CardNotes(
        does="crystal structures of a given composition, and space group and formation energy if asked; the group and "
        "the occupied Wyckoff positions are chosen first, so every crystal has its group by construction",
        method="docs/wyckoff.md",
        stored=stored,
        limits="Cells and coordinates are those of a structure type, or packed from spheres where none is known: a "
        "start for a relaxation. Cells of more than 200 atoms come only as supercells.",
    )
