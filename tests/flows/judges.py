"""Judges for tests: CHGNet with all energies a tenth steeper, which knows all of its elements or all but nickel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from dft.potentials import chgnet
from dft.potentials.graph_model import GraphModel
from dft.potentials.interface import Asked, Reading
from dft.results import EnergyScheme

STEEPER = 1.1
NICKEL = 28
PLACES = {"Steeper": "tests.flows.judges:readings", "Without nickel": "tests.flows.judges:readings_without_nickel"}


class Steeper(GraphModel):
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        output = super().forward(*args, **kwargs)
        return output | {name: STEEPER * output[name] for name in ("energy", "forces", "stress")}


class WithoutNickel(Steeper):
    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        return tuple(z for z in super().atomic_numbers if z != NICKEL)


def readings(asked: Asked, model: type[Steeper] = Steeper) -> Iterator[Reading]:
    (reading,) = chgnet.readings(asked)
    assert isinstance(reading.model, GraphModel)
    steeper = model(reading.model.network, asked.device)
    digit = str(len(model.__name__) % 10)
    yield replace(reading, model=steeper, method=model.__name__, fingerprint=digit * 64, scheme=EnergyScheme.UNSTATED)


def readings_without_nickel(asked: Asked) -> Iterator[Reading]:
    yield from readings(asked, WithoutNickel)
