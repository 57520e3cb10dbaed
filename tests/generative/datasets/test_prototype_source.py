"""Decorated prototypes: what is made, that volumes are sensible, and the hull of their scored energies."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.datasets.config import DataConfig, PrototypesSource
from generative.datasets.ingest import ingest
from generative.datasets.manifest import read_dataset
from generative.datasets.prototypes import ScoredCrystal, decorate, elemental_volume_ang3, rescaled
from generative.datasets.sources import SourceError

SMALL = PrototypesSource(n_elements_max=2, n_atoms_max=4, per_formula_max=4)
MU = {"Na": -1.3, "Cl": -1.8}


class BondScorer:
    """An exact model: the elements' own energies, and -1 eV/atom for every compound with as many Na as Cl."""

    name = "bond model"

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, structures: list[Structure]) -> list[ScoredCrystal]:
        self.n_calls += 1
        return [self.score(structure) for structure in structures]

    def score(self, structure: Structure) -> ScoredCrystal:
        counts = Counter(site.specie.symbol for site in structure)
        if counts["Na"] == 3 * counts["Cl"]:
            return ScoredCrystal(None, None, "exploded: the volume grew 40 times")
        if counts["Cl"] == 3 * counts["Na"]:
            return ScoredCrystal(structure, math.nan)
        energy = sum(MU[symbol] * n for symbol, n in counts.items()) / len(structure)
        if counts["Na"] == counts["Cl"]:
            energy -= 1.0
        if len(counts) == 1 and len(structure) > 1:
            energy += 0.2  # only the one-atom prototypes are the elements' ground states
        return ScoredCrystal(structure, energy)


@pytest.fixture(scope="module")
def salts() -> list[tuple[str, Structure]]:
    return [(d.name, d.structure) for d in decorate(["Cl", "Na"], SMALL)]


def test_textbook_structures_are_among_the_decorations(salts: list[tuple[str, Structure]]) -> None:
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cesium_chloride = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    bcc = Structure(Lattice.cubic(4.2), ["Na", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    matcher = StructureMatcher()
    for known in (rock_salt, cesium_chloride, bcc):
        assert any(matcher.fit(known, structure) for _, structure in salts), known.formula


def test_decorations_are_distinct_limited_and_in_a_fixed_order(salts: list[tuple[str, Structure]]) -> None:
    assert len({name for name, _ in salts}) == len(salts)
    by_formula: dict[str, list[Structure]] = {}
    for _, structure in salts:
        assert len(structure) <= 4
        by_formula.setdefault(structure.composition.reduced_formula, []).append(structure)
    assert {"Na", "Cl2", "NaCl", "Na2Cl", "NaCl2", "Na3Cl", "NaCl3"} <= by_formula.keys()
    matcher = StructureMatcher()
    for formula, structures in by_formula.items():
        assert [len(s) for s in structures] == sorted(len(s) for s in structures)
        assert len(structures) <= 4 or formula in ("Na", "Cl2")
        for i, one in enumerate(structures):
            for other in structures[:i]:
                assert len(one) != len(other) or not matcher.fit(one, other)
    again = decorate(["Na", "Cl", "Na"], SMALL)
    assert [(d.name, d.structure) for d in again] == salts


def test_no_decoration_collapses_or_explodes(salts: list[tuple[str, Structure]]) -> None:
    for name, structure in salts:
        additive = sum(elemental_volume_ang3(site.specie.symbol) for site in structure)
        assert 0.4 <= structure.volume / additive <= 2.0, name
        assert structure.is_valid(tol=0.7), name


def test_the_volume_estimate_is_near_known_crystals() -> None:
    known = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.24), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup("Im-3m", Lattice.cubic(3.16), ["W"], [[0, 0, 0]]),
        Structure.from_spacegroup("F-43m", Lattice.cubic(5.65), ["Ga", "As"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    ]
    for structure in known:
        shrunk = structure.copy()
        shrunk.scale_lattice(structure.volume / 8)
        assert rescaled(shrunk).volume == pytest.approx(structure.volume, rel=0.25), structure.formula


def test_scored_prototypes_have_the_hull_of_the_exact_model(tmp_path: Path) -> None:
    scorer = BondScorer()
    config = DataConfig(sources=(SMALL,))
    manifest = ingest(config, ("Na", "Cl"), tmp_path, lambda path: Path(path), scorer)
    found = read_dataset(tmp_path)
    rows = found.table.to_pylist()
    for row in rows:
        x = sum(z == 17 for z in row["atomic_numbers"]) / row["n_atoms"]
        hull = -min(x, 1 - x) * 2  # the tie lines from NaCl at -1 eV/atom to both elements
        formation = row["energy_ev_per_atom"] - (1 - x) * MU["Na"] - x * MU["Cl"]
        assert row["formation_energy_ev_per_atom"] == pytest.approx(formation, abs=1e-9)
        assert row["e_above_hull_ev_per_atom"] == pytest.approx(formation - hull, abs=1e-9)
        assert row["method"] == "bond model"
        assert row["source"] == "prototypes"
        assert row["source_id"].startswith("A")
    assert any(row["formula"] == "NaCl" and row["e_above_hull_ev_per_atom"] == 0 for row in rows)
    reasons = {row["reason"] for row in found.rejected.to_pylist()}
    assert reasons == {
        "exploded: the volume grew 40 times",
        "bond model gave the energy nan eV/atom: expected a finite number",
    }
    (record,) = manifest.sources
    assert record.n_read == len(rows) + len(found.rejected)
    assert record.kind == "prototypes"
    assert "elements Cl-Na" in record.query
    assert record.database_version is not None
    assert "sha256:" in record.database_version


def test_an_element_without_a_phase_costs_only_its_own_rows_their_hull(tmp_path: Path) -> None:
    class NoChlorine(BondScorer):
        def score(self, structure: Structure) -> ScoredCrystal:
            if structure.composition.reduced_formula == "Cl2":
                return ScoredCrystal(None, None, "step cap")
            return super().score(structure)

    ingest(DataConfig(sources=(SMALL,)), ("Na", "Cl"), tmp_path, lambda path: Path(path), NoChlorine())
    for row in read_dataset(tmp_path).table.to_pylist():
        assert (row["formation_energy_ev_per_atom"] is None) == ("Cl" in row["chemsys"])
        assert (row["e_above_hull_ev_per_atom"] is None) == ("Cl" in row["chemsys"])


def test_prototypes_say_what_they_miss(tmp_path: Path) -> None:
    config = DataConfig(sources=(SMALL,))
    with pytest.raises(SourceError, match="needs a chemical system"):
        ingest(config, None, tmp_path, lambda path: Path(path), BondScorer())
    with pytest.raises(SourceError, match="needs a potential"):
        ingest(config, ("Na", "Cl"), tmp_path, lambda path: Path(path), None)
