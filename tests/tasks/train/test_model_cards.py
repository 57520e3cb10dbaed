"""A checkpoint's card is right for its system: what it is, what it holds, where its data come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.checkpoints import digest, load
from generative.systems.crystal_flow import CrystalFlow
from generative.training.config import TrainConfig
from tasks.train.model_card import GeneratorScore, card_text
from tasks.train.training import train

LICENCE = "Textbook crystals: no licence needed."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifs")
    for metal in ("Li", "Na", "K", "Rb"):
        for halogen in ("F", "Cl", "Br"):
            cell = Lattice.cubic(5.0 + len(metal) / 10)
            structure = Structure.from_spacegroup(225, cell, [metal, halogen], [[0, 0, 0], [0.5, 0.5, 0.5]])
            structure.to(str(folder / f"{metal}{halogen}.cif"))
    return folder


def trained(kind: str, source: Path, folder: Path, **changes: Any) -> Path:
    settings = {
        "name": "tiny",
        "kind": kind,
        "data": {"sources": [{"kind": "files", "path": str(source), "method": "none"}], "filters": {"n_atoms_max": 9}},
        "max_steps": 2,
        "batch_crystals": 4,
        "validation_fraction": 0.3,
        "torch_threads": 1,
        **changes,
    }
    return train(TrainConfig.model_validate(settings), folder)


def test_a_symmetric_generators_card_says_that_crystals_lie_in_it_and_whose_licence_holds(
    source: Path, tmp_path: Path
) -> None:
    sizes = {"system": {"width": 8, "hidden": 16}, "precision": "32", "licence": LICENCE}
    place = trained("wyckoff", source, tmp_path, **sizes)
    card = (place / "MODEL_CARD.md").read_text(encoding="utf-8")
    about = load(str(place)).training
    stated = f"Wyckoff positions of {about['crystals_trained']} crystals. Whoever gets the checkpoint gets these data"
    assert stated in " ".join(card.split())
    assert "stored in single precision" in card
    assert "Cells of up to 9 atoms were trained on." in card
    assert "`docs/wyckoff.md` describes the method" in card
    assert "None were measured" in card
    assert card.rstrip().endswith(LICENCE)
    assert digest(str(place)) in card
    for of_the_flow in ("half precision", "train-flow", "docs/generator.md", "| match rate |"):
        assert of_the_flow not in card


def test_a_flows_card_is_its_own_and_holds_no_crystal(source: Path, tmp_path: Path) -> None:
    place = trained("crystal-flow", source, tmp_path, system={"width": 32, "n_layers": 1})
    assert isinstance(load(str(place)).system, CrystalFlow)
    card = (place / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "stored in half precision" in card
    assert "`docs/generator.md` describes the method" in card
    assert "It holds" not in card
    assert "that of its sources holds" in card


def test_figures_stand_on_the_card_of_whoever_measured_them(source: Path, tmp_path: Path) -> None:
    place = trained("wyckoff", source, tmp_path, system={"width": 8, "hidden": 16})
    score = GeneratorScore("a.csv", 7, "some protocol", 3 / 7, 0.0213, 1.0, 310.0, 1, {"temperature": 0.0})
    card = card_text(place, score)
    assert "One crystal per composition of `a.csv` (n = 7)" in card
    assert "| match rate | 42.9 % |" in card
    assert "Sampler: temperature 0." in card
    assert "None were measured" not in card
