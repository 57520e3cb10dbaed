"""Why there is no potential."""

from __future__ import annotations


class PotentialError(RuntimeError):
    """A potential cannot be found, or computes wrong energies."""


class PotentialNotFoundError(PotentialError):
    """No folder, cache or hub has this potential, or the package that computes it is not installed."""
