"""The benchmark of rediscovery against brute force: what is hidden is nowhere, what is found is what pymatgen finds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.rediscovery import PORTFOLIO, RediscoveryConfig
from configs.schema import ConfigError, parse
from generative.crystal.crystals import Crystal, crystals_of
from generative.screening.tolerances import Tolerances
from tasks.discover.candidates import RELAXED, Stage, joined, plain
from tasks.loading import identify
from tasks.rediscovery.campaign import Campaign, HiddenSystem, hidden_system, run_campaign
from tasks.rediscovery.counting import Candidate, candidates_of, counted_files, hidden_forms, merged, ranks
from tasks.rediscovery.proposers import MadeProposer, make_proposer
from tasks.rediscovery.recall import Recalls
from tasks.rediscovery.results import Rediscovery, gathered, write_results
from tasks.rediscovery.targets import RediscoveryError, hidden_files, learned_from, systems_of
from tests.tasks.rediscovery.made_benchmark import HIDDEN, made, settings, write

USUAL, STRICT = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10), StructureMatcher()


@dataclass(frozen=True)
class Done:
    """A finished benchmark."""

    config: RediscoveryConfig
    proposers: list[MadeProposer]
    systems: list[HiddenSystem]
    campaigns: list[list[Campaign]]
    result: Rediscovery


def run(config: RediscoveryConfig) -> Done:
    """What the flow does, without Prefect."""
    identity = identify(config.relax, config.execution)
    targets, known = hidden_files(config)
    proposers = [make_proposer(config, entry, targets) for entry in config.proposers]
    systems = [hidden_system(config, elements, targets, known, identity) for elements in systems_of(targets.read())]
    campaigns = [[run_campaign(config, system, one, identity) for one in proposers] for system in systems]
    counted = [counted_files(system, own, config) for system, own in zip(systems, campaigns, strict=True)]
    flat = [campaign for own in campaigns for campaign in own]
    return Done(config, proposers, systems, campaigns, gathered(config, identity, proposers, flat, counted))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(made(tmp_path_factory.mktemp("benchmark")))


def test_the_stable_crystals_of_the_reference_are_hidden_and_no_other(done: Done) -> None:
    targets, _ = hidden_files(done.config)
    assert set(targets.read().column("formula").to_pylist()) == HIDDEN  # AlNi2Ti lies above the hull
    assert [system.name for system in done.systems] == ["Al-Ni", "Al-Ti", "Ni-Ti"]


def test_nothing_that_is_known_or_that_a_proposer_is_made_of_holds_a_hidden_formula(done: Done) -> None:
    from generative.checkpoints import load

    _, known = hidden_files(done.config)
    assert set(known.read().column("formula").to_pylist()) == {"Al", "Ni", "Ti", "TiAlNi2"}
    for system in done.systems:
        assert not HIDDEN & set(system.known.read().column("formula").to_pylist())
        assert not HIDDEN & set(joined([ref.read() for ref in system.competing], RELAXED).column("formula").to_pylist())
    stored = load(done.proposers[0].checkpoint).system.stored  # type: ignore[attr-defined]
    assert {frozenset(crystal.atomic_numbers.tolist()) for crystal in map(stored.crystal, range(len(stored)))} == {
        frozenset({26, 27}),
        frozenset({29, 79}),
    }


def brute_force(ranked: pa.Table, forms: Sequence[Structure], matcher: StructureMatcher) -> int | None:
    """Number of the first relaxed candidate, from 1, that pymatgen says is the hidden crystal."""
    crystals = crystals_of(ranked.sort_by("index"), "relaxed_")
    for number, crystal in enumerate(crystals, start=1):
        if crystal is not None and any(matcher.fit(form, crystal.to_structure()) for form in forms):
            return number
    return None


def test_what_is_found_and_after_how_many_relaxations_is_what_pymatgen_says(done: Done) -> None:
    rows = {(row["proposer"], row["id"]): row for row in done.result.found.to_pylist()}
    n_found = 0
    for system, campaigns in zip(done.systems, done.campaigns, strict=True):
        for name, forms in hidden_forms(system).items():
            structures = [form.to_structure() for form in forms]
            assert len(structures) == 2  # as given, and relaxed
            for campaign in campaigns:
                row, ranked = rows[campaign.proposer, name], campaign.ranked.read()
                assert row["found_after"] == brute_force(ranked, structures, USUAL)
                assert row["found_after_strict"] == brute_force(ranked, structures, STRICT)
                n_found += row["found_after"] is not None
    assert 3 <= n_found < 10  # the made templates hold the prototypes of all but one


def test_ranks_of_a_whole_campaign_are_those_of_a_run(done: Done) -> None:
    tolerances = Tolerances.from_config(done.config.screen)
    for system, campaigns in zip(done.systems, done.campaigns, strict=True):
        for campaign in campaigns:
            ranked = campaign.ranked.read()
            _, kept = ranks(candidates_of(ranked, hidden_forms(system)), tolerances)
            of_run = [row for row in plain(ranked).to_pylist() if row["rank"] is not None]
            assert {row["id"]: row["rank"] for row in kept} == {row["id"]: row["rank"] for row in of_run}


def test_a_smaller_budget_is_the_beginning_of_a_larger_one(done: Done) -> None:
    small = run(done.config.model_copy(update={"name": "small", "budgets": (1, 2)}))
    assert not any(campaign.ranked.reused for own in small.campaigns for campaign in own)
    whole = {(row["proposer"], row["id"]): row for row in done.result.found.to_pylist()}
    for row in small.result.found.to_pylist():
        same = whole[row["proposer"], row["id"]]
        after = same["found_after"]
        assert row["found_after"] == (after if after is not None and after <= 2 else None)
        assert [row["rank_at_1"], row["rank_at_2"]] == [same["rank_at_1"], same["rank_at_2"]]


def test_what_is_done_is_not_done_again(done: Done) -> None:
    again = run(done.config)
    assert all(c.ranked.reused for own in again.campaigns for c in own)
    assert all(ref.reused for system in again.systems for ref in (system.known, *system.competing, *system.relaxed))
    assert again.result.as_dict() == done.result.as_dict()


def cubic(a_ang: float, symbols: Sequence[str], frac: Sequence[Sequence[float]]) -> Crystal:
    return Crystal.from_structure(Structure(Lattice.cubic(a_ang), symbols, frac))


def candidate(name: str, crystal: Crystal, energy: float, found: frozenset[str] = frozenset(), **row: Any) -> Candidate:
    stated = {"id": name, "index": 0, "rejected_by": None, "duplicate_of": None, "energy_ev_per_atom": energy,
              "e_above_hull_ev_per_atom": energy + 5, **row}  # fmt: skip
    return Candidate(stated, crystal, crystal, found)


CENTRES = [[0, 0, 0], [0.5, 0.5, 0.5]]
FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def test_a_portfolio_is_its_proposers_in_turn_and_what_two_propose_counts_once() -> None:
    """Of shares 1 and 2 the second comes first, then the first, then the second, and so on."""
    elements = [["Fe", "Co"], ["Ni", "Al"], ["Cu", "Zn"], ["Ti", "Fe"], ["Ag", "Mg"], ["Au", "Cd"]]
    kinds = [cubic(2.9, pair, CENTRES) for pair in elements]
    first = [candidate(f"a{i}", kinds[i], 0) for i in (0, 1, 2, 3)]
    second = [candidate(f"b{i}", kinds[i], 0) for i in (1, 4, 5)]
    in_turn: list[Candidate] = []
    rest = {0: iter(first), 1: iter(second)}
    for turn in itertools.islice(itertools.cycle([1, 0, 1]), 30):
        in_turn += itertools.islice(rest[turn], 1)
    brute: list[Candidate] = []
    for one in in_turn:
        if not any(STRICT.fit(kept.generated.to_structure(), one.generated.to_structure()) for kept in brute):
            brute.append(one)
    for most in (1, 3, 6, 10):
        chosen = merged([first, second], [1.0, 2.0], most, Tolerances.of(0.2, 0.3, 5.0))
        assert [c.row["id"] for c in chosen] == [c.row["id"] for c in brute[:most]]
    assert [c.row["id"] for c in brute] == ["b1", "a0", "b4", "b5", "a2", "a3"]  # a1 is b1


def test_the_portfolio_of_a_system_is_merged_of_its_proposers_relaxations(done: Done) -> None:
    after = {(row["proposer"], row["id"]): row["found_after"] for row in done.result.found.to_pylist()}
    for (proposer, name), found in after.items():
        if proposer == PORTFOLIO and found is not None:
            assert any(after[entry.name, name] is not None for entry in done.config.proposers)
    portfolio, alone = done.result.expenses[PORTFOLIO], done.result.expenses["random-symmetric"]
    assert portfolio.drawn is None
    assert portfolio.relaxations == alone.relaxations == 12


def test_a_candidate_that_relaxed_into_a_lower_one_stands_at_its_rank() -> None:
    b2, fcc = cubic(2.9, ["Ni", "Al"], CENTRES), cubic(3.6, ["Al", "Ni", "Ni", "Ni"], FACES)
    campaign = [
        candidate("x", b2, -1.0, frozenset({"hidden"}), index=0),
        candidate("y", b2, -1.1, frozenset(), index=1),
        candidate("z", fcc, -1.2, frozenset(), index=2),
        candidate("k", b2, -9.0, frozenset({"hidden"}), index=3, rejected_by=Stage.KNOWN_RELAXED.value),
    ]
    tolerances = Tolerances.of(0.2, 0.3, 5.0)
    assert [ranks(campaign[:k], tolerances)[0]["hidden"] for k in (1, 2, 3, 4)] == [1, 1, 2, 2]


def recalls(after: dict[str, list[list[int | None]]]) -> Recalls:
    rows = [
        {"system": f"s{s:03d}", "proposer": name, "id": str(i), "found_after": number}
        for name, systems in after.items()
        for s, own in enumerate(systems)
        for i, number in enumerate(own)
    ]
    return Recalls(pa.Table.from_pylist(rows), list(after), seed=0)


def test_errors_are_those_of_a_mean_over_systems() -> None:
    rng = np.random.default_rng(1)
    hits = rng.random(60) < 0.4
    other = hits ^ (rng.random(60) < 0.2)
    found = recalls({n: [[3] * 2 if hit else [None] * 2 for hit in those] for n, those in (("a", hits), ("b", other))})
    one = found.at("a", 3)
    assert (one.found, one.n) == (2 * hits.sum(), 120)
    assert one.error == pytest.approx(hits.std() / np.sqrt(60), rel=0.06)  # 2,000 resamples: 1.6 %
    assert found.at("a", 2).share == found.at("a", 2).error == 0
    paired = found.difference("a", "b", 3)
    assert paired.value == pytest.approx(hits.mean() - other.mean())
    assert paired.error == pytest.approx((hits.astype(float) - other).std() / np.sqrt(60), rel=0.06)
    share, _ = found.curve("b", 4)
    assert share.tolist() == pytest.approx([0, 0, other.mean(), other.mean()])


def test_a_formula_that_a_checkpoint_has_learned_from_is_looked_for_by_nobody(tmp_path: Path) -> None:
    from tests.flows.conftest import known_phases

    seen = str(write(tmp_path / "seen.csv", {name: known_phases()[name] for name in ("NiTi", "AlNi3")}))
    proposers = [{"name": "flow", "checkpoint": "package:hullward-flow", "seen": [seen]}]
    targets, _ = hidden_files(made(tmp_path, proposers=proposers, portfolio={}))
    assert set(targets.read().column("formula").to_pylist()) == HIDDEN - {"TiNi", "AlNi3"}


def test_a_crystal_with_the_id_of_a_hidden_one_is_not_known_either(tmp_path: Path) -> None:
    """A database may have computed it anew, and now calls it something else."""
    from tests.flows.conftest import known_phases

    phases = known_phases()
    config = made(tmp_path)
    write(tmp_path / "known.csv", {**phases, "AlNi": phases["AlNi2Ti"]})
    _, known = hidden_files(config)
    assert "known:mp-AlNi2Ti" in known.read().column("id").to_pylist()
    assert "known:mp-AlNi" not in known.read().column("id").to_pylist()


def test_a_proposer_without_any_valid_candidate_has_found_nothing(done: Done) -> None:
    strict = done.config.screen.model_copy(update={"min_distance_ang": 9.0})
    config = done.config.model_copy(update={"name": "none", "screen": strict, "n_systems": 1})
    result = run(config).result
    for name, expense in result.expenses.items():
        assert expense.relaxations == expense.ranked == 0
        assert result.usual.at(name, 4).share == 0
    assert result.expenses["substitution"].rejected == {"validity": 12}
    write_results(result)


def test_files_that_a_checkpoint_has_learned_from_are_those_of_its_record() -> None:
    crystals, labels = learned_from("package:hullward-flow")
    assert [Path(name).name for name in crystals] == [
        "mp_20_biternary_val.csv.gz", "mpts_52_val.csv.gz", "wbm_val.csv.gz",
    ]  # fmt: skip
    assert not labels


def test_a_checkpoint_whose_record_names_no_file_is_refused(tmp_path: Path) -> None:
    from tasks.train.baselines import make_baseline

    make_baseline("random-symmetric", None, tmp_path / "random")
    with pytest.raises(RediscoveryError, match="name them as `seen`"):
        learned_from(str(tmp_path / "random"))


def test_where_nothing_can_be_hidden_the_settings_to_change_are_named(tmp_path: Path) -> None:
    with pytest.raises(RediscoveryError, match="of 6 formulas .* change n_elements"):
        hidden_files(made(tmp_path, n_elements=[5]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": [4, 2]}, "ascending"),
        ({"budgets": [64]}, "sample.n_candidates is 12"),
        ({"portfolio": {"flow": 1}}, "'flow'"),
        ({"portfolio": {"substitution": 0}}, "above 0"),
        ({"proposers": [{"name": "portfolio", "baseline": "random-symmetric"}]}, "portfolio"),
        ({"proposers": [{"name": "a", "baseline": "random-symmetric"}, {"name": "b", "baseline": "random-symmetric"}],
          "portfolio": {}}, "the same candidates"),
        ({"proposers": [{"name": "a"}], "portfolio": {}}, "expected one of checkpoint, training and baseline"),
        ({"templates": []}, "templates is empty"),
        ({"n_atoms_max": 9}, "conditions.n_atoms_max"),
        ({"conditions": {"policy": "given", "formulas": ["AlNi"]}}, "of one system"),
        ({"conditions": {"policy": "sites", "formulas": ["AlNi"], "spacegroup": 221}}, "of one system"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_told_in_a_sentence(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(RediscoveryConfig, settings(tmp_path, **changes), "x.yaml")


def test_the_page_and_the_document_state_the_same_recalls(done: Done) -> None:
    page = write_results(done.result).read_text(encoding="utf-8")
    assert "image/svg+xml" in page
    document = done.result.as_dict()
    assert document["n_hidden"] == 5
    shared = document["shared_budget"]
    assert [one["per_system"] for one in shared] == [4]
    assert 0 <= shared[0]["recall"]["even"] <= 1
    assert "One budget for all systems" in page
    for name, campaign in document["campaigns"].items():
        assert f'<td class="text">{name}</td>' in page
        for said in campaign["recall"].values():
            assert f"{100 * said['recall']:.1f} ± {100 * said['standard_error']:.1f}" in page
        assert campaign["curve"]["recall"][-1] == campaign["recall"]["4"]["recall"]
