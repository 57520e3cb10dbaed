"""Phonons of candidates: known minima and saddle points, what a table says of them, and what is not computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, structure_columns
from tasks.discover.candidates import RANKED, table_of
from tasks.discover.phonons import best, candidates_file, phonon_figures, phonon_file
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity, identify

ALUMINIUM = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.05), ["Al"], [[0, 0, 0]]).get_primitive_structure()
TITANIUM = Structure(Lattice.cubic(3.25), ["Ti"] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])
POLONIUM = Structure(Lattice.cubic(3.3), ["Po"], [[0, 0, 0]])


@pytest.fixture(scope="module")
def config() -> DiscoverConfig:
    small = {"n_best": 3, "supercell_height_ang": 6, "supercell_atoms_max": 64, "mesh_length_ang": 10}
    execution = {"torch_threads": 1, "device": "cpu"}
    return DiscoverConfig.model_validate(
        {"relax": {"potential": "CHGNet", "fallback": None}, "phonons": small, "execution": execution}
    )


@pytest.fixture(scope="module")
def identity(config: DiscoverConfig) -> PotentialIdentity:
    return identify(config.relax, config.execution)


def ranked_file(folder: Path, structures: list[Structure]) -> FileRef:
    """Ranked candidates, in this order, and one that was turned away."""
    crystals = [Crystal.from_structure(s) for s in structures]
    rows: list[dict[str, Any]] = [
        {"rank": place + 1, "id": f"{place:016x}", "formula": s.composition.reduced_formula}
        for place, s in enumerate(structures)
    ]
    columns = structure_columns(crystals, prefix="relaxed_")
    for name, values in columns.items():
        for row, value in zip(rows, values.to_pylist(), strict=True):
            row[name] = value
    rows.append({"id": "f" * 16, "formula": "Al", "rejected_by": "known", "reason": "matches Al"})
    write_table(table_of(rows, RANKED), folder / "ranked.parquet", "key")
    return FileRef.of(folder / "ranked.parquet")


def test_aluminium_is_a_minimum_body_centred_titanium_a_saddle_point_and_a_failure_costs_the_others_nothing(
    config: DiscoverConfig, identity: PotentialIdentity, tmp_path: Path
) -> None:
    """bcc titanium falls apart into hcp at 0 K; polonium is an element that the potential was not trained on."""
    ranked = ranked_file(tmp_path, [ALUMINIUM, TITANIUM, POLONIUM])
    phonons = [phonon_file(config, tmp_path, identity, row["id"], crystal) for row, crystal in best(ranked, 3)]
    assert not any(ref.reused for ref in phonons)
    ref = candidates_file(tmp_path, ranked, phonons)
    stable, saddle, failed, rejected = ref.read().to_pylist()
    assert stable["dynamically_stable"] is True
    assert stable["lowest_phonon_thz"] > -0.1
    assert saddle["dynamically_stable"] is False
    assert saddle["lowest_phonon_thz"] < -0.5
    for row in (failed, rejected):
        assert (row["lowest_phonon_thz"], row["dynamically_stable"]) == (None, None)
    assert "Po" in failed["phonon_note"]
    assert rejected["phonon_note"] is None
    figures = phonon_figures(ref, tmp_path, 3)
    assert [figure.rank for figure in figures] == [1, 2, 3]
    assert figures[2].notes == failed["phonon_note"]

    again = [phonon_file(config, tmp_path, identity, row["id"], crystal) for row, crystal in best(ranked, 3)]
    assert all(one.reused for one in again)
    assert candidates_file(tmp_path, ranked, again).reused
    fewer = candidates_file(tmp_path, ranked, again[:1])
    assert not fewer.reused
    assert [row["dynamically_stable"] for row in fewer.read().to_pylist()] == [True, None, None, None]
