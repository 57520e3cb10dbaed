"""modify: the ground state is found from a metastable crystal, and nothing is found below the ground state."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from configs.modification import ModifyConfig
from configs.schema import parse
from generative import checkpoints
from generative.crystal.crystals import Crystal, crystals_of
from generative.metrics.validity import unreadable
from generative.systems.baselines.substitution import PrototypeSubstitution
from generative.systems.unet.modifier import ModifierConfig, RegressionModifier
from tasks.discover.candidates import CANDIDATES, POLYMORPHS
from tasks.discover.own_files import OwnFileError
from tasks.discover.phonons import best as best_of
from tasks.discover.phonons import best_ranked, candidates_file, phonon_file
from tasks.discover.polymorphs import rank_polymorphs_file, write_modification
from tasks.discover.propose import (
    asked_of,
    given_crystals,
    given_file,
    propose_chunk_file,
    propose_chunks,
    reference_file,
)
from tasks.discover.relax import relax_chunk_file, relax_chunks
from tasks.discover.run import RunBusyError, locked
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.files import FileRef
from tasks.loading import identify
from tests.flows.conftest import prefect_client

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


@dataclass(frozen=True)
class Stages:
    """The files that a modification's stages leave, as the flow's tasks make them."""

    given: FileRef
    proposed: list[FileRef]
    unique: FileRef
    relaxed: list[FileRef]
    sources: list[FileRef]
    ranked: FileRef

    @property
    def all_files(self) -> list[FileRef]:
        return [*self.proposed, self.unique, *self.relaxed, *self.sources, self.ranked]


def stages(config: ModifyConfig) -> Stages:
    run, folder = config.as_run(), config.folder
    identity = identify(config.relax, config.execution)
    given, refused = given_crystals(config)
    assert not refused
    given_ref, known = given_file(given, folder), reference_file(config, folder)

    def relaxed(source: FileRef, shared: bool) -> list[FileRef]:
        return [relax_chunk_file(run, folder, identity, source, i, shared) for i in relax_chunks(source, run)]

    proposed = [propose_chunk_file(config, folder, given_ref, i) for i in propose_chunks(given_ref, config)]
    unique = unique_file(run, folder, [screen_chunk_file(run, folder, ref, None) for ref in proposed])
    sources, done = relaxed(given_ref, True), relaxed(unique, False)
    ranked = rank_polymorphs_file(config, folder, known, unique, done, sources)
    return Stages(given_ref, proposed, unique, done, sources, ranked)


def test_an_adaptive_cell_model_proposes_polymorphs_of_the_crystal_s_own_group_and_atoms(folder: Path) -> None:
    changes = {
        "sample": {
            "checkpoint": "package:hullward-adaptive-cell",
            "sampler": {"steps_per_level": 4, "at_once": True, "template_noise_ang": 0.15},
        },
        "n_candidates": 2,
        "relax": {"potential": "CHGNet", "max_steps": 2},
    }
    config = parse(ModifyConfig, settings(folder, **changes), "test")
    made = stages(config)
    crystals = [crystal for ref in made.proposed for crystal in crystals_of(ref.read())]
    groups = [
        SpacegroupAnalyzer(crystal.to_structure(), 0.01).get_space_group_number()
        for crystal in crystals
        if crystal is not None and not unreadable(crystal)
    ]
    assert len(crystals) == 4
    assert groups
    assert set(groups) <= {221, 225}
    assert len(made.ranked.read()) == 4


def test_the_ground_state_is_found_below_a_metastable_crystal_and_nothing_below_itself(folder: Path) -> None:
    config = parse(ModifyConfig, settings(folder), "test")
    made = stages(config)
    candidates = candidates_file(config.folder, made.ranked, [], POLYMORPHS)
    identity = identify(config.relax, config.execution)
    path = write_modification(config, config.folder, identity, candidates, made.sources)
    metastable, ground = json.loads(path.read_text())["crystals"]
    table = candidates.read()
    assert len(table) == 2 * config.n_candidates
    assert metastable["best"]["spacegroup_symbol"] == "Fm-3m"
    assert metastable["best"]["energy_change_ev_per_atom"] < -0.03
    assert metastable["best"]["known_match"] is not None
    assert ground["best"] is None
    assert sum(ground["turned_away"].values()) == config.n_candidates
    rows = table.to_pylist()
    assert metastable["n_lower"] == sum(row["rank"] is not None for row in rows)
    assert all(row["rejected_by"] and row["reason"] for row in rows if row["rank"] is None)
    (best,) = (i for i, row in enumerate(rows) if row["id"] == metastable["best"]["id"])
    found = crystals_of(table, "relaxed_")[best]
    assert found is not None
    assert StructureMatcher().fit(found.to_structure(), ROCK_SALT)
    energies = {row["id"]: row["energy_ev_per_atom"] for ref in made.sources for row in ref.read().to_pylist()}
    change = rows[best]["energy_ev_per_atom"] - energies[rows[best]["source_id"]]
    assert rows[best]["energy_change_ev_per_atom"] == pytest.approx(change)
    cifs = list((config.folder / "cifs").glob("*.cif"))
    assert len(cifs) == metastable["n_lower"]
    assert Structure.from_file(cifs[0]).composition.reduced_formula == "NaCl"
    assert not any(row["phonon_note"] or row["lowest_phonon_thz"] for row in rows)
    assert all(ref.reused for ref in stages(config).all_files)


def test_candidates_of_a_modification_have_the_columns_of_a_runs_but_those_of_the_hull(folder: Path) -> None:
    config = parse(ModifyConfig, settings(folder), "test")
    table = candidates_file(config.folder, stages(config).ranked, [], POLYMORPHS).read()
    own = {"source_id", "asked", "source_energy_ev_per_atom", "energy_change_ev_per_atom"}
    of_the_hull = {
        "formation_energy_ev_per_atom", "generated_formation_energy_ev_per_atom", "e_above_hull_ev_per_atom",
        "decomposition", "hull_note",
    }  # fmt: skip
    assert set(table.column_names) == ({f.name for f in CANDIDATES} - of_the_hull) | own
    assert {row["proposed_by"] for row in table.select(["proposed_by"]).to_pylist()} == {"generator"}
    assert sorted(table.column("index").to_pylist()) == list(range(12))


def test_an_interrupted_modification_goes_on_with_the_chunks_that_are_left(folder: Path) -> None:
    """Polymorphs of one crystal make a chunk here; what was drawn for the other one is not drawn again."""
    sample = {"checkpoint": str(folder / "prototypes"), "chunk_size": 6}
    config = parse(ModifyConfig, settings(folder, name="interrupted", sample=sample), "test")
    whole = stages(parse(ModifyConfig, settings(folder), "test"))
    made = stages(config)
    assert [ref.path.name for ref in made.proposed] == ["00000.parquet", "00001.parquet"]
    drawn = pa.concat_tables([ref.read() for ref in made.proposed])
    assert drawn.equals(pa.concat_tables([ref.read() for ref in whole.proposed]))
    before = [ref.path.read_bytes() for ref in made.all_files]
    made.proposed[1].path.unlink()
    made.ranked.path.unlink()
    again = stages(config)
    assert [ref.reused for ref in again.proposed] == [True, False]
    assert [ref.path.read_bytes() for ref in again.all_files] == before


def test_a_polymorph_drawn_for_two_crystals_counts_for_each_of_them(folder: Path) -> None:
    """Two metastable cells of one compound, of which the same lower crystal comes: neither is answered less."""
    other = folder / "stretched.cif"
    CAESIUM_CHLORIDE.copy().apply_strain(0.02, inplace=False).to(filename=str(other))
    crystals = [str(folder / "caesium-chloride.cif"), str(other)]
    config = parse(ModifyConfig, settings(folder, name="twice", crystals=crystals), "test")
    rows = stages(config).ranked.read().to_pylist()
    best = [row for row in rows if row["rank"] == 1]
    assert len({row["source_id"] for row in best}) == 2
    assert {row["spacegroup_symbol"] for row in best} == {"Fm-3m"}
    by_id = {row["id"]: row for row in rows}
    twins = [row for row in rows if row["duplicate_of"] is not None]
    assert twins
    assert all(by_id[row["duplicate_of"]]["source_id"] == row["source_id"] for row in twins)


def test_two_modifications_of_one_name_do_not_work_at_once(folder: Path) -> None:
    config = parse(ModifyConfig, settings(folder, name="busy"), "test")
    with locked(config.folder), pytest.raises(RunBusyError, match="in use by another process"), locked(config.folder):
        pass


def test_phonons_tell_the_lower_polymorph_from_a_saddle_point(folder: Path) -> None:
    """Rock salt is the ground state of NaCl; zinc blende and caesium chloride are minima or saddle points above it."""
    phonons = {"n_best": 1, "supercell_height_ang": 5, "relax_fmax_ev_per_ang": 0.02, "mesh_length_ang": 1}
    config = parse(ModifyConfig, settings(folder, phonons=phonons), "test")
    run, identity, made = config.as_run(), identify(config.relax, config.execution), stages(config)
    best = best_ranked(made.ranked, run)
    assert len(best) == 1

    def with_phonons() -> FileRef:
        found = [phonon_file(run, config.folder, identity, row["id"], c) for row, c in best_of(made.ranked, 1)]
        return candidates_file(config.folder, made.ranked, found, POLYMORPHS)

    candidates = with_phonons()
    rows = candidates.read().to_pylist()
    assert [row["rank"] for row in rows if row["lowest_phonon_thz"] is not None] == [1]
    path = write_modification(config, config.folder, identity, candidates, made.sources)
    metastable, _ = json.loads(path.read_text())["crystals"]
    assert metastable["best"]["spacegroup_symbol"] == "Fm-3m"
    assert metastable["best"]["dynamically_stable"] is True
    files = {file: file.stat().st_mtime_ns for file in (config.folder / "phonons").iterdir()}
    assert len(files) == 1
    assert with_phonons().reused
    assert {file: file.stat().st_mtime_ns for file in (config.folder / "phonons").iterdir()} == files


def test_a_modifier_starts_from_the_crystal_itself(folder: Path) -> None:
    """An untrained regression gives cells of nothing: all are turned away with the reason, none is lost."""
    torch.manual_seed(0)
    checkpoints.save(folder / "untrained", RegressionModifier(ModifierConfig(size="tiny")), {}, torch.float32)
    changes = {"sample": {"checkpoint": str(folder / "untrained")}, "name": "untrained"}
    drawn = stages(parse(ModifyConfig, settings(folder, **changes), "test")).ranked.read().to_pylist()
    assert len(drawn) == 12
    assert {row["proposed_by"] for row in drawn} == {"modifier"}
    assert {row["rejected_by"] for row in drawn} == {"validity"}
    assert all(row["reason"] for row in drawn)


def test_the_flow_leaves_candidates_summary_and_cifs(folder: Path, prefect_environment: dict[str, str]) -> None:
    from flows.modify import modify

    config = parse(ModifyConfig, settings(folder, name="flow"), "test")
    with prefect_client(prefect_environment):
        assert modify(config) == config.folder
    expected = candidates_file(config.folder, stages(config).ranked, [], POLYMORPHS)
    assert expected.reused
    found = json.loads((config.folder / "modification.json").read_text())["crystals"]
    assert [entry["n_lower"] > 0 for entry in found] == [True, False]
    assert len(list((config.folder / "cifs").glob("*.cif"))) == found[0]["n_lower"]


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
