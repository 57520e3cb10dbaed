"""The shipped calibrations against their own pairs, and a few of these against the potential and the data."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from sklearn.metrics import f1_score, precision_score, recall_score

from configs.paths import AssetError, model_folders, resolve
from dft.hull.dialects import corrected_energy, hull_energy_ev_per_atom
from dft.hull.legacy_scheme import to_mp2020
from dft.potentials.calibration import FOLDER, calibration_of
from dft.potentials.loading import load_potential
from dft.potentials.relaxation import evaluate
from dft.results import EnergyScheme
from tasks.judges.results import BY_DFT_HULL, OWN_HULL

FILES = sorted(FOLDER.glob("*.json"))
N_AGAIN = 20


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    document = json.loads(file.read_text(encoding="utf-8"))
    with file.with_suffix(".csv").open(encoding="utf-8") as pairs:
        return document, list(csv.DictReader(pairs))


def numbers(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name] or "nan") for row in rows])


def test_the_potentials_of_the_shipped_settings_are_calibrated() -> None:
    assert {file.stem for file in FILES} == {
        "M3GNet-MP-2021.2.8-PES",
        "CHGNet",
        "SevenNet-0",
        "SevenNet-l3i5",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_figures_of_a_calibration_are_those_of_its_pairs(file: Path) -> None:
    document, rows = read(file)
    true, own, error = (numbers(rows, name) for name in ("above_dft", "above_own", "formation_error"))
    for name, predicted in ((OWN_HULL, own), (BY_DFT_HULL, np.round(true + error, 4))):
        there, stated = np.isfinite(predicted), document["figures"][name]
        assert stated["n"] == there.sum()
        assert stated["mae_ev_per_atom"] == pytest.approx(np.abs(predicted - true)[there].mean())
        for verdict in stated["verdicts"]:
            bound = verdict["bound_ev_per_atom"]
            stable, called = true[there] <= bound, predicted[there] <= bound
            for figure, by_sklearn in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
                assert verdict[figure] == pytest.approx(by_sklearn(stable, called))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_probabilities_are_right_as_often_as_they_say(file: Path) -> None:
    document, rows = read(file)
    calibration = calibration_of(document["fingerprint"])
    assert calibration is not None
    true, own = numbers(rows, "above_dft"), numbers(rows, "above_own")
    there = np.isfinite(own)
    assert calibration.n == there.sum()
    for bound in calibration.curves:
        said = np.array([calibration.probability(float(d), bound) for d in own[there]])
        is_true = true[there] <= bound
        assert said.mean() == pytest.approx(is_true.mean(), abs=0.03)
        low, high = said < np.median(said), said >= np.median(said)
        for half in (low, high):
            noise = np.sqrt((said[half] * (1 - said[half])).sum()) / half.sum()
            assert abs(said[half].mean() - is_true[half].mean()) < 4 * noise + 0.02
    assert calibration.probability(-1.0) >= calibration.probability(0.0) > calibration.probability(0.5)  # type: ignore[operator]


def test_twenty_errors_of_chgnet_come_out_again() -> None:
    document, rows = read(FOLDER / "CHGNet.json")
    some = rows[:: max(1, len(rows) // N_AGAIN)][:N_AGAIN]
    try:
        path = resolve("assets:data/wbm_val.csv.gz")
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    wanted = {int(row["row"].removeprefix("row-")) for row in some}
    with gzip.open(path, "rb") as raw:
        table = csv.DictReader(io.TextIOWrapper(raw, "utf-8"))
        found = {number: row for number, row in enumerate(table) if number in wanted}
    structures = [Structure.from_str(found[int(row["row"].removeprefix("row-"))]["cif"], fmt="cif") for row in some]
    chgnet = load_potential("CHGNet", fallback=None, search=[])
    assert chgnet.fingerprint == document["fingerprint"]
    elements = document["elements_ev_per_atom"]
    for row, structure, energy in zip(some, structures, evaluate(structures, chgnet), strict=True):
        if not row["formation_error"]:
            continue
        assert energy is not None
        on_hull = hull_energy_ev_per_atom(structure, energy, chgnet)
        shares = structure.composition.fractional_composition.get_el_amt_dict()
        shift = to_mp2020(structure)
        assert on_hull is not None
        assert shift is not None
        by_potential = on_hull - sum(share * elements[symbol] for symbol, share in shares.items())
        by_dft = float(found[int(row["row"].removeprefix("row-"))]["formation_energy_per_atom"]) + shift
        assert by_potential - by_dft == pytest.approx(float(row["formation_error"]), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "scheme"), [("CHGNet", EnergyScheme.MP2020), ("M3GNet-MP-2021.2.8-PES", EnergyScheme.RAW)]
)
def test_formation_energies_of_the_materials_project_tell_which_potential_has_learned_its_corrections(
    name: str, scheme: EnergyScheme
) -> None:
    elements = read(FOLDER / f"{name}.json")[0]["elements_ev_per_atom"]
    structures, stated = chalcogenides_and_halides(elements, 24)
    potential = load_potential(name, fallback=None, search=model_folders())
    energies = evaluate(structures, potential)
    error: dict[EnergyScheme, list[float]] = {EnergyScheme.RAW: [], EnergyScheme.MP2020: []}
    for structure, by_dft, energy in zip(structures, stated, energies, strict=True):
        shares = structure.composition.fractional_composition.get_el_amt_dict()
        for one, errors in error.items():
            if energy is not None and (on_hull := corrected_energy(structure, energy, one).energy_ev_per_atom):
                errors.append(on_hull - sum(x * elements[symbol] for symbol, x in shares.items()) - by_dft)
    (other,) = set(error) - {scheme}
    assert potential.scheme is scheme
    assert np.abs(error[scheme]).mean() < 0.06 < 0.15 < np.abs(error[other]).mean()


def chalcogenides_and_halides(elements: dict[str, float], n: int) -> tuple[list[Structure], list[float]]:
    """The first n crystals of MP-20's validation part whose anion is S, Se, Te, Br or I."""
    try:
        path = resolve("assets:data/mp_20_val.csv.gz")
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    found, energies = list[Structure](), list[float]()
    with gzip.open(path, "rb") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, "utf-8")):
            symbols = [element.symbol for element in sorted(Composition(row["pretty_formula"]), key=lambda e: e.X)]
            if len(symbols) > 1 and symbols[-1] in ("Br", "I", "Se", "Te", "S") and set(symbols) <= set(elements):
                found.append(Structure.from_str(row["cif"], fmt="cif"))
                energies.append(float(row["formation_energy_per_atom"]))
            if len(found) == n:
                break
    return found, energies
