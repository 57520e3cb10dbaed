"""A report of very many candidates stays small and says where the others are."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from generative.crystal.crystals import Crystal, structure_columns
from tasks.discover.candidates import CANDIDATES, CRYSTAL_COLUMNS
from tasks.report.run.artifacts import TABLE_LIMIT_BYTES, fitting_rows
from tasks.report.run.cif_files import MOST_IN_ONE_FOLDER, PER_FOLDER, cif_path, remove_cifs, write_cifs
from tasks.report.run.markdown import MARKDOWN_LIMIT_BYTES, markdown_report
from tasks.report.run.model import Rejection, ReportInputs
from tasks.report.run.page import report_html
from tasks.report.run.ranked_rows import (
    LISTING,
    MOST_LISTED,
    RankedRow,
    all_candidates,
    report_candidates,
    write_listing,
)
from tasks.report.run.summary import counts_of
from tasks.report.run.tables import candidate_rows

N_MANY = 20_000
PAGE_LIMIT_BYTES = 12_000_000
"""Of which 4.8 million are plotly's script."""


def many_candidates(inputs: ReportInputs, n: int, n_rejected: int) -> pa.Table:
    """A table as the run leaves it: n ranked rows that repeat the crystals of `inputs`, then rejected ones."""
    shown, total = inputs.ranked, n + n_rejected
    crystals = [Crystal.from_structure(c.structure) for c in shown]
    above = np.sort(np.random.default_rng(3).exponential(0.2, n)) - 0.01
    rows = [shown[i % len(shown)] for i in range(n)]

    def ranked(values: list[object]) -> list[object]:
        return values + [None] * n_rejected

    values: dict[str, list[object]] = {
        "id": [f"{i:016x}" for i in range(total)],
        "proposed_by": ["generator"] * total,
        "formula": [c.formula for c in rows] + ["TiN"] * n_rejected,
        "rank": ranked(list(range(1, n + 1))),
        "spacegroup": ranked([c.spacegroup_number for c in rows]),
        "spacegroup_symbol": ranked([c.spacegroup_symbol for c in rows]),
        "e_above_hull_ev_per_atom": ranked(above.tolist()),
        "formation_energy_ev_per_atom": ranked((above - 0.8).tolist()),
        "decomposition": ranked(["0.50 TiN + 0.50 AlN"] * n),
        "relax_status": ["converged"] * total,
        "relax_steps": [60] * total,
        "rejected_by": [None] * n + ["duplicate"] * n_rejected,
    }
    columns = {f.name: pa.array(values.get(f.name, [None] * total), type=f.type) for f in CANDIDATES}
    columns |= structure_columns([*(crystals[i % len(crystals)] for i in range(n)), *[None] * n_rejected], "relaxed_")
    return pa.table([columns[f.name] for f in CANDIDATES], schema=pa.schema(CANDIDATES))


@pytest.fixture(scope="module")
def many(inputs: ReportInputs) -> tuple[pa.Table, ReportInputs]:
    """A table of many candidates, and the report's inputs made of it."""
    table = many_candidates(inputs, N_MANY, 50)
    listed = tuple(report_candidates(table.slice(0, MOST_LISTED), {}, N_MANY))
    ranked = table.slice(0, N_MANY).select([n for n in RankedRow._fields if n in table.column_names]).to_pylist()
    counts = counts_of([RankedRow.of(row) for row in ranked])
    return table, dataclasses.replace(inputs, candidates=listed, counts=counts, listing_path=LISTING)


def test_a_page_of_twenty_thousand_candidates_is_small_and_says_where_the_others_are(
    many: tuple[pa.Table, ReportInputs],
) -> None:
    table, inputs = many
    page = report_html(inputs)
    assert len(page.encode()) < PAGE_LIMIT_BYTES
    assert len(re.findall(r"<tr data-id=", page)) == MOST_LISTED
    said = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert f"{N_MANY - MOST_LISTED} more of lower rank are left out; all {N_MANY} are in {LISTING}" in said
    assert f'href="{LISTING}"' in page
    assert f"{N_MANY} candidates relaxed and ranked" in said
    above = np.array(table.column("e_above_hull_ev_per_atom").to_pylist()[:N_MANY])
    near = int(np.count_nonzero(above <= 0.1))
    assert near > MOST_LISTED  # so the count is of all candidates, not of those listed
    assert f"<dt>within 0.1 eV/atom of it</dt><dd>{near}</dd>" in page


