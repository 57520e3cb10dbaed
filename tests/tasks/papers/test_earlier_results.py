"""Results that earlier versions have left on disk: taken where settings and files are the same, else told of."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.paths import PROJECT
from configs.reproduction import ReproductionConfig
from configs.unet_reproduction import UNetReproductionConfig
from generative.systems.registry import system_type
from tasks.papers.dp_cdvae.stages import DPCDVAE
from tasks.papers.results import Result, ResultKey, digest_of
from tasks.papers.unet import stages as unet
from tasks.source_code import code_digest, sources
from tasks.train.training import train_on

# Digests of inputs as the version wrote them that kept a training, a measurement and a place in files of their own.
TRAININGS = {
    "train/cdvae": "a7214451d7737b3a7ca20d5c13ce595be1899e4f2e9abbec986b17a86ddcd6a9",
    "train/dp-cdvae": "0ce7bf6475512d73ea93e26e1f04dbcb6d4927c3b546f11598cd4f315a1e8509",
    "regressor/": "86cb44d289e408804695b1ca4563d86aec211e2ee954d8bd0c1f2874f68b5787",
}
RECONSTRUCTION = "46973398ebc323068853377dfa9afa55357e6f6ea55bd4e31a0fdfac35c2ae2b"
RECONSTRUCTION_BY_EQ6 = "cc2450e44cb139751eee41f0e650d6a48e2d6800cf88c9e8133ea822c7911b4c"


def as_written(place: dict[str, str], inputs: str) -> dict[str, Any]:
    """A result.json of the first version."""
    metric = {
        "protocol": "p", "name": "match rate, published gate", "value": 50.0, "unit": "%", "n": 100, "reason": "",
        "settings": {"ltol": 0.3}, "error": 4.9, "error_by": "binomial",
    }  # fmt: skip
    return {
        "schema_version": 1, "place": place, "inputs": inputs, "key": "of other code", "figures": [metric],
        "budget": {"checkpoint_sha256": "c" * 64}, "curves": {"val_loss": [[0, 1.0]]}, "notes": ["a note"],
    }  # fmt: skip


def written(runs: Path, name: str, place: dict[str, str], inputs: str) -> None:
    file = runs / "reproductions" / name / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(as_written(place, inputs)))


@pytest.fixture
def family(tmp_path: Path) -> ReproductionConfig:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(f"material_id,cif\n{part},none\n")
    files = {part: str(tmp_path / f"{part}.csv") for part in ("train", "test")}
    settings = {
        "size": "tiny",
        "systems": ["cdvae", "dp-cdvae"],
        "datasets": [{"name": "perov-5", "property_name": "x", **files}],
        "execution": {"runs_folder": str(tmp_path)},
    }
    return ReproductionConfig.model_validate(settings)


def test_what_an_earlier_version_trained_and_measured_stands_in_the_tables(
    family: ReproductionConfig, tmp_path: Path
) -> None:
    for name, inputs in TRAININGS.items():
        stage, _, system = name.partition("/")
        place = {"stage": stage, "dataset": "perov-5", "system": system, "reverse": ""}
        written(tmp_path, f"dp-cdvae/perov-5/{system}/{stage}", place, inputs)
    for system, way, inputs in (
        ("cdvae", "langevin", RECONSTRUCTION),
        ("dp-cdvae", "eq6", RECONSTRUCTION_BY_EQ6),
        ("dp-cdvae", "eq7", "0" * 64),
    ):
        place = {"stage": "reconstruct", "dataset": "perov-5", "system": system, "reverse": way}
        written(tmp_path, f"dp-cdvae/perov-5/{system}/reconstruct-{way}", place, inputs)
    found = DPCDVAE(family).collect()
    assert {key.name for key in found.results} == {
        "train-perov-5-cdvae", "train-perov-5-dp-cdvae", "regressor-perov-5", "reconstruct-perov-5-cdvae-langevin",
        "reconstruct-perov-5-dp-cdvae-eq6",
    }  # fmt: skip
    rate = found.results[ResultKey("reconstruct", "perov-5", "cdvae", "langevin")].measured(
        "match rate, published gate"
    )
    assert rate is not None
    assert (rate.metric.value, rate.error, rate.metric.settings["ltol"]) == (50.0, 4.9, 0.3)
    assert {key.stage for key in found.foreign} == {"train", "regressor", "reconstruct"}  # made by other code
    other = ResultKey("reconstruct", "perov-5", "dp-cdvae", "eq7")
    assert found.missing[other] == "it was measured with other settings or files"


def test_a_result_is_written_as_it_was_read(tmp_path: Path) -> None:
    file, again = tmp_path / "result.json", tmp_path / "again.json"
    document = as_written({"stage": "train", "dataset": "x", "system": "", "reverse": ""}, "i")
    file.write_text(json.dumps(document))
    found = Result.read(file)
    assert found is not None
    found.write(again)
    stated = json.loads(again.read_text())
    assert {name: stated[name] for name in document} == document


def test_inputs_of_the_unet_are_those_of_earlier_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "parts_of", lambda *_: SimpleNamespace(fingerprint="p" * 64))
    monkeypatch.setattr(unet, "targets_of", lambda *_: SimpleNamespace(digest="t" * 64))
    settings = {
        "paper": "conditional-unet",
        "datasets": [{"name": "binaries", "files": ["a.csv"]}],
        "execution": {"runs_folder": str(tmp_path)},
    }
    config = UNetReproductionConfig.model_validate(settings)
    for system, inputs in (
        ("unet-ddpm", "082974d61525bc9c5bb1d08e8894465d837846908ff0fdb67aba9a19cd97711c"),
        ("unet-modify-flow", "db9077ff75532ced5cad059c473c10e03680b021afd6fbc91609c1b5b4771417"),
    ):
        assert unet.training_inputs(config, config.datasets[0], system) == inputs
        place = {"stage": "train", "dataset": "binaries", "system": system, "reverse": ""}
        written(tmp_path, f"unet/binaries/{system}/train", place, inputs)
    for stage, system, inputs in (
        ("generate", "unet-ddim", "c82f1a851eb8ea1f7f320b99a5b3f5e609217fa0f7979651a74722589541323e"),
        ("modify", "unet-modify-flow", "c999f7db80115fb0b6759d32656bcb50b3e279a919b6b67221c7ee516a49e883"),
        ("modify", "source-unchanged", "adb82b60daf6ed9030bb56fe89b03b24223e402f70557128ea35b05a5bb65d9a"),
    ):
        assert digest_of(unet.measure_inputs(config, ResultKey(stage, "binaries", system))) == inputs


def test_the_code_of_a_training_is_that_of_the_loop_and_of_its_system() -> None:
    found = {path.relative_to(PROJECT).as_posix() for path in sources(train_on, system_type("dp-cdvae-gine"))}
    assert {
        "tasks/train/training.py", "generative/training/loop.py", "generative/training/step.py",
        "generative/systems/cdvae/family.py", "generative/systems/cdvae/system.py", "generative/networks/gine.py",
    } <= found  # fmt: skip
    assert "generative/systems/unet/generator.py" not in found


def test_code_that_is_not_there_is_refused_rather_than_digested() -> None:
    with pytest.raises(ValueError, match=r"tasks\.train\.gone"):
        code_digest("tasks.train.gone")
