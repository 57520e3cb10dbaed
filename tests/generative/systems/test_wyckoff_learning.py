"""The symmetric generator learns from further crystals: what it then draws, and what stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice

from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.systems.wyckoff.library import Library
from generative.systems.wyckoff.system import Wyckoff
from tests.generative.systems.test_wyckoff import group_of, halides, rng, stored
from tests.real_crystals import in_space_group

MADE_UP = in_space_group(
    129, Lattice.tetragonal(3.9, 7.7), ["Ca", "F", "F"], [[0, 0.5, 0.19], [0, 0, 0], [0, 0.5, 0.61]]
)
"""A crystal of no known type, of counts that no halide has."""


@pytest.fixture(scope="module", params=["kept", "merged"])
def system(request: pytest.FixtureRequest) -> Wyckoff:
    """Knows rock salt and CsCl, in either form of the library; tests take copies."""
    known = stored(halides())
    if request.param == "merged":
        known._take(known.library.merged(known.metric, 1e-3, 1))
    return known


def learnt(system: Wyckoff, crystals: list[Crystal], votes: float = 1.0) -> Wyckoff:
    after = copy.deepcopy(system)
    assert after.learn(crystals, votes) == [""] * len(crystals)
    return after


def is_made_up(crystal: Crystal, cation: str, anion: str) -> bool:
    """Whether it is the made-up crystal with other elements, in a cell of another size."""
    wanted = MADE_UP.to_structure()
    wanted.replace_species({"Ca": cation, "F": anion})
    return bool(StructureMatcher(stol=0.1).fit(wanted, crystal.to_structure()))


def test_a_structure_type_that_is_learned_is_drawn_for_other_elements_where_before_it_was_not(system: Wyckoff) -> None:
    asked = [Request.of({"Sr": 2, "Cl": 4})] * 4
    assert not any(is_made_up(crystal, "Sr", "Cl") for crystal in system.sample(asked, rng()))
    first, *_ = learnt(system, [MADE_UP]).sample(asked, rng())
    assert group_of(first) == 129
    assert is_made_up(first, "Sr", "Cl")


def test_what_was_there_keeps_its_rows_and_a_crystal_of_a_known_type_brings_no_type(system: Wyckoff) -> None:
    rock_salt = in_space_group(225, Lattice.cubic(5.3), ["Rb", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    before, after = system.library, learnt(system, [rock_salt, MADE_UP]).library
    for name, rows in before.named_buffers():
        now = after.get_buffer(name)
        torch.testing.assert_close(now[: len(rows)] if rows.ndim else now, rows, rtol=0, atol=0, equal_nan=True)
    # Rb and F may exchange their roles, Ca and F may not; one type of the made-up crystal.
    assert after.sizes.voters == before.sizes.voters + 3
    assert after.sizes.types == before.sizes.types + 1
    assert int(after.voter_type[-3]) < before.sizes.types


def test_voters_are_those_of_a_library_that_had_all_crystals_from_the_first() -> None:
    whole, parts = stored(halides()), stored(halides()[:4])
    parts.atomic_volumes.copy_(whole.atomic_volumes)
    expected, found = whole.library, learnt(parts, halides()[4:]).library
    for name in ("voter_kind", "voter_identity", "voter_elements", "voter_weight", "kind_group", "site_letter"):
        assert torch.equal(found.get_buffer(name), expected.get_buffer(name))


def test_a_learned_crystal_counts_for_as_many_as_is_said(system: Wyckoff) -> None:
    caesium_chloride = in_space_group(221, Lattice.cubic(3.9), ["Rb", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    asked = [Request.of({"K": 1, "F": 1})]
    first = {votes: learnt(system, [caesium_chloride], votes).sample(asked, rng())[0] for votes in (1e-3, 1e3)}
    assert [group_of(crystal) for crystal in first.values()] == [225, 221]


def test_a_crystal_without_a_description_is_left_out_with_the_reason(system: Wyckoff) -> None:
    after = copy.deepcopy(system)
    folded = Crystal(MADE_UP.lattice_ang, MADE_UP.frac * 0, MADE_UP.atomic_numbers)
    told = after.learn([folded, MADE_UP])
    assert "spglib finds no space group" in told[0]
    assert told[1] == ""
    assert after.library.sizes.voters == system.library.sizes.voters + 1


def test_what_has_learned_is_a_checkpoint_like_any_other(system: Wyckoff, tmp_path: Path) -> None:
    after = learnt(system, [MADE_UP])
    checkpoints.save(tmp_path / "learned", after, {}, torch.float32)
    back = checkpoints.load(str(tmp_path / "learned")).generator
    requests = [Request.of({"Sr": 2, "Cl": 4}), Request.of({"Rb": 1, "Cl": 1})] * 2
    drawn = [[crystal.digest for crystal in one.sample(requests, rng())] for one in (after, back)]
    assert drawn[0] == drawn[1]
    assert isinstance(after.library, Library)
