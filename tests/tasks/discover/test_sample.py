"""Chunks of a plan: each asks for its own part, and none plans those before it again; one or several generators."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from pymatgen.core.lattice import Lattice

from configs.schema import ConfigError, DiscoverConfig, parse
from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.plans import plan as plans
from generative.requests import Request
from generative.systems.baselines.random_symmetric import RandomSymmetric, RandomSymmetricConfig
from generative.systems.wyckoff.config import WyckoffConfig
from generative.systems.wyckoff.system import Wyckoff
from tasks.discover.own_files import sample_crystals
from tasks.discover.sample import check_generator, draw_chunk, drawn_by, sample_chunks
from tests.flows.conftest import known_phases, save_generator
from tests.real_crystals import in_space_group


def test_chunks_ask_for_the_plan_one_after_the_other_and_it_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = {"n_candidates": 50, "chunk_size": 7}
    config = DiscoverConfig.model_validate({"elements": ["Al", "Ni", "Ti"], "sample": sample, "seed": 11})
    expected = plans.plan(config.conditions, config.elements, 56, config.seed)
    asked: list[Request] = []
    lengths: list[int] = []
    made = plans.plan

    def counted(conditions: Any, elements: Any, n: int, *further: Any) -> list[Request]:
        lengths.append(n)
        return made(conditions, elements, n, *further)

    def drawn(loaded: object, requests: list[Request], *further: object) -> list[object]:
        asked.extend(requests)
        return []

    monkeypatch.setattr("generative.plans.plan.plan", counted)
    monkeypatch.setattr("generative.sampling.sample_chunk", drawn)
    heeding = SimpleNamespace(generator=SimpleNamespace(heeds=frozenset({"composition"})))
    monkeypatch.setattr("tasks.discover.sample.checkpoint", lambda name, execution: heeding)
    chunks = sample_chunks(config)
    assert len(chunks) == 8
    for chunk in chunks:
        draw_chunk(config, chunk)
    assert asked == expected
    before = [expected[:i].count(request) for i, request in enumerate(expected)]
    assert [request.turn for request in asked] == before
    assert max(before) >= 1
    assert lengths == [56]


ELEMENTS = ("Al", "Ni", "Ti")


QUICK: dict[str, dict[str, Any]] = {"flow": {"n_steps": 3}, "random": {}}
"""Settings of the generators' samplers, by name."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints by name: a network whose draws depend on all that is drawn with them, and random crystals."""
    folder = tmp_path_factory.mktemp("generators")
    save_generator(folder / "flow", [Crystal.from_structure(s) for s in known_phases().values()], "")
    checkpoints.save(folder / "random", RandomSymmetric(RandomSymmetricConfig()), {"settings": {}})
    return {name: str(folder / name) for name in QUICK}


def settings_of(sample: dict[str, Any], **changes: Any) -> DiscoverConfig:
    given = {"elements": ELEMENTS, "sample": {"chunk_size": 4, **sample}, "execution": {"device": "cpu"}, **changes}
    return DiscoverConfig.model_validate({"conditions": {"formula_atoms_max": 4, "n_atoms_max": 8}, **given})


def shared(folders: dict[str, str], n: int, flow: float = 1.0, random: float = 1.0) -> DiscoverConfig:
    shares = {"flow": flow, "random": random}
    listed = [{"checkpoint": folders[name], "share": share, "sampler": QUICK[name]} for name, share in shares.items()]
    return settings_of({"n_candidates": n, "generators": listed})


def drawn(config: DiscoverConfig) -> list[dict[str, Any]]:
    return sample_crystals(config).to_pylist()


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def by(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["proposed_by"] == f"generator:{name}"]


def test_a_candidate_of_several_generators_is_the_same_however_many_are_asked_for(folders: dict[str, str]) -> None:
    longer = drawn(shared(folders, 23, 3.0, 1.0))
    assert [row["index"] for row in longer] == list(range(23))
    assert len({row["id"] for row in longer}) == 23
    for n in (1, 6, 16):
        assert drawn(shared(folders, n, 3.0, 1.0)) == longer[:n]
    for n in range(24):
        assert abs(len(by(longer[:n], "flow")) - 0.75 * n) < 1


