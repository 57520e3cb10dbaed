"""The distribution of latent vectors that an encoder gives a crystal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Latent(NamedTuple):
    """Normal distribution of the latent vector of each crystal; both (B, L)."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, rng: torch.Generator) -> Tensor:
        """One vector per crystal, (B, L)."""
        noise = torch.randn(self.mean.shape, generator=rng, device=rng.device).to(self.mean)
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """Divergence from the prior N(0, 1), summed over the vector's entries, mean over crystals."""
        mean, log_variance = self
        return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
