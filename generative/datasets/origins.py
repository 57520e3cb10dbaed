"""Where a known crystal comes from: seen in nature or a laboratory, computed only, or put together by Hullward.

Only what a database holds is known. A prototype decorated with the elements of a chemical system (Hullward's own
guess) competes on the hull, but a candidate like it may still be new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Origin(StrEnum):
    """Origin of a crystal, as its source states it."""

    REPORTED = "reported"
    """A database states that it has been made or found: an ICSD entry, `theoretical: false`."""

    HYPOTHETICAL = "hypothetical"
    """A database states that it has been computed and not been reported."""

    UNSTATED = "unstated"
    """A database holds it and does not say which of the two."""

    PROTOTYPE = "prototype"
    """A common structure type decorated with the elements asked for: no database holds it."""


DATABASE_ORIGINS = (Origin.REPORTED, Origin.HYPOTHETICAL, Origin.UNSTATED)
"""Origins of crystals that are known, the one that says most first."""

LABELS: Mapping[str, str] = {
    Origin.REPORTED: "reported",
    Origin.HYPOTHETICAL: "computed, not reported",
    Origin.UNSTATED: "in a database, origin not stated",
    Origin.PROTOTYPE: "decorated from a prototype, in no database",
}
"""What the origins are called in reports, in the order in which they are listed."""

_TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def stated_origin(fields: Mapping[str, Any]) -> Origin | None:
    """Origin that a record states: `origin` in our own words, or `theoretical` in the Materials Project's.

    Args:
        fields: of the record; `theoretical` may be a truth value or its text.

    Returns: None if it states neither, or in words that are not known.
    """
    if (own := str(fields.get("origin") or "").strip().lower()) in set(Origin):
        return Origin(own)
    theoretical = fields.get("theoretical")
    if not isinstance(theoretical, bool):
        theoretical = _TRUTH.get(str(theoretical).strip().lower().removesuffix(".0"))
    if theoretical is None:
        return None
    return Origin.HYPOTHETICAL if theoretical else Origin.REPORTED


def strongest(origins: Iterable[str | None]) -> Origin:
    """Origin of a crystal that several sources hold: reported if one of them says so; a prototype only if all are."""
    found = {Origin(origin) if origin else Origin.UNSTATED for origin in origins}
    return next((origin for origin in (*DATABASE_ORIGINS, Origin.PROTOTYPE) if origin in found), Origin.UNSTATED)


def origins_of(table: pa.Table) -> list[str]:
    """Origin of every row; tables that state none hold what somebody knows, or, by the source's name, prototypes."""
    if "origin" in table.column_names:
        return [origin or Origin.UNSTATED.value for origin in table.column("origin").to_pylist()]
    if "source" in table.column_names:  # written before origins were kept
        names = table.column("source").to_pylist()
        return [Origin.PROTOTYPE.value if name == "prototypes" else Origin.UNSTATED.value for name in names]
    return [Origin.UNSTATED.value] * len(table)


def origin_counts(table: pa.Table) -> str:
    """How many rows are of each origin, in words: '13 reported; 305 decorated from a prototype, in no database'."""
    counts = Counter(origins_of(table))
    return "; ".join(f"{counts[origin]} {label}" for origin, label in LABELS.items() if counts[origin])


def split_by_origin(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows that a database holds, and the decorated prototypes."""
    is_prototype = pa.array([origin == Origin.PROTOTYPE for origin in origins_of(table)], type=pa.bool_())
    return table.filter(pc.invert(is_prototype)), table.filter(is_prototype)
