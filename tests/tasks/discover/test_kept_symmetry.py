"""Crystals that keep their space group while they relax, on their way through a run's tables.

A spring potential stands in for trained weights: simple cubic crystals are saddle points of it, close-packed minima.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pymatgen.core.structure import Structure

from configs.schema import DiscoverConfig
from dft.config import RelaxConfig
from dft.potentials.loading import LoadedPotential
from dft.potentials.release import nudged
from generative.crystal.crystals import Crystal, structure_columns
from tasks.discover.candidates import CANDIDATES, KEPT, RANKED, RELAXED, Proposer, joined, table_of
from tasks.discover.own_files import as_candidates, relax_crystals
from tasks.discover.phonons import candidates_file
from tasks.discover.relax import relax_chunk_file, relax_table
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity
from tests.dft.potentials.pair_potential import pairs
from tests.tasks.evaluate.test_evaluate import FACES, cubic

SADDLE, MINIMUM = cubic(2.7, ["Ar"], [[0, 0, 0]]), cubic(3.9, ["Ar"] * 4, FACES)
GENERAL = nudged(MINIMUM, 0.3)
KEPT_NAMES = [field.name for field in KEPT]


@pytest.fixture
def springs(monkeypatch: pytest.MonkeyPatch) -> LoadedPotential:
    """The potential that every stage finds instead of trained weights."""
    loaded = pairs()
    monkeypatch.setattr("tasks.discover.relax.potential", lambda relax, execution: loaded)
    return loaded


def settings(**relax: Any) -> DiscoverConfig:
    return DiscoverConfig(name="springs", elements=("Ar", "Ne"), conditions={"n_elements_min": 2}, relax=relax)


def given() -> pa.Table:
    crystals = {"saddle": SADDLE, "minimum": MINIMUM, "general": GENERAL}
    columns = structure_columns([Crystal.from_structure(structure) for structure in crystals.values()])
    return as_candidates(pa.table({"id": pa.array(list(crystals), pa.string()), **columns}))


def written(table: pa.Table, path: Path) -> FileRef:
    write_table(table, path)
    return FileRef.of(path)


def test_a_table_says_which_groups_were_kept_and_which_of_their_crystals_are_saddle_points(
    springs: LoadedPotential,
) -> None:
    table = relax_table(given(), settings(symmetry="kept"))
    saddle, minimum, general = table.to_pylist()
    assert table.column_names == [*(f.name for f in RELAXED), *KEPT_NAMES]
    assert (saddle["kept_spacegroup"], saddle["is_symmetric_minimum"], saddle["is_released"]) == (221, False, True)
    assert saddle["released_spacegroup"] != 221
    assert saddle["broken_by_ang"] > 0.1
    assert saddle["energy_ev_per_atom"] == saddle["released_energy_ev_per_atom"] < saddle["kept_energy_ev_per_atom"]
    assert (minimum["kept_spacegroup"], minimum["is_symmetric_minimum"], minimum["is_released"]) == (225, True, False)
    assert minimum["energy_ev_per_atom"] == minimum["kept_energy_ev_per_atom"]
    assert 0 < minimum["release_steps"] < minimum["relax_steps"]
    assert {general[name] for name in KEPT_NAMES} == {None}


def test_a_run_that_keeps_no_group_has_the_columns_and_numbers_of_before(springs: LoadedPotential) -> None:
    assert relax_table(given(), settings()).column_names == [f.name for f in RELAXED]
    free, kept = (relax_table(given().slice(2), settings(symmetry=symmetry)) for symmetry in ("free", "kept"))
    assert free.equals(joined([kept], RELAXED))


def test_candidates_have_what_their_relaxation_says_and_prototypes_that_of_their_phase(
    springs: LoadedPotential, tmp_path: Path
) -> None:
    relaxed = written(relax_table(given(), settings(symmetry="kept")), tmp_path / "relaxed.parquet")
    rows = [
        {"id": "minimum", "proposed_by": Proposer.GENERATOR.value},
        {"id": "p", "proposed_by": Proposer.PROTOTYPE.value, "prototype_match": "saddle"},
        {"id": "rejected", "proposed_by": Proposer.GENERATOR.value, "prototype_match": "saddle"},
    ]
    ranked = written(table_of(rows, RANKED), tmp_path / "ranked.parquet")
    table = candidates_file(tmp_path, ranked, [], relaxed=[relaxed]).read()
    assert table.column_names == [*(f.name for f in CANDIDATES), *KEPT_NAMES]
    assert table.column("kept_spacegroup").to_pylist() == [225, 221, None]
    assert table.column("is_symmetric_minimum").to_pylist() == [True, False, None]
    free = written(relax_table(given(), settings()), tmp_path / "free.parquet")
    assert candidates_file(tmp_path, ranked, [], relaxed=[free]).read().column_names == [f.name for f in CANDIDATES]


def test_a_chunk_is_computed_again_when_its_groups_are_to_be_kept_and_not_for_settings_that_then_decide_nothing(
    springs: LoadedPotential, tmp_path: Path
) -> None:
    source = written(given(), tmp_path / "given.parquet")
    identity = PotentialIdentity(name="springs", method=springs.method, fingerprint="0" * 64, notes=())

    def is_reused(**relax: Any) -> bool:
        return relax_chunk_file(settings(**relax), tmp_path, identity, source, 0, shared=False).reused

    assert not is_reused()
    assert is_reused(symprec_ang=0.1, release_displacement_ang=0.2, symmetric_fmax_ev_per_ang=0.02)
    assert not is_reused(symmetry="kept")
    assert is_reused(symmetry="kept")
    assert not is_reused(symmetry="kept", symprec_ang=0.1)


def test_settings_that_decide_nothing_are_not_in_the_key_of_a_free_relaxation() -> None:
    before = {"fmax_ev_per_ang", "max_steps", "pressure_gpa", "batch_atoms_max"}
    before |= {"explode_force_ev_per_ang", "explode_volume_ratio"}
    assert set(RelaxConfig().criteria()) == before
    assert set(RelaxConfig(symmetry="kept").criteria()) - before == {
        "symmetry",
        "symprec_ang",
        "symmetric_fmax_ev_per_ang",
        "release_displacement_ang",
        "release_tolerance_ev_per_atom",
    }


def test_files_of_a_users_own_keep_their_groups_too(springs: LoadedPotential) -> None:
    own: Structure = SADDLE
    columns = structure_columns([Crystal.from_structure(own)])
    table = pa.table({"id": pa.array(["mine"], pa.string()), **columns})
    (row,) = relax_crystals(table, settings(symmetry="kept")).to_pylist()
    assert (row["kept_spacegroup"], row["is_symmetric_minimum"]) == (221, False)
