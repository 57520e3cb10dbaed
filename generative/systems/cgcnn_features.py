"""A small CGCNN that learns formation energies, whose pooled vector is a fingerprint of a crystal.

Frechet distances of network features are made of it (generative/metrics/network_features.py). It is trained as every
system is; what is its own is the graph of twelve neighbours, computed once per crystal before the first step.

Source: Xie and Grossman, arXiv:1710.10324; the network and what differs is in generative/networks/cgcnn.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import Bonds
from generative.crystal.crystals import Crystal
from generative.networks.cgcnn import CGCNN, CGCNNConfig, GraphBatch, pack
from generative.networks.crystal_graph import Z_MAX, CrystalGraph, NoGraphError, crystal_graph
from generative.systems.interface import Regressor
from generative.systems.trainable import Loss, Trainable
from generative.training.data import TrainingSet
from storage.settings import RoomConfig


class CGCNNFeaturesConfig(RoomConfig):
    """Sizes of the network."""

    width: int = Field(64, ge=1, description="of an atom's vector")
    n_convolutions: int = Field(3, ge=1, description="convolutions")
    n_features: int = Field(64, ge=1, description="of the pooled vector, which is the fingerprint")
    step_ang: float = Field(0.2, gt=0, description="between the centres of the Gaussians, and their width, angstrom")


@dataclass(frozen=True, kw_only=True)
class GraphedCrystals(CrystalBatch):
    """Crystals with their graphs, E edges end to end.

    Attributes:
        source, target: atoms counted through all crystals, (E,), int64.
        distance_ang: (E,).
        weight: part of a neighbour that an edge counts for, (E,).
    """

    source: Tensor
    target: Tensor
    distance_ang: Tensor
    weight: Tensor

    @property
    def graphs(self) -> GraphBatch:
        """As the network takes them."""
        crystal = torch.repeat_interleave(self.n_atoms, output_size=len(self.atomic_numbers))
        edges = (self.source, self.target, self.distance_ang, self.weight)
        return GraphBatch(self.atomic_numbers, crystal, len(self), *edges)


class GraphSet(TrainingSet):
    """A training set whose batches hold graphs."""

    def __init__(self, data: TrainingSet, graphs: Sequence[CrystalGraph]) -> None:
        super().__init__(data.crystals, data.spacegroups, data.energies, data.ids)
        self.graphs = list(graphs)

    def __getitem__(self, rows: Sequence[int]) -> GraphedCrystals:
        """The batch of these rows."""
        batch, packed = super().__getitem__(rows), pack([self.graphs[i] for i in rows])
        return GraphedCrystals.extending(
            batch,
            source=packed.source,
            target=packed.target,
            distance_ang=packed.distance_ang,
            weight=packed.weight,
        )


class CGCNNFeatures(Regressor, Trainable):
    """The network and the elements that it was trained on: of others it knows nothing."""

    name = "cgcnn-features"
    config_type = CGCNNFeaturesConfig
    config: CGCNNFeaturesConfig

    elements: Tensor

    def __init__(self, config: CGCNNFeaturesConfig) -> None:
        super().__init__(config)
        self.network = CGCNN(CGCNNConfig(**config.model_dump()))
        self.register_buffer("elements", torch.zeros(Z_MAX + 1, dtype=torch.bool))

    @property
    def known_elements(self) -> frozenset[int]:
        """Atomic numbers among the training crystals."""
        return frozenset(int(z) for z in self.elements.nonzero().flatten())

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal has no graph; empty where it has."""
        try:
            crystal_graph(crystal)
        except NoGraphError as error:
            return str(error)
        return ""

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """The crystals with their graphs, those whose energy is not known left out."""
        known = data.subset([i for i, energy in enumerate(data.energies) if energy is not None])
        return GraphSet(known, [crystal_graph(crystal) for crystal in known.crystals])

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Start from mean and spread of the training energies; note the elements.

        Raises: ValueError: if none of the crystals has an energy.
        """
        known = np.array([e for e in energies_ev_per_atom if e is not None])
        if not len(known):
            raise ValueError(f"none of the {len(crystals)} training crystals has an energy to be learnt")
        self.network.mean_ev_per_atom.fill_(float(known.mean()))
        self.network.spread_ev_per_atom.fill_(float(known.std()) or 1.0)
        self.elements[sorted({int(z) for crystal in crystals for z in crystal.atomic_numbers})] = True

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Mean absolute error, eV/atom; it draws nothing."""
        assert isinstance(batch, GraphedCrystals), "a batch without graphs: take it from what `arranged` gives"
        total = (self.network(batch.graphs) - batch.energy_ev_per_atom).abs().mean()
        return Loss(total, {"energy": total})

    @torch.no_grad()
    def predict(
        self, crystals: Sequence[Crystal], bonds: Sequence[Bonds | None] = (), batch_crystals: int = 256
    ) -> np.ndarray:
        """See Regressor.predict; bonds are not read. NaN for a crystal without a graph or of an unknown element."""
        values = np.full(len(crystals), math.nan)
        known = self.known_elements
        usable = [
            i
            for i, crystal in enumerate(crystals)
            if not set(crystal.atomic_numbers.tolist()) - known and not self.refused(crystal)
        ]
        for first in range(0, len(usable), batch_crystals):
            rows = usable[first : first + batch_crystals]
            graphs = pack([crystal_graph(crystals[i]) for i in rows]).to(self.elements.device)
            values[rows] = self.network(graphs).double().cpu().numpy()
        return values