def test_what_a_generator_draws_depends_on_no_other_and_on_no_share(folders: dict[str, str]) -> None:
    halves, quarters = drawn(shared(folders, 20)), drawn(shared(folders, 20, 1.0, 3.0))
    for name, checkpoint in folders.items():
        alone = drawn(settings_of({"n_candidates": 20, "checkpoint": checkpoint, "sampler": QUICK[name]}))
        for rows in (by(halves, name), by(quarters, name)):
            # Who drew and the place in the run differ; crystal, request and id do not.
            assert 4 < len(rows) < 16
            assert without(rows, "proposed_by", "index") == without(alone[: len(rows)], "proposed_by", "index")


def test_every_generator_answers_the_plan_from_its_beginning(folders: dict[str, str]) -> None:
    config = shared(folders, 20)
    plan = [request.to_json() for request in plans.plan(config.conditions, config.elements, 10, config.seed)]
    rows = drawn(config)
    for name in folders:
        assert [row["condition"] for row in by(rows, name)] == plan
    for row in rows:
        generator, place = drawn_by(config.sample, row["proposed_by"], row["index"])
        assert (generator.proposed_by, plan[place]) == (row["proposed_by"], row["condition"])


def test_chunks_of_a_symmetric_generator_hold_what_one_chunk_of_all_would(tmp_path: Path) -> None:
    cubic = {225: ("NaCl", "KBr", "LiF"), 221: ("CsCl", "CsBr"), 216: ("ZnS", "CuBr")}
    sites = {225: [0.5] * 3, 221: [0.5] * 3, 216: [0.25] * 3}
    made = [
        in_space_group(number, Lattice.cubic(4.0 + 0.1 * i), re.findall("[A-Z][a-z]?", name), [[0] * 3, sites[number]])
        for number, names in cubic.items()
        for i, name in enumerate(names)
    ]
    system = Wyckoff(WyckoffConfig(width=8, hidden=16))
    system.fit_statistics(made, [None] * len(made))
    checkpoints.save(tmp_path / "made", system, {}, torch.float32)
    conditions = {"policy": "given", "formulas": ["RbCl", "AgBr"], "n_atoms_max": 2}
    config = {"elements": ["Rb", "Ag", "Br", "Cl"], "conditions": conditions}
    whole, cut = (
        drawn(settings_of({"n_candidates": 12, "chunk_size": size, "checkpoint": str(tmp_path / "made")}, **config))
        for size in (12, 4)
    )
    # The size of chunks is part of an id; all else is the same.
    assert without(whole, "id") == without(cut, "id")
    # Chunks that each began with the most probable signatures would hold four, two of each formula.
    assert len({str(row["lattice_ang"]) + row["formula"] for row in cut}) > 8


def test_sites_are_asked_of_generators_that_heed_them_and_of_no_other(folders: dict[str, str], tmp_path: Path) -> None:
    edges = {"CsCl": 4.12, "TlBr": 3.97}
    made = [
        in_space_group(221, Lattice.cubic(a), re.findall("[A-Z][a-z]?", name), [[0] * 3, [0.5] * 3])
        for name, a in edges.items()
    ]
    system = Wyckoff(WyckoffConfig(width=8, hidden=16))
    system.fit_statistics(made, [None] * len(made))
    checkpoints.save(tmp_path / "made", system, {}, torch.float32)
    conditions = {"policy": "sites", "formulas": ["AlNi", "Al2Ni"], "spacegroup": 221}

    def rows(n: int) -> list[dict[str, Any]]:
        sample = {"checkpoint": str(tmp_path / "made"), "n_candidates": n}
        return drawn(settings_of(sample, conditions=conditions))

    found = rows(6)
    assert [(row["formula"], row["n_atoms"]) for row in found] == [("AlNi", 2), ("Al2Ni", 3)] * 3
    assert [Request.from_json(row["condition"]).sites for row in found[:2]] == [
        (("Al", 1), ("Ni", 1)),
        (("Al", 2), ("Ni", 1)),
    ]
    assert [str(row["lattice_ang"]).count("nan") for row in found] == [0, 9] * 3  # nothing has two sites of aluminium
    assert len({row["id"] for row in found}) == 6
    assert str(rows(3)) == str(found[:3])
    with pytest.raises(ValueError, match=r"^conditions.policy is 'sites', but sample .* does not heed numbers of ineq"):
        check_generator(settings_of({"checkpoint": folders["flow"]}, conditions=conditions))
    listed = [{"checkpoint": str(tmp_path / "made")}, {"checkpoint": folders["random"]}]
    with pytest.raises(ValueError, match=r"but sample.generators.1 .* does not heed"):
        check_generator(settings_of({"generators": listed}, conditions=conditions))


