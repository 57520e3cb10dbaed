"""modify: the ground state is found from a metastable crystal, and nothing is found below the ground state."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.modification import ModifyConfig
from configs.schema import parse
from generative import checkpoints
from generative.crystal.crystals import Crystal, crystals_of
from generative.systems.baselines.substitution import PrototypeSubstitution
from generative.systems.unet.modifier import ModifierConfig, RegressionModifier
from tasks.discover.modification import (
    asked_of,
    given_crystals,
    judge_polymorphs,
    proposals_file,
    relaxed_file,
    summary_of,
    with_polymorph_phonons,
    write_modification,
)
from tasks.discover.own_files import OwnFileError
from tasks.loading import identify

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
CAESIUM_CHLORIDE = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
ZINC_BLENDE = Structure.from_spacegroup("F-43m", Lattice.cubic(6.1), ["Na", "Cl"], [[0, 0, 0], [0.25] * 3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two polymorphs of NaCl as files, and a generator that knows three prototypes of it."""
    place = tmp_path_factory.mktemp("modify")
    for name, structure in (("rock-salt", ROCK_SALT), ("caesium-chloride", CAESIUM_CHLORIDE)):
        structure.to(filename=str(place / f"{name}.cif"))
    known = [Crystal.from_structure(s.get_primitive_structure()) for s in (ROCK_SALT, CAESIUM_CHLORIDE, ZINC_BLENDE)]
    torch.manual_seed(0)
    checkpoints.save(place / "prototypes", PrototypeSubstitution.of(known, [225, 221, 216]), {}, torch.float32)
    return place


def settings(folder: Path, **changes: object) -> dict[str, object]:
    return {
        "crystals": [str(folder / "caesium-chloride.cif"), str(folder / "rock-salt.cif")],
        "reference": str(folder / "rock-salt.cif"),
        "n_candidates": 6,
        "spacegroups": [],
        "sample": {"checkpoint": str(folder / "prototypes")},
        "relax": {"potential": "CHGNet"},
        "execution": {"runs_folder": str(folder / "runs"), "torch_threads": 1},
        **changes,
    }


def test_the_ground_state_is_found_below_a_metastable_crystal_and_nothing_below_itself(folder: Path) -> None:
    config = parse(ModifyConfig, settings(folder), "test")
    given, refused = given_crystals(config)
    assert not refused
    proposed = proposals_file(config, given)
    identity = identify(config.relax, config.execution)
    relaxed = relaxed_file(config, proposed, identity)
    table = judge_polymorphs(proposed.read(), relaxed.read(), config)
    assert len(table) == 2 * (1 + config.n_candidates)
    metastable, ground = summary_of(table)
    assert metastable["best"]["spacegroup_symbol"] == "Fm-3m"
    assert metastable["best"]["energy_change_ev_per_atom"] < -0.03
    assert metastable["best"]["known_match"] is not None
    assert ground["best"] is None
    assert sum(ground["turned_away"].values()) == config.n_candidates
    rows = table.to_pylist()
    (best,) = (i for i, row in enumerate(rows) if row["id"] == metastable["best"]["id"])
    found = crystals_of(table, "relaxed_")[best]
    assert found is not None
    assert StructureMatcher().fit(found.to_structure(), ROCK_SALT)
    energies = {row["id"]: row["energy_ev_per_atom"] for row in rows if row["source_id"] is None}
    change = rows[best]["energy_ev_per_atom"] - energies[rows[best]["source_id"]]
    assert rows[best]["energy_change_ev_per_atom"] == pytest.approx(change)
    path = write_modification(config, table, identity)
    assert json.loads(path.read_text())["crystals"][0]["n_lower"] == metastable["n_lower"]
    assert len(list((config.folder / "cifs").glob("*.cif"))) == sum(row["rank"] is not None for row in rows)
    assert pq.read_table(config.folder / "polymorphs.parquet").num_rows == len(table)
    assert not any(row["phonon_note"] or row["lowest_phonon_thz"] for row in rows)
    assert proposals_file(config, given).reused
    assert relaxed_file(config, proposed, identity).reused


