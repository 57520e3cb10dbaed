"""Short ways of reading and checking a record must not change any outcome. Truth: pymatgen's reader, and sums over all
near images."""

import copy
import itertools
import json
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.datasets import checks
from generative.datasets.checks import RecordError, checked
from generative.datasets.formats import parsing
from generative.datasets.formats.parsing import parse_structure_dict
from generative.datasets.limits import MIN_DISTANCE_ANG
from tests.servers.real import real_records

Outcome = tuple[Any, ...]


def by_pymatgen(content: dict[str, Any]) -> Crystal:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Crystal.from_structure(Structure.from_dict(copy.deepcopy(content)))


def bits(crystal: Crystal) -> Outcome:
    arrays = (crystal.lattice_ang, crystal.frac, crystal.atomic_numbers)
    return tuple((array.dtype, array.shape, array.tobytes()) for array in arrays)


def outcome(content: Any) -> Outcome:
    try:
        return bits(parse_structure_dict(content))
    except RecordError as error:
        return ("refused", str(error))


def as_json(structure: Structure) -> dict[str, Any]:
    return json.loads(json.dumps(structure.as_dict()))


def test_real_crystals_are_read_bit_for_bit_as_pymatgen_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [as_json(r.structure) for r in real_records()[:300]]
    for number, content in enumerate(contents):
        for site in content["sites"]:
            site["abc"] = [x + number % 3 - 1 for x in site["abc"]]
            site["properties"] = {"magmom": 0.6, "coordination_no": 6}
    expected = [bits(by_pymatgen(content)) for content in contents]
    untouched = copy.deepcopy(contents)
    assert all(parsing._plain_crystal(c["lattice"], c["sites"]) is not None for c in contents)
    assert [outcome(content) for content in contents] == expected
    assert contents == untouched
    monkeypatch.setattr(parsing, "_plain_crystal", lambda *_: None)
    assert [outcome(content) for content in contents[:60]] == expected[:60]


