"""Baselines from files to checkpoints, and from there through `hullward sample`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from typer.testing import CliRunner

from configs.paths import resolve
from configs.schema import DiscoverConfig
from flows.cli import baseline as baseline_commands
from flows.cli.main import app
from generative import checkpoints
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.manifest import read_dataset
from tasks.discover.screen import screen_table
from tasks.train.baselines import BASELINES, BaselineError, make_baseline

runner = CliRunner()
commands = typer.Typer()
baseline_commands.register(commands)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CIFs: three compounds, one of them in its conventional cell, and a file that is no CIF."""
    folder = tmp_path_factory.mktemp("known")
    for name, cation, anion, a_ang in (("TiN", "Ti", "N", 4.24), ("NaCl", "Na", "Cl", 5.64)):
        species, sites = [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
        Structure.from_spacegroup(225, Lattice.cubic(a_ang), species, sites).to(str(folder / f"{name}.cif"))
    Structure.from_spacegroup(191, Lattice.hexagonal(3.03, 3.23), ["Ti", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]).to(
        str(folder / "TiB2.cif")
    )
    (folder / "cut.cif").write_text("data_x\n_cell_length_a 3\n")
    return folder


@pytest.fixture(scope="module")
def dataset(known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    ingest(DataConfig(sources=(FilesSource(path=str(known)),)), None, folder, resolve)
    return folder


@pytest.fixture(scope="module")
def made(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each baseline, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in BASELINES:
        make_baseline(name, None if name == "random-symmetric" else str(dataset), folder / name)
    return {name: folder / name for name in BASELINES}


def sampled(checkpoint: Path, out: Path, *options: str) -> list[Crystal]:
    done = runner.invoke(app, ["sample", "--checkpoint", str(checkpoint), "--out", str(out), "--json", *options])
    assert done.exit_code == 0, done.stderr
    crystals = [c for c in crystals_of(pq.read_table(out)) if c is not None]
    assert len(crystals) == len(json.loads(done.stdout)["crystals"])
    return crystals


def contents(crystals: list[Crystal]) -> list[str]:
    return [str(c.to_structure().composition.reduced_formula) for c in crystals]


@pytest.mark.parametrize("name", BASELINES)
def test_sampling_a_checkpoint_twice_gives_the_same_file_with_the_asked_composition(
    name: str, made: dict[str, Path], tmp_path: Path
) -> None:
    options = ["--formula", "TiN", "-n", "4", "--seed", "5"]
    drawn = sampled(made[name], tmp_path / "a.parquet", *options)
    assert contents(drawn) == ["TiN"] * 4
    assert all(np.linalg.det(c.lattice_ang) > 0 for c in drawn)
    sampled(made[name], tmp_path / "b.parquet", *options)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(("name", "formula", "group"), [
    ("prototype-substitution", "HfB2", 191), ("random-symmetric", "HfB2", 191), ("training-copies", "TiB2", 191),
])  # fmt: skip
def test_a_space_group_asked_on_the_command_line_comes_out(
    name: str, formula: str, group: int, made: dict[str, Path], tmp_path: Path
) -> None:
    options = ["--formula", formula, "-n", "3", "--spacegroup", str(group), "--set", "conditions.n_atoms_max=3"]
    drawn = sampled(made[name], tmp_path / "a.parquet", *options)
    assert contents(drawn) == [formula] * 3
    assert {SpacegroupAnalyzer(c.to_structure(), 0.01).get_space_group_number() for c in drawn} == {group}


def test_a_composition_nobody_has_is_copied_from_any_and_a_pattern_nobody_has_fails_and_is_screened_out(
    made: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    options = ["--formula", "Ta3BW2", "-n", "3", "--set", "conditions.n_atoms_max=6"]
    assert set(contents(sampled(made["training-copies"], tmp_path / "a.parquet", *options))) <= {"TiN", "NaCl", "TiB2"}
    failed = sampled(made["prototype-substitution"], tmp_path / "b.parquet", *options)
    assert [Counter(c.atomic_numbers.tolist()) for c in failed] == [Counter({73: 3, 5: 1, 74: 2})] * 3
    assert all(np.isnan(c.frac).all() for c in failed)
    # As CIFs too, so that the folder holds as many files as crystals were asked for.
    sampled_cifs = runner.invoke(app, ["sample", "--checkpoint", str(made["prototype-substitution"]), *options,
                                       "--out", str(tmp_path / "cifs")])  # fmt: skip
    assert sampled_cifs.exit_code == 0
    assert len(list((tmp_path / "cifs").glob("*.cif"))) == 3
    screened = screen_table(pq.read_table(tmp_path / "b.parquet"), read_dataset(dataset).table, DiscoverConfig().screen)
    assert screened.column("rejected_by").to_pylist() == ["validity"] * 3
    assert all("not finite" in reason for reason in screened.column("reason").to_pylist())


def test_a_checkpoint_names_its_data_and_counts_what_it_could_not_read(
    known: Path, dataset: Path, tmp_path: Path
) -> None:
    fingerprint = read_dataset(dataset).manifest.fingerprint_sha256
    from_dataset = make_baseline("training-copies", str(dataset), tmp_path / "a")
    from_files = make_baseline("training-copies", str(known), tmp_path / "b")
    assert (from_dataset.n_crystals, from_dataset.n_left_out) == (3, 0)
    assert (from_files.n_crystals, from_files.n_left_out) == (3, 1)
    assert "cut.cif" in from_files.reasons[0]
    for folder in ("a", "b"):
        assert checkpoints.about(str(tmp_path / folder))["training"]["data_fingerprint_sha256"] == fingerprint
    system = checkpoints.load(str(tmp_path / "a")).system
    rows = crystals_of(read_dataset(dataset).table)
    assert [system.stored.crystal(i).digest for i in range(3)] == [c.digest for c in rows if c is not None]
    assert sorted(system.stored.groups()) == [191, 225, 225]


def test_a_table_of_samples_serves_as_a_dataset_too(made: dict[str, Path], tmp_path: Path) -> None:
    drawn = sampled(made["random-symmetric"], tmp_path / "a.parquet", "--formula", "TiN", "-n", "3")
    copies = make_baseline("training-copies", str(tmp_path / "a.parquet"), tmp_path / "copies")
    assert copies.n_crystals == 3
    system = checkpoints.load(str(copies.checkpoint)).system
    assert [system.stored.crystal(i).digest for i in range(3)] == [c.digest for c in drawn]


@pytest.mark.parametrize(
    ("name", "dataset_given", "settings", "said"),
    [
        ("copies", True, {}, "'copies' is no baseline: expected one of training-copies"),
        ("training-copies", False, {}, "training-copies is made of known crystals: name a dataset"),
        ("random-symmetric", True, {}, "random-symmetric uses no data"),
        ("prototype-substitution", True, {"temperature": -1}, "temperature is -1: Input should be greater"),
        ("training-copies", True, {"temperature": 1}, "temperature is 1: Extra inputs"),
        ("random-symmetric", False, {"n_tries": 1}, "n_tries is 1: Extra inputs"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(
    name: str, dataset_given: bool, settings: dict[str, float], said: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(BaselineError) as caught:
        make_baseline(name, str(dataset) if dataset_given else None, tmp_path / "it", settings)
    assert said in str(caught.value)
    assert not (tmp_path / "it").exists()


def test_the_command_makes_a_checkpoint_and_says_so(dataset: Path, tmp_path: Path) -> None:
    arguments = ["prototype-substitution", str(dataset), "--out", str(tmp_path / "it"), "--set", "temperature=0"]
    done = runner.invoke(commands, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["n_crystals"] == 3
    assert checkpoints.load(str(tmp_path / "it")).system.config.temperature == 0
    assert "prototype-substitution of 3 crystals in" in runner.invoke(commands, arguments).stdout
    bare = runner.invoke(commands, ["random-symmetric", "--out", str(tmp_path / "none")])
    assert bare.stdout == f"random-symmetric in {tmp_path / 'none'}\n"


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    done = runner.invoke(commands, ["training-copies", "--out", str(tmp_path / "it")])
    assert done.exit_code == 1
    assert done.stderr.startswith("hullward: training-copies is made of known crystals")
    assert "Traceback" not in done.output