def test_phonons_tell_the_lower_polymorph_from_a_saddle_point(folder: Path) -> None:
    """Rock salt is the ground state of NaCl; zinc blende and caesium chloride are minima or saddle points above it."""
    phonons = {"n_best": 1, "supercell_height_ang": 5, "relax_fmax_ev_per_ang": 0.02, "mesh_length_ang": 1}
    config = parse(ModifyConfig, settings(folder, phonons=phonons), "test")
    given, _ = given_crystals(config)
    proposed = proposals_file(config, given)
    identity = identify(config.relax, config.execution)
    table = judge_polymorphs(proposed.read(), relaxed_file(config, proposed, identity).read(), config)
    shaken = with_polymorph_phonons(table, config, identity)
    assert shaken.schema == table.schema
    rows = shaken.to_pylist()
    assert [row["rank"] for row in rows if row["lowest_phonon_thz"] is not None] == [1]
    metastable, _ = summary_of(shaken)
    assert metastable["best"]["spacegroup_symbol"] == "Fm-3m"
    assert metastable["best"]["dynamically_stable"] is True
    files = {file: file.stat().st_mtime_ns for file in (config.folder / "phonons").iterdir()}
    assert len(files) == 1
    assert with_polymorph_phonons(table, config, identity).equals(shaken)
    assert {file: file.stat().st_mtime_ns for file in (config.folder / "phonons").iterdir()} == files


def test_a_modifier_starts_from_the_crystal_itself(folder: Path) -> None:
    """An untrained regression gives cells of nothing: all are turned away with the reason, none is lost."""
    torch.manual_seed(0)
    checkpoints.save(folder / "untrained", RegressionModifier(ModifierConfig(size="tiny")), {}, torch.float32)
    changes = {"sample": {"checkpoint": str(folder / "untrained")}, "name": "untrained"}
    config = parse(ModifyConfig, settings(folder, **changes), "test")
    table = proposals_file(config, given_crystals(config)[0]).read()
    drawn = [row for row in table.to_pylist() if row["source_id"] is not None]
    assert len(drawn) == 12
    assert {row["rejected_by"] for row in drawn} == {"validity"}
    assert all(row["reason"] for row in drawn)


def test_every_space_group_is_asked_for_with_every_change_of_energy(folder: Path) -> None:
    changes = {"spacegroups": [225, 12], "energy_changes_ev_per_atom": [-0.1, -0.2], "n_candidates": 7}
    asked = asked_of(parse(ModifyConfig, settings(folder, **changes), "test"))
    assert asked[:6] == [(None, -0.1), (225, -0.1), (12, -0.1), (None, -0.2), (225, -0.2), (12, -0.2)]
    assert asked[6] == asked[0]


def test_of_a_data_set_only_metastable_crystals_are_taken_and_of_these_as_many_as_asked(
    folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "known.csv"
    with table.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["material_id", "cif", "e_above_hull"])
        for number, above in enumerate((0.0, 0.04, 0.2, None, 0.05)):
            cif = Structure.from_spacegroup(225, Lattice.cubic(5 + number), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
            rows.writerow([f"m{number}", cif.to(fmt="cif"), above])

    def taken(**changes: object) -> list[str]:
        config = parse(ModifyConfig, settings(folder, **{"crystals": [str(table)], **changes}), "test")
        return [str(name) for name in given_crystals(config)[0].column("source_id").to_pylist()]

    assert taken() == ["m0", "m1", "m2", "m3", "m4"]
    assert taken(above_hull_min_ev_per_atom=0.04) == ["m1", "m2", "m4"]
    some = taken(above_hull_min_ev_per_atom=0.04, limit=2)
    assert len(some) == 2
    assert set(some) < {"m1", "m2", "m4"}
    assert some == taken(above_hull_min_ev_per_atom=0.04, limit=2)
    with pytest.raises(
        OwnFileError, match=r"above_hull_min_ev_per_atom is 0.3, .* the highest of 5 lies 0.2 above hull"
    ):
        taken(above_hull_min_ev_per_atom=0.3)
    with pytest.raises(OwnFileError, match="none of 1 crystals states one"):
        taken(crystals=[str(folder / "rock-salt.cif")], above_hull_min_ev_per_atom=0.01)
