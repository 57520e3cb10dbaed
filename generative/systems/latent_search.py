"""Inverse design in a latent space: vectors moved by Adam to where the heads read what was asked.

CDVAE (arXiv:2110.06197, section 5.3) does so to lower a property. Here the number of atoms, the composition and an
energy can be asked for at once; the square length of the vector keeps it near the prior, where decoding was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from generative.config import DenoisingConfig
from generative.processes.type_noise import N_TYPES

if TYPE_CHECKING:
    from generative.systems.cdvae import CDVAE


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
    def of(
        cls, atomic_numbers: Sequence[Sequence[int]], energies: Sequence[float | None], device: torch.device
    ) -> Wanted:
        """From lists of atomic numbers, empty where open, and energies, None where open."""
        n_atoms = torch.tensor([len(cell) for cell in atomic_numbers])
        fractions = torch.zeros(len(atomic_numbers), N_TYPES)
        for i, cell in enumerate(atomic_numbers):
            for z in cell:
                fractions[i, z - 1] += 1 / len(cell)
        energy = torch.tensor([float("nan") if e is None else e for e in energies])
        return cls(n_atoms.to(device), fractions.to(device), energy.to(device))


def search_latent(system: CDVAE, start: Tensor, wanted: Wanted, how: DenoisingConfig) -> Tensor:
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


def lower_energy(system: CDVAE, start: Tensor, n_steps: int = 5000, rate: float = 1e-3, n_kept: int = 10) -> Tensor:
    """CDVAE's own search: vectors on the way to a lower predicted energy, (n_kept, B, L), the lowest at the end.

    Raises: ValueError: if the system has no head for the energy.
    """
    if system.to_energy is None:
        raise ValueError(
            f"{system.name} was trained without predict_energy: nothing tells the energy of a latent vector; train "
            "with system: {predict_energy: true}"
        )
    path = _adam(start, lambda z: system.energy(z).sum(), n_steps, rate)
    marks = {round(n_steps * (k + 1) / n_kept) for k in range(n_kept)}
    return torch.stack([z for step, z in enumerate(path, 1) if step in marks])


def _adam(start: Tensor, cost: Callable[[Tensor], Tensor], n_steps: int, rate: float) -> Iterator[Tensor]:
    """The vectors after each step down the cost; the network's own parameters gather no gradient."""
    z = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=rate)
    for _ in range(n_steps):
        with torch.enable_grad():
            (z.grad,) = torch.autograd.grad(cost(z), [z])
        optimiser.step()
        yield z.detach().clone()
