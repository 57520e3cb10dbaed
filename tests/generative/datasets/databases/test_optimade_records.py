"""Single OPTIMADE structures: which become crystals, which are refused, and with what words. Nothing is asked."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from pymatgen.core.structure import Structure

from generative.datasets.config import OPTIMADE_PROVIDERS, OptimadeSource
from generative.datasets.databases.database import Record
from generative.datasets.databases.optimade_providers import COLUMNS, PROVIDERS, provider_of
from generative.datasets.records import Form, interpret
from generative.datasets.table import DATASET_SCHEMA
from tests.servers.optimade import Entry, OptimadeServer, alexandria_entry, structure_entry
from tests.servers.optimade_client import NOWHERE, database
from tests.servers.real import real_records


def salt() -> Entry:
    face_centred = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = np.concatenate([face_centred, face_centred + 0.5])
    structure = Structure(5.64 * np.eye(3), ["Na"] * 4 + ["Cl"] * 4, sites)
    return structure_entry("nacl", structure) | {
        "_alexandria_band_gap": 5.0,
        "_alexandria_energy_corrected": None,
        "_alexandria_formation_energy_per_atom": "N/A",
    }


def raw_of(entry: Entry) -> Any:
    attributes = {name: value for name, value in entry.items() if name not in ("id", "type")}
    record = Record(
        entry["id"], entry["last_modified"], {"id": entry["id"], "type": "structures", "attributes": attributes}
    )
    return database(NOWHERE).raw_record(record)


def species(**changes: Any) -> list[dict[str, Any]]:
    natural = {"name": "Na", "chemical_symbols": ["Na"], "concentration": [1.0]}
    return [natural | changes, {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nperiodic_dimensions": 2}, "nperiodic_dimensions is 2"),
        ({"dimension_types": [1, 1, 0]}, r"dimension_types is \[1, 1, 0\]"),
        ({"structure_features": ["disorder"]}, "structure_features is disorder"),
        ({"structure_features": ["implicit_atoms", "assemblies"]}, "implicit_atoms, assemblies"),
        ({"species": species(chemical_symbols=["Na", "K"], concentration=[0.5, 0.5])}, "one element per site"),
        ({"species": species(chemical_symbols=["Na", "vacancy"], concentration=[0.5, 0.5])}, "one element per site"),
        ({"species": species(chemical_symbols=["vacancy"])}, "'vacancy'"),
        ({"species": species(chemical_symbols=["X"])}, "'X'"),
        ({"species": species(chemical_symbols=["Rf"])}, "'Rf'.*H to Lr"),
        ({"species": species(chemical_symbols=[11])}, "11"),
        ({"species": species(chemical_symbols=None)}, "one element per site"),
        ({"species": species(concentration=[0.5])}, r"concentration \[0.5\].*fully occupied"),
        ({"species": species(concentration=["1"])}, "fully occupied"),
        ({"species": species(attached=["H"], nattached=[1])}, "attached"),
        ({"species": species(name=["Na"])}, "'Na', which species does not describe"),
        ({"species": None}, "species is None"),
        ({"species_at_sites": None}, "species_at_sites is None"),
        ({"species_at_sites": []}, "expected the name of a species"),
        ({"species_at_sites": ["Na"] * 8}, None),
        ({"species_at_sites": ["Na"] * 7}, "expected 7 x 3"),
        ({"nsites": 9}, "nsites is 9 beside 8 sites"),
        ({"lattice_vectors": None}, "lattice_vectors is None"),
        ({"lattice_vectors": [[1, 0, 0], [0, 1, 0], [None, None, None]]}, "lattice_vectors has .*nan.* as number 3"),
        ({"lattice_vectors": [[1, 0, 0], [0, 1, 0], [1, 1, 0]]}, "lie in a plane"),
        ({"lattice_vectors": [[1, 0], [0, 1, 0], [1, 1, 0]]}, "expected 3 x 3"),
        ({"cartesian_site_positions": None}, "cartesian_site_positions is None"),
        ({"cartesian_site_positions": [[None, 0, 0]] * 8}, "number 1: expected 8 x 3 finite numbers"),
        ({"cartesian_site_positions": [["x", 0, 0]] * 8}, "expected 8 x 3"),
        ({"cartesian_site_positions": {"a": 1}}, "expected 8 x 3"),
        ({"cartesian_site_positions": [[10**400, 0, 0]] * 8}, "expected 8 x 3"),
    ],
)
def test_what_is_no_ordered_crystal_is_refused_in_one_sentence(change: dict[str, Any], reason: str | None) -> None:
    raw = raw_of(salt() | change)
    if reason is None:
        assert raw.form is Form.CRYSTAL
        return
    assert raw.form is Form.REFUSED
    (batch,) = interpret(iter([raw]), "s", "m", None)
    (row,) = batch.rejected.to_pylist()
    assert batch.rows.num_rows == 0
    assert row["source_id"] == "nacl"
    assert "lattice_vectors" in row["record"]
    assert re.search(reason, row["reason"])


def test_a_record_without_attributes_is_refused() -> None:
    raw = database(NOWHERE).raw_record(Record("a", None, {"id": "a"}))
    assert raw.form is Form.REFUSED


def test_a_left_handed_cell_keeps_its_crystal() -> None:
    truth = real_records()[3].structure
    entry = structure_entry("left", truth)
    entry["lattice_vectors"] = [entry["lattice_vectors"][i] for i in (1, 0, 2)]
    (batch,) = interpret(iter([raw_of(entry)]), "s", "m", None)
    (row,) = batch.rows.to_pylist()
    lattice = np.array(row["lattice_ang"]).reshape(3, 3)
    assert np.linalg.det(lattice) > 0
    found = Structure(lattice, row["atomic_numbers"], np.array(row["frac_coords"]).reshape(-1, 3))
    # The same atoms at the same places: the distance of each to the nearest of the other crystal.
    apart = truth.lattice.get_all_distances(truth.frac_coords, truth.lattice.get_fractional_coords(found.cart_coords))
    assert apart.min(axis=0).max() < 1e-6


def test_a_missing_energy_is_an_empty_cell_and_no_refusal() -> None:
    (batch,) = interpret(iter([raw_of(salt())]), "s", "m", None)
    (row,) = batch.rows.to_pylist()
    assert row["energy_ev_per_atom"] is None
    assert row["formation_energy_ev_per_atom"] is None
    assert row["e_above_hull_ev_per_atom"] is None
    assert row["band_gap_ev"] == 5.0
    assert row["spacegroup"] == 225  # not stated, so found


@pytest.mark.parametrize("energy", ["low", {"value": 1.0}, float("inf")])
def test_an_energy_that_is_no_number_is_refused(energy: Any) -> None:
    (batch,) = interpret(iter([raw_of(salt() | {"_alexandria_hull_distance": energy})]), "s", "m", None)
    assert batch.rows.num_rows == 0
    assert "_alexandria_hull_distance" in batch.rejected.to_pylist()[0]["reason"]


def test_a_bad_record_among_good_ones_is_refused_alone() -> None:
    entries = [alexandria_entry(record) for record in real_records()[:6]]
    entries[2] |= {"species": None}
    entries[4] |= {"lattice_vectors": [[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1e-3]]}
    with OptimadeServer(entries) as running:
        asked = database(running.url)
        raws = [asked.raw_record(record) for record in asked.page(None).records]
    (batch,) = interpret(iter(raws), asked.name, asked.method, None)
    assert batch.rows.num_rows == 4
    assert {row["source_id"] for row in batch.rejected.to_pylist()} == {entries[2]["id"], entries[4]["id"]}


def test_settings_name_the_providers_whose_address_is_known() -> None:
    assert tuple(PROVIDERS) == OPTIMADE_PROVIDERS


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_known_provider_fills_columns_of_the_table_from_its_own_fields(name: str) -> None:
    provider = PROVIDERS[name]
    assert set(provider.fields) <= set(COLUMNS) <= set(DATASET_SCHEMA.names)
    assert all(path.startswith("_") for path in provider.fields.values())
    assert provider.per_cell <= set(provider.fields.values())
    assert provider_of(OptimadeSource(provider=name)) == provider  # an address in the form that the client wants
    assert provider.base_url.startswith("https://")
    assert provider.method != "unknown"
