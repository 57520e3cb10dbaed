"""Training sets: what a dataset table becomes, how it is split and cut into batches."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import crystal_nn_bonds, pack_bonds
from generative.crystal.crystals import Crystal, structure_columns
from generative.datasets.table import DATASET_SCHEMA
from generative.training.data import TrainingError, TrainingSet, level_note, property_values, split, training_set


@pytest.fixture
def table(crystals: list[Crystal]) -> pa.Table:
    """Six rows: formation energies of three, total energies of all, and what a file says beside."""
    extra = [json.dumps({"heat_ref": value, "name": "x"}) for value in ("0.5", 1, None, "none", float("nan"))]
    columns = {
        "id": [f"f:{i}" for i in range(6)],
        "source_id": [str(i) for i in range(6)],
        "spacegroup": [225, None, 227, 191, 221, 229],
        "energy_ev_per_atom": [-float(i) for i in range(6)],
        "formation_energy_ev_per_atom": [-0.5, None, 0.0, None, float("nan"), -3.0],
        "extra": [*extra, None],
    }
    arrays = {name: pa.array(values, type=DATASET_SCHEMA.field(name).type) for name, values in columns.items()}
    return pa.table({**arrays, **structure_columns(crystals)})


def test_a_property_is_a_column_or_a_files_name_for_one_or_a_key_of_extra(table: pa.Table) -> None:
    assert property_values(table, "formation_energy_ev_per_atom") == [-0.5, None, 0.0, None, None, -3.0]
    for name in ("energy_ev_per_atom", "energy_per_atom"):
        assert property_values(table, name) == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    assert property_values(table, "heat_ref") == [0.5, 1.0, None, None, None, None]
    assert property_values(table, None) == [None] * 6


@pytest.mark.parametrize("name", ["heat", "source_id", "lattice_ang"])
def test_a_property_that_no_crystal_has_is_refused_with_those_there_are(table: pa.Table, name: str) -> None:
    with pytest.raises(TrainingError, match=rf"property is '{name}'.*energy_ev_per_atom.*heat_ref, name"):
        property_values(table, name)


def test_a_training_set_lacks_the_crystals_of_the_test_set(table: pa.Table) -> None:
    data = training_set(table, exclude=["1", "4"], property_name="energy_per_atom")
    assert data.ids == ["f:0", "f:2", "f:3", "f:5"]
    assert data.energies == [0.0, -2.0, -3.0, -5.0]
    assert data.spacegroups == [225, 227, 191, 229]
    assert [len(c.atomic_numbers) for c in data.crystals] == [2, 2, 3, 1]


@pytest.mark.parametrize("by", ["formula", "crystal"])
def test_what_is_held_out_does_not_depend_on_what_else_there_is(data: TrainingSet, by: str) -> None:
    train, held = split(data, 0.3, 0, by)  # type: ignore[arg-type]
    assert len(train) + len(held) == 60
    fewer, still = split(data.subset(range(0, 60, 2)), 0.3, 0, by)  # type: ignore[arg-type]
    assert set(fewer.ids) <= set(train.ids)
    assert set(still.ids) <= set(held.ids)


def test_a_batch_with_bonds_is_its_crystals_and_their_bonds_packed(data: TrainingSet) -> None:
    bonds = crystal_nn_bonds(data.crystals)
    bonded = TrainingSet(data.crystals, data.spacegroups, data.energies, data.ids, [b for b in bonds if b is not None])
    assert bonded.bonds is not None
    assert len(bonded.bonds) == 60
    rows = [17, 3, 3, 40, 2]
    batch = bonded[rows]
    packed = pack_bonds([bonded.bonds[i] for i in rows], [len(bonded.crystals[i].atomic_numbers) for i in rows])
    assert batch.bonds is not None
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(batch.bonds, packed, strict=True))
    expected = CrystalBatch.pack(
        [bonded.crystals[i] for i in rows], [bonded.spacegroups[i] for i in rows], [bonded.energies[i] for i in rows]
    )
    for name in ("frac", "atomic_numbers", "lattice_ang", "n_atoms", "spacegroup", "energy_ev_per_atom"):
        torch.testing.assert_close(
            getattr(batch, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True, msg=name
        )
    moved = batch.to("meta")
    assert moved.bonds is not None
    assert moved.bonds.image.device.type == "meta"
    assert batch.replace(bonds=None).to("cpu").bonds is None
    with pytest.raises(ValueError, match=r"bonds\.image has shape"):
        batch.replace(bonds=packed._replace(image=packed.image[:-1]))


def test_an_epoch_of_random_batches_holds_every_crystal_once(data: TrainingSet) -> None:
    batches = data.batches(16, np.random.default_rng(0), like_size=False)
    assert sorted(row for batch in batches for row in batch) == list(range(60))
    assert [len(batch) for batch in batches] == [16, 16, 16, 12]
    sizes = [{len(data.crystals[i].atomic_numbers) for i in batch} for batch in batches]
    assert min(map(len, sizes)) > 2


def test_energies_of_several_levels_of_theory_are_told_before_a_training() -> None:
    rng = np.random.default_rng(5)
    labels = [("PBE", None), ("PBE", "GGA+U"), ("r2SCAN (Materials Project)", "R2SCAN"), ("unknown", None)]
    for _ in range(20):
        drawn = rng.integers(0, len(labels), size=6)
        stated = [None if rng.random() < 0.4 else float(rng.normal()) for _ in drawn]
        table = pa.table(
            {
                "formation_energy_ev_per_atom": pa.array(stated, pa.float64()),
                "band_gap_ev": pa.array(stated, pa.float64()),
                "method": [labels[i][0] for i in drawn],
                "run_type": pa.array([labels[i][1] for i in drawn], pa.string()),
            }
        )
        n_levels = len({int(i) for i, value in zip(drawn, stated, strict=True) if value is not None})
        note = level_note(table, "formation_energy_per_atom")
        assert bool(note) is (n_levels > 1)
        assert not note or f"of {n_levels} levels of theory" in note
        assert level_note(table, "band_gap") == level_note(table, None) == ""
