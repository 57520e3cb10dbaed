"""The two learned ends of ConditionCDVAE+: EquiformerV2 over bonds, and over the neighbours of noisy atoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from generative.crystal.batch import CrystalBatch
from generative.networks.equiformer.network import EquiformerConfig, EquiformerEncoder, EquiformerScore
from generative.networks.periodic_graph import NeighbourSearch, measured
from generative.systems.cdvae.decoding import Cells
from generative.systems.cdvae.networks import DenoiserNetwork
from generative.systems.condition_cdvae.config import SIZES, ConditionCDVAEConfig


def equiformer_config(config: ConditionCDVAEConfig) -> EquiformerConfig:
    """Of both networks."""
    return EquiformerConfig(
        **{**SIZES[config.size].equiformer, "drop_alpha": config.drop_alpha, "drop_path": config.drop_path}
    )


class Encoder(nn.Module):
    """A crystal with its bonds to H features, (B, H)."""

    atoms_per_crystal: Tensor

    def __init__(self, config: ConditionCDVAEConfig) -> None:
        super().__init__()
        self.equiformer = EquiformerEncoder(equiformer_config(config), SIZES[config.size].hidden)
        self.readout = config.readout
        # Published: 8, whatever the data set.
        self.register_buffer("atoms_per_crystal", torch.tensor(1.0))

    def forward(self, batch: CrystalBatch, cells: Cells, rng: torch.Generator | None = None) -> Tensor:
        """The batch needs its bonds; with a generator parts are dropped, as while training."""
        bonds = batch.bonds
        assert bonds is not None, "a batch without bonds: pack it from a TrainingSet with bonds, or by LatentModel.pack"
        edges = measured(batch.frac, cells.lattice_ang, cells.crystal, bonds.source, bonds.target, bonds.image)
        summed: Tensor = self.equiformer(batch.atomic_numbers, cells.crystal, len(batch), edges, rng)
        if self.readout == "mean":
            return summed / batch.n_atoms.unsqueeze(1)
        return summed / self.atoms_per_crystal


class Denoiser(DenoiserNetwork):
    """A noisy crystal and its fused vector to the score times the noise's width, and logits of types."""

    def __init__(self, config: ConditionCDVAEConfig) -> None:
        super().__init__()
        self.images, self.max_neighbours = config.images, SIZES[config.size].max_neighbours
        self.equiformer = EquiformerScore(equiformer_config(config), SIZES[config.size].latent)

    def neighbours(self, lattice_ang: Tensor, n_atoms: Tensor) -> NeighbourSearch:
        """See DenoiserNetwork."""
        cutoff_ang = self.equiformer.trunk.config.cutoff_ang
        return NeighbourSearch(lattice_ang, n_atoms, cutoff_ang, self.max_neighbours, self.images, symmetric=True)

    def forward(
        self,
        latent: Tensor,
        frac: Tensor,
        types: Tensor,
        crystal: Tensor,
        search: NeighbourSearch,
        time: Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See DenoiserNetwork; no noise level is told. With a generator parts are dropped, as while training."""
        vector, logits = self.equiformer(latent, types, crystal, search(frac - frac.floor()), rng)
        return vector, logits


def mean_degree(denoiser: Denoiser, lattice_ang: Tensor, frac: Sequence[Tensor]) -> float:
    """Edges per atom of the denoiser's graphs of crystals at rest.

    Args: denoiser; rows in pymatgen's orientation, (B, 3, 3); fractional coordinates of each crystal.
    """
    n_atoms = torch.tensor([len(one) for one in frac])
    edges = denoiser.neighbours(lattice_ang, n_atoms)(torch.cat(list(frac)))
    return len(edges.source) / int(n_atoms.sum())
