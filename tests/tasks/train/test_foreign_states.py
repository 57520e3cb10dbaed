"""Weights, states and settings from elsewhere are data: a pickle or a tag in the place of one is refused, not run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from configs.overrides import override
from configs.schema import read_yaml
from generative import checkpoints
from generative.metrics.network_features import load_network
from generative.metrics.papers import load_papers
from generative.systems.cdvae.published_regressors import load_published
from generative.training.loop import _saved_state
from tests.foreign_payloads import Trap
from tests.fuzzing import Fuzz


def tagged(trap: Trap, rng: np.random.Generator) -> str:
    """YAML whose tags run something where a loader follows them."""
    mark, module = str(trap.mark), trap.module(rng)
    tags = (
        f"!!python/object/apply:subprocess.check_call [[touch, {mark}]]",
        f"!!python/object/new:{module}.Trap []",
        f"!!python/module:{module} ''",
        f"!!python/name:{module}.Trap ''",
        f"!!python/object/apply:eval [\"open({mark!r}, 'w')\"]",
    )
    text = str(rng.choice(tags))
    return str(rng.choice([text, f"data: {text}", f"model:\n  encoder: [1, {text}]", f"{{a: {{b: {text}}}}}"]))


def archived(content: bytes) -> bytes:
    """An archive as torch.save writes it, with this pickle in it."""
    made = io.BytesIO()
    torch.save({"step": torch.zeros(1)}, made)
    whole, spoilt = zipfile.ZipFile(made), io.BytesIO()
    with zipfile.ZipFile(spoilt, "w") as archive:
        for one in whole.infolist():
            archive.writestr(one.filename, content if one.filename.endswith("/data.pkl") else whole.read(one))
    return spoilt.getvalue()


def of_training(file: Path) -> object:
    unread: Any = None
    return _saved_state(file, unread, unread)


def of_weights(file: Path) -> object:
    (file.parent / "model.json").write_text('{"system": "crystal-flow", "config": {}, "training": {}}')
    file.rename(file.parent / "model.safetensors")
    return checkpoints.load(str(file.parent))


def of_network(file: Path) -> object:
    file.rename(file.parent / "model.json")
    return load_network(file.parent)


def of_published(file: Path) -> object:
    (file.parent / "mp20.hparams.yaml").write_bytes(file.read_bytes())
    return load_published(file)


PICKLES: dict[str, Callable[[Path], object]] = {
    "resume.ckpt": of_training,
    "weights": of_weights,
    "network": of_network,
    "mp20.safetensors": of_published,
}
YAMLS: dict[str, Callable[[Path], object]] = {
    "settings.yaml": read_yaml,
    "mp20.safetensors": of_published,
    "papers.yaml": load_papers,
    "set": lambda file: override({}, [f"data={file.read_text()}"]),
}


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
def test_no_state_weight_or_setting_from_elsewhere_is_run(fuzz: Fuzz, trap: Trap, tmp_path: Path) -> None:
    for case, rng in enumerate(fuzz.cases(60)):
        trap.reset()
        is_yaml = bool(rng.random() < 0.4)
        readers = YAMLS if is_yaml else PICKLES
        name = str(rng.choice(list(readers)))
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        pickled = trap.pickled(rng)
        content = tagged(trap, rng).encode() if is_yaml else archived(pickled) if rng.random() < 0.5 else pickled
        (folder / name).write_bytes(content)
        try:
            readers[name](folder / name)
            said = "read"
        except Exception as error:
            said = f"refused ({type(error).__name__})"
        if trap.has_sprung or said == "read":
            fuzz.failed(f"{name}, {content[:80]!r}: {said}, {trap.has_sprung=}")
        else:
            fuzz.ended(said)


def test_the_tags_run_where_a_loader_follows_them(trap: Trap) -> None:
    """Else the test above could not fail."""
    rng, n_ran = np.random.default_rng(0), 0
    for _ in range(20):
        trap.reset()
        yaml.unsafe_load(tagged(trap, rng))
        n_ran += trap.has_sprung
    assert n_ran == 20
