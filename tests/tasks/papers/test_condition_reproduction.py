"""The results of ConditionCDVAE+: who learns from what, energies and formulas that came, layers of a slab, claims."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.condition_reproduction import FOR_ENERGIES, JUDGE, ConditionData, ConditionReproductionConfig
from configs.ingest import parse_ingest
from configs.reproduction import model_of
from configs.schema import load, read_yaml
from dft.config import RelaxConfig
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.bilayers import Bilayer, Bilayers, RelaxedLayer, monolayers, stacked, start_of
from generative.datasets.config import BilayersSource
from generative.systems.baselines.stored import failed_sample
from generative.training.data import split
from storage.vacuum import slab_of
from tasks.ingest.stages import scorer_of
from tasks.papers.claims import OurNumbers, Verdict, verdict_of
from tasks.papers.condition_cdvae import asked, drawing, properties, tables
from tasks.papers.condition_cdvae.bilayers import energies_by_potential, layers_of
from tasks.papers.condition_cdvae.claims import PaperNumbers, claims, name_of
from tasks.papers.condition_cdvae.stages import ConditionCDVAEPaper
from tasks.papers.results import Result, ResultKey, silent
from tasks.papers.samples import Drawn

LAYERS = monolayers(("Al", "Ga"), ("S", "Se"))


def layer(symbols: tuple[str, str, str, str]) -> RelaxedLayer:
    """A monolayer as it is before its relaxation, which is near enough for what is not an energy."""
    begun = start_of(symbols, 20.0)
    slab = slab_of(begun.lattice.matrix, begun.frac_coords)
    assert slab is not None
    return RelaxedLayer(begun.lattice.a, np.sort(slab.heights_ang), 0.0)


def bilayer(lower: Any, upper: Any, registry: str = "AB") -> Structure:
    return stacked(Bilayer(lower, upper, 0, registry), layer(lower), layer(upper), 20.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty bilayers whose energy and edge are made up of their cell, and whose depth is known of every second."""
    file = tmp_path_factory.mktemp("data") / "bilayers.csv"
    pairs = [(a, b, r) for a, b, r in product(LAYERS, LAYERS, ("AA", "AB")) if a <= b][:60]
    with file.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["material_id", "cif", "energy_of_layers", "edge", "depth"])
        for number, (lower, upper, registry) in enumerate(pairs):
            made = bilayer(lower, upper, registry)
            edge, depth = made.lattice.a, "" if number % 2 else made.lattice.c
            rows.writerow([f"pair-{number}", made.to(fmt="cif"), edge - 3.9, edge, depth])
    return file


def config_of(data: Path, runs: Path, **changes: Any) -> ConditionReproductionConfig:
    """Two steps of tiny networks, walks of five calls."""
    common = {
        "max_steps": 2, "batch_crystals": 16, "precision": "32", "warmup_steps": 0, "split": "crystal",
        "validation_fraction": 0.2,
    }  # fmt: skip
    settings: dict[str, Any] = {
        "paper": "condition-cdvae",
        "size": "tiny",
        "systems": [
            "condition-cdvae", "condition-cdvae-energy", "condition-cdvae-formula", "condition-cdvae-properties",
            "crystal-flow",
        ],
        "datasets": [
            {
                "name": "j2dh-8", "files": [str(data)], "property_name": "energy_of_layers", "unit": "eV/cell",
                "n_reconstruct": 3, "n_generate": 4, "n_beside": 5,
                "properties": [{"name": "edge", "unit": "A", "within": 0.1}, {"name": "depth", "unit": "A"}],
                "targets": [{"edge": 3.7}, {"edge": 3.9}, {"depth": 30, "edge": 3.9}],
            }
        ],
        "training": {"system": {"epochs_scale": 0.01}, **common},
        "flow": {"system": {"width": 32, "n_layers": 1, "n_heads": 2, "pair_width": 16}, **common},
        "judge": {"system": {"width": 8, "n_convolutions": 1, "n_features": 8}, **common},
        "sample": {"chunk_size": 4, "sampler": {"steps_per_level": 1, "level_stride": 10}},
        "samplers": {"crystal-flow": {"n_steps": 2}},
        "n_drawn": None,
        "energies": {"n": 3},
        "properties": {"n": 3},
        "formulas": {"formulas": ["Ga4Se4", "Al2Ga2S4"], "n": 3},
        "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
        **changes,
    }  # fmt: skip
    return ConditionReproductionConfig.model_validate(settings)


