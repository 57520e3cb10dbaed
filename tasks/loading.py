"""Loaded potentials and checkpoints, once per process; a task's own globals would travel with it to every worker."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from configs.paths import model_folders
from configs.schema import ExecutionConfig
from dft.config import RelaxConfig

if TYPE_CHECKING:
    from dft.potentials.loading import LoadedPotential
    from generative.checkpoints import Checkpoint


class PotentialIdentity(BaseModel):
    """What a loaded potential is, without the weights.

    Attributes:
        name: as loaded; the fallback's if that was taken.
        method: label that travels with every energy.
        fingerprint: SHA-256 over weights, correction and adapter version.
        notes: what was corrected or replaced, one sentence each.
        licence: of the weights, in a few words.
        scheme: what the energies are that it has learned, a dft.results.EnergyScheme.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    method: str
    fingerprint: str
    notes: tuple[str, ...]
    licence: str = ""
    scheme: str = "unstated"

    def stands_in_for(self, asked: str) -> bool:
        """Whether it is not the potential that was asked for, by name or by folder."""
        return Path(asked).name.lower() != self.name.lower()


def device_of(execution: ExecutionConfig) -> str:
    """'cuda' or 'cpu'; sets the CPU threads of this process, and how they work, as it goes.

    Raises: RuntimeError: if a GPU is demanded and none is seen.
    """
    import torch

    from generative.processor import prepare_processor

    torch.set_num_threads(execution.torch_threads)
    prepare_processor()
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("execution.device is 'cuda', but no GPU is seen: use 'auto' or 'cpu', or check the driver")
    return "cuda" if execution.device != "cpu" and torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=4)
def _potential(name: str, fallback: str | None, device: str) -> LoadedPotential:
    from dft.potentials.loading import load_potential

    return load_potential(name, fallback=fallback, search=model_folders(), device=device)


def potential(config: RelaxConfig, execution: ExecutionConfig) -> LoadedPotential:
    """The potential of a run, checked at load."""
    return _potential(config.potential, config.fallback, device_of(execution))


def potential_code(config: RelaxConfig) -> tuple[str, ...]:
    """Modules that load the potential, or its fallback: what is computed with it depends on them unseen by imports.

    Returns: Names of modules, as tasks.files.key_of takes them.
    """
    from dft.potentials.registry import fallback_of, modules_of

    named = [config.potential, fallback_of(config.potential, config.fallback)]
    return tuple(sorted(frozenset().union(*(modules_of(name) for name in named if name is not None))))


def identify(config: RelaxConfig, execution: ExecutionConfig) -> PotentialIdentity:
    """Which potential a run really uses."""
    loaded = potential(config, execution)
    return PotentialIdentity(
        name=loaded.name,
        method=loaded.method,
        fingerprint=loaded.fingerprint,
        notes=loaded.notes,
        licence=loaded.licence,
        scheme=loaded.scheme.value,
    )


@lru_cache(maxsize=2)
def _checkpoint(name: str, digest: str, device: str) -> Checkpoint:
    from generative.checkpoints import load

    return load(name, device)


def checkpoint(name: str, execution: ExecutionConfig) -> Checkpoint:
    """The generator of a run; loaded again when its files have changed."""
    from generative.checkpoints import digest

    return _checkpoint(name, digest(name), device_of(execution))
