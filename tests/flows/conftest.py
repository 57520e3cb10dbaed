"""A whole run in a few seconds: a dozen known phases, an untrained generator, eight relaxation steps; one server."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.paths import resolve
from configs.schema import DiscoverConfig
from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig
from tests.servers.own_prefect import own_server

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = ("Al", "Ni", "Ti")


def known_phases() -> dict[str, Structure]:
    """Metals and intermetallics with at most five atoms in the cell; lattice constants from textbooks, in angstrom."""

    def cubic(group: str, a_ang: float, species: list[str], coords: list[list[float]]) -> Structure:
        return Structure.from_spacegroup(group, Lattice.cubic(a_ang), species, coords).get_primitive_structure()

    corner, centre, face = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.5, 0.5]
    hexagonal = Lattice.hexagonal(2.95, 4.68)
    return {
        "Al": cubic("Fm-3m", 4.05, ["Al"], [corner]),
        "Ni": cubic("Fm-3m", 3.52, ["Ni"], [corner]),
        "Ti": Structure.from_spacegroup("P6_3/mmc", hexagonal, ["Ti"], [[1 / 3, 2 / 3, 0.25]]),
        "AlNi": cubic("Pm-3m", 2.89, ["Al", "Ni"], [corner, centre]),
        "NiTi": cubic("Pm-3m", 3.01, ["Ti", "Ni"], [corner, centre]),
        "AlNi3": cubic("Pm-3m", 3.57, ["Al", "Ni"], [corner, face]),
        "AlTi": Structure(Lattice.tetragonal(2.83, 4.07), ["Ti", "Al"], [corner, centre]),
        "AlTi3": cubic("Pm-3m", 4.0, ["Al", "Ti"], [corner, face]),
        "AlNi2Ti": cubic("Fm-3m", 5.87, ["Al", "Ti", "Ni"], [corner, centre, [0.25, 0.25, 0.25]]),
    }


def save_generator(folder: Path, crystals: list[Crystal], fingerprint: str) -> None:
    """An untrained system: sizes of cells from the known phases, velocities from random output heads."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = CrystalFlow(CrystalFlowConfig(width=16, n_layers=1, n_heads=2, pair_width=8))
        for name, parameter in system.named_parameters():
            if "frac_out" in name or "adapt" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # zero before training: nothing would move
    system.fit_statistics(crystals)
    checkpoints.save(folder, system.eval(), {"data_fingerprint_sha256": fingerprint, "settings": {}, "steps": 0})


@dataclass(frozen=True)
class Campaign:
    """The tiny campaign's inputs.

    Attributes:
        folder: known/ is a dataset made by ingest, generator/ a checkpoint.
        fingerprint: of the dataset.
    """

    folder: Path
    fingerprint: str

    @property
    def checkpoint(self) -> Path:
        return self.folder / "generator"

    def config(self, runs: Path, **changes: Any) -> DiscoverConfig:
        """Settings of a run below `runs`; a change is a top-level setting, a dict adds to its room's settings."""
        settings: dict[str, Any] = {
            "name": "tiny",
            "elements": ELEMENTS,
            "data": {"sources": [{"kind": "files", "path": str(self.folder / "known"), "method": "as stored"}]},
            "conditions": {"policy": "enumerate", "formula_atoms_max": 4, "n_atoms_min": 3, "n_atoms_max": 4},
            "sample": {
                "checkpoint": str(self.checkpoint),
                "n_candidates": 8,
                "chunk_size": 4,
                "sampler": {"n_steps": 5},
            },
            "relax": {"potential": "CHGNet", "fallback": None, "max_steps": 8, "chunk_size": 4},
            "judge": {"potential": None},
            "inputs": {"top_n": 2},
            "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
        }
        for name, value in changes.items():
            settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
        return DiscoverConfig.model_validate(settings)


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("campaign")
    cifs = folder / "cifs"
    cifs.mkdir()
    phases = known_phases()
    for name, structure in phases.items():
        structure.to(str(cifs / f"{name}.cif"))
    config = DataConfig(sources=(FilesSource(path=str(cifs), method="as stored"),))
    manifest = ingest(config, ELEMENTS, folder / "known", resolve)
    assert manifest.n_rows == len(phases)
    crystals = [Crystal.from_structure(structure) for structure in phases.values()]
    save_generator(folder / "generator", crystals, manifest.fingerprint_sha256)
    return Campaign(folder, manifest.fingerprint_sha256)


@pytest.fixture(scope="session")
def prefect_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a server of our own, on loopback, with a database of its own."""
    with own_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server.environment


@contextmanager
def prefect_client(environment: dict[str, str]) -> Iterator[None]:
    """Flows of this process run on the server of `environment`."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    settings = {
        PREFECT_API_URL: environment["PREFECT_API_URL"],
        PREFECT_HOME: environment["PREFECT_HOME"],
        PREFECT_LOGGING_TO_API_ENABLED: False,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # its thread makes every flow wait a second at the end
    }
    with temporary_settings(updates=settings):
        yield


class RunLog(logging.Handler):
    """What the tasks of a run have said: (task, message)."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not message.startswith("Finished in state"):
            self.said.append((str(getattr(record, "task_name", "flow")), message))

    def skipped(self) -> set[str]:
        """Tasks that found all they were to do done."""
        return {task for task, _ in self.said if task in STAGES} - self.computed()

    def computed(self) -> set[str]:
        """Tasks that computed something."""
        return {task for task, message in self.said if task in STAGES and "skipped" not in message}


STAGES = frozenset({"ingest", "references", "sample", "screen", "unique", "relax", "rank"})
"""Tasks that say whether they skipped what was done."""


@dataclass(frozen=True)
class Run:
    """A finished run: its settings, folder and log."""

    config: DiscoverConfig
    folder: Path
    log: RunLog


@contextmanager
def command_of(
    words: list[str], config: BaseModel, folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command on these settings in a process group of its own, its words in folder/log; killed at the end, if still
    there.
    """
    settings = folder / "settings.yaml"
    settings.write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words, str(settings)],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Discover:
    """Runs the flow: called, in this process, keeping its log; `running`, as `hullward discover` in one of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    @contextmanager
    def running(self, config: DiscoverConfig, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The command in a process group of its own; see command_of."""
        with command_of(["discover"], config, folder, self.environment) as process:
            yield process

    def __call__(self, config: DiscoverConfig) -> Run:
        from flows.discover import discover

        log = RunLog()
        loggers = [logging.getLogger(f"prefect.{kind}") for kind in ("flow_runs", "task_runs")]
        for logger in loggers:
            logger.addHandler(log)
        try:
            with prefect_client(self.environment):
                return Run(config, discover(config), log)
        finally:
            for logger in loggers:
                logger.removeHandler(log)


@pytest.fixture(scope="session")
def discover(prefect_environment: dict[str, str]) -> Discover:
    return Discover(prefect_environment)


@pytest.fixture(scope="session")
def finished(campaign: Campaign, discover: Discover, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny campaign, never interrupted. Tests read its folder and leave it as it is."""
    return discover(campaign.config(tmp_path_factory.mktemp("finished")))
