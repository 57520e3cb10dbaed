"""Real crystals from the assets folder, read once per session."""

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pytest
from pymatgen.core.structure import Structure

ROOT = Path(__file__).resolve().parents[3]


@lru_cache(maxsize=16)
def _read(path: Path, n: int) -> tuple[Structure, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pymatgen says aloud that it rounds 0.333333
        return tuple(Structure.from_str(cif, fmt="cif") for cif in pd.read_csv(path, nrows=n)["cif"])


@pytest.fixture(scope="session")
def real_structures() -> Callable[[str, int], tuple[Structure, ...]]:
    """real_structures(name, n): the first n crystals of a benchmark file; skips where the files are absent."""
    folder = Path(os.environ.get("HULLWARD_ASSETS") or ROOT.parent / "shared") / "data"

    def read(name: str, n: int) -> tuple[Structure, ...]:
        path = folder / f"{name}.csv.gz"
        if not path.is_file():
            pytest.skip(f"{path.name} not found: set HULLWARD_ASSETS to the folder that holds data/")
        return _read(path, n)

    return read
