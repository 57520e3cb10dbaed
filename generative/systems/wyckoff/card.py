"""What the symmetric generator says of itself on the card of a checkpoint."""

from __future__ import annotations

from generative.systems.interface import CardNotes


def card_notes(n_with_coordinates: int, n_without: int) -> CardNotes:
    """Of a checkpoint that holds so many crystals.

    Args:
        n_with_coordinates: stored crystals with their cells and coordinates.
        n_without: stored crystals of which the Wyckoff positions alone are known.
    """
    labels = f", and of {n_without:,} more composition, space group and Wyckoff letters" if n_without else ""
    return CardNotes(
        does="crystal structures of a given composition, and space group if asked; the group and the occupied Wyckoff "
        "positions are chosen first, so every crystal has its group by construction",
        method="docs/wyckoff.md",
        stored=f"It holds training crystals: cell, space group and Wyckoff positions with free coordinates of "
        f"{n_with_coordinates:,}{labels}. Whoever gets the checkpoint gets these data, so their licence holds for it.",
        limits="A crystal is like one that is stored. A composition whose counts of atoms no stored crystal has comes "
        "as a supercell of fewer formula units, or fails; a space group that none of those counts has fails too.",
    )
