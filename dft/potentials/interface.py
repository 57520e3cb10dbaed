"""What a potential is: a model of crystals in batches, and what its loader says of it.

Units: eV, eV/A, eV/A^3; stress is positive under tension (dE/d(strain) / V), as torch-sim and ASE have it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from dft.potentials.neighbours import NeighbourLists
from dft.results import EnergyScheme

ADAPTER_VERSION = 1
"""Part of the fingerprint: raise it whenever the same weights may give other numbers."""


class CrystalModel(ModelInterface, ABC):
    """A torch-sim model of which a relaxation knows the elements and how far it sees.

    `dft.potentials.graph_model.GraphModel` makes one of a network of ours, `dft.potentials.foreign_model.ForeignModel`
    of any other torch-sim model.
    """

    @property
    @abstractmethod
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements it knows."""

    @property
    @abstractmethod
    def cutoff_ang(self) -> float | None:
        """How far an atom sees its neighbours, angstrom; None if that is not known."""

    @property
    @abstractmethod
    def derives_forces(self) -> bool:
        """Whether forces and stress are the energy's derivatives by construction, in the units of this module."""

    def neighbour_lists(self) -> NeighbourLists:
        """Empty neighbour lists, to hand to forward at every step of a relaxation."""
        return NeighbourLists(self.cutoff_ang or 0.0)

    @abstractmethod
    def forward(
        self, state: SimState | dict[str, Any], neighbours: NeighbourLists | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Energy, forces and stress.

        Args:
            state: torch-sim state on this model's device.
            neighbours: lists kept from step to step for the crystals of this batch; None searches afresh.
            **kwargs: ignored; torch-sim's models accept any.

        Returns:
            energy (B,) in eV, forces (N, 3) in eV/A, stress (B, 3, 3) in eV/A^3; all float64. n_neighbours (N,), int64:
            neighbours of each atom within the cut-off; one that has none feels no force, whatever its crystal
            (dft.potentials.isolation). -1 where the cut-off is not known.

        Raises:
            RuntimeError, ValueError, IndexError: if it cannot compute a crystal of the batch; the others are then asked
                for again without it.
        """


@dataclass(frozen=True)
class Asked:
    """What a loader is told.

    Attributes:
        name: the registered name, or the folder or name of matgl's hub that the user wrote.
        search: folders that hold potentials by name.
        device: where the model shall compute.
    """

    name: str
    search: tuple[Path, ...]
    device: torch.device


@dataclass(frozen=True)
class Reading:
    """A potential as its loader reads it.

    Attributes:
        model: computes crystals.
        method: name and version in one line; the label that travels with every energy.
        fingerprint: SHA-256 of all that decides the numbers, as fingerprint_of makes it.
        licence: of the weights, in a few words.
        notes: what the user should know, one sentence each.
        way: how this reading computes, such as 'destination aggregation', where the weights alone do not tell.
        reason: why it is this way, where an earlier reading was wrong.
        correction: what it does otherwise than the reading before, for the log.
        scheme: what the energies are that it has learned; dft.hull.dialects corrects those that need it.
    """

    model: CrystalModel
    method: str
    fingerprint: str
    licence: str
    notes: tuple[str, ...] = ()
    way: str = ""
    reason: str = ""
    correction: str = ""
    scheme: EnergyScheme = EnergyScheme.UNSTATED


Loader = Callable[[Asked], Iterable[Reading]]
"""What a registry's line names. It gives one reading, or several where it cannot know which is right: the first that
agrees with the known crystals is taken, and none after it is asked for. Raises: PotentialNotFoundError: if weights or
package are not there; PotentialError: if they are damaged or refused."""


def fingerprint_of(atomic_numbers: tuple[int, ...], how: str, weights: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 of a potential.

    Args:
        atomic_numbers: its elements, in its own order.
        how: whatever decides the numbers beside the weights: parameters, version of the package, correction.
        weights: tensors by name; their shapes and types count too.
    """
    digest = hashlib.sha256(f"adapter {ADAPTER_VERSION}; {how}; {atomic_numbers}".encode())
    for key, tensor in sorted((weights or {}).items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def as_state(state: SimState | dict[str, Any]) -> SimState:
    """The state itself, or one made of torch-sim's dictionary form."""
    if isinstance(state, SimState):
        return state
    return SimState(**{"masses": torch.ones(len(state["positions"])), "pbc": True} | state)
