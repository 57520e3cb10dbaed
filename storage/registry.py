"""Parts by name, loaded when they are named: a line of a registry, or an entry point of another package.

Generators and potentials stand behind such registries. `generative` and `dft` do not know each other, and this room is
the only one below both: what they must say alike, they say here. A place is 'module:name', so a registry imports none
of its parts, and a part whose libraries are not installed costs nobody else anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import entry_points


def imported(place: str) -> object:
    """What a place, 'module:name', holds.

    Raises: ImportError, AttributeError: if the module cannot be imported, or has no such name.
    """
    module, _, name = place.partition(":")
    found: object = getattr(importlib.import_module(module), name)
    return found


@dataclass(frozen=True)
class Registry:
    """The parts of one kind, those of other packages included; theirs cannot take a name of ours.

    Attributes:
        what: a part's kind in messages, such as 'system'.
        group: entry points by which other packages add parts.
        ours: name -> 'module:name' of the parts in this project.
        error: raised for a name that leads nowhere.
    """

    what: str
    group: str
    ours: Mapping[str, str]
    error: type[Exception]

    @cached_property
    def places(self) -> dict[str, str]:
        """Name -> 'module:name' of every part."""
        return {name: values[0] for name, values in self._outside.items()} | dict(self.ours)

    @cached_property
    def _outside(self) -> dict[str, list[str]]:
        """Name -> what other packages registered it as; more than one place is a quarrel between them."""
        found: dict[str, set[str]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, set()).add(point.value)
        return {name: sorted(values) for name, values in found.items()}

    def close_to(self, name: str) -> str | None:
        """The name that was probably meant; upper and lower case are the same here."""
        by_folded = {known.casefold(): known for known in self.places}
        close = get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
        return by_folded[close[0]] if close else None

    def load(self, name: str) -> object:
        """The part of this name.

        Raises:
            Exception: `error`, if there is none of that name, if several packages claim it, or if the package that
                registered it cannot be loaded. A part of ours that fails raises what it raises.
        """
        place = self.places.get(name)
        if place is None:
            close = self.close_to(name)
            hint = "" if close is None else f"; did you mean {close!r}?"
            raise self.error(f"{name!r} is no {self.what}: expected one of {', '.join(self.places)}{hint}")
        if name in self.ours:
            return imported(place)
        if len(claims := self._outside.get(name, [])) > 1:
            raise self.error(f"{name!r} is registered as {' and as '.join(claims)}: uninstall all packages but one")
        try:
            return imported(place)
        except (ImportError, AttributeError) as error:
            raise self.error(f"{name!r} is registered as {place}, which cannot be loaded: {error}") from error
