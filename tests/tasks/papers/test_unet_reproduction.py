"""The metrics of conditional generation and modification: targets, parts, baselines, claims, on made crystals."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.reproduction import with_official_files
from configs.schema import ConfigError, parse
from configs.unet_reproduction import COPY, SAME, UNetReproductionConfig
from generative.crystal.crystals import Crystal
from generative.training.data import composition_of
from tasks.papers.claims import Verdict, verdict_of
from tasks.papers.results import NotReadyError, ResultKey
from tasks.papers.unet.claims import PaperNumbers, claims, name_of
from tasks.papers.unet.stages import (
    ConditionalUNet,
    Targets,
    metrics_of,
    parts_of,
    targets_of,
    training_of,
)

CATIONS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn")
ANIONS = ("F", "Cl", "Br", "O", "S")


def binaries() -> list[Structure]:
    """Fifty compounds in the rock salt and in the caesium chloride structure."""
    made = []
    for i, one in enumerate(CATIONS):
        for j, two in enumerate(ANIONS):
            a_ang = 4.5 + 0.1 * i + 0.15 * j
            made.append(Structure.from_spacegroup("Fm-3m", Lattice.cubic(a_ang), [one, two], [[0, 0, 0], [0.5] * 3]))
            small = Lattice.cubic(a_ang / 1.7)
            made.append(Structure.from_spacegroup("Pm-3m", small, [one, two], [[0, 0, 0], [0.5] * 3]))
    return [structure.get_primitive_structure() for structure in made]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "binaries.csv"
    with file.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["material_id", "cif", "formation_energy_per_atom"])
        for number, structure in enumerate(binaries()):
            rows.writerow([f"b{number}", structure.to(fmt="cif"), -1.0 - 0.01 * number + 0.05 * (number % 2)])
    return file


def config_of(data: Path, runs: Path, **changes: Any) -> UNetReproductionConfig:
    """Four steps of a tiny network."""
    settings: dict[str, Any] = {
        "paper": "conditional-unet",
        "datasets": [{"name": "binaries", "files": [str(data)]}],
        "generation_share": 0.2,
        "training": {
            "max_steps": 4, "batch_crystals": 8, "optimiser": "adam", "precision": "32", "validation_fraction": 0.2,
            "warmup_steps": 0,
        },
        "sample": {"sampler": {"n_steps": 4}, "chunk_size": 7},
        "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
        **changes,
    }  # fmt: skip
    return UNetReproductionConfig.model_validate(settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_no_formula_is_in_both_parts_and_targets_are_test_crystals(data: Path, runs: Path) -> None:
    config = config_of(data, runs)
    entry = config.datasets[0]
    for task, share in (("generate", 0.2), ("modify", 0.2)):
        parts = parts_of(config, entry, task)  # type: ignore[arg-type]
        train, test = ({composition_of(c) for c in part.crystals} for part in (parts.train, parts.test))
        assert not train & test
        assert len(train | test) == 50
        assert len(test) == pytest.approx(50 * share, abs=3)
        digests = {crystal.digest for crystal in parts.test.crystals}
        targets = targets_of(config, entry, task)  # type: ignore[arg-type]
        assert {crystal.digest for crystal in targets.crystals} <= digests
    assert len(targets.crystals) == len(test)  # a pair of each group: both structures of a compound
    for source, target, group, change in zip(
        targets.sources, targets.crystals, targets.spacegroups, targets.energies_ev_per_atom, strict=True
    ):
        assert composition_of(source) == composition_of(target)
        assert target.to_structure().get_space_group_info()[1] == group
        assert change is not None
        assert change < 0


def test_metrics_agree_with_pymatgen_and_their_parts_add_up(data: Path, runs: Path) -> None:
    config = config_of(data, runs)
    targets = targets_of(config, config.datasets[0], "generate")
    rng = np.random.default_rng(0)
    drawn: list[Crystal | None] = []
    for crystal in targets.crystals:
        shifted = crystal.frac + rng.normal(0, 0.08, crystal.frac.shape)
        drawn.append(Crystal(crystal.lattice_ang, shifted, crystal.atomic_numbers))
    drawn[0] = None
    known = [i % 2 == 0 for i in range(len(drawn))]
    metrics = {m.metric.name: m.metric for m in metrics_of(drawn, targets, known)}
    matcher = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5)
    fits = [
        one is not None and matcher.fit(one.to_structure(), truth.to_structure())
        for one, truth in zip(drawn, targets.crystals, strict=True)
    ]
    assert 0 < sum(fits) < len(fits)
    assert metrics["match rate"].value == pytest.approx(100 * sum(fits) / len(fits))
    halves = [metrics[f"match rate, prototype {word}"] for word in ("known", "new")]
    assert [half.n for half in halves] == [sum(known), len(known) - sum(known)]
    assert sum(half.value * half.n for half in halves) == pytest.approx(100 * sum(fits))
    assert metrics["match rate, more than 8 atoms"].n == 0
    exact = {m.metric.name: m.metric.value for m in metrics_of(targets.crystals, targets, known)}
    assert (exact["match rate"], exact["asked space group"]) == (100, 100)


def test_a_whole_reproduction_leaves_nothing_missing_and_a_second_one_reads_what_lies_there(
    data: Path, tmp_path: Path
) -> None:
    paper = ConditionalUNet(config_of(data, tmp_path))
    assert paper.stages == ("train", "generate", "modify")
    for stage in paper.stages:
        for key in paper.keys(stage):
            assert not (paper.train(key) if stage == "train" else paper.measure(key)).reused
    for stage in paper.stages:
        for key in paper.keys(stage):
            assert (paper.train(key) if stage == "train" else paper.measure(key)).reused
    found = paper.collect()
    assert not found.missing
    assert not found.foreign
    assert len(found.results) == 6 + 5 + 5  # DDIM has the weights of DDPM
    copies = found.results[ResultKey("generate", "binaries", COPY)].measured("match rate")
    assert copies is not None
    assert copies.metric.value == 100  # rock salt scaled to the volume is rock salt
    same = found.results[ResultKey("modify", "binaries", SAME)].measured("match rate")
    assert same is not None
    assert same.metric.value == 0  # the other structure of the compound
    report = paper.report(found)
    assert {table.name for table in report.tables} == {"claims", "generate-binaries", "modify-binaries", "training"}
    assert sum(report.verdicts.values()) == 4
    assert report.verdicts[Verdict.NOT_MEASURED] == 0


def test_a_system_that_is_not_trained_is_said_to_be_missing(data: Path, tmp_path: Path) -> None:
    found = ConditionalUNet(config_of(data, tmp_path, systems=["unet-ddim"])).collect()
    reasons = {(key.stage, key.system): why for key, why in found.missing.items()}
    assert reasons["train", "unet-ddpm"] == "the stage was not run"
    assert "unet-ddpm on binaries is not trained: run the stage train" in reasons["generate", "unet-ddim"]


def test_data_of_one_formula_need_a_file_of_test_crystals(data: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    lines = data.read_text().split("\nb")
    one.write_text("\nb".join(lines[:2]) + "\n")
    config = config_of(data, tmp_path, datasets=[{"name": "one", "files": [str(one)]}])
    with pytest.raises(NotReadyError, match="data of one formula need `test`"):
        parts_of(config, config.datasets[0], "generate")
    both = config_of(data, tmp_path, datasets=[{"name": "two", "files": [str(data)], "test": str(one)}])
    parts = parts_of(both, both.datasets[0], "generate")
    assert (len(parts.train), len(parts.test)) == (99, 1)
    assert training_of(both, both.datasets[0], "unet-ddpm").split == "crystal"


def test_the_papers_own_numbers_bear_out_its_claims() -> None:
    for claim in claims(["anything"]):
        assert verdict_of(claim, PaperNumbers(), name_of).verdict is Verdict.HOLDS


def test_targets_have_a_digest_of_their_own() -> None:
    crystal = Crystal(3 * np.eye(3), np.zeros((1, 3)), np.array([14], dtype=np.int16))
    one = Targets([crystal], [221], [-1.0], [])
    assert one.digest != Targets([crystal], [221], [-1.1], []).digest
    assert one.digest == Targets([crystal], [221], [-1.0], []).digest
    assert math.isfinite(int(one.digest, 16))


def test_wrong_settings_are_one_sentence(data: Path, tmp_path: Path) -> None:
    stated = {"paper": "conditional-unet", "datasets": [{"name": "x", "files": [str(data)]}]}
    for wrong, said in (
        ({"systems": ["unet-dppm"]}, "unet-ddpm"),
        ({"systems": ["unet-ddpm", "unet-ddpm"]}, "names one twice"),
        ({"size": "large"}, "'paper', 'small' or 'tiny'"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse(UNetReproductionConfig, {**stated, **wrong}, "file")
    with pytest.raises(ConfigError, match="no official splits"):
        with_official_files(stated, tmp_path)
