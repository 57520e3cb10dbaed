"""CDVAE's regressors: equal to the published network written out by its authors' names, and strictly read."""

from __future__ import annotations

import csv
import gzip
import io
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor
from torch.nn.functional import silu

from configs.paths import AssetError, resolve
from generative.crystal.bonds import Bonds, crystal_nn_bonds
from generative.crystal.crystals import Crystal
from generative.systems.cdvae.published_regressors import NAMES, PublishedError, digest_of, load_published
from generative.systems.cdvae.published_targets import TARGETS
from tests.cifs import parse_cif
from tests.generative.systems.published_form import random_tensors, settings_of, written

CUTOFF_ANG, N_SPHERICAL, N_RADIAL, N_BLOCKS = 7.0, 7, 6, 4


def envelope(x: np.ndarray) -> np.ndarray:
    p = 6
    inside = 1 / x - (p + 1) * (p + 2) / 2 * x ** (p - 1) + p * (p + 2) * x**p - p * (p + 1) / 2 * x ** (p + 1)
    return np.where(x < 1, inside, 0.0)


@lru_cache(maxsize=1)
def zeros() -> list[list[float]]:
    grid = np.linspace(0.5, 40, 4000)
    found = []
    for degree in range(N_SPHERICAL):
        values = spherical_jn(degree, grid)
        signs = [(a, b) for (a, fa), (b, fb) in pairwise(zip(grid, values, strict=True)) if fa * fb < 0]
        found.append([brentq(lambda x, d=degree: spherical_jn(d, x), a, b) for a, b in signs[:N_RADIAL]])
    return found


