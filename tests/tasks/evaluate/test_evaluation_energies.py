"""Energies of both sides by one regressor, and which of our metrics may stand beside the papers'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.evaluation import EvaluateConfig
from configs.schema import ExecutionConfig
from generative.crystal.bonds import crystal_nn_bonds
from generative.crystal.crystals import Crystal
from generative.metrics.magpie import CDVAE_SCALER
from generative.metrics.metric import Evaluation, Metric
from generative.systems.cdvae.published_regressors import load_published
from generative.systems.cdvae.published_targets import TARGETS, published_name
from tasks.evaluate.energies import energies_of, load_regressor
from tasks.evaluate.samples import EvaluationError
from tasks.report.evaluation.tables import NETWORKS, comparison
from tests.generative.systems.published_form import random_tensors, settings_of, written


def rock_salt(edge_ang: float, first: int = 11, second: int = 17) -> Crystal:
    lattice = edge_ang / 2 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.array([first, second], dtype=np.int16))


def test_sound_samples_and_the_reference_have_the_energies_that_the_regressor_predicts(tmp_path: Path) -> None:
    file = written(tmp_path, random_tensors(), settings_of("mp20"))
    config = EvaluateConfig(samples="s.csv", regressor=str(file))
    collapsed = Crystal(4 * np.eye(3), np.array([[0, 0, 0], [0.01, 0, 0]]), np.array([11, 17], dtype=np.int16))
    samples = [rock_salt(5.6), None, collapsed, rock_salt(4.2, 12, 8)]
    reference = [rock_salt(5.1, 3, 17), rock_salt(6.3, 19, 17)]
    found = energies_of(config, samples, reference, tmp_path / "cache")
    assert found is not None
    published = load_published(file)
    assert found.model == published.name
    assert np.isnan(found.samples).tolist() == [False, True, True, False]
    whole = [samples[0], samples[3], *reference]
    expected = published.system.predict(whole, crystal_nn_bonds(whole))
    np.testing.assert_allclose([*np.asarray(found.samples)[[0, 3]], *found.reference], expected, rtol=1e-5)


def test_without_a_regressor_or_the_wish_for_energies_there_are_none() -> None:
    assert energies_of(EvaluateConfig(samples="s.csv"), [rock_salt(5.6)], [rock_salt(5.6)], None) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere/mp20.safetensors", "mp20.safetensors is not in nowhere"),
        ("nowhere/folder", "model.safetensors not found"),
        ("package:hullward-flow", "crystal-flow.*predicts no property: name the checkpoint of a regressor"),
    ],
)
def test_what_is_no_regressor_is_refused_by_name(path: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=f"regressor {path}.*{words}"):
        load_regressor(path, ExecutionConfig())


def test_one_distance_takes_one_model() -> None:
    with pytest.raises(ValueError, match="so name one"):
        EvaluateConfig(samples="s.csv", regressor="mp20.safetensors", energies=True)


def ours(**changes: object) -> Evaluation:
    settings = {
        "n_drawn": 1000,
        "scaler": CDVAE_SCALER,
        "oxidation_states": "cdvae",
        "cutoff_structure": 0.4,
        "cutoff_composition": 10.0,
        "model": published_name("mp20"),
        **changes,
    }
    names = {"W energy": "eV/atom", "COV-P": "%", "composition validity": "%"}
    metrics = tuple(Metric("cdvae generation", name, 0.25, unit, 1000, "", settings) for name, unit in names.items())
    return Evaluation("cdvae generation", "", metrics)


@pytest.mark.parametrize(
    ("changes", "dataset", "left_out"),
    [
        ({}, "mp-20", set()),
        ({"model": "CHGNet 0.3.0"}, "mp-20", {"W energy"}),
        ({"model": published_name("carbon")}, "mp-20", {"W energy"}),
        ({"scaler": "test.csv, 9046 fingerprints"}, "mp-20", {"W energy", "COV-P", "composition validity"}),
        ({"oxidation_states": "icsd24"}, "mp-20", {"W energy", "COV-P", "composition validity"}),
    ],
)
def test_metrics_stand_beside_the_papers_only_where_network_constants_and_states_are_theirs(
    changes: dict[str, object], dataset: str, left_out: set[str]
) -> None:
    table = comparison("cdvae generation", {"mine": ours(**changes)}, dataset)
    assert table is not None
    row = next(row for row in table.rows if row.ours)
    columns = [column.partition(" (")[0] for column in table.columns]
    shown = {name for name, cell in zip(columns, row.cells, strict=True) if cell != "–"}
    assert shown == {"W energy", "COV-P", "composition validity"} - left_out


def test_each_data_set_with_published_energies_has_its_own_network() -> None:
    assert set(NETWORKS) == {"mp-20", "perov-5", "carbon-24"}
    assert len(set(NETWORKS.values())) == len(TARGETS)
