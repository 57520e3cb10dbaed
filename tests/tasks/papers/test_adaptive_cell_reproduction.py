"""The results of the adaptive-cell paper: what is asked, recovery, campaigns, claims, on made crystals."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.adaptive_cell_reproduction import COPIES, MODEL, AdaptiveCellReproductionConfig
from configs.reproduction import model_of
from generative.crystal.crystals import Crystal
from generative.systems.baselines.stored import failed_sample
from tasks.papers.adaptive_cell import asked
from tasks.papers.adaptive_cell.claims import PaperNumbers, claims, name_of
from tasks.papers.adaptive_cell.compounds import metrics_of as found_by_campaign
from tasks.papers.adaptive_cell.known import metrics_of as recovery
from tasks.papers.adaptive_cell.stages import AdaptiveCellPaper
from tasks.papers.adaptive_cell.table_one import as_asked, matches
from tasks.papers.claims import Claim, OurNumbers, Verdict, verdict_of
from tasks.papers.results import NotReadyError, ResultKey

CATIONS, ANIONS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr"), ("F", "Cl", "Br", "O", "S")


def rock_salts() -> list[Structure]:
    pairs = [(one, two, 4.5 + 0.1 * i + 0.15 * j) for i, one in enumerate(CATIONS) for j, two in enumerate(ANIONS)]
    return [Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [c, x], [[0, 0, 0], [0.5] * 3]) for c, x, a in pairs]


def monoclinic() -> Structure:
    cell = Lattice.monoclinic(5.0, 3.1, 6.0, 105.0)
    return Structure.from_spacegroup("C2/m", cell, ["Zn", "O"], [[0.1, 0, 0.23], [0.37, 0, 0.41]])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training part of 25 rock salts; a test part of 15, every third of them unstable, and a monoclinic crystal."""
    folder = tmp_path_factory.mktemp("data")
    crystals = rock_salts()
    parts = {"train": crystals[:25], "test": [*crystals[25:], monoclinic()]}
    for part, structures in parts.items():
        with (folder / f"{part}.csv").open("w", newline="") as text:
            rows = csv.writer(text)
            rows.writerow(["material_id", "cif", "e_above_hull"])
            for number, structure in enumerate(structures):
                height = 0.2 if number % 3 == 0 and structure.composition.reduced_formula != "ZnO" else 0.0
                rows.writerow([f"{part}{number}", structure.get_primitive_structure().to(fmt="cif"), height])
    return folder


