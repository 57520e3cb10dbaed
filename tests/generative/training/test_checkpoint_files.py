"""Checkpoints and states of trainings as files: replaced at one stroke, and refused where they are damaged."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from generative import checkpoints
from generative.checkpoints import CheckpointError
from generative.systems.crystal_flow import CrystalFlow, CrystalFlowConfig
from generative.training.config import TrainConfig
from generative.training.loop import TrainingError, _saved_state
from storage import atomic
from storage.checksums import add_checksum
from tests.damage import DAMAGES
from tests.fuzzing import Fuzz
from tests.killed import killed_at, steps_of


def system(seed: int) -> CrystalFlow:
    torch.manual_seed(seed)
    return CrystalFlow(CrystalFlowConfig(width=16, n_layers=1, n_heads=2, pair_width=8))


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.fuzz
def test_a_checkpoint_is_the_old_one_or_the_new_one_wherever_saving_is_killed(
    fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)  # the process that is killed is a fork
    place, ready, modules = tmp_path / "best", tmp_path / "ready", [atomic, checkpoints]
    states = {}
    for seed, name in enumerate(("old", "new")):
        checkpoints.save(ready / name, system(seed), {"steps": seed})
        (ready / name / "card.md").write_text("of the user")
        states[name] = content(ready / name)
    new = system(1)

    def save() -> None:
        checkpoints.save(place, new, {"steps": 1})

    def put_old() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(ready / "old", place)

    for rng in fuzz.cases(6):
        put_old()
        with monkeypatch.context() as patch:
            if rng.random() < 0.5:  # as on a file system that cannot exchange two names
                patch.setattr(atomic, "exchanged", lambda first, second: False)
            n_steps = steps_of(save, modules)
            put_old()
            # More often where names change: the last steps.
            step = int(rng.integers(0 if rng.random() < 0.3 else n_steps - 20, n_steps))
            killed_at(step, save, modules)
            training = checkpoints.load(str(place)).training
        found = content(place)
        atomic.sweep(tmp_path)
        left = {path.name for path in tmp_path.iterdir()} - {".best.replaced"}
        is_one = found in states.values() and training["steps"] == int(found == states["new"])
        if is_one and left == {"best", "ready"}:
            fuzz.ended("the new one" if found == states["new"] else "the old one")
        else:
            fuzz.failed(f"killed before step {step} of {n_steps} -> {sorted(found)} beside {sorted(left)}")


@pytest.mark.fuzz
def test_a_damaged_checkpoint_is_never_loaded_as_another_one(fuzz: Fuzz, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "whole", system(0), {"steps": 3})
    expected = checkpoints.load(str(tmp_path / "whole"))
    for rng in fuzz.cases(40):
        place = tmp_path / "flow"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", place)
        file = place / checkpoints.FILES[int(rng.integers(2))]
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.15, 0.05]))](file, rng)
        try:
            loaded = checkpoints.load(str(place))
        except CheckpointError as error:
            fuzz.ended("refused, the file named") if str(place) in str(error) else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:
            pairs = zip(expected.system.state_dict().values(), loaded.system.state_dict().values(), strict=True)
            is_same = loaded.training == expected.training and all(torch.equal(a, b) for a, b in pairs)
            fuzz.ended("the same") if is_same else fuzz.failed(f"{damage} -> another system")


def test_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        checkpoints.save(tmp_path / name, system(seed), {})
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"a/model\.safetensors is damaged, or not of the training"):
        checkpoints.load(str(tmp_path / "a"))


def test_a_checkpoint_of_an_earlier_version_is_loaded_and_keeps_its_digest() -> None:
    folder = checkpoints.locate("package:hullward-flow")
    parts = [(folder / name).read_bytes() for name in ("model.json", "model.safetensors")]
    assert b"weights_sha256" not in parts[0]
    loaded = checkpoints.load("package:hullward-flow")
    assert loaded.digest == hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@pytest.mark.fuzz
def test_a_damaged_state_of_a_training_is_named_and_not_gone_on_from(fuzz: Fuzz, tmp_path: Path) -> None:
    trained, config = system(0), TrainConfig()
    about = {"kind": trained.name, "system": trained.config.model_dump(mode="json"), "optimiser": config.optimiser}
    torch.save({"training": about, "state_dict": trained.state_dict(), "global_step": 7}, tmp_path / "whole")
    add_checksum(tmp_path / "whole")
    path = tmp_path / "resume.ckpt"
    expected = torch.load(tmp_path / "whole", weights_only=True)["state_dict"]
    for rng in fuzz.cases(30):
        shutil.copy(tmp_path / "whole", path)
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=[0.8, 0.15, 0.05]))](path, rng)
        try:
            saved = _saved_state(path, trained, config)
        except TrainingError as error:
            is_told = str(path) in str(error) and "--no-resume" in str(error)
            fuzz.ended("refused, the file named") if is_told else fuzz.failed(f"{damage} -> {error}")
        except Exception as error:
            fuzz.failed(f"{damage} -> {type(error).__name__}: {error}")
        else:
            is_same = all(torch.equal(saved["state_dict"][name], value) for name, value in expected.items())
            fuzz.ended("the same") if is_same else fuzz.failed(f"{damage} -> another state")
