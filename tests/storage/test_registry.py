"""Parts by name: found, missed by one letter, claimed twice, or not to be loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from storage.registry import Registry, imported


class LostError(ValueError):
    pass


GROUP = "hullward.tests-of-the-registry"
OURS = {"ordered": "collections:OrderedDict", "fault": "collections:Absent"}


def installed(folder: Path, package: str, *entries: str) -> None:
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries]) + "\n")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two parts of ours, and two packages that add to them."""
    installed(
        tmp_path, "one", "counter = collections:Counter", "ordered = decimal:Decimal", "both = fractions:Fraction"
    )
    installed(tmp_path, "two", "both = decimal:Decimal", "gone = nowhere_at_all:Part", "nameless = collections:Absent")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return Registry("part", GROUP, OURS, LostError)


def test_a_part_is_found_by_name_and_one_of_ours_cannot_be_taken(registry: Registry) -> None:
    from collections import Counter, OrderedDict

    assert registry.load("counter") is Counter
    assert registry.load("ordered") is OrderedDict
    assert imported("collections:Counter") is Counter


def test_an_unknown_name_is_told_what_there_is_and_what_was_probably_meant(registry: Registry) -> None:
    with pytest.raises(
        LostError, match=r"^'Countr' is no part: expected one of .*ordered.*; did you mean 'counter'\?$"
    ):
        registry.load("Countr")
    with pytest.raises(LostError, match=r"^'xyz' is no part: expected one of [^;]*$"):
        registry.load("xyz")
    assert registry.close_to("ORDERD") == "ordered"


def test_a_name_that_two_packages_claim_is_refused_with_both(registry: Registry) -> None:
    with pytest.raises(
        LostError, match="^'both' is registered as decimal:Decimal and as fractions:Fraction: uninstall all"
    ):
        registry.load("both")


def test_a_part_of_another_package_that_cannot_be_loaded_is_named_and_one_of_ours_fails_plainly(
    registry: Registry,
) -> None:
    with pytest.raises(
        LostError, match="^'gone' is registered as nowhere_at_all:Part, which cannot be loaded: No module"
    ):
        registry.load("gone")
    with pytest.raises(
        LostError, match=r"^'nameless' is registered as collections:Absent, which cannot be loaded: mod"
    ):
        registry.load("nameless")
    with pytest.raises(AttributeError):
        registry.load("fault")
