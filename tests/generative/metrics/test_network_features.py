"""Features of the shipped network: what they are invariant to, what they tell apart, and weights that are refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core.structure import Structure
from scipy.linalg import sqrtm

from configs.paths import AssetError, resolve
from generative import checkpoints
from generative.crystal.crystals import Crystal, wrap_unit
from generative.metrics import network_features as module
from generative.metrics.distributions import frechet
from generative.metrics.network_features import (
    ABOUT_FILE,
    SHIPPED,
    WEIGHTS_FILE,
    NetworkError,
    load_network,
    network_features,
)
from generative.systems.cgcnn_features import CGCNNFeatures, CGCNNFeaturesConfig
from tests.cifs import parse_cif
from tests.servers.real import FILE, real_records


def metrics() -> dict[str, tuple[int, float]]:
    about = json.loads((SHIPPED / ABOUT_FILE).read_text())
    return {row["set"]: (row["n"], row["mae_ev_per_atom"]) for row in about["training"]["figures"]}


def crystals(n: int) -> list[Crystal]:
    return [Crystal.from_structure(record.structure) for record in real_records(n)]


def displaced(crystal: Crystal, sigma_ang: float, rng: np.random.Generator) -> Crystal:
    shift = rng.normal(scale=sigma_ang, size=crystal.frac.shape) @ np.linalg.inv(crystal.lattice_ang)
    return Crystal(crystal.lattice_ang, wrap_unit(crystal.frac + shift), crystal.atomic_numbers)


def predicted_energies(crystals: Sequence[Crystal | None]) -> np.ndarray:
    """Formation energies by the shipped network, (n,), eV/atom: NaN where it has no features."""
    with torch.inference_mode():
        features = torch.from_numpy(network_features(crystals).values)
        return np.asarray(load_network().network.energies_ev_per_atom(features).numpy())


@lru_cache(maxsize=1)
def features_of_400() -> np.ndarray:
    return network_features(crystals(400)).values


def distance_by_sqrtm(first: np.ndarray, second: np.ndarray) -> float:
    """As in most code for Frechet distances: the root of the product of covariances, its real part."""
    gap = first.mean(axis=0) - second.mean(axis=0)
    one, two = np.cov(first.T), np.cov(second.T)
    return float(gap @ gap + np.trace(one + two - 2 * np.real(sqrtm(one @ two))))


def test_the_shipped_weights_have_the_error_that_their_card_states() -> None:
    with gzip.open(resolve_or_skip(), "rb") as raw:
        rows = list(islice(csv.DictReader(io.TextIOWrapper(raw, "utf-8")), 200))
    read = [Crystal.from_structure(parse_cif(row["cif"], 1000).to_structure()) for row in rows]
    truth = np.array([float(row["formation_energy_per_atom"]) for row in rows])
    n, stated = metrics()["test file, first 200 rows"]
    found = np.abs(predicted_energies(read) - truth)
    assert n == len(found) == 200
    assert found.mean() == pytest.approx(stated, abs=1e-4)  # stated for primitive cells, in float32


def resolve_or_skip() -> Path:
    try:
        return resolve(FILE)
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")


def test_the_network_knows_far_more_of_energies_than_their_mean() -> None:
    stated = metrics()
    _, guess = stated["test file, the training mean as the guess"]
    for name in ("test file", "test file, formulas that are not among the training crystals"):
        assert stated[name][0] > 5000
        assert stated[name][1] < guess / 4


def test_the_card_states_the_metrics_and_the_name_of_the_weights_beside_it() -> None:
    card = (SHIPPED / "MODEL_CARD.md").read_text()
    assert load_network().name in card
    for name, (n, error) in metrics().items():
        assert f"| {name} | {n:,} | {error:.3f} |" in card
    assert "CC BY 4.0" in card
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_000_000


def test_shipped_features_do_not_change_with_orientation_origin_order_or_supercell() -> None:
    rng = np.random.default_rng(5)
    for crystal in crystals(25):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        order = rng.permutation(len(crystal.frac))
        moved = Crystal(
            crystal.lattice_ang @ turn,
            wrap_unit(crystal.frac + rng.uniform(size=3))[order],
            crystal.atomic_numbers[order],
        )
        double: Structure = crystal.to_structure() * (1, 2, 2)
        one, two, three = network_features([crystal, moved, Crystal.from_structure(double)]).values
        np.testing.assert_allclose(two, one, atol=1e-7)
        np.testing.assert_allclose(three, one, atol=1e-7)


def test_features_do_not_depend_on_what_else_is_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = crystals(30)
    together = network_features(chosen).values
    monkeypatch.setattr(module, "_BATCH_ATOMS", 1)
    np.testing.assert_allclose(network_features(chosen).values, together, atol=1e-10)


def test_features_do_not_depend_on_the_number_of_threads_which_is_as_before_afterwards() -> None:
    chosen = crystals(30)
    before = torch.get_num_threads()
    np.testing.assert_allclose(network_features(chosen, workers=2).values, network_features(chosen).values, atol=1e-10)
    assert torch.get_num_threads() == before


def test_the_covariance_of_real_crystals_has_full_rank() -> None:
    values = features_of_400()
    assert values.shape == (400, 64)
    spread = np.linalg.eigvalsh(np.cov(values.T))
    assert spread[0] > 1e-12 * spread[-1]
    assert np.unique(values.round(6), axis=0).shape[0] > 390  # hardly two crystals of this file are alike


def test_a_set_is_at_no_distance_from_itself_and_far_from_other_chemistry() -> None:
    values = features_of_400()
    size = np.trace(np.cov(values.T))
    assert frechet(values, values, "CGCNN").distance < 1e-9 * size
    rng = np.random.default_rng(0)
    half = rng.permutation(len(values))
    halves = frechet(values[half[:200]], values[half[200:]], "CGCNN").distance
    with_oxygen = np.array([8 in crystal.atomic_numbers for crystal in crystals(400)])
    assert min(with_oxygen.sum(), (~with_oxygen).sum()) > 50
    assert frechet(values[with_oxygen], values[~with_oxygen], "CGCNN").distance > 3 * halves


def test_the_distance_grows_with_the_perturbation_of_atoms() -> None:
    reference = crystals(120)
    known = network_features(reference).values
    distances = []
    for sigma_ang in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8):
        rng = np.random.default_rng(2)
        moved = [displaced(crystal, sigma_ang, rng) for crystal in reference]
        distances.append(frechet(network_features(moved).values, known, "CGCNN").distance)
    assert (np.diff(distances) > 0).all(), distances


def test_the_distance_is_that_of_the_general_matrix_root() -> None:
    first, second = features_of_400()[:200], features_of_400()[200:]
    found = frechet(first, second, load_network().name)
    assert found.distance == pytest.approx(distance_by_sqrtm(first, second), rel=1e-5)
    assert found.feature == load_network().name
    assert re.fullmatch(r"CGCNN [0-9a-f]{12}", found.feature)
    assert (found.n_samples, found.n_reference, found.n_features) == (200, 200, 64)


def test_a_crystal_the_network_cannot_take_gets_a_row_of_nan_and_a_reason() -> None:
    good = Crystal(np.eye(3) * 3.2, np.zeros((1, 3)), np.array([74], dtype=np.int16))
    unseen = min(set(range(1, 104)) - load_network().elements)
    odd = {
        "there is no crystal": None,
        f"atomic number {unseen} was not among": Crystal(good.lattice_ang, good.frac, np.array([unseen])),
        "atomic number 110: expected 1 to 103": Crystal(good.lattice_ang, good.frac, np.array([110])),
        "no neighbour within 8 A": Crystal(np.eye(3) * 12.0, good.frac, good.atomic_numbers),
        "not finite": Crystal(np.full((3, 3), np.nan), good.frac, good.atomic_numbers),
    }
    given = [good, *odd.values(), good]
    found = network_features(given)
    assert found.usable.tolist() == [True, *[False] * len(odd), True]
    np.testing.assert_array_equal(found.values[0], found.values[-1])
    assert list(found.reasons) == list(range(1, len(odd) + 1))
    for said, reason in zip(odd, found.reasons.values(), strict=True):
        assert said in reason
        assert load_network().name in reason
    assert np.isnan(predicted_energies(given)).tolist() == (~found.usable).tolist()
    assert frechet(found.values, found.values, "x").n_samples_without == len(odd)
    assert load_network().name in found.recipe


def test_no_crystals_are_an_empty_table() -> None:
    assert network_features([]).values.shape == (0, 64)
    assert network_features([None]).reasons == {0: f"{load_network().name}: there is no crystal"}


def test_progress_ends_at_the_number_of_crystals() -> None:
    told: list[tuple[int, int]] = []
    network_features([*crystals(30), None], progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (31, 31)


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        network_features(crystals(1), workers=0)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "copied"))


def test_a_checkpoint_loads_to_its_own_weights_and_others_to_another_name(tmp_path: Path) -> None:
    made = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        system = CGCNNFeatures(CGCNNFeaturesConfig(width=8, n_convolutions=1, n_features=4)).eval()
        system.elements[[12, 8]] = True
        checkpoints.save(tmp_path / str(seed), system, {"seed": seed}, torch.float32)
        made[seed] = load_network(tmp_path / str(seed))
        for mine, read in zip(system.network.parameters(), made[seed].network.parameters(), strict=True):
            np.testing.assert_array_equal(mine.detach().double().numpy(), read.detach().numpy())
    checkpoints.save(tmp_path / "again", checkpoints.load(str(tmp_path / "0")).system, {"note": "0"}, torch.float32)
    assert load_network(tmp_path / "again").digest == made[0].digest != made[1].digest
    assert made[1].training == {"seed": 1}
    assert made[1].elements == {8, 12}


def test_the_shipped_weights_keep_the_name_that_stands_in_reports() -> None:
    assert load_network().name == "CGCNN 5218ad84bdad"


def test_a_checkpoint_of_another_system_is_refused() -> None:
    with pytest.raises(NetworkError, match="holds a crystal-flow"):
        load_network(SHIPPED.parent / "hullward-flow")


def test_a_changed_byte_of_the_weights_is_refused(copied: Path) -> None:
    weights = bytearray((copied / WEIGHTS_FILE).read_bytes())
    weights[-5] ^= 1
    (copied / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(NetworkError, match="SHA-256"):
        load_network(copied)


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle ran')",))


def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(copied: Path) -> None:
    import hashlib

    content = pickle.dumps(Bomb())
    (copied / WEIGHTS_FILE).write_bytes(content)
    about = json.loads((copied / ABOUT_FILE).read_text())
    about["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (copied / ABOUT_FILE).write_text(json.dumps(about))
    with pytest.raises(NetworkError, match="not a readable feature network"):
        load_network(copied)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe", "another", "expected 'pooled vector"),
        ("config", {"width": 32}, "not a readable feature network"),
        ("config", {"depth": 3}, "not a readable feature network"),
        ("elements", None, "not a readable feature network"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(copied: Path, key: str, value: object, said: str) -> None:
    about = json.loads((copied / ABOUT_FILE).read_text())
    (copied / ABOUT_FILE).write_text(json.dumps(about | {key: value}))
    with pytest.raises(NetworkError, match=said):
        load_network(copied)


def test_a_folder_without_weights_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="train-cgcnn-features"):
        load_network(tmp_path / "nothing")


def test_the_module_is_imported_without_torch() -> None:
    code = "import sys, generative.metrics.network_features; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
