"""What a system may be: a generator, a modifier, a regressor; each by inheriting from it, so that nobody has to guess.

A system is a torch.nn.Module with a name and settings, which a checkpoint holds. What it can do is the class it is: a
generator answers requests, a modifier turns a crystal into another, a regressor tells a number of it; a learner goes
on learning when it is trained. What can be trained is in trainable.py. Settings of sampling belong to the system that
reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.species import MAX_Z
from generative.requests import Request
from generative.settings_errors import validated
from storage.settings import RoomConfig

if TYPE_CHECKING:
    from generative.crystal.bonds import Bonds

Progress = Callable[[float], None]
"""Told the share of the work that is done, from 0 to 1."""


Own = TypeVar("Own", bound=SamplerSettings)


def own_settings(kind: type[Own], given: SamplerSettings | None) -> Own:
    """The settings as the system's own model; its defaults for None.

    Raises: TypeError: if they are those of another system.
    """
    if given is None:
        return kind()
    if not isinstance(given, kind):
        raise TypeError(f"settings of sampling are {type(given).__name__}: expected {kind.__name__}")
    return given


class CardNotes(NamedTuple):
    """What a system says of itself on the card of a checkpoint; sentences in Markdown, or empty.

    Attributes:
        does: what it gives, behind 'A ... generator: '.
        method: page of this repository that describes it.
        stored: which training crystals can be read from the checkpoint.
        limits: where it is not to be trusted.
    """

    does: str = ""
    method: str = ""
    stored: str = ""
    limits: str = ""


class System(nn.Module):
    """What every system has.

    Attributes:
        name: as checkpoints and settings name it.
        config_type: model of its settings.
        sampler_type: model of its settings of sampling or modifying; every field has a default.
        config: settings it was built with.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[RoomConfig]]
    sampler_type: ClassVar[type[SamplerSettings]] = SamplerSettings
    config: RoomConfig

    def __init__(self, config: RoomConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def sampler_settings(cls, given: Mapping[str, Any], where: str = "sample.sampler") -> SamplerSettings:
        """Its settings of sampling, checked.

        Args:
            given: those that differ from the defaults.
            where: they stand in a user's settings.

        Raises: ValueError: if one of them is none of this system's, or has a value that it cannot have.
        """
        return validated(cls.sampler_type, given, cls.name, where)

    def card_notes(self) -> CardNotes:
        """What it says of itself on the card of its checkpoint."""
        return CardNotes()


class Generator(System, ABC):
    """Draws a crystal for each request.

    Attributes:
        heeds: what of a request it goes by, as Request.asks names it, by its settings perhaps more than its class says.
            What is asked beyond that has no effect.
        z_max: largest atomic number it knows.
    """

    heeds: frozenset[str] = frozenset({"composition"})
    z_max: ClassVar[int] = MAX_Z

    @classmethod
    def heeds_with(cls, config: RoomConfig) -> frozenset[str]:
        """What it goes by with these settings, of its config_type: known of a checkpoint without its weights."""
        return cls.heeds

    @classmethod
    def request_like(cls, crystal: Crystal) -> Request:
        """What it is asked where a known crystal would be the answer, as for a test: the crystal's composition."""
        return Request.for_atoms(crystal.atomic_numbers)

    @abstractmethod
    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """One crystal per request, in order; atoms of one element stand together, ascending by atomic number.

        Args:
            requests: what is asked. Of equal ones with the same turn a generator that ranks its answers gives the later
                the next best; so only who cuts a plan into several calls has to set turns (requests.in_turn).
            rng: every draw; the same state gives the same crystals.
            settings: of the system's sampler_type; None takes the defaults.
            progress: told of the share of the work done.

        Returns: crystals; a failed_sample (baselines/stored.py) where none could be made.

        Raises: ValueError: if a request cannot be answered whatever is drawn.
        """


class Change(NamedTuple):
    """What a modified crystal is asked to be.

    Attributes:
        spacegroup: international number; None leaves it open.
        energy_ev_per_atom: change of the formation energy, eV/atom: below 0 for a more stable polymorph; None: open.
    """

    spacegroup: int | None = None
    energy_ev_per_atom: float | None = None


class Modifier(System, ABC):
    """Turns crystals into others of the same composition."""

    @abstractmethod
    def modify(
        self,
        crystals: Sequence[Crystal],
        changes: Sequence[Change],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """One crystal for each given one, in order.

        Args:
            crystals: what to start from.
            changes: what each is to become.
            rng: every draw; the same state gives the same crystals.
            settings: of the system's sampler_type; None takes the defaults.
            progress: told of the share of the work done.

        Returns: crystals; a failed_sample where the given one cannot be read.
        """


class Regressor(System, ABC):
    """Tells a number of a crystal."""

    @abstractmethod
    def predict(
        self, crystals: Sequence[Crystal], bonds: Sequence[Bonds | None], batch_crystals: int = 256
    ) -> np.ndarray:
        """The property of each crystal in its own unit, (n,); NaN where it cannot be told.

        Args:
            crystals: any.
            bonds: CrystalNN's, of these cells.
            batch_crystals: how many at a time.
        """


class Learner(System, ABC):
    """Learns from further crystals after its training, in seconds."""

    @abstractmethod
    def learn(self, crystals: Sequence[Crystal], votes: float = 1.0) -> list[str]:
        """Take further crystals to what it was trained on; the same ones make the same system.

        Args:
            crystals: relaxed ones, in any cell.
            votes: as many training crystals as each of them counts for, above 0.

        Returns: why it cannot learn from a crystal, of each, in one sentence; empty where it has.
        """


def of_steps(progress: Progress | None, n_steps: int) -> Callable[[int], None] | None:
    """For loops that count steps: told how many are done, it tells `progress` their share."""
    return None if progress is None else lambda done: progress(done / n_steps)


def batch_of(requests: Sequence[Request], cells: Sequence[Sequence[int]] | None = None) -> CrystalBatch:
    """What is asked as a batch: space groups, formation energies, and atoms in unit cells, all still at the origin.

    Args:
        requests: what is asked.
        cells: atomic numbers of each request in the order that the system wants; None takes the requests' own.
    """
    numbers = [request.atomic_numbers for request in requests] if cells is None else cells
    return CrystalBatch.pack(
        [Crystal(np.eye(3), np.zeros((len(cell), 3)), np.array(cell, dtype=np.int16)) for cell in numbers],
        [request.spacegroup for request in requests],
        [request.formation_energy_ev_per_atom for request in requests],
    )


def require_cells(requests: Sequence[Request], atoms_max: int, z_max: int = MAX_Z) -> None:
    """Raises: ValueError: if a request names no composition, or one that is too large or holds an unknown element; the
    first is named.
    """
    for i, request in enumerate(requests):
        numbers = request.atomic_numbers
        if not 1 <= len(numbers) <= atoms_max or not all(1 <= z <= z_max for z in numbers):
            raise ValueError(
                f"request {i} is {request}, with {len(numbers)} atoms: expected a cell of 1 to {atoms_max} atoms with "
                f"atomic numbers 1 to {z_max}"
            )
