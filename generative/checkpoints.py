"""Checkpoints: a folder with model.safetensors and model.json. Nothing in it can run code when loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load as deserialised
from safetensors.torch import save as serialised

from generative.systems.interface import Generator, Modifier, Regressor, System
from generative.systems.registry import UnknownSystemError, system_type
from storage.atomic import replace_folder, restore_folder, staging
from storage.checksums import DamagedFileError
from storage.documents import read_document, text_of

SCHEMA_VERSION = 1
PACKAGED = Path(__file__).parent / "weights"
FILES = ("model.safetensors", "model.json")
REMEDY = "train it again, or copy it again from where it came"


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
    restore_folder(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
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

    The folder appears whole or not at all; in place of one that is there, whose other files stay, at one stroke.

    Raises: DiskFullError: if there is no room; the folder is then as it was.
    """
    names = {name for name, _ in system.named_parameters()}
    state = {
        name: (value.to(dtype) if name in names else value).detach().cpu().contiguous()
        for name, value in system.state_dict().items()
    }
    weights = serialised(state)
    description = {
        "schema_version": SCHEMA_VERSION,
        "system": system.name,
        "config": system.config.model_dump(mode="json"),
        "training": dict(training),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    folder = folder.resolve()  # a link stays one, and what it leads to is replaced
    restore_folder(folder)
    with staging(folder) as new:
        for old in folder.iterdir() if folder.is_dir() else ():
            if old.name not in FILES:
                _link(old, new / old.name)
        (new / "model.safetensors").write_bytes(weights)
        (new / "model.json").write_text(text_of(description, sort_keys=True), encoding="utf-8")
        replace_folder(new, folder)


def _link(old: Path, new: Path) -> None:
    """The same file, or folder of files, under a second name; a copy where the file system knows no such thing."""
    try:
        shutil.copytree(old, new, copy_function=os.link) if old.is_dir() else os.link(old, new)
    except OSError:
        shutil.copytree(old, new, dirs_exist_ok=True) if old.is_dir() else shutil.copy2(old, new)


def about(checkpoint: str) -> dict[str, Any]:
    """What model.json says: system, config, and how the weights were made.

    Raises: CheckpointError: if the checkpoint is not there, or model.json is not as it was written.
    """
    try:
        return read_document(locate(checkpoint) / "model.json", REMEDY)
    except (OSError, DamagedFileError) as error:
        raise CheckpointError(str(error)) from None


def type_of(checkpoint: str) -> type[System]:
    """The class of the system that a checkpoint holds, without its weights.

    Raises: CheckpointError: if this version does not know it.
    """
    try:
        return system_type(about(checkpoint)["system"])
    except UnknownSystemError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None


def generator_type(checkpoint: str) -> type[Generator]:
    """The class of the generator that a checkpoint holds, without its weights.

    Raises: CheckpointError: if it holds none, or a system that this version does not know.
    """
    kind = type_of(checkpoint)
    if not issubclass(kind, Generator):
        raise CheckpointError(f"{checkpoint}: {kind.name} draws no crystals: name the checkpoint of a generator")
    return kind


def heeds_of(checkpoint: str) -> frozenset[str]:
    """What of a request the generator of a checkpoint goes by, as Request.asks names it.

    Raises: CheckpointError: if it holds no generator, or one whose settings this version does not know.
    """
    kind = generator_type(checkpoint)
    try:
        return kind.heeds_with(kind.config_type.model_validate(about(checkpoint)["config"]))
    except ValidationError as error:
        raise CheckpointError(f"{checkpoint}: {' '.join(str(error).split())[:300]}") from None


def load(checkpoint: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a system.

    Raises: CheckpointError: if files are missing, damaged, or name a system or shape this version does not know.
    """
    folder = locate(checkpoint)
    try:
        description = about(checkpoint)
        kind = system_type(description["system"])
        system = kind(kind.config_type.model_validate(description["config"]))
        weights = (folder / "model.safetensors").read_bytes()
        if description.get("weights_sha256", found := hashlib.sha256(weights).hexdigest()) != found:
            raise CheckpointError(
                f"{folder / 'model.safetensors'} is damaged, or not of the training that model.json beside it tells "
                f"of: {REMEDY}"
            )
        # Each tensor takes the system's own type: weights float32, stored crystals the float64 they were saved in.
        system.load_state_dict(deserialised(weights))
    except CheckpointError:
        raise
    except UnknownSystemError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    except Exception as error:  # safetensors, json and torch each raise their own kinds
        raise CheckpointError(
            f"{checkpoint}: not a readable checkpoint: {' '.join(str(error).split())[:300]}"
        ) from error
    return Checkpoint(system.eval().to(device), digest(checkpoint), description["training"])
