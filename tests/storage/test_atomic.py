"""Files that appear whole or not at all: writers killed at every step, what they leave, and disks that are full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage import atomic
from storage.atomic import replace_folder, restore_folder, staging, sweep, write_text, writing
from tests.killed import killed_at, steps_of

WRITER = """
import sys, time
from pathlib import Path
from storage.atomic import staging, writing
with writing(Path(sys.argv[1]) / "table.parquet") as table, staging(Path(sys.argv[1]) / "weights") as weights:
    table.write_bytes(b"half")
    (weights / "model.json").write_bytes(b"half")
    print("written", flush=True)
    time.sleep(600)
"""

SWEEPER = """
import sys
from pathlib import Path
from storage.atomic import sweep
print(len(sweep(Path(sys.argv[1]))))
"""


def writer(folder: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing a file and a folder."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_what_a_killed_process_was_writing_is_swept_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    dead, living = writer(tmp_path / "dataset"), writer(tmp_path)
    try:
        dead.kill()
        dead.wait()
        kept = {".of.theirs.tmp", ".table.parquet.4711"}  # not of our making, however alike
        for name in kept:
            (tmp_path / name).write_text("theirs")
        before = {path.name for path in tmp_path.iterdir()}
        removed = sweep(tmp_path)
        assert len(removed) == 2
        assert all(path.parent == tmp_path / "dataset" for path in removed)
        assert list((tmp_path / "dataset").iterdir()) == []
        assert {path.name for path in tmp_path.iterdir()} == before
        assert sweep(tmp_path) == []
    finally:
        living.kill()
        living.wait()
    assert len(sweep(tmp_path)) == 2
    assert {path.name for path in tmp_path.iterdir()} == kept | {"dataset"}


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, lock = [], atomic.fcntl.flock

    def swept_first(descriptor: int, operation: int) -> None:
        if not made:
            made.append(sweep_others(tmp_path))
        lock(descriptor, operation)

    def sweep_others(folder: Path) -> int:
        done = subprocess.run([sys.executable, "-c", SWEEPER, str(folder)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    monkeypatch.setattr(atomic.fcntl, "flock", swept_first)
    write_text(tmp_path / "a.json", "whole")
    assert made == [1]
    assert content(tmp_path) == {"a.json": "whole"}


def test_a_file_is_the_old_one_or_the_new_one_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    def write() -> None:
        write_text(tmp_path / "a.json", "new")

    write_text(tmp_path / "a.json", "old")
    n_steps = steps_of(write, [atomic])
    assert n_steps > 10
    assert content(tmp_path) == {"a.json": "new"}
    found = set()
    for step in range(n_steps):
        (tmp_path / "a.json").write_text("old")
        killed_at(step, write, [atomic])
        found.add((tmp_path / "a.json").read_text())
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"], step
    assert found == {"old", "new"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_the_old_one_or_the_new_one_wherever_its_writer_is_killed(
    can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "exchanged", lambda first, second: False)
    elif not can_exchange_here(tmp_path):
        pytest.skip("this file system cannot exchange two names")
    folder = tmp_path / "weights"

    def write(text: str = "new") -> None:
        with staging(folder) as new:
            for name in ("model.json", "model.safetensors"):
                (new / name).write_text(text)
            replace_folder(new, folder)

    old, new = ({"model.json": text, "model.safetensors": text} for text in ("old", "new"))
    write("old")
    n_steps = steps_of(write, [atomic])
    assert content(folder) == new
    found = []
    for step in range(n_steps):
        write("old")
        killed_at(step, write, [atomic])
        if can_exchange:
            assert folder.is_dir(), step
        restore_folder(folder)
        found.append(content(folder))
        write("old")  # whatever was left is no hindrance
        assert content(folder) == old, step
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["weights"], step
    assert all(state in (old, new) for state in found)
    assert old in found
    assert new in found


def can_exchange_here(folder: Path) -> bool:
    for name in ("a", "b"):
        (folder / name).mkdir()
    try:
        return atomic.exchanged(folder / "a", folder / "b")
    finally:
        for name in ("a", "b"):
            (folder / name).rmdir()


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyError("no such row")

    with pytest.raises(KeyError), writing(tmp_path / "a.json") as temporary:
        fail(temporary)
    with pytest.raises(KeyError), staging(tmp_path / "folder") as new:
        fail(new / "a")
    assert content(tmp_path) == {"a.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
