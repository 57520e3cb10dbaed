"""What every test gets: space groups, each made once; the order of files; one thread; fuzzed cases; traps."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymatgen.symmetry.groups import SpaceGroup

from tests.foreign_payloads import Trap
from tests.fuzzing import Fuzz, table_of

_make_or_find = SpaceGroup.__new__
_KEPT: dict[int, SpaceGroup] = {}


def _make_or_find_and_keep(cls: type[SpaceGroup], *args: Any, **kwargs: Any) -> SpaceGroup:
    group = _make_or_find(cls, *args, **kwargs)
    _KEPT[id(group)] = group
    return group


# pymatgen finds a group again only while somebody holds it, and makes it by comparing all its operations with each
# other: half a second of each `Structure.from_spacegroup("Fm-3m", ...)`, of which the tests have hundreds.
SpaceGroup.__new__ = _make_or_find_and_keep  # type: ignore[method-assign,assignment]

FIRST = ("flows", "generative/datasets/databases/test_three_databases.py", "tasks", "dft")
"""Where tests take minutes, below this folder. A worker runs whole files, so the longest go first: of a long file that
begins last, the other worker would wait for the end."""

REAL = ("tests/dft", "tests/flows/test_slurm_workers.py")
"""Where `make test-dft` looks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        file = item.path.relative_to(here).as_posix()
        return next((rank for rank, start in enumerate(FIRST) if file.startswith(start)), len(FIRST))

    real = [item.nodeid for item in items if item.get_closest_marker("dft_real")]
    if strays := [name for name in real if not any(place in name for place in REAL)]:
        raise pytest.UsageError(
            f"{strays[0]} has the mark dft_real: expected below {' or '.join(REAL)}, where `make test-dft` looks"
        )
    items.sort(key=place)


@pytest.fixture(autouse=True)
def one_torch_thread_after_each_test() -> Iterator[None]:
    """A training or a run sets the number for its process: the tests after it would share a core with their own."""
    yield
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """Seeded cases and their counts; the test fails after its last case if any has failed."""
    return Fuzz(request.node.name.removeprefix("test_").replace("_", " "))


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    """A place where code that should not run would leave its mark."""
    place = tmp_path / "trap"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    trap = Trap(place)
    yield trap
    trap.reset()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    cases = pyfuncitem.funcargs.get("fuzz")
    try:
        result = yield
        if isinstance(cases, Fuzz):
            cases.settle()
    finally:
        if isinstance(cases, Fuzz):
            pyfuncitem.user_properties.append(("fuzz", cases.row))
    return result


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    if lines := table_of(reports):
        terminalreporter.section("fuzzed: test | attempts | failures | others")
        for line in lines:
            terminalreporter.write_line(line)
