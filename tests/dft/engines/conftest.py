"""What the tests of engines share: crystals, jobs run in folders, a GPAW if there is one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dft.job_folder import read_record
from dft.records import DFTRecord
from dft.run_job import run_folder


def record_in(folder: Path, **variables: str) -> DFTRecord:
    """The record of a folder that must give one, computed in this process under these environment variables."""
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", **variables}):
        assert run_folder(folder), (folder / "error.json").read_text()
    record = read_record(folder)
    assert record is not None
    return record


@pytest.fixture(scope="session")
def record_of() -> Callable[..., DFTRecord]:
    """Run a folder that must give a record."""
    return record_in


@pytest.fixture
def error_of() -> Callable[[Path], dict[str, Any]]:
    """Run a folder that must give an error."""

    def failed(folder: Path) -> dict[str, Any]:
        assert not run_folder(folder)
        assert not (folder / "record.json").exists()
        return dict(json.loads((folder / "error.json").read_text()))

    return failed


@pytest.fixture(scope="session")
def gpaw() -> str:
    """GPAW's command; the test is skipped, with the reason, where there is none."""
    command = shutil.which("gpaw")
    if command is None:
        pytest.skip("no GPAW on this machine: on Debian, apt-get install gpaw gpaw-data")
    code = "import sys, gpaw; from gpaw.setup_data import search_for_file; sys.exit(not search_for_file('C.PBE')[1])"
    found = subprocess.run([command, "python", "-c", code], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"GPAW here cannot compute (no PAW data?): {found.stderr.strip()[-300:]}")
    return command
