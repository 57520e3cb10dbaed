"""Inverse design in a latent space: vectors moved by Adam to where the heads read what was asked.

CDVAE (arXiv:2110.06197, section 5.3) does so to lower a property. Here the number of atoms, the composition and an
energy can be asked for at once; the square length of the vector keeps it near the prior, where decoding was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.processes.type_noise import N_TYPES
from generative.requests import Request
from generative.systems.cdvae.config import CDVAESampler


class Wanted(NamedTuple):
    """What is asked of each of B crystals.

    Attributes:
        n_atoms: (B,), 0 where open.
        fractions: share of each type among the atoms, (B, 100), all zero where open.
        energy_ev_per_atom: (B,), NaN where open.
    """

    n_atoms: Tensor
    fractions: Tensor
    energy_ev_per_atom: Tensor

    @classmethod
    def of(cls, requests: Sequence[Request], device: torch.device) -> Wanted:
        """From requests."""
        n_atoms = torch.tensor([request.n_atoms for request in requests])
        fractions = torch.zeros(len(requests), N_TYPES)
        for i, request in enumerate(requests):
            for z, n in request.content:
                fractions[i, z - 1] = n / request.n_atoms
        asked = [request.formation_energy_ev_per_atom for request in requests]
        energy = torch.tensor([float("nan") if e is None else e for e in asked])
        return cls(n_atoms.to(device), fractions.to(device), energy.to(device))


class Readable(Protocol):
    """Heads that read a latent vector; see CDVAE."""

    to_count: nn.Sequential
    to_composition: nn.Sequential
    to_energy: nn.Sequential | None
    energy_mean: Tensor
    energy_scale: Tensor

    def energy(self, z: Tensor) -> Tensor:
        """The predicted energy, in standard deviations of the training set, (B,)."""


def search_latent(system: Readable, start: Tensor, wanted: Wanted, how: CDVAESampler) -> Tensor:
    """Latent vectors near `start` whose heads read what is wanted, (B, L); start itself where all is open.

    Minimises the cross-entropy of number and composition and the squared error of the energy in standard deviations,
    plus latent_prior / 2 times the square length. Crystals do not see each other: the sum over them is minimised.
    """
    open_in_all = (wanted.n_atoms == 0) & wanted.energy_ev_per_atom.isnan()
    if how.latent_steps == 0 or bool(open_in_all.all()):
        return start
    asked = wanted.n_atoms > 0
    has_energy = ~wanted.energy_ev_per_atom.isnan()
    energy = (wanted.energy_ev_per_atom.nan_to_num() - system.energy_mean) / system.energy_scale

    def cost(z: Tensor) -> Tensor:
        count = functional.cross_entropy(system.to_count(z), wanted.n_atoms, reduction="none")
        composition = -(wanted.fractions * functional.log_softmax(system.to_composition(z), -1)).sum(-1)
        each: Tensor = asked * (count + composition) + 0.5 * how.latent_prior * z.square().sum(-1)
        if system.to_energy is not None:
            each = each + has_energy * (system.energy(z) - energy).square()
        return each.sum()

    *_, moved = _adam(start, cost, how.latent_steps, how.latent_rate)
    return torch.where(open_in_all.unsqueeze(-1), start, moved)


def _adam(start: Tensor, cost: Callable[[Tensor], Tensor], n_steps: int, rate: float) -> Iterator[Tensor]:
    """The vectors after each step down the cost; the network's own parameters gather no gradient."""
    z = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=rate)
    for _ in range(n_steps):
        with torch.enable_grad():
            (z.grad,) = torch.autograd.grad(cost(z), [z])
        optimiser.step()
        yield z.detach().clone()