def odd(change: Any) -> dict[str, Any]:
    content = as_json(Structure(Lattice.orthorhombic(3, 4, 5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    change(content, content["sites"][1])
    return content


ODD = {
    "oxidation state": lambda c, s: s["species"][0].update(oxidation_state=-1),
    "deuterium": lambda c, s: s["species"][0].update(element="D"),
    "whole numbers": lambda c, s: s.update(abc=[0, 1, 2]),
    "all whole numbers": lambda c, s: [site.update(abc=[i, 0, 0]) for i, site in enumerate(c["sites"])],
    "no matrix": lambda c, s: c["lattice"].pop("matrix"),
    "flat matrix": lambda c, s: c["lattice"].update(matrix=[x for row in c["lattice"]["matrix"] for x in row]),
    "surface": lambda c, s: c["lattice"].update(pbc=[True, True, False]),
    "half a site": lambda c, s: s["species"][0].update(occu=0.5),
    "a shared site": lambda c, s: s.update(species=[{"element": e, "occu": 0.5} for e in ("Cl", "Br")]),
    "an unknown element": lambda c, s: s["species"][0].update(element="Xx"),
    "element as a list": lambda c, s: s["species"][0].update(element=["Cl"]),
    "a number as text": lambda c, s: s.update(abc=["0.5", 0.5, 0.5]),
    "no number": lambda c, s: s.update(abc=[float("nan"), 0.5, 0.5]),
    "an endless lattice": lambda c, s: c["lattice"]["matrix"][0].__setitem__(0, float("inf")),
    "two coordinates": lambda c, s: s.update(abc=[0.5, 0.5]),
    "no coordinates": lambda c, s: s.pop("abc"),
    "no species": lambda c, s: s.update(species=[]),
    "no sites": lambda c, s: c.update(sites=[]),
    "no lattice": lambda c, s: c.pop("lattice"),
    "sites as text": lambda c, s: c.update(sites="NaCl"),
    "nothing": lambda c, s: c.update(lattice=None),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_dictionaries_meet_the_same_fate_with_and_without_the_short_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = odd(ODD[name])
    short = outcome(content)
    monkeypatch.setattr(parsing, "_plain_crystal", lambda *_: None)
    assert outcome(content) == short
    try:
        expected = bits(by_pymatgen(content))
    except Exception:
        assert short[0] == "refused"
    else:
        assert short == expected


@pytest.mark.parametrize("is_plain", [True, False])
def test_no_class_that_a_record_names_is_built(is_plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []

    class Trap:
        @classmethod
        def from_dict(cls, content: object) -> "Trap":
            built.append(content)
            return cls()

    module = types.ModuleType(f"named_by_a_record_{is_plain}")  # monty remembers classes by name
    module.Trap = Trap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = odd(ODD["oxidation state"] if not is_plain else lambda c, s: None)
    content["properties"] = {"x": {"@module": module.__name__, "@class": "Trap"}}
    for site in content["sites"]:
        site["properties"] = {"x": {"@module": module.__name__, "@class": "Trap"}}
    crystal = parse_structure_dict(content)
    assert crystal.atomic_numbers.tolist() == [11, 17]
    assert built == []
    by_pymatgen(content)
    assert built  # else this test could not fail


def shortest_ang(crystal: Crystal) -> float:
    """Shortest distance between two atoms or an atom and its image, over all images within 3 cells."""
    delta = crystal.frac[:, None, :] - crystal.frac[None, :, :]
    delta -= np.round(delta)
    found = np.inf
    for image in itertools.product(range(-3, 4), repeat=3):
        distances_ang = np.linalg.norm((delta + image) @ crystal.lattice_ang, axis=-1)
        if image == (0, 0, 0):
            np.fill_diagonal(distances_ang, np.inf)
        found = min(found, float(distances_ang.min()))
    return found


def fate(crystal: Crystal) -> str:
    try:
        checked(crystal)
    except RecordError as error:
        return str(error)
    return ""


def close_pairs(n: int) -> list[Crystal]:
    """Cells from cubic to skewed and thin, with two atoms about MIN_DISTANCE_ANG apart, often across a face."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(n):
        matrix = np.diag(rng.choice([0.45, 0.55, 0.9, 1.1, 3.0, 6.0], 3)) @ (np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3)))
        n_atoms = int(rng.integers(2, 5))
        frac = rng.random((n_atoms, 3))
        direction = rng.normal(size=3)
        step_ang = direction / np.linalg.norm(direction) * rng.choice([0.3, 0.499, 0.501, 0.7])
        frac[1] = frac[0] + step_ang @ np.linalg.inv(matrix)
        frac += rng.integers(-2, 3, size=(n_atoms, 1))  # coordinates need not be wrapped
        made.append(Crystal(matrix, frac, rng.integers(1, 90, n_atoms).astype(np.int16)))
    return made


def test_atoms_too_close_are_found_as_by_a_sum_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = [c for c in close_pairs(3000) if abs(np.linalg.det(c.lattice_ang)) / len(c.frac) > 0.5]
    # Flatter cells are refused as such, and hold an atom too near to its own image, or are not reduced.
    crystals = [c for c in crystals if 1 / np.linalg.norm(np.linalg.inv(c.lattice_ang), axis=0).max() > 0.5]
    fates = [fate(crystal) for crystal in crystals]
    expected = [shortest_ang(crystal) < MIN_DISTANCE_ANG for crystal in crystals]
    assert [bool(text) for text in fates] == expected
    assert 100 < sum(expected) < len(crystals) - 100
    monkeypatch.setattr(checks, "_is_clearly_apart", lambda _: False)
    assert [fate(crystal) for crystal in crystals] == fates


def test_real_crystals_pass_the_pairwise_check_alone() -> None:
    crystals = [Crystal.from_structure(record.structure) for record in real_records()[:300]]
    assert all(map(checks._is_clearly_apart, crystals))
    assert all(shortest_ang(crystal) >= MIN_DISTANCE_ANG for crystal in crystals[:100])
