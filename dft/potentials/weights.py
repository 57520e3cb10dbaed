"""Whether the weights of a potential are on this machine, told without reading them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dft.potentials.registry import fallback_of, place_of, registered, without_dispersion


@dataclass(frozen=True)
class Weights:
    """Where a potential's weights are.

    Attributes:
        name: the registered name, or as asked for.
        is_here: whether they are on this machine; None: the package that registered it does not say.
        where: the place, or why there is none, in a few words.
    """

    name: str
    is_here: bool | None
    where: str


def weights_of(name: str, search: Sequence[Path]) -> Weights:
    """Where the weights of this potential lie. No database is asked for them, and nothing of them is run.

    Args:
        name: as of dft.potentials.loading.load_potential, as is `search`.
        search: folders that hold potentials by name.
    """
    known, place = registered(name) or name, place_of(name)
    if (base := without_dispersion(name)) is not None:
        found = weights_of(base, search)
        return Weights(known, found.is_here, found.where)
    if place == place_of("CHGNet"):
        return _in_package(known, "chgnet", "")
    if place == place_of("SevenNet-0"):
        from dft.potentials.sevennet import FILES

        return _in_package(known, "sevenn", f"pretrained_potentials/{FILES[known]}")
    if place == place_of("M3GNet-MP-2021.2.8-PES"):
        from dft.potentials.matgl import find_matgl_folder

        folder, where = find_matgl_folder(known, search, hub=False)
        return Weights(known, folder is not None, f"weights in {where}" if folder else f"no weights here: {where}")
    return Weights(known, None, f"of the package {place.partition('.')[0]}, which alone knows where its weights are")


def _in_package(name: str, package: str, file: str) -> Weights:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None or not (Path(found.origin).parent / file).exists():
        return Weights(name, False, f"no weights here: the package {package} is not installed")
    return Weights(name, True, f"weights inside the package {package}")


def used_weights(name: str, fallback: str | None, search: Sequence[Path]) -> Weights:
    """The weights that loading this potential would take: its own, or the fallback's where these are not here."""
    own, other = weights_of(name, search), fallback_of(name, fallback)
    return own if own.is_here is not False or other is None else weights_of(other, search)
