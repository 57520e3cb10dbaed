"""A run's folder is one run's: what may change there, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configs.schema import DiscoverConfig
from storage.documents import write_document
from tasks.discover.run import MANIFEST, OtherRunError, open_run


def config(runs: Path, **changes: Any) -> DiscoverConfig:
    return DiscoverConfig.model_validate(
        {"name": "one", "elements": ["Ta", "W", "B"], "execution": {"runs_folder": str(runs)}, **changes}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"elements": ["B", "W", "Ta"]},
        {"conditions": {"n_elements_min": 3, "n_elements_max": 3, "n_atoms_max": 16}},  # as earlier versions state it
        {"sample": {"n_candidates": 1024}},
        {"relax": {"fmax_ev_per_ang": 0.2, "potential": "CHGNet"}},
        {"screen": {"min_distance_ang": 1.0}},
        {"data": {"sources": [{"kind": "files", "path": "elsewhere"}]}},
        {"judge": {"potential": None}, "phonons": {"n_best": 2}, "inputs": {"top_n": 9}, "hull": {"references_max": 9}},
    ],
)
def test_a_run_goes_on_in_its_folder_with_what_leaves_its_draws_as_they_are(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    with open_run(config(tmp_path)):
        pass
    with open_run(config(tmp_path, **changes)) as run:
        pass
    stated = json.loads((run.path / MANIFEST).read_text())["settings"]
    assert DiscoverConfig.model_validate(stated) == config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"elements": ["Nb", "Mo", "B"]}, "elements is ['B', 'Ta', 'W'] there, ['B', 'Mo', 'Nb'] here"),
        ({"seed": 3}, "seed is 0 there, 3 here"),
        ({"conditions": {"n_atoms_max": 12}}, "conditions.n_atoms_max is 16 there, 12 here"),
        ({"sample": {"checkpoint": "package:hullward-flow"}}, "sample.checkpoint is package:hullward-wyckoff there"),
        ({"sample": {"sampler": {"n_steps": 7}}}, "sample.sampler.n_steps is null there, 7 here"),
    ],
)
def test_a_run_of_other_draws_is_refused_with_one_sentence_and_the_folder_is_left_as_it_is(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with open_run(config(tmp_path)) as run:
        before = (run.path / MANIFEST).read_bytes()
    with pytest.raises(OtherRunError, match=re.escape(said)) as caught, open_run(config(tmp_path, **changes)):
        raise AssertionError("opened")
    assert "give this one another name" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (run.path / MANIFEST).read_bytes() == before


def test_a_setting_that_is_no_longer_stated_is_another_one_too(tmp_path: Path) -> None:
    with open_run(config(tmp_path, sample={"sampler": {"n_steps": 7}})):
        pass
    with pytest.raises(OtherRunError, match="n_steps is 7 there, null here"), open_run(config(tmp_path)):
        raise AssertionError("opened")


def test_a_folder_of_an_earlier_version_is_told_by_its_elements(tmp_path: Path) -> None:
    def folder(**settings: Any) -> DiscoverConfig:
        write_document(tmp_path / "one" / MANIFEST, {"settings": settings})
        return config(tmp_path)

    old = {"a_setting_that_is_no_more": 1, "seed": 7}
    (tmp_path / "one").mkdir()
    with open_run(folder(elements=["W", "Ta", "B"], **old)):
        pass
    with pytest.raises(OtherRunError, match="elements is"), open_run(folder(elements=["Hf", "B"], **old)):
        raise AssertionError("opened")


def test_a_manifest_that_lacks_newer_settings_is_read_with_their_defaults(tmp_path: Path) -> None:
    with open_run(config(tmp_path)) as run:
        stated = json.loads((run.path / MANIFEST).read_text())["settings"]
    del stated["judge"], stated["sample"]["generators"], stated["conditions"]["grid"]
    write_document(run.path / MANIFEST, {"settings": stated})
    with open_run(config(tmp_path)):
        pass
