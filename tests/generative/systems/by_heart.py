"""A few steps of training on one batch, for systems over the structure matrix."""

from __future__ import annotations

import torch

from generative.crystal.batch import CrystalBatch
from generative.systems.unet.structure_matrix_system import StructureMatrixSystem


def learn(system: StructureMatrixSystem, batch: CrystalBatch, n_steps: int, rate: float = 3e-3) -> None:
    """AdamW with rates that rise over 20 steps and fall to zero; the system is left in evaluation mode."""
    optimiser = torch.optim.AdamW(system.parameters(), lr=rate)
    system.train()
    for step in range(n_steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / n_steps)
        optimiser.zero_grad()
        system.loss(batch, torch.Generator().manual_seed(step)).total.backward()  # type: ignore[attr-defined]
        torch.nn.utils.clip_grad_norm_(system.parameters(), 1.0)
        optimiser.step()
    system.eval()