def test_settings_that_name_the_paper_are_its_own_and_the_shipped_ones_train_all_systems_alike() -> None:
    assert model_of({"paper": "condition-cdvae"}) is ConditionReproductionConfig
    shipped = load(ConditionReproductionConfig, "reproduce-condition-cdvae")
    entry = shipped.datasets[0]
    made = {system: shipped.training_of(entry, system) for system in (*shipped.systems, JUDGE)}
    latent = [made[system] for system in made if "cdvae" in system]
    assert len({(one.batch_crystals, one.adam_lr, one.ema) for one in latent}) == 1
    assert made["cdvae"].max_steps == made["dp-cdvae"].max_steps == made["condition-cdvae"].max_steps
    assert {name for name, one in made.items() if one.property is not None} == {FOR_ENERGIES, JUDGE}
    assert made["cdvae"].system["max_atoms"] == 20
    assert "gan_share" in made[FOR_ENERGIES].system
    assert "gan_share" not in made["cdvae"].system


def test_no_crystal_is_both_tested_and_trained_on_and_a_part_is_left_to_validate_on(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path)
    parts = drawing.parts_of(config, config.datasets[0])
    assert set(parts.train.ids).isdisjoint(parts.test.ids)
    assert len(parts.train) + len(parts.test) == 60
    # Test and validation parts are told by the same hash, so of one seed they would be one.
    kept, held = split(parts.train, 0.2, config.seed, "crystal")
    assert len(held) >= 3
    assert len(kept) >= 30
    edges = [crystal.lattice_ang for crystal in parts.train.crystals]
    for lattice, energy in zip(edges, parts.train.energies, strict=True):
        assert energy == pytest.approx(np.linalg.norm(lattice, axis=1).min() - 3.9, abs=1e-4)
    plain = drawing.trained_on(parts, drawing.training_key("j2dh-8", "condition-cdvae"))
    assert set(plain.energies) == {None}
    assert not plain.columns
    judged = drawing.trained_on(parts, drawing.training_key("j2dh-8", "", "depth"))
    assert judged.energies == parts.train.columns["depth"]
    assert 0 < judged.energies.count(None) < len(judged)


