"""Where things lie: third-party data and weights (one setting, HULLWARD_ASSETS), and data shipped in the package."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGED_DATA = PROJECT / "generative" / "datasets" / "shipped"
ASSETS_VARIABLE = "HULLWARD_ASSETS"


class AssetError(FileNotFoundError):
    """A file of third-party data that is not on this machine."""


def project_version() -> str:
    """Hullward's version, installed or run from its folder."""
    try:
        return version("hullward")
    except PackageNotFoundError:
        return str(tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def assets_folder() -> Path | None:
    """The folder of third-party data and weights: HULLWARD_ASSETS, or ../shared beside the project if it exists."""
    stated = os.environ.get(ASSETS_VARIABLE)
    if stated:
        return Path(stated).expanduser().resolve()
    beside = PROJECT.parent / "shared"
    return beside if beside.is_dir() else None


def resolve(path: str) -> Path:
    """From a path as written in a config to where it lies: 'assets:...', 'package:...', or a plain path.

    Raises: AssetError: if an asset or packaged file is absent.
    """
    if path.startswith("package:"):
        found = PACKAGED_DATA / path.removeprefix("package:")
        if not found.exists():
            shipped = ", ".join(sorted(p.name for p in PACKAGED_DATA.glob("*"))) or "nothing"
            raise AssetError(f"{path} is not shipped with Hullward: expected one of {shipped}")
        return found
    if path.startswith("assets:"):
        folder = assets_folder()
        if folder is None:
            raise AssetError(
                f"{path} needs the folder of third-party data, but {ASSETS_VARIABLE} is not set: "
                f"set it to the folder that holds {path.removeprefix('assets:')}"
            )
        found = folder / path.removeprefix("assets:")
        if not found.exists():
            raise AssetError(f"{path} not found: {ASSETS_VARIABLE} points to a folder without it; check the folder")
        return found
    return Path(path).expanduser()


def model_folders() -> list[Path]:
    """Folders searched for potentials, in order."""
    folder = assets_folder()
    return [folder / "models"] if folder else []
