"""What every test gets: pymatgen's space groups, each made once."""

from __future__ import annotations

from typing import Any

from pymatgen.symmetry.groups import SpaceGroup

_make_or_find = SpaceGroup.__new__
_KEPT: dict[int, SpaceGroup] = {}


def _make_or_find_and_keep(cls: type[SpaceGroup], *args: Any, **kwargs: Any) -> SpaceGroup:
    group = _make_or_find(cls, *args, **kwargs)
    _KEPT[id(group)] = group
    return group


# pymatgen finds a group again only while somebody holds it, and makes it by comparing all its operations with each
# other: half a second of each `Structure.from_spacegroup("Fm-3m", ...)`, of which the tests have hundreds.
SpaceGroup.__new__ = _make_or_find_and_keep  # type: ignore[method-assign,assignment]
