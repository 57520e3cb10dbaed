"""Inverse design in a latent space: vectors moved by Adam to where the heads read what was asked.

CDVAE (arXiv:2110.06197, section 5.3) does so to lower a property. Here the number of atoms, the composition and an
energy can be asked for at once; the square length of the vector keeps it near the prior, where decoding was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from generative.processes.type_noise import N_TYPES
from generative.requests import Request
from generative.systems.cdvae.config import LatentSampler


class Wanted(NamedTuple):
    """What is asked of each of B crystals.

    Attributes:
        n_atoms: (B,), 0 where open.
        fractions: share of each type among the atoms, (B, 100), all zero where open.
        properties: in standard deviations of the training set, (B, P), NaN where open.
    """

    n_atoms: Tensor
    fractions: Tensor
    properties: Tensor

    @classmethod
    def of(cls, requests: Sequence[Request], names: Sequence[str], device: torch.device) -> Wanted:
        """From requests, the named properties still in their own units."""
        n_atoms = torch.tensor([request.n_atoms for request in requests])
        fractions = torch.zeros(len(requests), N_TYPES)
        for i, request in enumerate(requests):
            for z, n in request.content:
                fractions[i, z - 1] = n / request.n_atoms
        asked = [[request.all_targets.get(name, float("nan")) for name in names] for request in requests]
        properties = torch.tensor(asked).view(len(requests), len(names))
        return cls(n_atoms.to(device), fractions.to(device), properties.to(device))

    def standardised(self, mean: Tensor, scale: Tensor) -> Wanted:
        """The same with properties in standard deviations; mean and scale (P,) or scalars."""
        return self._replace(properties=(self.properties - mean) / scale)

    @property
    def is_open(self) -> Tensor:
        """Where nothing is asked, (B,)."""
        return (self.n_atoms == 0) & self.properties.isnan().all(1)


class Heads(Protocol):
    """What is read from latent vectors, (B, L)."""

    def count(self, z: Tensor) -> Tensor:
        """Logits of the number of atoms, (B, N)."""

    def composition(self, z: Tensor) -> Tensor:
        """Logits of the composition, (B, 100)."""

    def properties(self, z: Tensor) -> Tensor | None:
        """In standard deviations of the training set, (B, P); None where no head reads them."""


def misfit(heads: Heads, z: Tensor, wanted: Wanted, prior: float = 0.0) -> Tensor:
    """How far the readings of latent vectors are from what is wanted, (B,).

    Cross-entropies of number and composition, plus squared errors of properties in standard deviations; what is open
    counts nothing. Plus prior / 2 times the square length.
    """
    count = functional.cross_entropy(heads.count(z), wanted.n_atoms, reduction="none")
    composition = -(wanted.fractions * functional.log_softmax(heads.composition(z), -1)).sum(-1)
    each: Tensor = (wanted.n_atoms > 0) * (count + composition) + 0.5 * prior * z.square().sum(-1)
    # Read last: the order of the sum shows in the last digits of every result there is.
    if (properties := heads.properties(z)) is not None:
        asked = ~wanted.properties.isnan()
        each = each + (asked * (properties - wanted.properties.nan_to_num()).square()).sum(1)
    return each


def search_latent(heads: Heads, start: Tensor, wanted: Wanted, how: LatentSampler) -> Tensor:
    """Latent vectors near `start` whose heads read what is wanted, (B, L); start itself where all is open.

    Minimises the misfit. Crystals do not see each other: the sum over them is minimised.
    """
    if how.latent_steps == 0 or bool(wanted.is_open.all()):
        return start

    def cost(z: Tensor) -> Tensor:
        return misfit(heads, z, wanted, how.latent_prior).sum()

    *_, moved = _adam(start, cost, how.latent_steps, how.latent_rate)
    return torch.where(wanted.is_open.unsqueeze(-1), start, moved)


def _adam(start: Tensor, cost: Callable[[Tensor], Tensor], n_steps: int, rate: float) -> Iterator[Tensor]:
    """The vectors after each step down the cost; the network's own parameters gather no gradient."""
    z = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=rate)
    for _ in range(n_steps):
        with torch.enable_grad():
            (z.grad,) = torch.autograd.grad(cost(z), [z])
        optimiser.step()
        yield z.detach().clone()
