from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from generative.datasets.databases.database import Record
from generative.datasets.records import Form, interpret
from tests.servers.aflux import (
    Entry,
    as_text,
    database,
)


def raw(entry: Entry, **changes: Any) -> Any:
    body = {name: value for name, value in (entry | changes).items() if value is not ...}
    return database("http://127.0.0.1:1/").raw_record(Record(entry["auid"], None, body))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"geometry": None}, "geometry is None: expected geometry, species, .* the entry has no structure"),
        ({"positions_fractional": ...}, "positions_fractional is None: .* the entry has no structure"),
        ({"positions_fractional": ""}, "the entry has no structure"),
        ({"geometry": [4, 4, 4, 90, 90]}, "expected 6 finite numbers"),
        ({"geometry": [4, 4, math.inf, 90, 90, 90]}, "expected 6 finite numbers"),
        ({"geometry": "4,4,wide,90,90,90"}, "geometry is '4,4,wide,90,90,90'"),
        ({"geometry": [4, -4, 4, 90, 90, 90]}, "a length of -4 A: expected positive numbers"),
        ({"geometry": [4, 4, 4, 150, 150, 90]}, "the angles 150, 150, 90 degrees: expected three that a cell can have"),
        ({"geometry": [4, 4, 4, 90, 180, 90]}, "expected three that a cell can have"),
        ({"species": ["Na", "Xx"]}, "species contains 'Xx': expected symbols from H to Lr"),
        ({"species": ["Na"]}, "species names 1 elements and composition 2"),
        ({"composition": [1, 0]}, "composition contains 0: expected whole numbers from 1"),
        ({"composition": [1.5, 1]}, r"composition contains 1\.5"),
        ({"composition": [1, 2]}, "composition counts 3 atoms and positions_fractional 2"),
        ({"natoms": 4}, "natoms is 4 and positions_fractional lists 2 atoms"),
        ({"positions_fractional": [[0, 0, 0], [0.5, 0.5]]}, "site 2 of positions_fractional is .* expected 3 finite"),
        ({"positions_fractional": [0, 0, 0, 0.5, 0.5, 0.5]}, "site 1 of positions_fractional is '0'"),
        ({"positions_fractional": [[0, 0, 0]] * 1001}, "lists 1001 atoms: expected 1 to 1000"),
        ({"volume_cell": -44.0}, r"volume_cell is -44 A\^3 and the volume of geometry 44\.\d+ A\^3"),
        ({"volume_cell": "51"}, "volume_cell is 51 A.* expected them to agree within 2%"),
    ],
)
def test_an_entry_that_is_no_crystal_is_refused_with_a_sentence(changes: Entry, sentence: str) -> None:
    found = raw(SALT, **changes)
    assert found.form is Form.REFUSED
    assert re.search(sentence, found.reason)
    (batch,) = interpret(iter([found]), "aflow", "PBE", None)
    assert batch.rejected.column("reason").to_pylist() == [found.reason]
    assert SALT["auid"] in batch.rejected.column("record").to_pylist()[0]


EDGE_ANG = 5.64 / math.sqrt(2)
SALT: Entry = {
    "auid": "aflow:0123456789abcdef",
    "aurl": "aflowlib.duke.edu:AFLOWDATA/LIB2_WEB/ClNa/1",
    "compound": "Cl1Na1",
    "geometry": [EDGE_ANG, EDGE_ANG, EDGE_ANG, 60, 60, 60],
    "species": ["Cl", "Na"],
    "composition": [1, 1],
    "positions_fractional": [[-1e-9, 1.5, 0.5], [0.5, 0, -1]],
    "natoms": 2,
    "volume_cell": 5.64**3 / 4,
    "energy_atom": -3.4,
    "dft_type": ["PAW_PBE"],
}


@pytest.mark.parametrize("encode", [lambda value: value, as_text], ids=["values", "text"])
def test_both_encodings_of_an_entry_are_the_same_crystal(encode: Any) -> None:
    found = raw({name: encode(value) for name, value in SALT.items()})
    assert found.form is Form.CRYSTAL
    assert found.content.atomic_numbers.tolist() == [17, 11]
    assert abs(np.linalg.det(found.content.lattice_ang)) == pytest.approx(5.64**3 / 4)
    (batch,) = interpret(iter([found]), "aflow", "PBE", None)
    (row,) = batch.rows.to_pylist()
    assert (row["formula"], row["energy_ev_per_atom"], row["band_gap_ev"]) == ("NaCl", -3.4, None)


def test_an_energy_that_is_null_leaves_the_crystal_without_one() -> None:
    for null in (None, "", "null", ...):
        (batch,) = interpret(iter([raw(SALT, energy_atom=null)]), "aflow", "PBE", None)
        assert batch.rows.column("energy_ev_per_atom").to_pylist() == [None]


@pytest.mark.parametrize(
    ("changes", "method", "run_type"),
    [
        ({}, "PBE (AFLOW)", "PAW_PBE"),
        ({"dft_type": "PAW_PBE", "ldau_type": 0}, "PBE (AFLOW)", "PAW_PBE"),
        ({"dft_type": "PAW_PBE,PAW_PBE", "ldau_type": "2"}, "PBE+U (AFLOW)", "PAW_PBE+U"),
        ({"ldau_TLUJ": "2;2,0;4,0;0,0"}, "PBE+U (AFLOW)", "PAW_PBE+U"),
        ({"ldau_TLUJ": "0;0;0;0"}, "PBE (AFLOW)", "PAW_PBE"),
        ({"dft_type": "PAW_LDA"}, "LDA (AFLOW)", "PAW_LDA"),
        ({"dft_type": ["LDA"]}, "LDA without PAW (AFLOW)", "LDA"),
        ({"dft_type": ["PAW_PBE_KIN:SCAN"]}, "PBE_KIN:SCAN (AFLOW)", "PAW_PBE_KIN:SCAN"),
        ({"dft_type": ["PAW_PBE", "PAW_LDA"]}, "unknown (AFLOW)", None),
        ({"dft_type": ...}, "unknown (AFLOW)", None),
        ({"dft_type": "<html>"}, "unknown (AFLOW)", None),
        ({"pressure": "50"}, "PBE at 50 kbar (AFLOW)", "PAW_PBE"),
    ],
)
def test_the_method_separates_what_cannot_share_a_hull(changes: Entry, method: str, run_type: str | None) -> None:
    found = raw(SALT, **changes)
    assert (found.method, found.run_type) == (method, run_type)
    assert ("pressure" in found.extra) == ("pressure" in changes)
