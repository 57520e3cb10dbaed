"""The lock files: every pin held to digests, every import of ours declared and pinned, and what an audit says."""

from __future__ import annotations

import ast
import importlib.util
import json
import platform
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from configs.installation import LOCK, PURPOSES, ROOT, page, pins_of, project_requirements

CUDA_LOCK = ROOT / "requirements-cuda.lock"
ROOMS = ("hullward", "flows", "tasks", "generative", "dft", "configs", "storage")
DIGEST = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?")
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.!+-]+( ; [^\\]+)? \\")


def blocks(lock: Path) -> Iterator[tuple[str, list[str]]]:
    """Each pin's line, and the lines below it."""
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    starts = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start], lines[start + 1 : end]


@pytest.mark.parametrize("lock", [LOCK, CUDA_LOCK], ids=lambda lock: lock.name)
def test_every_pin_is_one_version_held_to_digests_and_names_no_place(lock: Path) -> None:
    names = []
    for pin, digests in blocks(lock):
        assert PIN.fullmatch(pin), pin
        assert digests, f"{pin} has no digest"
        assert all(DIGEST.fullmatch(line) for line in digests), pin
        assert [line.endswith("\\") for line in digests] == [True] * (len(digests) - 1) + [False], pin
        names.append(canonicalize_name(pin.partition("==")[0]))
    assert len(names) > 10
    assert len(set(names)) == len(names)
    assert "//" not in lock.read_text(encoding="utf-8")


def test_the_lock_keeps_to_the_ranges_of_the_project() -> None:
    pins = pins_of(LOCK)
    program, tools = project_requirements()
    for one in [*program, *tools]:
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one
    built_with = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    for one in map(Requirement, built_with):
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_cuda_libraries_are_pinned_beside_the_lock_and_not_in_it() -> None:
    locked, cuda = pins_of(LOCK), pins_of(CUDA_LOCK)
    assert not locked.keys() & cuda.keys()
    assert not [name for name in locked if name.startswith(("nvidia-cu", "nvidia-nccl", "cuda-")) or name == "triton"]
    assert {"nvidia-cublas", "triton"} <= cuda.keys()


def test_what_is_installed_here_is_what_the_lock_says() -> None:
    """But for a torch of another build, and what is for other systems; a folder not installed by make has its own."""
    pins = pins_of(LOCK)
    found = {}
    for name in pins:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    if len(found) < len(pins) - 10:
        pytest.skip(f"{len(pins) - len(found)} pins are not installed here")
    assert found == {name: pins[name] for name in found}


def imports() -> Iterator[tuple[str, str]]:
    """(module, file) of every import of ours that is neither Python's nor ours."""
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    first = name.partition(".")[0]
                    if first not in sys.stdlib_module_names and first not in ROOMS:
                        yield first, str(file.relative_to(ROOT))


NOT_OURS_TO_BRING = {"gpaw"}
"""Found where a DFT engine is installed, not brought by us."""
NOT_IMPORTED = {"mongomock", "sqlalchemy", "sevenn"}
"""Declared for their versions, or the files in their wheels, alone; the comments of pyproject.toml say why."""
OF_TESTS = {"mongomock-ng"}


def test_every_import_is_of_a_declared_dependency_and_every_dependency_is_imported() -> None:
    declared = {canonicalize_name(one.name) for one in project_requirements()[0]}
    distributions = packages_distributions()
    used: set[str] = set()
    undeclared = []
    for module, file in imports():
        owners = {canonicalize_name(name) for name in distributions.get(module, ())}
        used |= owners
        if not owners & declared and module not in NOT_OURS_TO_BRING:
            undeclared.append(f"{file} imports {module}")
    assert not undeclared
    assert declared - used - OF_TESTS == NOT_IMPORTED


def test_every_dependency_says_what_it_is_for_and_the_page_is_as_written() -> None:
    assert list(PURPOSES) == [canonicalize_name(one.name) for one in project_requirements()[0]]
    try:
        missing = [name for name in pins_of(LOCK) if name != "async-timeout" and not version(name)]
    except PackageNotFoundError as error:
        pytest.skip(f"the page counts what is installed, and {error.name} is not")
    if (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)):
        pytest.skip("packages ask for others on other systems, and the page is written on Linux x86_64, Python 3.11")
    assert not missing
    assert page() == (ROOT / "docs" / "installation.md").read_text(encoding="utf-8"), (
        "run `python -m configs.installation > docs/installation.md`"
    )


def test_a_file_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    """pip itself, as the Makefile calls it, with a wheel of the right name and version whose content differs."""
    name, pin = next((pin.partition("==")[0], pin) for pin, _ in blocks(LOCK) if pin.startswith("six=="))
    number = pin.partition("==")[2].removesuffix(" \\")
    wheel = tmp_path / f"{name}-{number}-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = f"{name}-{number}.dist-info"
        archive.writestr(f"{name}.py", "print('not the one')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    lock = tmp_path / "one.lock"
    lock.write_text(next("\n".join([pin, *digests]) for pin, digests in blocks(LOCK) if pin.startswith("six==")) + "\n")
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--no-index"]
    asked = [*pip, "--find-links", str(tmp_path), "--no-deps", "--target", str(tmp_path / "there")]
    refused = subprocess.run([*asked, "--require-hashes", "-r", str(lock)], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "there").exists()
    taken = subprocess.run([*asked, f"{name}=={number}"], capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr


def from_ci(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN: dict[str, Any] = {"name": "sound", "version": "1.0", "vulns": []}
BAD: dict[str, Any] = {"name": "leaky", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SILENT: dict[str, Any] = {"name": "unheard", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("listed", "code", "words"),
    [
        ([CLEAN], 0, "0 advisories for 1 pins"),
        ([CLEAN, BAD], 1, "leaky 2.0: PYSEC-1, mended in 2.1"),
        ([CLEAN, SILENT], 69, "no answer for 1 of 2 pins: unheard"),
        ([BAD, SILENT], 1, "no answer for 1 of 2 pins: unheard"),
        ([SILENT], 69, "nothing was audited"),
    ],
)
def test_an_audit_takes_no_silence_for_a_clean_answer(listed: list[dict[str, Any]], code: int, words: str) -> None:
    found, said = from_ci("audit").verdict(json.dumps({"dependencies": listed, "fixes": []}), "")
    assert found == code
    assert words in said


def test_an_audit_that_finds_no_service_says_so() -> None:
    found, said = from_ci("audit").verdict("", "Traceback\nConnectionError: name or service not known\n")
    assert found == 69
    assert said.endswith("nothing was audited: ConnectionError: name or service not known")


def test_pins_for_other_systems_are_left_out_and_markers_that_always_hold_too() -> None:
    digest = "    --hash=sha256:" + "0" * 64
    text = "\n".join(
        f"{pin} \\\n{digest}"
        for pin in (
            "plain==1",
            "windows==1 ; sys_platform == 'win32'",
            "newer==1 ; python_full_version >= '3.13'",
            "always==1 ; sys_platform != 'win32'",
            "older==1 ; python_full_version < '3.12'",
            "linux==1 ; sys_platform == 'linux'",
        )
    )
    kept = dict(from_ci("write_lock").pins(text))
    assert list(kept) == ["plain", "always", "older", "linux"]
    assert kept["always"] == f"always==1 \\\n{digest}\n"
    assert kept["older"].startswith("older==1 ; python_full_version < '3.12' \\\n")
