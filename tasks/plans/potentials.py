"""Which potentials work would use, and whether their weights are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from configs.paths import model_folders
from dft.config import RelaxConfig
from tasks.plans.record import UsedPotential


def planned_potential(role: str, relax: RelaxConfig) -> UsedPotential:
    """The potential of these settings, or what stands in for it."""
    from dft.potentials.registry import registered
    from dft.potentials.weights import used_weights

    found = used_weights(relax.potential, relax.fallback, model_folders())
    asked = registered(relax.potential) or relax.potential
    return UsedPotential(role, asked, found.name, found.is_here, found.where)


def absent(potentials: Sequence[UsedPotential]) -> Iterator[str]:
    """One sentence per potential without weights."""
    for one in potentials:
        if one.is_here is False:
            yield f"{one.role} would stop: {one.sentence}; name another, or get its weights (docs/installation.md)"