def config_of(data: Path, runs: Path, **changes: Any) -> AdaptiveCellReproductionConfig:
    """Two steps of a tiny network, walks of one step a level, relaxations of two steps."""
    relax = {"potential": "CHGNet", "fallback": None, "max_steps": 2}
    sources = [{"kind": "files", "path": str(data / f"{part}.csv")} for part in ("train", "test")]
    settings: dict[str, Any] = {
        "paper": "adaptive-cell",
        "systems": ["adaptive-cell", "random-symmetric", "prototype-substitution"],
        "datasets": [
            {"name": "mp-20-sg16", "train": [str(data / "train.csv")], "test": str(data / "test.csv"), "n_generate": 6}
        ],
        "training": {
            "system": {"message_width": 8, "n_blocks": 1, "n_neighbours": 12, "n_levels": 3}, "max_steps": 2,
            "batch_crystals": 8, "optimiser": "adam", "precision": "32", "warmup_steps": 0,
            "validation_fraction": 0.2,
        },
        "sample": {"chunk_size": 4, "sampler": {"steps_per_level": 1, "at_once": True, "attempts": 1}},
        "known": {
            "crystals": str(data / "test.csv"), "n_elements": [2], "n_structures": 3, "n_samples": 2,
            "systems": ["adaptive-cell", "prototype-substitution"], "relax": relax,
        },
        "compounds": {
            "systems": ["adaptive-cell"], "chemistries": [["Li", "O", "F"]], "n_candidates": 2,
            "data": {"sources": sources}, "relax": relax, "phonons": {"n_best": 0},
        },
        "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
        **changes,
    }  # fmt: skip
    return AdaptiveCellReproductionConfig.model_validate(settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_settings_that_name_the_paper_are_its_own() -> None:
    assert model_of({"paper": "adaptive-cell"}) is AdaptiveCellReproductionConfig


def test_known_structures_are_stable_of_new_formulas_and_a_longer_list_begins_with_a_shorter_one(
    data: Path, runs: Path
) -> None:
    found = asked.known_structures(config_of(data, runs))
    assert len(found.ids) == 3
    stable = {f"test{number}" for number in range(15) if number % 3}
    assert set(found.ids) <= stable
    trained = {structure.reduced_formula for structure in rock_salts()[:25]}
    assert not {structure.to_structure().reduced_formula for structure in found.crystals} & trained
    all_of_them = asked.known_structures(config_of(data, runs, known={
        "crystals": str(data / "test.csv"), "n_elements": [2], "systems": ["adaptive-cell"],
    }))  # fmt: skip
    assert set(all_of_them.ids) == stable  # the monoclinic one is not among them
    assert all_of_them.ids[:3] == found.ids
    nothing = {"crystals": str(data / "test.csv"), "n_elements": [3], "systems": ["adaptive-cell"]}
    with pytest.raises(NotReadyError, match="holds no structure of"):
        asked.known_structures(config_of(data, runs, known=nothing))


def test_every_system_is_asked_in_its_own_words_and_the_copies_of_a_crystal_match_it(data: Path, runs: Path) -> None:
    config = config_of(data, runs)
    likes = asked.targets(config)
    assert asked.sites_text(likes.crystals[0])[1] == 225
    key = ResultKey("generate", "mp-20-sg16", "prototype-substitution")
    drawn = asked.drawn(config, key, likes, lambda what, done, total: None)
    # All templates are rock salts, whose elements are replaced: nothing else can come.
    metrics = {m.metric.name: m for m in as_asked(drawn.crystals, likes.crystals, [225] * 6)}
    assert {name: m.metric.value for name, m in metrics.items()} == {
        "valid samples": 100.0, "asked space group": 100.0, "composition of the test crystal": 100.0,
        "match the test crystal": 100.0,
    }  # fmt: skip


def test_failed_and_foreign_samples_count_against_a_system(data: Path, runs: Path) -> None:
    likes = asked.targets(config_of(data, runs)).crystals[:4]
    zincblende = likes[1].frac + [[0, 0, 0], [0.25, 0.25, 0.25]]
    moved = Crystal(likes[1].lattice_ang, zincblende, likes[1].atomic_numbers)
    other = Crystal(likes[2].lattice_ang, likes[2].frac, likes[2].atomic_numbers[[0, 0]])
    samples = [likes[0], moved, other, failed_sample(likes[3].atomic_numbers.tolist())]
    metrics = {m.metric.name: (m.metric.value, m.metric.n) for m in as_asked(samples, likes, [225] * 4)}
    assert metrics["valid samples"] == (75.0, 4)
    assert metrics["asked space group"] == (pytest.approx(100 / 3), 3)  # of an element alone the cell is simple cubic
    assert metrics["composition of the test crystal"] == (50.0, 4)
    assert metrics["match the test crystal"] == (25.0, 4)
    assert matches([likes[0]], [likes[1]]) == [False]


def test_a_structure_is_recovered_where_one_sample_matches_once_relaxed() -> None:
    structures = {
        "a": {"of_the_composition": 3, "as_drawn": 0, "relaxed": 1},
        "b": {"of_the_composition": 2, "as_drawn": 2, "relaxed": 2},
        "c": {"of_the_composition": 0, "as_drawn": 0, "relaxed": 0},
        "d": {"of_the_composition": 1, "as_drawn": 1, "relaxed": 0},
    }
    metrics = {m.metric.name: (m.metric.value, m.metric.n) for m in recovery(structures, 12, 9, 5)}
    assert metrics["recovered"] == (50.0, 4)
    assert metrics["recovered as drawn"] == (50.0, 4)
    assert metrics["samples that match as drawn"] == (15.0, 20)
    assert metrics["samples of the composition"] == (30.0, 20)
    assert (metrics["valid samples"], metrics["asked space group"]) == ((60.0, 20), (75.0, 12))


def candidate(name: str, formula: str, height: float | None, rank: int | None, stable: bool | None) -> dict[str, Any]:
    return {
        "id": name, "formula": formula, "rank": rank, "e_above_hull_ev_per_atom": height,
        "formation_energy_ev_per_atom": -0.05, "spacegroup_symbol": "Pnma", "lowest_phonon_thz": 0.0,
        "dynamically_stable": stable, "hull_note": None if height is not None else "no elemental phase of K",
    }  # fmt: skip


def test_a_campaign_tells_its_lowest_and_the_lowest_of_the_papers_formula_in_kj_per_mol() -> None:
    rows = [
        candidate("a", "KCuSi", 0.01, 1, True), candidate("b", "KCu2Si", 0.30, 2, False),
        candidate("c", "KCu2Si", 0.02, None, None),  # relaxed into a known phase
        candidate("d", "KCu2Si", None, None, None),
    ]  # fmt: skip
    metrics = {m.metric.name: m for m in found_by_campaign(rows, "KCu2Si", (0.07, 0.06))}
    lowest = metrics["energy above hull, best of all"]
    assert lowest.metric.value == pytest.approx(0.9648533)  # 10 meV/atom; 1 kJ/mol is 10.364
    assert (lowest.metric.settings["id"], metrics["energy above hull"].metric.settings["id"]) == ("a", "c")
    assert lowest.error == pytest.approx(5.789, abs=1e-3)
    assert metrics["candidates of the paper's formula"].metric.value == 2
    assert metrics["of the best without imaginary modes"].metric.value == 1
    nothing = {m.metric.name: m.metric for m in found_by_campaign([], "KCu2Si", (math.nan, math.nan))}
    assert math.isnan(nothing["energy above hull"].value)
    assert "no candidate has the formula KCu2Si" in nothing["energy above hull"].reason
    unplaced = [candidate(name, "KCu2Si", None, rank, None) for rank, name in enumerate("ab", start=1)]
    found = {m.metric.name: m.metric for m in found_by_campaign(unplaced, "KCu2Si", (0.07, 0.06))}
    for name in ("energy above hull", "heat of formation, best of all"):
        assert found[name].reason.startswith("2 candidates without a place on the hull"), found[name].reason
        assert found[name].reason.endswith("no elemental phase of K")


def test_claims_are_put_to_the_papers_own_numbers_and_no_claim_is_about_a_chemistry_that_it_does_not_state() -> None:
    every = list(claims("mp-20-sg16", ["cu-si-k", "li-o-f"]))
    assert {claim.dataset for claim in every} == {"mp-20-sg16", "cu-si-k"}
    found = {claim.text: verdict_of(claim, PaperNumbers(), name_of) for claim in every}
    nearer = next(f for text, f in found.items() if text.startswith("CrystalNN: nearer to the test set than"))
    assert nearer.verdict is Verdict.HOLDS
    assert "0.199 (CDVAE (retrained)) > 0.102" in nearer.numbers
    assert next(f for t, f in found.items() if t.startswith("Known structures")).numbers.startswith("30.56 ± 7.4")
    assert next(f for t, f in found.items() if t.startswith("A ternary within 1.61")).verdict is Verdict.HOLDS


@pytest.mark.parametrize(("value", "holds"), [(0.9, True), (1.1, False)])
def test_a_claim_of_at_most_holds_below_its_limit(value: float, holds: bool) -> None:
    class Fixed:
        def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Any:
            from tasks.papers.claims import Number

            return Number(value, 0.01)

    claim = Claim("t", "w", "s", "d", "m", ((MODEL, ""),), kind="at most", limit=1.0)
    assert (verdict_of(claim, Fixed(), name_of).verdict is Verdict.HOLDS) is holds


@pytest.mark.parametrize(
    ("checkpoint", "stages", "run"),
    [
        ("package:hullward-adaptive-cell", ["compounds"], ("train", "compounds")),
        ("package:hullward-adaptive-cell", ["train", "known"], ("train", "known")),
        ("package:hullward-adaptive-cell", [], ()),
        (None, ["compounds"], ("compounds",)),
    ],
)
def test_a_checkpoint_that_is_given_is_taken_over_by_whichever_stage_is_run(
    data: Path, runs: Path, checkpoint: str | None, stages: list[str], run: tuple[str, ...]
) -> None:
    stated = config_of(data, runs).model_dump(mode="json") | {"checkpoint": checkpoint, "stages": stages}
    config = AdaptiveCellReproductionConfig.model_validate(stated)
    assert config.stages == run
    assert AdaptiveCellReproductionConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_whole_chain_is_made_once_and_shown_beside_the_paper(data: Path, runs: Path) -> None:
    config = config_of(data, runs)
    paper = AdaptiveCellPaper(config)
    for stage in paper.stages:
        for key in paper.keys(stage):
            made = paper.train(key) if stage == "train" else paper.measure(key)
            assert not made.reused
    found = paper.collect()
    assert (found.missing, found.foreign) == ({}, ())
    assert paper.measure(ResultKey("known", "mp-20-sg16", MODEL)).reused
    # Substitution finds rock salt among rock salts; training structures cover the test set that is of their kind.
    recovered = found.results[ResultKey("known", "mp-20-sg16", "prototype-substitution")].measured("recovered")
    assert recovered is not None
    assert (recovered.metric.value, recovered.metric.n) == (100.0, 3)
    copies = found.results[ResultKey("generate", "mp-20-sg16", COPIES)].measured("COV-R")
    assert copies is not None
    assert copies.metric.n == 15
    report = paper.report(found)
    tables = {table.name: table for table in report.tables}
    assert {"claims", "generate-mp-20-sg16", "known-mp-20-sg16", "structures", "training"} <= tables.keys()
    first = [row[:2] for row in tables["generate-mp-20-sg16"].rows]
    assert ("adaptive cell", "paper") in first
    assert ("PGCGM", "paper") in first
    assert ("training structures", "ours") in first
    asked_for = OurNumbers(found.results).number("compounds", "li-o-f", MODEL, "", "ranked candidates")
    assert asked_for is not None


def test_a_checkpoint_that_is_there_is_taken_over_with_its_own_budget(data: Path, runs: Path, tmp_path: Path) -> None:
    first = AdaptiveCellPaper(config_of(data, runs))
    key = asked.training_key(first.config)
    first.train(key)
    checkpoint = key.folder(first.config) / "model"
    second = AdaptiveCellPaper(config_of(data, tmp_path, checkpoint=str(checkpoint)))
    taken = second.train(key)
    assert taken.budget["steps"] == 2
    assert taken.budget["batch_crystals"] == 8
    assert asked.checkpoint_of(second.config, MODEL)[1] == asked.checkpoint_of(first.config, MODEL)[1]
    assert second.train(key).reused
