"""Settings of sources name what makes the source of them, and are dumped as they always were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, get_args

import pytest

from generative.datasets.config import (
    AflowSource,
    DataConfig,
    FilesSource,
    FilterConfig,
    NetworkSource,
    OptimadeSource,
    PrototypesSource,
    Source,
    SourceConfig,
)
from generative.datasets.databases.harvest import Harvest, NetworkContext
from generative.datasets.ingest import sources_of
from generative.datasets.records import Form, RawRecord, interpret
from generative.datasets.sources import SourceBatch, SourceError, Surroundings, open_source

(UNION, *_) = get_args(Source)
DUMPED = {
    "files": "5f59f852a87291a9",
    "prototypes": "ed61e693aa7284a7",
    "bilayers": "12fd18e8bda54ced",
    "materials-project": "f9a227c0fde03907",
    "aflow": "aed5cba58dc93c2d",
    "optimade": "d876594fc398d155",
}
"""Digest of each kind's default settings, part of the keys of datasets that exist."""


def around(**changed: object) -> Surroundings:
    given = {"resolve": Path, "filters": FilterConfig(), "system": None, "scorer": None, "network": None, "workers": 1}
    return Surroundings(**(given | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("model", get_args(UNION))
def test_each_kind_is_opened_by_its_settings_which_stay_as_they_are(model: type[SourceConfig], tmp_path: Path) -> None:
    class Scorer:
        name = "none"

    config = model.model_validate({"path": "x"} if model is FilesSource else {})
    source = open_source(config, around(scorer=Scorer(), network=NetworkContext(tmp_path)))
    assert source.kind == config.model_dump()["kind"]
    assert isinstance(source, Harvest) == isinstance(config, NetworkSource)
    assert hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16] == DUMPED[source.kind]
    assert (source.kind in ("prototypes", "bilayers")) == config.NEEDS_SCORER


def test_what_a_source_lacks_is_one_sentence() -> None:
    with pytest.raises(SourceError, match="'prototypes' needs a potential to relax and score its crystals"):
        open_source(PrototypesSource(), around())
    for config in (AflowSource(), OptimadeSource()):
        with pytest.raises(SourceError, match="needs a folder for its records, but none was given"):
            open_source(config, around())


def test_a_source_says_which_files_it_reads(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.cif", "a.cif", "deep/c.cif"):
        (tmp_path / name).write_text("")
    folder = FilesSource(path="assets:crystals")
    assert folder.inputs(lambda path: tmp_path) == {
        "assets:crystals": [tmp_path / "a.cif", tmp_path / "b.cif", tmp_path / "deep" / "c.cif"]
    }
    assert folder.inputs(lambda path: tmp_path / "a.cif") == {"assets:crystals": [tmp_path / "a.cif"]}
    assert folder.inputs(lambda path: tmp_path / "absent") == {"assets:crystals": []}
    assert AflowSource().inputs(Path) == {}


class RockSaltSource(SourceConfig):
    OPENED_BY: ClassVar[str] = f"{__name__}:open_rock_salt"
    kind: Literal["rock-salt"] = "rock-salt"
    a_ang: float = 4.21


class RockSalt:
    kind, query, method = "rock-salt", "one compound", "PBE"

    def __init__(self, config: RockSaltSource) -> None:
        self.name, self._half_ang = "rock-salt", config.a_ang / 2

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        text = f"MgO\n{self._half_ang}\n0 1 1\n1 0 1\n1 1 0\nMg O\n1 1\ndirect\n0 0 0\n.5 .5 .5\n"
        return interpret(iter([RawRecord("1", Form.POSCAR, text, {})]), self.name, self.method, elements)

    def database_version(self) -> str | None:
        return None


def open_rock_salt(config: RockSaltSource, around: Surroundings) -> RockSalt:
    return RockSalt(config)


def test_a_kind_from_elsewhere_is_opened_by_its_settings_alone_and_a_name_used_twice_is_told_apart() -> None:
    config = DataConfig().model_copy(update={"sources": (RockSaltSource(), RockSaltSource(a_ang=4.3))})
    first, second = sources_of(config, Path, None)
    assert (first.name, second.name) == ("rock-salt", "rock-salt-2")
    (batch,) = second.batches(None)
    (row,) = batch.rows.to_pylist()
    assert (row["id"], row["spacegroup"]) == ("rock-salt-2:1", 225)
