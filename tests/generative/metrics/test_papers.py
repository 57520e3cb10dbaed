"""Results stated by papers: values as printed, one row per system and table, and files that do not hold together."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from generative.metrics.papers import FILE, PapersError, load_papers, papers, rows_for

PRINTED = [
    # table, system, metric, value as printed (fractions in %)
    ("dp-cdvae-1-mp", "DP-CDVAE", "match rate", 32.42),
    ("dp-cdvae-1-carbon", "DP-CDVAE+Na+GINE", "mean rms", 0.1921),
    ("dp-cdvae-1-perov", "CDVAE", "match rate", 97.52),
    ("dp-cdvae-s1-mp", "DP-CDVAE+GINE", "mean rms", 0.0620),
    ("dp-cdvae-2-perov", "DP-CDVAE+Na", "W energy", 0.0287),
    ("dp-cdvae-2-carbon", "DP-CDVAE+GINE", "COV-P", 68.13),
    ("dp-cdvae-2-mp", "DP-CDVAE+Na+GINE", "COV-R", 95.51),
    ("cdvae-generation-mp", "FTCP", "W density", 23.71),
    ("dp-cdvae-3", "DP-CDVAE", "dE rms", 400.7),
    ("cdvae-optimisation-mp", "CDVAE", "success rate 10", 86),
    ("condition-cdvae-1-j2dh", "ConditionCDVAE+", "match rate", 25.35),
    ("condition-cdvae-2-j2dh", "DiffCSP", "COV-P", 13.51),
    ("condition-cdvae-3", "CDVAE", "mean energy drop per cell", 4.4113),
    ("adaptive-cell-1", "PGCGM", "Frechet distance, CGCNN", 4.359),
    ("adaptive-cell-2", "Pu-I-O (129)", "length 2, database", 9.47),
    ("adaptive-cell-3", "SbTa2V3 (P6_3/mmc)", "energy above hull", 1.57),
    ("airi-1", "DDIM", "accuracy", 82),
    ("airi-2", "CFM", "accuracy", 20.59),
    ("airi-3", "CFM, step 0.01, gap 1", "lowest energy above hull, Ta1W2B5", -4.852),
    ("mattergen-dft", "CDVAE", "SUN (<= 0.1 eV/atom)", 13.99),
    ("mattergen-mattersim", "MatterGen", "stable (<= 0.1 eV/atom)", 47.0),
    ("crystalite-nequip", "GLASS", "seconds per 1000 crystals", 0.21),
    ("lemat-leaderboard", "MatterGen", "RMSD to relaxed", 0.388),
    ("csp-mp", "Crystalite", "mean rms", 0.0329),
    ("metre-mp-ps", "OMatG", "cRMSE", 0.187),
]


@pytest.mark.parametrize(("table", "system", "metric", "value"), PRINTED, ids=[f"{t}-{s}" for t, s, _, _ in PRINTED])
def test_a_value_is_the_printed_one(table: str, system: str, metric: str, value: float) -> None:
    (row,) = [row for row in papers() if row.table == table and row.system == system]
    assert row.values[metric] == value
    assert metric in row.units


def test_no_table_states_a_metric_of_a_system_twice() -> None:
    keys = Counter((row.table, row.system, metric) for row in papers() for metric in row.values)
    assert [key for key, n in keys.items() if n > 1] == []
    assert len(keys) > 500


def test_every_row_names_its_source_and_place_and_states_something() -> None:
    for row in papers():
        assert row.source
        assert row.where
        assert row.values
        assert all(math.isfinite(value) for value in row.values.values())


def test_shares_are_percentages() -> None:
    shares = [(row, name) for row in papers() for name in row.values if row.units[name] == "%"]
    assert all(0 <= row.values[name] <= 100 for row, name in shares)
    # A fraction written in place of a percentage would stand out: nothing but the weakest systems lies below 1.5 %.
    low = {row.system for row, name in shares if 0 < row.values[name] <= 1.0 and row.protocol == "cdvae generation"}
    assert low == {"FTCP", "G-SchNet", "P-G-SchNet"}


def test_metrics_of_our_protocols_have_the_names_and_units_of_ours() -> None:
    """The names are what a table joins on; a typing error would leave a column without ours."""
    from generative.metrics.distributions import Property
    from generative.metrics.reconstruction import RMS_UNIT

    ours = {
        "cdvae reconstruction": {"match rate": "%", "mean rms": RMS_UNIT},
        "metre": {"METRe": "%", "cRMSE": RMS_UNIT},
        "airi accuracy": {"accuracy": "%"},
        "cdvae generation": {
            "structural validity": "%",
            "composition validity": "%",
            "COV-R": "%",
            "COV-P": "%",
            "W density": Property.DENSITY.unit,
            "W energy": Property.ENERGY.unit,
            "W number of elements": "",
        },
        "adaptive-cell": {
            "COV-R": "%",
            "COV-P": "%",
            "Frechet distance, CrystalNN": "",
            "Frechet distance, CGCNN": "",
        },
    }
    for protocol, units in ours.items():
        rows = [row for row in papers() if row.protocol == protocol]
        assert rows
        assert {name: unit for row in rows for name, unit in row.units.items()} == units


def test_rows_copied_by_a_later_paper_are_given_once() -> None:
    copied = [row for row in papers() if row.protocol == "cdvae generation" and row.dataset == "mp-20"]
    given = rows_for("cdvae generation", "mp-20")
    assert sum(row.system == "CDVAE" for row in copied) == 2
    systems = [row.system for row in given]
    assert len(systems) == len(set(systems))
    assert {"FTCP", "CDVAE", "DiffCSP", "DP-CDVAE+Na+GINE", "ConditionCDVAE+"} <= set(systems)
    # The row that also states the energy is the one that stays.
    (cdvae,) = [row for row in given if row.system == "CDVAE"]
    assert cdvae.values["W energy"] == 0.2778


def test_a_system_measured_twice_by_other_means_keeps_both_rows() -> None:
    rows = [row for row in rows_for("cdvae reconstruction", "mp-20") if row.system == "DP-CDVAE"]
    assert sorted(row.values["match rate"] for row in rows) == [20.40, 32.42]
    assert {row.conditions for row in rows} == {"", "reverse step of Eq. 6"}


def test_tolerances_of_prediction_and_of_pymatgen_share_no_protocol() -> None:
    by_protocol = {row.protocol for row in papers()}
    assert {"airi accuracy", "cdvae reconstruction", "csp"} <= by_protocol
    accuracies = {row.protocol for row in papers() if "accuracy" in row.values}
    assert accuracies == {"airi accuracy", "airi modification accuracy"}


TABLE = "{id: a, source: s, where: w, protocol: p, dataset: d, columns: [x], rows: {A: [1]}}"
HEAD = 'schema_version: 1\nmetrics: {x: "%"}\nsources: {s: S}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}tables: [{TABLE}, {TABLE}]", "two tables are called a"),
        (f"{HEAD}tables: [{TABLE.replace('source: s', 'source: t')}]", "'t' is not among the sources"),
        (f"{HEAD}tables: [{TABLE.replace('[x]', '[y]')}]", "'y'] are not among the metrics"),
        (f"{HEAD}tables: [{TABLE.replace('[1]', '[1, 2]')}]", "A has 2 values: expected 1"),
        (f"{HEAD}tables: [{TABLE.replace('[1]', '[.nan]')}]", "not finite"),
        (f"{HEAD}tables: [{TABLE.replace('{A: [1]}', '{A: [1], A: [2]}')}]", "'A'] stand twice"),
        (f"{HEAD}tables: [{TABLE.replace('[x]', '[x, x]').replace('[1]', '[1, 1]')}]", "name a metric twice"),
        (f"{HEAD}tables: [{TABLE.replace('[1]', '[one]')}]", "tables.0.rows"),
        ("a: [1", "not readable"),
    ],
)
def test_a_file_that_does_not_hold_together_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "papers.yaml"
    file.write_text(text)
    with pytest.raises(PapersError) as caught:
        load_papers(file)
    assert said in str(caught.value)


def test_the_file_travels_with_the_package() -> None:
    assert FILE.parent.name == "metrics"
    assert FILE.is_file()