def written_out(named: dict[str, Tensor], crystal: Crystal, bonds: Bonds) -> float:
    """CDVAE's DimeNetPlusPlusWrap in double precision, edge by edge, from tensors by the authors' names."""
    t = {name.removeprefix("encoder."): value.double() for name, value in named.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        y = x @ t[f"{name}.weight"].T
        return y + t[f"{name}.bias"] if f"{name}.bias" in t else y

    def output(name: str, x: Tensor) -> Tensor:
        atoms = torch.zeros(len(crystal.frac), x.shape[1], dtype=torch.float64)
        for edge, message in enumerate(linear(f"{name}.lin_rbf", rbf) * x):
            atoms[bonds.target[edge]] += message
        h = linear(f"{name}.lin_up", atoms)
        for layer in range(3):
            h = silu(linear(f"{name}.lins.{layer}", h))
        return linear(f"{name}.lin", h)

    def residual(name: str, x: Tensor) -> Tensor:
        return x + silu(linear(f"{name}.lin2", silu(linear(f"{name}.lin1", x))))

    steps = (crystal.frac[bonds.source] + bonds.image - crystal.frac[bonds.target]) @ crystal.lattice_ang
    lengths = np.linalg.norm(steps, axis=1)
    reduced = lengths / CUTOFF_ANG
    rbf = torch.from_numpy(envelope(reduced)[:, None] * np.sin(np.outer(reduced, t["rbf.freq"].numpy())))
    triplets = [
        (kj, ji)
        for ji in range(len(lengths))
        for kj in range(len(lengths))
        if bonds.target[kj] == bonds.source[ji] and bonds.source[kj] != bonds.target[ji]
    ]
    sbf = np.zeros((len(triplets), N_SPHERICAL * N_RADIAL))
    for row, (kj, ji) in enumerate(triplets):
        cosine = steps[kj] @ steps[ji] / (lengths[kj] * lengths[ji])
        for degree in range(N_SPHERICAL):
            angular = np.sqrt((2 * degree + 1) / (4 * np.pi)) * eval_legendre(degree, cosine)
            for n, zero in enumerate(zeros()[degree]):
                radial = np.sqrt(2) / abs(spherical_jn(degree + 1, zero)) * spherical_jn(degree, zero * reduced[kj])
                sbf[row, degree * N_RADIAL + n] = envelope(reduced[kj]) * radial * angular
    waves = torch.from_numpy(sbf)
    of = t["emb.emb.weight"][torch.from_numpy(crystal.atomic_numbers.astype(np.int64))]
    ends = [of[bonds.target.astype(np.int64)], of[bonds.source.astype(np.int64)], silu(linear("emb.lin_rbf", rbf))]
    x = silu(linear("emb.lin", torch.cat(ends, dim=1)))
    atoms = output("output_blocks.0", x)
    for block in range(N_BLOCKS):
        name = f"interaction_blocks.{block}"
        x_kj = silu(linear(f"{name}.lin_kj", x)) * linear(f"{name}.lin_rbf2", linear(f"{name}.lin_rbf1", rbf))
        down = silu(linear(f"{name}.lin_down", x_kj))
        weights = linear(f"{name}.lin_sbf2", linear(f"{name}.lin_sbf1", waves))
        heard = torch.zeros_like(down)
        for (kj, ji), weight in zip(triplets, weights, strict=True):
            heard[ji] += down[kj] * weight
        h = silu(linear(f"{name}.lin_ji", x)) + silu(linear(f"{name}.lin_up", heard))
        h = silu(linear(f"{name}.lin", residual(f"{name}.layers_before_skip.0", h))) + x
        x = residual(f"{name}.layers_after_skip.1", residual(f"{name}.layers_after_skip.0", h))
        atoms = atoms + output(f"output_blocks.{block + 1}", x)
    return float(atoms.mean())


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return random_tensors()


def small_crystals() -> list[Crystal]:
    cubic = 4.0 * np.eye(3)
    perovskite = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    skewed = np.array([[3.1, 0, 0.2], [0.3, 4.2, 0], [-1.1, 0.4, 5.0]])
    return [
        Crystal(cubic, np.array(perovskite), np.array([56, 22, 8, 8, 8], dtype=np.int16)),
        Crystal(skewed, np.array([[0.1, 0.2, 0.3], [0.6, 0.55, 0.8], [0.4, 0.9, 0.1]]), np.array([3, 9, 94], np.int16)),
    ]


def test_predictions_are_those_of_the_published_network_written_out(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    model = "carbon"
    found = load_published(written(tmp_path, tensors, settings_of(model)))
    target = TARGETS[model]
    for crystal in small_crystals():
        (bonds,) = crystal_nn_bonds([crystal])
        assert bonds is not None
        expected = written_out(tensors, crystal, bonds) * target.scale + target.mean
        assert abs(expected - target.mean) > 1e-3 * target.scale
        # Single precision; random weights make predictions of thousands of deviations.
        assert found.system.predict([crystal], [bonds])[0] == pytest.approx(expected, rel=2e-6)
    assert found.name.startswith("regressor in CDVAE's form")  # the name of the published one is for its weights alone
    assert found.digest == digest_of(tensors)


def test_every_parameter_is_taken_over_once(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    system = load_published(written(tmp_path, tensors, settings_of("mp20"))).system
    ours = dict(system.named_parameters())
    assert len(ours) == len(tensors) == 152
    assert sum(p.numel() for p in ours.values()) == sum(v.numel() for v in tensors.values()) == 1_887_110
    for theirs, here in NAMES.items():
        for name, value in tensors.items():
            if name.startswith(theirs):
                torch.testing.assert_close(ours.pop(here + name.removeprefix(theirs)).detach(), value, rtol=0, atol=0)
    assert not ours


@pytest.mark.parametrize("seed", range(6))
def test_a_tensor_that_is_missing_left_over_or_of_another_shape_is_refused_by_name(
    tensors: dict[str, Tensor], seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    name = str(rng.choice(sorted(tensors)))
    wrong = dict(tensors)
    fault = ("missing", "left over", "shape", "foreign")[seed % 4]
    if fault == "missing":
        del wrong[name]
    elif fault == "left over":
        wrong[f"{name}_2"] = torch.zeros(2)
    elif fault == "shape":
        wrong[name] = torch.zeros(*tensors[name].shape, 2)
    else:
        wrong[f"decoder.{name}"] = torch.zeros(2)
    with pytest.raises(PublishedError, match=name.rpartition(".")[2]):
        load_published(written(tmp_path, wrong, settings_of("carbon")))


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("encoder", "cutoff", 6.0),
        ("encoder", "num_blocks", 3),
        ("encoder", "envelope_exponent", 6),
        ("data", "readout", "sum"),
        ("data", "otf_graph", True),
        ("data", "graph_method", "none"),
        ("data", "prop", "band_gap"),
        ("data", "eval_model_name", "alex"),
    ],
)
def test_settings_that_the_network_does_not_follow_are_refused(
    tensors: dict[str, Tensor], place: str, name: str, value: Any, tmp_path: Path
) -> None:
    settings = settings_of("perovskite")
    (settings["data"] if place == "data" else settings["model"]["encoder"])[name] = value
    with pytest.raises(PublishedError, match=str(value)):
        load_published(written(tmp_path, tensors, settings))


def test_files_that_are_missing_or_no_tensors_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = written(tmp_path, tensors, settings_of("mp20"))
    file.write_bytes(b"not tensors")
    with pytest.raises(PublishedError, match="expected safetensors"):
        load_published(file)
    file.with_suffix(".hparams.yaml").write_text("data: {}\n")
    with pytest.raises(PublishedError, match="expected the settings of a CDVAE training"):
        load_published(file)
    file.with_suffix(".hparams.yaml").unlink()
    with pytest.raises(PublishedError, match=r"any\.hparams\.yaml is not in"):
        load_published(file)


@pytest.mark.parametrize(
    ("model", "name", "largest_ev_per_atom"),
    [("perovskite", "perov_5_test", 0.08), ("carbon", "carbon_24_test", 0.02), ("mp20", "mp_20_test", 0.04)],
)
def test_the_authors_regressors_know_the_energies_of_their_test_sets(
    model: str, name: str, largest_ev_per_atom: float
) -> None:
    try:
        file, data = (
            resolve(f"assets:models/cdvae_regressors/{model}.safetensors"),
            resolve(f"assets:data/{name}.csv.gz"),
        )
    except AssetError as error:
        pytest.skip(f"CDVAE's regressors are not on this machine: {error}")
    found = load_published(file)
    assert found.name.startswith(f"CDVAE's own regressor {model} of {found.property_name}")
    with gzip.open(data, "rb") as raw:
        rows = list(csv.DictReader(io.TextIOWrapper(raw, "utf-8")))
    rows = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))[:40]]
    crystals = [Crystal.from_structure(parse_cif(row["cif"], 1000).to_structure()) for row in rows]
    stated = np.array([float(row[found.property_name]) for row in rows])
    bonds = crystal_nn_bonds(crystals)
    predicted = found.system.predict(crystals, bonds)
    assert np.abs(predicted - stated).mean() < largest_ev_per_atom
    assert np.corrcoef(predicted, stated)[0, 1] > 0.95
    small = next(i for i, crystal in enumerate(crystals) if len(crystal.frac) <= 8)
    target = TARGETS[model]
    expected = written_out(load_file(file), crystals[small], bonds[small]) * target.scale + target.mean
    assert predicted[small] == pytest.approx(expected, abs=5e-4 * target.scale)
