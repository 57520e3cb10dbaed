"""The source of Janus bilayers: counted by group theory, built layer by layer, labelled, resumed."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.datasets.bilayers import (
    LABEL,
    Bilayers,
    RelaxedLayer,
    bilayers,
    drawn,
    monolayers,
    stacked,
    start_of,
)
from generative.datasets.config import BilayersSource, DataConfig
from generative.datasets.ingest import ingest
from generative.datasets.prototypes import ScoredCrystal
from generative.datasets.sources import SourceError, Surroundings, open_source
from generative.training.data import property_values
from storage.tables import read_table
from storage.vacuum import slab_of


class Counting:
    """Leaves crystals as they are; an atom has minus its atomic number as its energy, less 0.1 eV in a bilayer."""

    name, fingerprint = "counting", "0" * 64

    def __init__(self, stretch: float = 1.0, refused: str = "") -> None:
        self.n_scored, self.stretch, self.refused = 0, stretch, refused

    def __call__(self, structures: list[Structure]) -> list[ScoredCrystal]:
        self.n_scored += len(structures)
        return [self._scored(structure) for structure in structures]

    def _scored(self, structure: Structure) -> ScoredCrystal:
        if self.refused and self.refused in {site.specie.symbol for site in structure}:
            return ScoredCrystal(None, None, "exploded")
        matrix = structure.lattice.matrix * np.array([[1.0], [1.0], [self.stretch]])
        made = Structure(Lattice(matrix), structure.species, structure.frac_coords)
        energy = -float(np.mean([site.specie.Z for site in structure]))
        return ScoredCrystal(made, energy - (0.1 if len(structure) == 8 else 0.0))


def rows_of(source: Bilayers, elements: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    return [row for batch in source.batches(elements) for row in batch.rows.to_pylist()]


def test_there_are_as_many_monolayers_and_bilayers_as_the_papers_state() -> None:
    assert Counter(len(set(layer[1:3])) + len({layer[0], layer[3]}) for layer in monolayers()) == {2: 9, 3: 18, 4: 18}
    assert len(monolayers()) == 45
    assert len(bilayers()) == 19_926  # J2DH-8


def test_no_two_bilayers_of_different_faces_are_one_crystal() -> None:
    """Of two metals and two chalcogens, unrelaxed, all of one orientation and registry, by pymatgen; a mirror image of
    a bilayer turned upside down would match.
    """
    layers = {
        layer: RelaxedLayer(3.8, np.array([0.0, 1.1, 3.6, 4.7]), 0.0)
        for one in monolayers(("Ga", "In"), ("S", "Se"))
        for layer in (one, one[::-1])
    }
    chosen = [b for b in bilayers(("Ga", "In"), ("S", "Se")) if (b.orientation_deg, b.registry) == (60, "AA")]
    assert len(chosen) == 136  # 16 faces
    by_formula: dict[str, list[Structure]] = {}
    for one in chosen:
        made = stacked(one, layers[one.lower], layers[one.upper], 20.0)
        by_formula.setdefault(made.composition.formula, []).append(made)
    matcher = StructureMatcher(primitive_cell=False, scale=False, stol=0.1)
    for several in by_formula.values():
        assert len(matcher.group_structures(several[:12])) == len(several[:12])


def test_a_bilayer_has_its_layers_at_the_mean_lattice_constant_with_chalcogens_in_contact() -> None:
    lower = RelaxedLayer(3.6, np.array([0.0, 1.1, 3.6, 4.7]), -1.0)
    upper = RelaxedLayer(4.0, np.array([0.0, 1.3, 4.0, 5.1]), -2.0)
    radii = {"S": 1.80, "Se": 1.90, "Te": 2.06}
    for one in bilayers(("Ga",), ("S", "Te")):
        made = stacked(one, lower, upper, 20.0)
        assert made.lattice.a == pytest.approx(3.8)
        assert [site.specie.symbol for site in made] == [*one.lower, *one.upper]
        nearest = min(made.get_distance(i, j) for i, j in product(range(4), range(4, 8)))
        facing = made.get_distance(3, 4)
        assert facing == pytest.approx(radii[one.lower[3]] + radii[one.upper[0]], abs=1e-9)
        assert nearest <= facing + 1e-9
        found = slab_of(made.lattice.matrix, made.frac_coords)
        assert found is not None
        assert found.vacuum.width_ang == pytest.approx(20.0)


def test_a_monolayer_begins_with_bonds_of_the_right_length() -> None:
    made = start_of(("Te", "In", "In", "Te"), 20.0)
    assert made.lattice.a == pytest.approx(4.370)  # C2DB
    assert made.get_distance(0, 1) == pytest.approx(2.80, abs=1e-6)
    assert made.get_distance(1, 2) == pytest.approx(2.84, abs=1e-6)


def test_the_label_is_the_energy_less_that_of_both_monolayers_per_cell(tmp_path: Path) -> None:
    rows = rows_of(Bilayers(BilayersSource(limit=12), Counting(), tmp_path))
    assert len(rows) == 12
    for row in rows:
        extra = json.loads(row["extra"])
        assert extra[LABEL] == pytest.approx(-0.8, abs=1e-9)
        assert "not DFT" in extra["label"]
        assert row["method"] == "counting"
        assert row["formation_energy_ev_per_atom"] is None
        assert row["n_atoms"] == 8


def test_an_interrupted_ingest_scores_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    config = BilayersSource(limit=150)
    whole = Counting()
    expected = rows_of(Bilayers(config, whole, tmp_path / "whole"))

    class Interrupted(Counting):
        def __call__(self, structures: list[Structure]) -> list[ScoredCrystal]:
            if self.n_scored > 64:
                raise KeyboardInterrupt
            return super().__call__(structures)

    first, second = Interrupted(), Counting()
    with pytest.raises(KeyboardInterrupt):
        rows_of(Bilayers(config, first, tmp_path / "kept"))
    assert rows_of(Bilayers(config, second, tmp_path / "kept")) == expected
    assert first.n_scored + second.n_scored == whole.n_scored


def test_a_larger_limit_adds_to_a_smaller_one_and_another_seed_draws_others() -> None:
    few, many = (drawn(BilayersSource(limit=n)) for n in (20, 60))
    assert many[:20] == few
    assert drawn(BilayersSource(limit=20, seed=1)) != few
    assert len(drawn(BilayersSource(limit=None))) == 19_926
    only = drawn(BilayersSource(limit=None), ("Ga", "Se", "O"))
    assert {one.lower for one in only} == {("Se", "Ga", "Ga", "Se")}
    assert len(only) == 6


def test_bilayers_of_a_monolayer_that_does_not_relax_are_turned_away_with_the_reason(tmp_path: Path) -> None:
    (batch,) = Bilayers(BilayersSource(limit=40), Counting(refused="Te"), tmp_path).batches(None)
    assert batch.n_read == len(batch.rows) + len(batch.rejected) == 40
    reasons = batch.rejected.to_pylist()
    assert reasons
    assert all("its monolayer" in row["reason"] for row in reasons)
    assert all("exploded" in row["reason"] for row in reasons)


def test_a_potential_that_lets_the_vacuum_go_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="set relax.vacuum to held"):
        rows_of(Bilayers(BilayersSource(limit=4), Counting(stretch=0.9), tmp_path))


def test_without_a_potential_or_a_metal_there_are_none(tmp_path: Path) -> None:
    around = Surroundings(Path, DataConfig().filters, None, None, None, 1)
    with pytest.raises(SourceError, match="needs a potential"):
        open_source(BilayersSource(), around)
    with pytest.raises(SourceError, match="make no bilayer"):
        rows_of(Bilayers(BilayersSource(), Counting(), tmp_path), ("Ga", "O"))


def test_the_label_is_a_number_that_training_can_name(tmp_path: Path) -> None:
    data = DataConfig(sources=(BilayersSource(limit=5),))
    manifest = ingest(data, None, tmp_path, Path, Counting())
    assert manifest.n_rows == 5
    assert "stand-in" in manifest.sources[0].query
    table = read_table(tmp_path / "dataset.parquet", "ingest it again")
    assert property_values(table, LABEL) == pytest.approx([-0.8] * 5)
