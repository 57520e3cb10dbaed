"""Every potential by name, loaded when it is named: a line here, or an entry point of another package.

A package of somebody else's adds a potential by an entry point of the group `hullward.potentials`:

    [project.entry-points."hullward.potentials"]
    argon = "their_package.argon:readings"

It is then checked, named and keyed like those here. A place names a `dft.potentials.interface.Loader`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from dft.potentials.errors import PotentialError
from storage.registry import Registry, imported

if TYPE_CHECKING:
    from dft.potentials.interface import Loader

GROUP = "hullward.potentials"
"""Entry points of other packages."""

POTENTIALS: dict[str, str] = {
    "CHGNet": "dft.potentials.chgnet:readings",
    "M3GNet-MP-2021.2.8-PES": "dft.potentials.matgl:readings",
    "M3GNet-MatPES-PBE-v2025.1-PES": "dft.potentials.matgl:readings",
    "SevenNet-0": "dft.potentials.sevennet:readings",
    "SevenNet-l3i5": "dft.potentials.sevennet:readings",
    "TensorNet-MatPES-PBE-v2025.1-PES": "dft.potentials.matgl:readings",
}
"""Name -> 'module:loader'. Names are stored with every energy: one that was given stays."""

UNREGISTERED = "dft.potentials.matgl:readings"
"""Loads what has no line: a folder, a name in the user's folders, or one of matgl's hub, which has too many to list."""

REGISTRY = Registry("potential", GROUP, POTENTIALS, PotentialError)

DISPERSION = "+D3"
"""Behind the name of any potential: with the dispersion of DFT-D3, zero damping, added to it."""
_WITH_DISPERSION = "dft.potentials.dispersion:readings"


def without_dispersion(name: str) -> str | None:
    """The potential to which dispersion is added, of 'CHGNet+D3' CHGNet; None where none is asked for."""
    head, tail = name[: -len(DISPERSION)], name[-len(DISPERSION) :]
    return head if head and tail.casefold() == DISPERSION.casefold() else None


def fallback_of(name: str, fallback: str | None) -> str | None:
    """What stands in for a potential: for one with dispersion another with it, without which no layers hold."""
    if fallback is None or without_dispersion(name) is None or without_dispersion(fallback) is not None:
        return fallback
    return fallback + DISPERSION


def registered(name: str) -> str | None:
    """The registered name that is meant, whatever its upper and lower case; None if there is none."""
    if (base := without_dispersion(name)) is not None:
        known = registered(base)
        return None if known is None else known + DISPERSION
    if name in REGISTRY.places:
        return name
    return next((known for known in REGISTRY.places if known.casefold() == name.casefold()), None)


def place_of(name: str) -> str:
    """'module:loader' of the potential of this name, registered or not."""
    if without_dispersion(name) is not None:
        return _WITH_DISPERSION
    known = registered(name)
    return UNREGISTERED if known is None else REGISTRY.places[known]


def modules_of(name: str) -> frozenset[str]:
    """Modules that load the potential of this name: of one with dispersion, its own too."""
    base = without_dispersion(name)
    own = frozenset({place_of(name).partition(":")[0]})
    return own if base is None else own | modules_of(base)


def loader_of(name: str) -> Loader:
    """The loader of the potential of this name, registered or not.

    Raises: PotentialError: if the package that registered it cannot be loaded, or names no function.
    """
    known = registered(name)
    if without_dispersion(name) is not None:
        found = imported(_WITH_DISPERSION)
    else:
        found = imported(UNREGISTERED) if known is None else REGISTRY.load(known)
    if not callable(found):
        raise PotentialError(f"{known!r} is registered as {place_of(name)}: expected a function that loads a potential")
    return cast("Loader", found)


def hint(name: str) -> str:
    """What else could have been meant by a name that was not found; empty for a path."""
    if Path(name).name != name:
        return ""
    close = REGISTRY.close_to(name)
    return f"did you mean {close!r}?" if close else f"the registered ones are {', '.join(REGISTRY.places)}"
