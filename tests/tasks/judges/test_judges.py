"""The benchmark of judges on a dozen crystals of Al, Ni and Ti, against pymatgen's hull and the potential itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from configs.judges import JudgesConfig
from dft.potentials.calibration import calibration_from
from dft.potentials.loading import load_potential
from dft.potentials.relaxation import evaluate
from tasks.judges import energies
from tasks.judges.stages import judges
from tasks.judges.truth import Truth, read_crystals, read_phases
from tests.flows.conftest import known_phases

FORMATION = {"Al": 0.0, "Ni": 0.0, "Ti": 0.0, "AlNi": -0.66, "NiTi": -0.37, "AlNi3": -0.44, "AlTi": -0.41,
             "AlTi3": -0.27}  # fmt: skip
LABELLED = {"AlTi2": ([13, 22, 22], -0.45), "Ni3Ti": ([28, 28, 28, 22], -0.2)}
"""Phases of which the energy alone is known; the second lies above the hull and changes nothing."""
CRYSTALS = {"AlNi2Ti": -0.60, "AlTi3": -0.20, "AlNi": -0.70}


def write(path: Path, energies: dict[str, float], structures: dict[str, Structure]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["material_id", "formation_energy_per_atom", "cif"])
        for name, energy in energies.items():
            rows.writerow([f"mp-{name}", energy, str(CifWriter(structures[name]))])
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> JudgesConfig:
    folder = tmp_path_factory.mktemp("judges")
    labels = {
        "material_id": [f"mp-{name}" for name in LABELLED],
        "atomic_numbers": [numbers for numbers, _ in LABELLED.values()],
        "formation_energy_per_atom": [energy for _, energy in LABELLED.values()],
    }
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    return JudgesConfig.model_validate(
        {
            "potentials": [{"potential": "CHGNet", "n_relaxed": 1}],
            "crystals": {"kind": "files", "path": str(write(folder / "crystals.csv", CRYSTALS, known_phases()))},
            "phases": [{"kind": "files", "path": str(write(folder / "phases.csv", FORMATION, known_phases()))}],
            "labels": str(folder / "labels.parquet"),
            "competing_within_ev_per_atom": 0.5,
            "relax": {"max_steps": 2},
            "chunk_size": 4,
            "execution": {"runs_folder": str(folder / "runs"), "torch_threads": 1, "device": "cpu"},
        }
    )


def silent(what: str, done: int, total: int) -> None:
    pass


def test_the_hull_by_dft_is_pymatgens_and_tells_where_a_phase_without_a_crystal_matters(config: JudgesConfig) -> None:
    truth = Truth(read_phases(config), config.competing_within_ev_per_atom)
    known = {**FORMATION, **{name: energy for name, (_, energy) in LABELLED.items()}}
    entries = [PDEntry(c, energy * c.num_atoms) for name, energy in known.items() if (c := Composition(name))]
    diagram = PhaseDiagram(entries)
    for crystal in read_crystals(config):
        place = truth.place(crystal)
        composition = Composition(crystal.formula)
        entry = PDEntry(composition, crystal.formation_ev_per_atom * composition.num_atoms)
        assert place is not None
        expected = diagram.get_e_above_hull(entry, allow_negative=True)
        assert place.above_ev_per_atom == pytest.approx(expected, abs=1e-9)
        # Al-Ti holds AlTi2, which has no crystal and lies deep enough to lift the hull beside it.
        assert place.lacks_no_phase == (crystal.elements != ("Al", "Ti"))
        assert bool(place.phases) == place.lacks_no_phase


def test_distances_are_the_potentials_own_and_a_second_run_computes_nothing(
    config: JudgesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges(config, silent)
    document = json.loads((config.folder / "CHGNet.json").read_text())
    with (config.folder / "CHGNet.csv").open() as file:
        rows = list(csv.DictReader(file))
    chgnet = load_potential("CHGNet", fallback=None, search=[])
    structures = known_phases()
    found = dict(zip(structures, evaluate(list(structures.values()), chgnet), strict=True))
    energy = {name: value for name, value in found.items() if value is not None}
    names = [crystal.formula for crystal in read_crystals(config)]
    own = {Composition(name).reduced_formula: name for name in energy}
    entries = [PDEntry(c, energy[name] * c.num_atoms) for name in FORMATION if (c := Composition(name))]
    diagram = PhaseDiagram(entries)
    for formula, row in zip(names, rows, strict=True):
        composition = Composition(formula)
        total = energy[own[formula]]
        parts = composition.fractional_composition.get_el_amt_dict()
        formation = total - sum(energy[symbol] * share for symbol, share in parts.items())
        assert float(row["formation_error"]) == pytest.approx(formation - CRYSTALS[own[formula]], abs=2e-4)
        entry = PDEntry(composition, total * composition.num_atoms)
        height = diagram.get_e_above_hull(entry, allow_negative=True)
        if row["is_whole"] == "1":
            assert float(row["above_own"]) == pytest.approx(height, abs=2e-4)
        else:
            assert row["above_own"] == ""
    whole = [row for row in rows if row["is_whole"] == "1"]
    errors = [abs(float(row["above_own"]) - float(row["above_dft"])) for row in whole]
    assert document["mae_ev_per_atom"] == pytest.approx(np.mean(errors), abs=2e-4)
    calibration = calibration_from(document)
    assert calibration.fingerprint == chgnet.fingerprint
    chance = calibration.probability(0.05)
    assert chance is not None
    assert 0 <= chance <= 1
    assert calibration.probability(0.05, 0.07) is None
    assert document["figures_relaxed"]["relaxed with the potential"]["own hull, no phase missing"]["n"] == 1
    assert "| CHGNet" in (config.folder / "judges.md").read_text()

    def no_more(*args: object) -> None:
        raise AssertionError("nothing is left to compute")

    monkeypatch.setattr(energies, "write_table", no_more)
    judges(config, silent)
