"""Proposers that are trained for the benchmark: what is hidden is in nothing that they keep, all else is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from generative.crystal.wyckoff import Signature
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.site_labels import SiteLabel, read_site_labels
from generative.training.config import TrainConfig
from generative.training.data import training_set
from tasks.papers.trainings import settings_of
from tasks.rediscovery.proposers import digest_of_training, make_proposer
from tasks.rediscovery.targets import hidden_files
from tests.tasks.rediscovery.made_benchmark import made, templates, write


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """NaCl, and NiAl under a name that says nothing."""
    rows = {
        "material_id": ["salt", "anything"],
        "atomic_numbers": [[11, 17], [28, 13]],
        "spacegroup": [225, 221],
        "wyckoff": [["a", "b"], ["a", "b"]],
        "equivalent_atoms": [[0, 1], [0, 1]],
    }
    pq.write_table(pa.table(rows), tmp_path / "labels.parquet")
    return tmp_path / "labels.parquet"


def test_labels_of_a_formula_are_left_out_however_it_is_written(labels: Path) -> None:
    salt = SiteLabel("salt", 225, Signature.of(225, [(11, "a"), (17, "b")]).sites)
    for written in ("NiAl", "AlNi", "Al2Ni2"):
        assert read_site_labels(labels, exclude_formulas=[written]) == ([salt], {})
    assert len(read_site_labels(labels)[0]) == 2


def test_training_crystals_of_a_formula_are_left_out_and_no_others(tmp_path: Path) -> None:
    from configs.paths import resolve
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import read_dataset

    path = write(tmp_path / "templates.csv", templates())
    ingest(DataConfig(sources=(FilesSource(path=str(path)),)), None, tmp_path / "data", resolve)
    table = read_dataset(tmp_path / "data").table
    assert training_set(table, (), None, ("Al3Ni3", "AuCu")).ids == ["templates:mp-FeCo", "templates:mp-Cu3Au"]
    assert len(training_set(table, (), None)) == 4


def test_what_a_paper_knows_of_a_training_says_nothing_of_hidden_formulas() -> None:
    assert settings_of(TrainConfig()) == settings_of(TrainConfig(exclude_formulas=("AlNi",)))


@pytest.mark.slow
def test_a_symmetric_generator_is_trained_without_what_is_hidden_once_for_all(labels: Path, tmp_path: Path) -> None:
    from generative.checkpoints import load
    from generative.systems.wyckoff.system import Wyckoff

    data = str(write(tmp_path / "templates.csv", templates()))
    training = {
        "name": "wyckoff", "kind": "wyckoff", "labels": str(labels), "validation": data, "property": None,
        "data": {"sources": [{"kind": "files", "path": data}]}, "system": {"width": 4, "hidden": 8},
        "max_steps": 2, "warmup_steps": 0, "batch_crystals": 4, "precision": "32", "torch_threads": 1, "device": "cpu",
    }  # fmt: skip
    file = tmp_path / "training.yaml"
    file.write_text(yaml.safe_dump(training))
    config = made(tmp_path, proposers=[{"name": "wyckoff", "training": str(file)}], portfolio={})
    targets, _ = hidden_files(config)
    proposer = make_proposer(config, config.proposers[0], targets)
    system = load(proposer.checkpoint).system
    assert isinstance(system, Wyckoff)
    voters = {
        identity: tuple(sorted(system.library.elements_of(voter)))
        for voter, identity in enumerate(system.library.voter_identity.tolist())
    }
    kept = sorted(voters.values())
    assert kept == [(11, 17), (26, 27), (29, 79), (29, 79)]  # AlNi is neither among crystals nor among labels

    written = (Path(proposer.checkpoint) / "model.safetensors").stat().st_mtime_ns
    again = make_proposer(config, config.proposers[0], targets)
    assert again == proposer
    assert (Path(proposer.checkpoint) / "model.safetensors").stat().st_mtime_ns == written
    of_others = config.proposers[0].training_config(("MgO",))
    assert digest_of_training(of_others) != digest_of_training(config.proposers[0].training_config(("NaCl",)))