def test_whole_reproduction_makes_every_result_tables_and_pictures_and_takes_them_as_they_lie(
    data: Path, tmp_path: Path
) -> None:
    config = config_of(data, tmp_path)
    paper = ConditionCDVAEPaper(config)
    stages = [stage for stage in paper.stages if stage != "relax"]
    for stage in stages:
        for key in paper.keys(stage):
            result = paper.train(key) if stage in paper.trainings else paper.measure(key)
            assert not result.reused
    found = paper.collect()
    assert {key.stage for key in found.missing} == {"relax"}
    report = paper.report(replace(found, missing={}))
    names = {table.name for table in report.tables}
    assert names >= {
        "claims", "reconstruct-j2dh-8", "generate-j2dh-8", "energies", "formulas", "properties-j2dh-8",
        "readings", "judges", "latents", "training",
    }  # fmt: skip
    assert set(report.pictures) == {
        "curves-j2dh-8.png", "energies-j2dh-8.png", "latents-condition-cdvae-energy-j2dh-8.png",
        "latents-condition-cdvae-formula-j2dh-8.png", "properties-edge-j2dh-8.png", "properties-depth-j2dh-8.png",
    }  # fmt: skip
    rows = {row[0]: row for row in next(table for table in report.tables if table.name == "energies").rows}
    assert {"nothing", "-0.2", "0", "training crystals, for -0.2", "training crystals, for 0"} == set(rows)
    known = [e for e in drawing.parts_of(config, config.datasets[0]).train.energies if e is not None]
    assert rows["training crystals, for 0"][3].startswith(f"{np.mean(known):.3f}"[:5])
    near = next(table for table in report.tables if table.name == "properties-j2dh-8").rows
    for_one = next(row for row in near if row[:2] == ("edge 3.7", "training crystals"))
    edges = np.array(drawing.parts_of(config, config.datasets[0]).train.columns["edge"])
    assert float(for_one[6].split()[0]) == pytest.approx(100 * np.mean(np.abs(edges - 3.7) <= 0.1), abs=0.01)
    taken = ("energies", "formulas", "labels", "properties", "readings", "latents")
    assert all(paper.measure(key).reused for stage in taken for key in paper.keys(stage))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_slab_is_cut_into_the_layers_that_it_was_put_together_from_whatever_its_axes(axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(6):
        lower, upper = (LAYERS[i] for i in rng.integers(len(LAYERS), size=2))
        made = bilayer(lower, upper)
        frac = (made.frac_coords + [0, 0, rng.random()])[:, axes]
        order = rng.permutation(8)
        shuffled = Crystal(
            made.lattice.matrix[list(axes)], (frac % 1.0)[order], np.array(made.atomic_numbers, dtype=np.int16)[order]
        )
        halves = layers_of(shuffled)
        assert halves is not None
        found = {half.to_structure().composition.formula for half in halves}
        assert found == {Structure(Lattice.cubic(9), layer, np.zeros((4, 3))).formula for layer in (lower, upper)}
        distances = sorted(d for half in halves for d in half.to_structure().distance_matrix[np.triu_indices(4, 1)])
        whole = made.distance_matrix
        own = sorted([*whole[:4, :4][np.triu_indices(4, 1)], *whole[4:, 4:][np.triu_indices(4, 1)]])
        assert np.allclose(distances, own, atol=1e-6)


def test_bulk_a_monolayer_and_four_layers_of_two_planes_are_no_two_layers() -> None:
    assert layers_of(Crystal.from_structure(start_of(LAYERS[0], 20.0))) is None
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    assert layers_of(Crystal.from_structure(rock_salt)) is None
    heights = [0.0, 1.2, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]  # the widest gap leaves two atoms below it
    uneven = Structure(Lattice.tetragonal(4.0, 40.0), ["Ga"] * 8, [[0, 0, z / 40] for z in heights])
    assert layers_of(Crystal.from_structure(uneven)) is None


def test_energy_by_the_potential_is_the_label_that_the_source_of_bilayers_gives(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source knows the two layers and relaxes them by their names; here they are found in a shaken bilayer."""
    chosen = [Bilayer(("S", "Ga", "Ga", "Se"), ("Se", "Ga", "Ga", "Se"), 0, "AB")]
    monkeypatch.setattr("generative.datasets.bilayers.drawn", lambda config, elements: chosen)
    settings = read_yaml("ingest-bilayers")[1]
    scorer = scorer_of(parse_ingest(settings, "ingest-bilayers"))
    assert scorer is not None
    (batch,) = Bilayers(BilayersSource(), scorer, tmp_path / "labels").batches(None)
    label = json.loads(batch.rows.column("extra").to_pylist()[0])["formation_energy_ev_per_cell"]
    (made,) = crystals_of(batch.rows)
    assert made is not None
    moved = made.to_structure().perturb(0.03)
    bulk = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    crystals = tuple(map(Crystal.from_structure, (moved, bulk.get_primitive_structure())))
    config = config_of(data, tmp_path)
    relax = RelaxConfig.model_validate(settings["relax"])
    found = energies_by_potential(config, relax, Drawn(("a", "b"), crystals, {}), tmp_path / "relaxed", silent)
    assert found[0] == pytest.approx(label, abs=0.005)
    assert math.isnan(found[1])


def test_energies_are_counted_by_closed_form_without_those_that_are_not_known() -> None:
    values = [-0.3, -0.1, math.nan, 0.1]
    found = {m.metric.name: m for m in asked.number_metrics("e", values, "eV/cell", -0.2, 0.1001)}
    assert found["e: mean"].metric.value == pytest.approx(-0.1)
    assert found["e: mean"].metric.n == 3
    assert found["e: mean"].error == pytest.approx(0.2 / math.sqrt(3))
    assert found["e: standard deviation"].metric.value == pytest.approx(0.2)
    assert found["e: mean distance from the target"].metric.value == pytest.approx(0.5 / 3)
    assert found["e: within reach"].metric.value == pytest.approx(200 / 3)
    nothing = asked.number_metrics("e", [math.nan], "eV/cell", None, 0.1)
    assert all(math.isnan(m.metric.value) and m.metric.reason for m in nothing)
    assert len(nothing) == 2


def test_targets_that_name_no_property_of_their_data_and_repeated_properties_are_refused(
    data: Path, tmp_path: Path
) -> None:
    entry = config_of(data, tmp_path).datasets[0].model_dump()
    for changes, said in (
        ({"targets": [{"gap": 1.0}]}, "expected values of its properties"),
        ({"targets": [{}]}, "expected values of its properties"),
        ({"properties": [{"name": "edge"}, {"name": "edge"}]}, "names one twice"),
    ):
        with pytest.raises(ValueError, match=said):
            ConditionData.model_validate({**entry, **changes})


def test_crystals_are_near_a_target_of_two_properties_where_both_are(data: Path, tmp_path: Path) -> None:
    entry = config_of(data, tmp_path).datasets[0]
    values = {"edge": [3.85, 3.95, 3.95, 5.0, 3.9], "depth": [30.2, 30.4, 31.0, 30.0, math.nan]}
    found = {m.metric.name: m.metric for m in properties.beside_target(entry, {"depth": 30, "edge": 3.9}, values)}
    both = found["depth 30, edge 3.9: all within reach"]
    assert (both.value, both.n) == (50.0, 4)
    assert found["depth 30, edge 3.9: edge: within reach"].value == 80.0
    assert found["depth 30, edge 3.9: depth: mean distance from the target"].value == pytest.approx(0.4)
    nothing = {m.metric.name for m in properties.beside_target(entry, {}, values)}
    assert nothing == {f"nothing: {p}: {what}" for p in ("edge", "depth") for what in ("mean", "standard deviation")}


def test_target_is_heard_where_means_of_samples_differ_by_five_standard_errors_as_asked(
    data: Path, tmp_path: Path
) -> None:
    """Targets that differ in the edge alone are compared, whatever their order in the settings."""
    entry = config_of(data, tmp_path).datasets[0]
    entry = ConditionData.model_validate(
        {**entry.model_dump(), "targets": [{"edge": 4}, {"edge": 3}, {"edge": 2}, {"depth": 30}]}
    )
    rng = np.random.default_rng(5)
    results = {}
    for key, mean in zip(properties.target_keys(entry), (3.5, 3.2, 3.1, 3.15, 3.0), strict=True):
        noise = rng.normal(size=100)
        edges = mean + 0.1 * (noise - noise.mean()) / noise.std(ddof=1)
        made = properties.beside_target(
            entry, properties.target_of(entry, key), {"edge": edges.tolist(), "depth": [30.0] * 100}
        )
        results[key.reverse] = Result(key, "", "", made)
    rows = {row[1:3]: row for row in tables._heard(entry, results).rows}
    sigma = 0.1 / math.sqrt(100) * math.sqrt(2)
    assert set(rows) == {("edge 3", "edge 4"), ("edge 2", "edge 4"), ("edge 2", "edge 3")}
    assert rows["edge 3", "edge 4"][5:] == (f"{0.1 / sigma:.1f}", "yes")
    assert rows["edge 2", "edge 4"][5:] == (f"{0.05 / sigma:.1f}", "no")
    assert rows["edge 2", "edge 3"][5:] == (f"{-0.05 / sigma:.1f}", "no")


def test_numbers_agree_by_correlation_and_error_of_those_that_both_know() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=400)
    found = 0.8 * truth + 0.6 * rng.normal(size=400)
    found[:10] = math.nan
    r, mae = properties.agreement("x", found, truth, "eV")
    assert r.metric.n == mae.metric.n == 390
    assert r.metric.value == pytest.approx(0.8, abs=3 * r.error)
    assert r.error == pytest.approx((1 - 0.64) / math.sqrt(390), rel=0.2)
    assert mae.metric.value == pytest.approx(np.abs(found - truth)[10:].mean())
    alike, _ = properties.agreement("x", np.ones(5), truth[:5], "eV")
    assert math.isnan(alike.metric.value)


def test_samples_count_for_a_formula_whatever_the_size_of_their_cell_and_failed_ones_do_not() -> None:
    gase = bilayer(("Se", "Ga", "Ga", "Se"), ("Se", "Ga", "Ga", "Se"))
    mono, other = start_of(("Se", "Ga", "Ga", "Se"), 20.0), start_of(("S", "Ga", "Ga", "Se"), 20.0)
    samples = [*map(Crystal.from_structure, (gase, mono, other)), failed_sample([31] * 4 + [34] * 4)]
    found = {m.metric.name: m.metric.value for m in asked.formula_metrics(samples, [{"Ga": 4, "Se": 4}])}
    assert found["of the formula"] == 50.0
    assert found["of its elements"] == 50.0
    assert found["of its number of atoms"] == 25.0
    two = [{"Ga": 4}, {"Ga": 2, "S": 1, "Se": 1}]
    either = {m.metric.name: m.metric.value for m in asked.formula_metrics(samples, two)}
    assert either["of the formula"] == 25.0


def test_neighbours_are_alike_where_groups_are_apart_and_as_by_chance_where_they_are_not() -> None:
    rng = np.random.default_rng(0)
    groups = ["a"] * 30 + ["b"] * 30
    apart = rng.normal(size=(60, 4)) + 50.0 * np.repeat([[0.0], [1.0]], 30, axis=0)
    assert asked._alike("z", apart, groups).metric.value == 100.0
    mixed = asked._alike("z", rng.normal(size=(60, 4)), groups)
    assert abs(mixed.metric.value - 50) < 12


def test_paper_bears_out_its_own_claims_of_its_tables() -> None:
    told = {claim.text: verdict_of(claim, PaperNumbers(), name_of) for claim in claims((-0.2, 0.0))}
    holds = {text for text, finding in told.items() if finding.verdict is Verdict.HOLDS}
    assert "The model reconstructs more bilayers than CDVAE" in holds
    assert "CDVAE reconstructs more of MP-20 than the model" in holds
    assert "More of its bilayers come to rest than of CDVAE's" in holds
    asked_for = "Asked for 0 the model gives higher energies than asked for -0.2"
    assert told[asked_for].verdict is Verdict.NOT_MEASURED  # the paper shows histograms, no numbers
    assert not OurNumbers({}).results
    assert asked.target_of(asked.target_key("j2dh-8", -0.2)) == -0.2
    assert asked.target_of(asked.target_key("j2dh-8", None)) is None
    assert ResultKey("energies", "j2dh-8", FOR_ENERGIES, "to0") == asked.target_key("j2dh-8", 0.0)