def test_a_stage_that_refuses_for_hundreds_of_reasons_counts_the_rarest_together(inputs: ReportInputs) -> None:
    reasons = [Rejection("screen", f"formula {i} has no charge balance", 1000 - i) for i in range(300)]
    page = report_html(dataclasses.replace(inputs, rejected=tuple(reasons)))
    shown = [int(n) for n in re.findall(r"<li><b>(\d+)</b> formula", page)]
    assert shown == sorted(shown, reverse=True)
    (others, kinds) = re.findall(r"<li><b>(\d+)</b> for (\d+) other reasons", page)[0]
    assert sum(shown) + int(others) == sum(r.count for r in reasons)
    assert len(shown) + int(kinds) == len(reasons)


def test_artifacts_of_twenty_thousand_candidates_stay_below_their_limits(many: tuple[pa.Table, ReportInputs]) -> None:
    _, inputs = many
    text = markdown_report(inputs)
    assert len(text.encode()) < MARKDOWN_LIMIT_BYTES
    assert f"**{N_MANY}** ranked candidates" in text
    rows, left_out = fitting_rows(candidate_rows(inputs.candidates))
    assert len(json.dumps(rows).encode()) <= TABLE_LIMIT_BYTES
    assert len(rows) + left_out == MOST_LISTED


def test_the_listing_holds_the_numbers_of_all_ranked_candidates(
    many: tuple[pa.Table, ReportInputs], tmp_path: Path
) -> None:
    table, _ = many
    write_listing(table, tmp_path / LISTING)
    with (tmp_path / LISTING).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in rows] == list(range(1, N_MANY + 1))
    assert set(rows[0]) == {f.name for f in CANDIDATES} - CRYSTAL_COLUMNS
    for name in ("id", "formula"):
        assert [row[name] for row in rows] == table.column(name).to_pylist()[:N_MANY]
    energies = [float(row["e_above_hull_ev_per_atom"]) for row in rows]
    assert energies == table.column("e_above_hull_ev_per_atom").to_pylist()[:N_MANY]


def test_cifs_of_many_lie_in_folders_of_a_thousand_ranks_and_no_two_share_a_path() -> None:
    assert cif_path(7, "TiN", "ab", MOST_IN_ONE_FOLDER) == "cifs/0007-TiN-ab.cif"
    for n in (MOST_IN_ONE_FOLDER + 1, 10_000, 123_456):
        paths = [cif_path(rank, "TiN", f"{rank:x}", n) for rank in range(1, n + 1)]
        assert len(set(paths)) == n
        assert paths == sorted(paths)  # file managers show them by rank
        sizes: dict[str, int] = {}
        for rank, path in enumerate(paths, start=1):
            top, folder, _ = path.split("/")
            low, high = folder.split("-")
            assert top == "cifs"
            assert int(low) <= rank <= int(high)
            sizes[folder] = sizes.get(folder, 0) + 1
        assert max(sizes.values()) == PER_FOLDER


def test_cifs_of_many_are_written_where_the_report_says_and_leave_nothing_behind(
    inputs: ReportInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = many_candidates(inputs, 12, 3)
    monkeypatch.setattr("tasks.report.run.cif_files.MOST_IN_ONE_FOLDER", 5)
    monkeypatch.setattr("tasks.report.run.cif_files.PER_FOLDER", 5)
    monkeypatch.setattr("tasks.report.run.ranked_rows.ROWS_AT_ONCE", 4)
    candidates = list(all_candidates(table, {}))
    assert [c.rank for c in candidates] == list(range(1, 13))
    written = write_cifs(iter(candidates), tmp_path, n_symmetrised=2)
    assert written == [tmp_path / c.cif_path for c in candidates]
    assert sorted(p.name for p in (tmp_path / "cifs").iterdir()) == ["0001-0005", "0006-0010", "0011-0015"]
    twins = [path for path in (tmp_path / "cifs").rglob("*_symmetrised.cif")]
    assert 0 < len(twins) <= 2
    (tmp_path / "cifs" / "0001-0005" / "notes.txt").write_text("a user's own")
    remove_cifs(tmp_path)
    assert [p.name for p in (tmp_path / "cifs").rglob("*")] == ["0001-0005", "notes.txt"]
