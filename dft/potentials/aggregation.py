"""Which end of an edge receives its message: where matgl's versions and stored weights can disagree."""

from __future__ import annotations

from enum import StrEnum


class Aggregation(StrEnum):
    """Where a message along an edge is summed."""

    SOURCE = "source"
    """as matgl >= 3 computes"""
    DESTINATION = "destination"
    """as matgl < 3 computed, and as the weights stored before 2026 were trained"""