def test_a_chunk_holds_the_candidates_of_one_generator(folders: dict[str, str]) -> None:
    config = shared(folders, 13)
    chunks: list[pa.Table] = [draw_chunk(config, chunk) for chunk in sample_chunks(config)]
    assert [(len(c), set(c.column("proposed_by").to_pylist())) for c in chunks] == [
        (4, {"generator:flow"}),
        (4, {"generator:random"}),
        (3, {"generator:flow"}),
        (2, {"generator:random"}),
    ]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (
            {"checkpoint": "mine", "generators": [{"checkpoint": "a"}]},
            "sample: checkpoint and generators are both given",
        ),
        ({"sampler": {"n_steps": 5}, "generators": [{"checkpoint": "a"}]}, "sample: sampler and generators are both"),
        ({"generators": [{"checkpoint": "a/x"}, {"checkpoint": "b/x"}]}, "sample: generators holds two .* called 'x'"),
        ({"generators": [{"checkpoint": "a", "share": 0}]}, "sample.generators.0.share is 0: .* greater than 0"),
        ({"generators": [{"checkpoint": "a", "share": "inf"}]}, "sample.generators.0.share is 'inf'"),
        ({"generators": [{"share": 1}]}, "sample.generators.0.checkpoint is missing"),
        ({"generators": [{"checkpoint": "a", "shares": 1}]}, "sample.generators.0.shares is not .* mean 'share'"),
    ],
)
def test_generators_that_settings_cannot_have_are_refused_in_a_sentence(sample: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(DiscoverConfig, {"sample": sample}, "here")


def test_settings_of_several_generators_are_read_from_what_was_written(folders: dict[str, str]) -> None:
    config = shared(folders, 5)
    assert DiscoverConfig.model_validate_json(config.model_dump_json()) == config


def test_the_start_of_a_run_names_the_generator_that_would_stop_it(folders: dict[str, str], tmp_path: Path) -> None:
    fine = {"checkpoint": folders["flow"]}

    def check(entry: dict[str, Any], **changes: Any) -> None:
        check_generator(settings_of({"generators": [fine, entry]}, **changes))

    other = {"checkpoint": folders["random"]}
    check(other)
    with pytest.raises(ValueError, match=r"^sample.generators.1.sampler.n_steps is no setting of random-symmetric"):
        check({**other, "sampler": {"n_steps": 5}})
    with pytest.raises(checkpoints.CheckpointError, match=r"^sample.generators.1: .*nowhere: model.saf"):
        check({"checkpoint": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match=r"^sample.generators.1 .* is the same generator .* as sample.generators.0"):
        check({**fine, "name": "again"})


def test_a_generator_that_knows_too_few_elements_is_named(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomSymmetric, "z_max", 26)
    config = shared(folders, 4)
    with pytest.raises(ValueError, match=r"^elements names Ni, but sample.generators.1 .* up to atomic number 26 only"):
        check_generator(config)
    given = config.conditions.model_copy(update={"policy": "given", "formulas": ("AlTi",)})
    check_generator(config.model_copy(update={"conditions": given}))  # nobody asks for nickel
