"""Proposers that learn from a campaign's finds: what they propose, which places they have, and a process that dies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice

from configs.campaign import CampaignConfig
from generative import checkpoints
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from generative.datasets.records import row_of, table_of
from generative.systems.wyckoff.config import WyckoffConfig
from generative.systems.wyckoff.system import Wyckoff
from storage import atomic
from tasks.campaign import learning
from tasks.campaign.finds import FINDS, no_finds
from tasks.campaign.learning import Learned, after_learning
from tasks.campaign.system_rounds import KnownSystem, ReadySystem, SystemRound, drawn_against, looked_at, run_of
from tasks.campaign.systems import CampaignError
from tasks.discover.relax import survivors
from tasks.discover.sample import chunks_of, draw_chunk, drawn_by, sample_chunks
from tasks.files import FileRef, write_table
from tests.killed import killed_at, steps_of
from tests.real_crystals import in_space_group

SIZE = Lattice.tetragonal(3.9, 7.7)
MADE_UP = in_space_group(129, SIZE, ["Ca", "F", "F"], [[0, 0.5, 0.19], [0, 0, 0], [0, 0.5, 0.61]])
"""A crystal of no known type, found in Ca-F."""

NOWHERE = FileRef(path=Path("nowhere"), sha256="", size=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A symmetric generator that knows rock salt and CsCl, and nothing with two anions for a cation."""
    folder = tmp_path_factory.mktemp("base") / "halides"
    torch.manual_seed(0)
    system = Wyckoff(WyckoffConfig(width=8, hidden=16, sequence_width=8, sequence_hidden=16)).eval()
    known = [
        in_space_group(number, Lattice.cubic(edge), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for number, cation, anion, edge in ((225, "Na", "Cl", 5.64), (221, "Cs", "Cl", 4.12), (225, "Li", "F", 4.03))
    ]
    system.fit_statistics(known, [None] * len(known))
    checkpoints.save(folder, system, {"steps": 0}, torch.float32)
    return folder


def campaign(checkpoint: Path, runs: Path, **settings: Any) -> CampaignConfig:
    """Ca-F and Cl-Sr by one proposer, which learns after every round; a plan of one formula in cells of six atoms."""
    return CampaignConfig.model_validate(
        {
            "systems": ["Ca-F", "Sr-Cl"],
            "proposers": [{"checkpoint": str(checkpoint)}],
            "learning": {"every_rounds": 1},
            "conditions": {
                "policy": "enumerate", "n_elements_min": 2, "n_elements_max": 2, "formula_atoms_max": 3,
                "n_atoms_min": 6, "n_atoms_max": 6,
            },
            "sample": {"n_candidates": 24, "chunk_size": 4},
            "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
            **settings,
        }
    )  # fmt: skip


def found(folder: Path, crystals: Sequence[Crystal] = (MADE_UP,)) -> FileRef:
    """Finds of round 0 in Ca-F."""
    n = len(crystals)
    rows = {"id": [f"{i:016x}" for i in range(n)], "system": ["Ca-F"] * n, "round": [0] * n, "chemsys": ["Ca-F"] * n}
    relaxed = structure_columns(list(crystals), "relaxed_")
    columns = [relaxed.get(f.name, pa.array(rows.get(f.name, [None] * n), f.type)) for f in FINDS]
    return write_table(pa.table(columns, schema=pa.schema(FINDS)), folder / "finds.parquet")


def made_up(rows: pa.Table, cation: str = "Sr", anion: str = "Cl") -> list[str]:
    """Ids of the candidates that are the made-up crystal with these elements."""
    wanted = MADE_UP.to_structure()
    wanted.replace_species({"Ca": cation, "F": anion})
    crystals = zip(rows.column("id").to_pylist(), crystals_of(rows), strict=True)
    return [name for name, c in crystals if c is not None and StructureMatcher(stol=0.1).fit(wanted, c.to_structure())]


def test_what_is_found_in_one_system_is_proposed_in_another_where_before_it_was_not(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = campaign(checkpoint, tmp_path)
    (learned,) = after_learning(config, (), found(tmp_path), 1)
    assert learned.name == "halides-after-0"
    before, after = (run_of(config, ("Cl", "Sr"), {}, those) for those in ((), (learned,)))
    drawn = [draw_chunk(after, n) for n in sample_chunks(after)]
    own, new = drawn[: len(sample_chunks(before))], pa.concat_tables(drawn[len(sample_chunks(before)) :])
    # What the proposer itself draws does not change.
    assert own == [draw_chunk(before, n) for n in sample_chunks(before)]
    assert made_up(pa.concat_tables(own)) == []
    assert made_up(new)
    assert set(new.column("proposed_by").to_pylist()) == {"generator:halides-after-0"}
    rows = pa.concat_tables(drawn).to_pylist()
    assert len({row["id"] for row in rows}) == len({row["index"] for row in rows}) == 48
    for row in rows:
        generator, place = drawn_by(after.sample, row["proposed_by"], row["index"])
        own_checkpoint = row["proposed_by"] == "generator:halides"
        assert generator.settings.checkpoint == (str(checkpoint) if own_checkpoint else learned.checkpoint)
        assert place == row["index"] % 24


def test_places_and_chunks_stay_what_they_are_whatever_is_learned_later(checkpoint: Path, tmp_path: Path) -> None:
    proposers = [{"checkpoint": str(checkpoint), "name": name, "share": share} for name, share in (("a", 3), ("b", 1))]
    config = campaign(checkpoint, tmp_path, proposers=proposers)
    grown = [
        Learned(proposer=name, after_round=n, checkpoint="there", sha256="", key="", n_finds=1, left_out={})
        for name, n in (("b", 0), ("a", 0), ("a", 2))
    ]
    samples = [run_of(config, ("Cl", "Sr"), {}, grown[:n]).sample for n in range(4)]
    chunks = [[(c.generator.proposed_by, c.number, tuple(c.indices)) for c in chunks_of(one)] for one in samples]
    for shorter, longer in zip(chunks, chunks[1:], strict=False):
        assert longer[: len(shorter)] == shorter
    places = [place for *_, indices in chunks[-1] for place in indices]
    assert len(places) == len(set(places)) == 24 + 6 + 18 + 18


def looked(
    config: CampaignConfig, system: KnownSystem, rounds: Sequence[SystemRound], learned: Sequence[Learned], n: int = 2
) -> SystemRound:
    """The next round, in which n candidates may be relaxed."""
    number, (name,) = len(rounds), [entry.label for entry in config.proposers]
    run = run_of(config, system.elements, {}, learned)
    ref = looked_at(run, system, rounds, {name: n}, system.known, system.folder / "rounds" / f"{number:05d}")
    return SystemRound(
        system=system.name, number=number, shares={name: n}, looked_at=ref, screened=ref, relaxed=(), ranked=ref,
        counts={}, seconds=0.0,
    )  # fmt: skip


def test_a_proposer_goes_on_where_it_stopped_and_begins_its_plan_again_once_it_has_learned(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = campaign(checkpoint, tmp_path)
    salt = in_space_group(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    known = write_table(table_of([row_of(salt, "made", "1", "as stored", {})]), tmp_path / "known.parquet")
    system = KnownSystem(elements=("Cl", "Sr"), folder=tmp_path / "cl-sr", known=known, references=NOWHERE)
    rounds: list[SystemRound] = []
    learned = after_learning(config, (), found(tmp_path), 1)
    for those in ((), (), learned, learned):
        rounds.append(looked(config, system, rounds, those))
    # Where nothing is learned, nothing else is done than in a campaign that does not learn.
    off = system.model_copy(update={"folder": tmp_path / "off"})
    first = looked(campaign(checkpoint, tmp_path, learning={}), off, [], ())
    assert first.looked_at.path.read_bytes() == rounds[0].looked_at.path.read_bytes()
    tables = [one.looked_at.read() for one in rounds]
    for first, second, begin in ((tables[0], tables[1], 0), (tables[2], tables[3], 24)):
        places = [place for table in (first, second) for place in table.column("index").to_pylist()]
        assert places == list(range(begin, begin + len(places)))
    alive = pa.concat_tables([survivors(table) for table in tables])
    crystals = [c.to_structure() for c in crystals_of(alive) if c is not None]
    assert len(crystals) == 8
    assert len(StructureMatcher().group_structures(crystals)) == 8
    assert made_up(survivors(tables[2]))


def test_a_find_that_is_learned_is_not_relaxed_again_where_it_was_found(checkpoint: Path, tmp_path: Path) -> None:
    config, finds = campaign(checkpoint, tmp_path), found(tmp_path)
    known = write_table(table_of([]), tmp_path / "known.parquet")
    learned = after_learning(config, (), finds, 1)
    system = ReadySystem(
        elements=("Ca", "F"), folder=tmp_path / "ca-f", known=known, references=NOWHERE, competing=NOWHERE
    )
    for against, number in ((known, 0), (drawn_against(system, finds, known, tmp_path / "found.parquet"), 1)):
        at = system.model_copy(update={"known": against, "folder": tmp_path / str(number)})
        rows = looked(config, at, [], learned, 4).looked_at.read()
        drawn = made_up(rows, "Ca", "F")
        assert drawn
        assert len(set(drawn) & set(survivors(rows).column("id").to_pylist())) == 1 - number
    assert "campaign:0000000000000000" in rows.column("known_match").to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_learning_that_is_killed_ends_with_the_same_bytes_and_is_found_by_what_it_was_made_from(
    checkpoint: Path, tmp_path: Path
) -> None:
    finds = found(tmp_path)
    configs = [campaign(checkpoint, tmp_path, name=name) for name in ("whole", "counted", "early", "amid", "late")]

    def learn(config: CampaignConfig) -> tuple[Learned, ...]:
        return after_learning(config, (), finds, 1)

    config, modules = configs[0], [learning, checkpoints, atomic]
    expected, folder = learn(config), config.folder / "learned"
    bytes_of = contents(folder)
    n_steps = steps_of(lambda: learn(configs[1]), modules)
    for again, step in zip(configs[2:], (n_steps // 4, n_steps // 2, n_steps - 12), strict=True):
        killed_at(step, lambda again=again: learn(again), modules)  # type: ignore[misc]
        atomic.sweep(again.folder)
        (made,) = learn(again)
        assert contents(again.folder / "learned") == bytes_of
        assert made.sha256 == expected[0].sha256 == checkpoints.digest(made.checkpoint)

    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert learn(config) == expected
    # Nothing was found since: what there is goes on.
    assert after_learning(config, expected, finds, 2) == expected
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == times
    (Path(made.checkpoint) / "model.safetensors").write_bytes(b"damaged")
    assert learn(again) == (made,)
    assert contents(again.folder / "learned") == bytes_of


def test_further_finds_are_learned_from_the_checkpoint_that_is_named_and_told_of_in_the_record(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = campaign(checkpoint, tmp_path)
    folded = Crystal(MADE_UP.lattice_ang, MADE_UP.frac * 0, MADE_UP.atomic_numbers)
    first = after_learning(config, (), found(tmp_path), 1)
    both = after_learning(config, first, found(tmp_path, (MADE_UP, folded)), 2)
    assert [one.name for one in both] == ["halides-after-0", "halides-after-1"]
    assert (both[1].n_finds, list(both[1].left_out)) == (1, [f"{1:016x}"])
    record = checkpoints.about(both[1].checkpoint)["training"]
    assert record["learned"]["finds"] == [f"{i:016x}" for i in range(2)]
    assert record["init_sha256"] == checkpoints.digest(str(checkpoint))
    assert record["init_training"] == {"steps": 0}
    # The find that both hold counts once.
    sizes = [checkpoints.about(one.checkpoint)["config"]["library"]["voters"] for one in both]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("every_rounds", "number", "n_finds"), [(None, 1, 1), (2, 1, 1), (2, 3, 1), (1, 0, 1), (1, 1, 0)]
)
def test_nothing_is_learned_where_it_is_not_asked_for_or_not_the_time_or_nothing_was_found(
    every_rounds: int | None, number: int, n_finds: int, checkpoint: Path, tmp_path: Path
) -> None:
    config = campaign(checkpoint, tmp_path, learning={"every_rounds": every_rounds})
    finds = found(tmp_path) if n_finds else write_table(no_finds(), tmp_path / "finds.parquet")
    assert after_learning(config, (), finds, number) == ()
    assert not (config.folder / "learned").exists()


def test_proposers_of_which_none_can_learn_are_refused_and_so_are_names_that_learning_gives(tmp_path: Path) -> None:
    flow = campaign(Path("package:hullward-flow"), tmp_path)
    with pytest.raises(CampaignError, match=re.escape("none of the proposers (hullward-flow) can learn")):
        learning.learners(flow)
    two = [{"checkpoint": "there", "name": name} for name in ("a", "a-after-3")]
    with pytest.raises(ValidationError, match="'a-after-3', as what another has learned would be"):
        campaign(tmp_path, tmp_path, proposers=two)
