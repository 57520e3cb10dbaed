"""Checkpoints: a folder with model.safetensors and model.json. Nothing in it can run code when loaded."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from generative.systems.interface import Generator, Modifier, Regressor, System
from generative.systems.registry import UnknownSystemError, system_type

SCHEMA_VERSION = 1
PACKAGED = Path(__file__).parent / "weights"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded system with what is known of its making.

    Attributes:
        system: the module, in evaluation mode.
        digest: SHA-256 over both files: part of every candidate's id.
        training: how it was made: data fingerprint, settings, steps, versions.
    """

    system: System
    digest: str
    training: dict[str, Any]

    @property
    def generator(self) -> Generator:
        """The system. Raises: CheckpointError: if it draws no crystals."""
        if not isinstance(self.system, Generator):
            raise CheckpointError(f"{self._what} draws no crystals: name the checkpoint of a generator")
        return self.system

    @property
    def modifier(self) -> Modifier:
        """The system. Raises: CheckpointError: if it modifies none."""
        if not isinstance(self.system, Modifier):
            raise CheckpointError(f"{self._what} modifies no crystals: name the checkpoint of a modifier")
        return self.system

    @property
    def regressor(self) -> Regressor:
        """The system. Raises: CheckpointError: if it predicts nothing."""
        if not isinstance(self.system, Regressor):
            raise CheckpointError(f"{self._what} predicts no property: name the checkpoint of a regressor")
        return self.system

    @property
    def _what(self) -> str:
        return f"the checkpoint of {self.system.name}, SHA-256 {self.digest[:12]},"


def locate(checkpoint: str) -> Path:
    """The folder that 'package:NAME' or a path names.

    Raises: CheckpointError: if it does not hold the two files.
    """
    folder = PACKAGED / checkpoint.removeprefix("package:") if checkpoint.startswith("package:") else Path(checkpoint)
    missing = [name for name in ("model.safetensors", "model.json") if not (folder / name).is_file()]
    if missing:
        shipped = (
            ", ".join(f"package:{f.name}" for f in sorted(PACKAGED.glob("*")) if (f / "model.json").is_file()) or "none"
        )
        raise CheckpointError(
            f"{checkpoint}: {missing[0]} not found; expected a folder made by `hullward train`, or one of: {shipped}"
        )
    return folder


def digest(checkpoint: str) -> str:
    """SHA-256 over the two files of a checkpoint."""
    folder = locate(checkpoint)
    h = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        h.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return h.hexdigest()


def stored_as(precision: str) -> torch.dtype:
    """How weights are stored that were trained in this precision: those of bf16 lose nothing in half, others would."""
    return torch.float16 if precision == "bf16" else torch.float32


def save(folder: Path, system: System, training: Mapping[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint; parameters are stored as `dtype` (half the size; sampling runs in float32).

    The folder appears whole or not at all.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    names = {name for name, _ in system.named_parameters()}
    state = {
        name: (value.to(dtype) if name in names else value).detach().cpu().contiguous()
        for name, value in system.state_dict().items()
    }
    save_file(state, staging / "model.safetensors")
    description = {
        "schema_version": SCHEMA_VERSION,
        "system": system.name,
        "config": system.config.model_dump(mode="json"),
        "training": dict(training),
    }
    (staging / "model.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
    staging.chmod(0o755)
    for part in staging.iterdir():
        part.chmod(0o644)  # safetensors writes for the owner alone
    for old in folder.glob("*") if folder.is_dir() else ():
        if old.name in {"model.safetensors", "model.json"}:
            old.unlink()
    if folder.is_dir():
        for part in staging.iterdir():
            os.replace(part, folder / part.name)
        staging.rmdir()
    else:
        os.replace(staging, folder)


def about(checkpoint: str) -> dict[str, Any]:
    """What model.json says: system, config, and how the weights were made.

    Raises: CheckpointError: if the checkpoint is not there.
    """
    found: dict[str, Any] = json.loads((locate(checkpoint) / "model.json").read_text(encoding="utf-8"))
    return found


def generator_type(checkpoint: str) -> type[Generator]:
    """The class of the generator that a checkpoint holds, without its weights.

    Raises: CheckpointError: if it holds none, or a system that this version does not know.
    """
    try:
        kind = system_type(about(checkpoint)["system"])
    except UnknownSystemError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    if not issubclass(kind, Generator):
        raise CheckpointError(f"{checkpoint}: {kind.name} draws no crystals: name the checkpoint of a generator")
    return kind


def load(checkpoint: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a system.

    Raises: CheckpointError: if files are missing, damaged, or name a system or shape this version does not know.
    """
    folder = locate(checkpoint)
    try:
        description = about(checkpoint)
        kind = system_type(description["system"])
        system = kind(kind.config_type.model_validate(description["config"]))
        # Each tensor takes the system's own type: weights float32, stored crystals the float64 they were saved in.
        system.load_state_dict(load_file(folder / "model.safetensors"))
    except UnknownSystemError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    except Exception as error:  # safetensors, json and torch each raise their own kinds
        raise CheckpointError(
            f"{checkpoint}: not a readable checkpoint: {' '.join(str(error).split())[:300]}"
        ) from error
    return Checkpoint(system.eval().to(device), digest(checkpoint), description["training"])
