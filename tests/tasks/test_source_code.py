"""The code that a key holds is what the stage's function can reach: no helper is missed, nothing else counts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.paths import PROJECT
from dft.potentials.registry import place_of
from generative.checkpoints import generator_type
from tasks import source_code
from tasks.discover.known import competing_phases
from tasks.discover.phonons import phonon_file
from tasks.discover.polymorphs import rank_polymorphs_file
from tasks.discover.propose import propose_chunk_file
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_chunk_file
from tasks.discover.sample import sample_chunk_file
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.papers.dp_cdvae.stages import reconstruct
from tasks.papers.unet.stages import measure
from tasks.source_code import Entry, code_digest, project_digest, sources

STAGES: tuple[Callable[..., Any], ...] = (
    sample_chunk_file,
    screen_chunk_file,
    unique_file,
    relax_chunk_file,
    competing_phases,
    rank_file,
    phonon_file,
    propose_chunk_file,
    rank_polymorphs_file,
    reconstruct,
    measure,
)


def forget() -> None:
    for cached in ("_bytes_of", "_sources", "_file_of", "_read", "project_digest"):
        getattr(source_code, cached).cache_clear()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the project's source, which the test may change."""
    for room in source_code.ROOMS:
        shutil.copytree(PROJECT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    monkeypatch.setattr(source_code, "PROJECT", tmp_path)
    forget()
    yield tmp_path
    forget()


def names(*entries: Entry) -> set[str]:
    return {path.relative_to(source_code.PROJECT).as_posix() for path in sources(*entries)}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__qualname__)
def test_a_changed_file_changes_the_key_of_those_who_reach_it_and_of_no_other(
    stage: Callable[..., Any], copy: Path
) -> None:
    rng = np.random.default_rng(5)
    reached = sorted(names(stage))
    every = sorted(p.relative_to(copy).as_posix() for room in source_code.ROOMS for p in (copy / room).rglob("*.py"))
    others = sorted(set(every) - set(reached))
    before = code_digest(stage)
    for chosen, counts in ((reached, True), (others, False)):
        for name in rng.choice(chosen, 8, replace=False):
            file = copy / name
            text = file.read_bytes()
            file.write_bytes(text + b"\n# changed\n")
            source_code._bytes_of.cache_clear()  # what a new process would read; imports are as they were
            assert (code_digest(stage) != before) is counts, name
            file.write_bytes(text)
    forget()
    assert code_digest(stage) == before


def test_a_helper_that_is_new_counts_from_the_moment_it_is_imported_however_deep(copy: Path) -> None:
    (copy / "dft" / "planted.py").write_text("FACTOR = 1.0\n")
    forget()
    before = code_digest(relax_chunk_file)
    assert "dft/planted.py" not in names(relax_chunk_file)
    neighbours = copy / "dft" / "potentials" / "neighbours.py"
    # Inside the body of what others call: where this project has its slow imports.
    neighbours.write_text(neighbours.read_text() + "\n\ndef _planted():\n    from dft.planted import FACTOR\n")
    fire = copy / "dft" / "potentials" / "fire.py"
    fire.write_text(fire.read_text() + "\n\nfrom dft.potentials.neighbours import _planted\n\nprint(_planted)\n")
    forget()
    assert "dft/planted.py" in names(relax_chunk_file)
    first = code_digest(relax_chunk_file)
    (copy / "dft" / "planted.py").write_text("FACTOR = 2.0\n")
    forget()
    assert len({before, first, code_digest(relax_chunk_file)}) == 3


def test_each_stage_reaches_what_it_computes_with_and_not_what_others_do() -> None:
    relax, screen = names(relax_chunk_file), names(screen_chunk_file)
    # Which generator draws, only its checkpoint says.
    sample = names(sample_chunk_file, generator_type("package:hullward-flow"))
    assert {
        "generative/crystal/crystals.py",
        "dft/potentials/relaxation.py",
        "dft/potentials/loading.py",
        "tasks/loading.py",
    } <= relax
    assert not [name for name in relax if name.startswith(("generative/systems", "tasks/report", "flows"))]
    # Which potential relaxes, only its registered name says.
    assert "dft/potentials/chgnet.py" not in relax
    assert "dft/potentials/m3gnet.py" in names(relax_chunk_file, place_of("M3GNet-MP-2021.2.8-PES").partition(":")[0])
    assert {"generative/screening/matching.py", "tasks/discover/candidates.py"} <= screen
    assert not [name for name in screen if name.startswith(("generative/systems", "dft/potential", "tasks/report"))]
    assert {"generative/sampling.py", "generative/plans/plan.py", "generative/systems/crystal_flow.py"} <= sample
    assert "generative/systems/cdvae/system.py" not in sample
    assert "generative/crystal/cell_parameters.py" in names(reconstruct)
    assert "generative/crystal/crystals.py" in names(measure)


def test_names_are_followed_one_by_one_and_modules_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "planted_package"
    (package / "inner").mkdir(parents=True)
    files = {
        "__init__": "",
        "a": "from planted_package.b import wanted\n\ndef entry():\n    return wanted()\n",
        "b": (
            "from typing import TYPE_CHECKING\n"
            "from planted_package import constants\n"
            "if TYPE_CHECKING:\n    from planted_package import types_only\n"
            "def wanted():\n    return deeper()\n"
            "def deeper():\n    from planted_package.inner.c import VALUE\n    return VALUE\n"
            "def unwanted():\n    from planted_package import other\n    return constants\n"
            "class Registered:\n    pass\n"
            "TABLE = dict(first=Registered)\n"
        ),
        "constants": "",
        "types_only": "",
        "other": "",
        "inner/__init__": "",
        "inner/c": "from ..d import VALUE\n",
        "d": "from . import e\nVALUE = e.VALUE\n",
        "e": "VALUE = 1\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    import planted_package.a

    try:
        found = {path.relative_to(package).with_suffix("").as_posix() for path in sources(planted_package.a.entry)}
        assert found == {"__init__", "a", "b", "inner/__init__", "inner/c", "d", "e"}
        assert {p.relative_to(package).stem for p in sources("planted_package.b")} >= {"other", "constants", "c"}
    finally:
        for name in [name for name in sys.modules if name.startswith("planted_package")]:
            del sys.modules[name]
        forget()


def test_the_projects_digest_holds_every_room_but_flows(copy: Path) -> None:
    before = project_digest()
    for name, counts in (
        ("dft/potentials/fire.py", True),
        ("tasks/discover/report.py", True),
        ("flows/cli/main.py", False),
    ):
        file = copy / name
        text = file.read_bytes()
        file.write_bytes(text + b"\n")
        forget()
        assert (project_digest() != before) is counts
        file.write_bytes(text)
    forget()
