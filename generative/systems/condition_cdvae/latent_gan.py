"""A Wasserstein GAN that draws latent vectors for a condition: generator, critic, their losses.

The critic learns to tell vectors of the frozen encoder from generated ones, its slope held to one between them; the
generator learns to be taken for the encoder, and that the heads read from its vectors what was asked.

Source: Gulrajani et al., arXiv:1704.00028; sizes as in the code of ConditionCDVAE+ (doi:10.1038/s41598-025-06432-9).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from generative.networks.equiformer.layers import kept
from generative.systems.condition_cdvae.fusion import Conditions, Embeddings


class LatentGenerator(nn.Module):
    """Noise and conditions to latent vectors: (B, L) -> (B, L)."""

    def __init__(self, embeddings: Embeddings, latent: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.embeddings = embeddings
        inner = [sum(embeddings.widths) + latent, *widths]
        layers: list[nn.Module] = []
        for place, (a, b) in enumerate(zip(inner[:-1], inner[1:], strict=True)):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if place else []), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(inner[-1], latent))

    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """While training at least two at a time, for the sake of batch normalisation."""
        drawn: Tensor = self.layers(torch.cat([*self.embeddings(conditions), noise], dim=1))
        return drawn


class LatentCritic(nn.Module):
    """Latent vectors and conditions to a score, higher for the encoder's: (B, L) -> (B,)."""

    def __init__(self, embeddings: Embeddings, latent: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.embeddings, self.dropout = embeddings, dropout
        inner = [latent + sum(embeddings.widths), *widths]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(inner[:-1], inner[1:], strict=True))
        self.out = nn.Linear(inner[-1], 1)

    def forward(self, z: Tensor, conditions: Conditions, rng: torch.Generator | None = None) -> Tensor:
        """With a generator hidden values are dropped."""
        x = torch.cat([z, *self.embeddings(conditions)], dim=1)
        for layer in self.hidden:
            x = functional.leaky_relu(layer(x), 0.2)
            mask = kept(tuple(x.shape), self.dropout, x, rng)
            x = x if mask is None else x * mask
        score: Tensor = self.out(x).squeeze(1)
        return score


def slope_penalty(
    critic: LatentCritic, real: Tensor, fake: Tensor, conditions: Conditions, rng: torch.Generator, drop: bool
) -> Tensor:
    """Mean of (|slope| - 1)^2 of the critic at random places between real and generated vectors."""
    share = torch.rand(len(real), 1, generator=rng, device=rng.device).to(real)
    is_learning = torch.is_grad_enabled()
    with torch.enable_grad():
        between = (share * real + (1 - share) * fake).detach().requires_grad_()
        score = critic(between, conditions, rng if drop else None)
        (slope,) = torch.autograd.grad(score.sum(), between, create_graph=is_learning)
    penalty: Tensor = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
    return penalty
