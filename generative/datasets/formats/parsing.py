"""Dictionaries that hold one crystal, pymatgen's Structure, and what readers of text share (CIF, POSCAR: own files).

Every reader returns a Crystal or raises RecordError with one sentence; none lets a foreign exception through.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pymatgen.core.structure import Structure

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, wrapped
from generative.datasets.limits import MAX_RECORD_ATOMS

_ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(ELEMENTS, start=1)}
_ONE_ATOM = {"element", "occu"}


def decoded(content: str | bytes) -> str:
    """Text of a file's bytes.

    Raises:
        RecordError: if they are not UTF-8; text read with 'surrogateescape' is checked the same way.
    """
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"byte {raw[error.start]:#04x} at position {error.start} is not UTF-8: expected UTF-8 or ASCII text, so "
            "convert the file's encoding"
        ) from None


def unknown_symbols(words: Iterable[str]) -> list[str]:
    """Words that look like symbols but name no element from H to Lr (D and T are hydrogen)."""
    bare = [word.split("_")[0].split("/")[0] for word in words]
    return [word for word in bare if word.isalpha() and word not in ELEMENTS and word not in ("D", "T")]


def one_line(error: object) -> str:
    """An error's message on one line, at most 200 characters, no final full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")


def parse_structure_dict(content: Mapping[str, Any]) -> Crystal:
    """The crystal of a pymatgen Structure dictionary (`Structure.as_dict()`); no other class is ever built.

    Raises:
        RecordError: if it is no such dictionary, names an unknown element, or is disordered.
    """
    try:
        sites = content["sites"]
        if len(sites) > MAX_RECORD_ATOMS:
            raise RecordError(f"the cell has {len(sites)} atoms: expected 1 to {MAX_RECORD_ATOMS}")
        plain = _plain_crystal(content["lattice"], sites)
        if plain is not None:
            return plain
        unknown = unknown_symbols(str(s["element"]) for site in sites for s in site["species"])
        if unknown:
            raise RecordError(f"{unknown[0]!r} is not a chemical element: expected symbols H to Lr")
        # Nothing but the crystal: pymatgen builds whatever class a site's properties name.
        bare = [{"species": site["species"], "abc": site["abc"]} for site in sites]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure.from_dict({"lattice": content["lattice"], "sites": bare})
            wrapped(np.array(structure.frac_coords, dtype=float))
            return Crystal.from_structure(structure)
    except RecordError:
        raise
    except Exception as error:  # a foreign dictionary can fail anywhere inside pymatgen
        raise RecordError(
            f"not readable as a pymatgen Structure ({type(error).__name__}: {one_line(error)}): expected the keys "
            "'lattice' and 'sites' of Structure.as_dict(), one element per site"
        ) from None


def _plain_crystal(lattice: Any, sites: Any) -> Crystal | None:
    """The crystal of sites that hold one whole atom each, as pymatgen would read it but four times as fast.

    Returns:
        None where pymatgen has to look: oxidation states, isotopes, shares of sites, anything malformed.
    """
    try:
        numbers = []
        for site in sites:
            (species,) = site["species"]
            if species.keys() != _ONE_ATOM or species["occu"] != 1:
                return None
            numbers.append(_ATOMIC_NUMBERS[species["element"]])
        lattice_ang, frac = np.array(lattice["matrix"]), np.array([site["abc"] for site in sites])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if lattice_ang.shape != (3, 3) or frac.shape != (len(numbers), 3):
        return None
    # Text in place of a number would be converted, and what is not finite fails in pymatgen before it fails here.
    if not all(array.dtype.kind in "fi" and np.isfinite(array).all() for array in (lattice_ang, frac)):
        return None
    return Crystal(lattice_ang.astype(float), wrapped(frac.astype(float)), np.array(numbers, dtype=np.int16))
