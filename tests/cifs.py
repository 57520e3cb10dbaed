"""The crystal of a CIF, for tests that ask nothing else of it."""

from __future__ import annotations

from generative.crystal.crystals import Crystal
from generative.datasets.cif.reading import read_cif


def parse_cif(text: str, max_atoms: int) -> Crystal:
    """The crystal of a CIF; see `read_cif`."""
    return read_cif(text, max_atoms).crystal
