"""Noise on the types of atoms: corrupted types for training, first types for sampling.

Column z - 1 of a table of probabilities is the element of atomic number z. Draws invert the cumulative sum instead of
torch.multinomial, which refuses rows of zeros, wants the generator on the data's device and reads values back from it.

Shape letters: B crystals, A atoms of all crystals end to end, N atoms of the largest crystal.
Source: CDVAE, arXiv:2110.06197, and DP-CDVAE, Sci. Rep. 14, 1275 (2024), in the forms their published code takes: eq. 9
of the second prints a softmax of the sum, its text "the element of highest probability" for the first types.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

N_TYPES = 100
"""Elements 1 (H) to 100 (Fm)."""


def corrupted(types: Tensor, probabilities: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
    """Types drawn with weights onehot(type) + sigma * probabilities, (A,), int64.

    With normalised probabilities a type stays with certainty 1 / (1 + sigma), else it is drawn from them.

    Args:
        types: atomic numbers 1 ... 100, (A,).
        probabilities: of the elements, per atom, (A, 100); not negative.
        sigma: noise level of each atom, (A,).
        rng: draws, on its own device.
    """
    weights = sigma.double()[:, None] * probabilities.detach().double()
    weights = weights.scatter_add(1, types[:, None] - 1, torch.ones_like(weights[:, :1]))
    return _drawn(weights, 1, rng).squeeze(1) + 1


def initial_types(probabilities: Tensor, n_atoms: Tensor, rng: torch.Generator) -> Tensor:
    """Types of whole crystals from predicted compositions, in random order, (A,), int64.

    Each element gets round(p * N) atoms (halves to even). Where that makes fewer than N, the rest is drawn with
    replacement from max(p - round(p * N) / N, 0), or from p where nothing is left over. Where it makes more, N of them
    are kept at random.

    Args:
        probabilities: of the elements, per crystal, (B, 100); not negative.
        n_atoms: N of each crystal, (B,), at least 1.
        rng: draws, on its own device; a crystal's types depend on its place in the batch and on its largest N.
    Raises: ValueError: if a crystal has no atoms, or a probability is negative or not a number.
    """
    if len(n_atoms) == 0 or int(n_atoms.min()) < 1:
        raise ValueError(
            f"crystals of {n_atoms.tolist()} atoms: expected at least 1 each. Leave class 0 out of the argmax"
        )
    if not bool((probabilities >= 0).all() and probabilities.isfinite().all()):
        raise ValueError("a composition has negative or not finite probabilities: did the network diverge?")
    wanted = (probabilities * n_atoms[:, None]).round()  # (B, 100), in the precision it was predicted in
    residual = (probabilities - wanted / n_atoms[:, None]).clamp_min(0)
    residual = torch.where(residual.sum(1, keepdim=True) > 0, residual, probabilities)

    largest = int(n_atoms.max())
    rounded_ends = wanted.long().cumsum(1)  # (B, 100)
    n_slots = max(largest, int(rounded_ends[:, -1].max()))
    slots = torch.arange(n_slots, device=n_atoms.device).expand(len(n_atoms), -1)  # (B, slots)
    rounded = torch.searchsorted(rounded_ends, slots.contiguous(), right=True)  # element of each slot while they last
    n_rounded = rounded_ends[:, -1:]
    pool = torch.where(slots < n_rounded, rounded, _drawn(residual.double(), n_slots, rng)) + 1

    order = _uniform((len(n_atoms), n_slots), rng, n_atoms.device)
    order = order.masked_fill(slots >= torch.maximum(n_rounded, n_atoms[:, None]), 2.0)  # past every key: never chosen
    shuffled = pool.gather(1, order.argsort(1))[:, :largest]
    return shuffled[slots[:, :largest] < n_atoms[:, None]]


def shared_out(logits: Tensor, pool: Tensor, n_atoms: Tensor) -> Tensor:
    """Types of whole crystals that use up a given pool, the sum of their log-probabilities largest, (A,), int64.

    Each atom's likeliest type, taken alone, seldom adds up to the composition that a crystal was meant to have; this is
    the likeliest naming that does (linear assignment per crystal, on the CPU).

    Args:
        logits: of the elements, per atom, (A, 100).
        pool: atomic numbers to hand out, (A,), as many per crystal as it has atoms, in any order.
        n_atoms: of each crystal, (B,).
    """
    log_probabilities = logits.log_softmax(-1).double().cpu().numpy()
    kinds, named = pool.cpu().numpy(), np.empty(len(pool), dtype=np.int64)
    end = 0
    for n in n_atoms.tolist():
        begin, end = end, end + n
        slots = kinds[begin:end]
        atoms, chosen = linear_sum_assignment(log_probabilities[begin:end, slots - 1], maximize=True)
        named[begin + atoms] = slots[chosen]
    return torch.from_numpy(named).to(pool.device)


def _drawn(weights: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n column indices per row, with replacement, by weights that need not be normalised, (rows, n), int64."""
    ends = weights.cumsum(1)
    places = _uniform((len(weights), n), rng, weights.device) * ends[:, -1:]
    # The first end above the place: a column of weight zero ends where the one before does, and is never the first.
    return torch.searchsorted(ends, places, right=True).clamp_max(weights.shape[1] - 1)


def _uniform(shape: tuple[int, int], rng: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64).to(device)
