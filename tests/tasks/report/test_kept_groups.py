"""A saddle point of a kept space group is told wherever a run's candidates are shown, and nowhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dft.results import KeptSymmetry
from flows.cli.console import RANKED, show_table, with_groups
from flows.cli.results import in_groups
from tasks.discover.candidates import CANDIDATES, KEPT, table_of
from tasks.files import write_table
from tasks.optimade.export import lines_of, origin_of
from tasks.report.run.kept_symmetry import kept_of, remark
from tasks.report.run.markdown import markdown_report
from tasks.report.run.model import ReportInputs
from tasks.report.run.page import report_html
from tasks.report.run.ranked_rows import RankedRow
from tasks.report.run.summary import counts_of
from tasks.report.run.tables import candidate_rows, candidates_markdown

SADDLE = KeptSymmetry(221, -3.0, -3.012, is_minimum=False, is_released=True, released_spacegroup=99, broken_by_ang=0.2)
MINIMUM = KeptSymmetry(225, -3.1, -3.1, is_minimum=True, released_spacegroup=225, broken_by_ang=0.0)
UNKNOWN = KeptSymmetry(12, -3.2, note="it was not released: in its group it ended as 'step cap'")
SAID = "saddle point of Pm-3m (221); released, -0.0120 eV/atom, P4mm (99)"


@pytest.fixture
def in_their_groups(make_inputs: Callable[..., ReportInputs]) -> ReportInputs:
    """Of the candidates the first is a saddle point, the second a minimum, of the third it is not known."""
    inputs = make_inputs()
    first, second, third, *rest = inputs.candidates
    kept = (
        dataclasses.replace(c, kept=k) for c, k in zip((first, second, third), (SADDLE, MINIMUM, UNKNOWN), strict=True)
    )
    return dataclasses.replace(inputs, candidates=(*kept, *rest), counts=None)


def row_of(kept: KeptSymmetry | None, **columns: Any) -> dict[str, Any]:
    names = [field.name for field in KEPT]
    values = (
        dict.fromkeys(names)
        if kept is None
        else {
            "kept_spacegroup": kept.spacegroup,
            "kept_energy_ev_per_atom": kept.energy_ev_per_atom,
            "released_energy_ev_per_atom": kept.released_energy_ev_per_atom,
            "released_spacegroup": kept.released_spacegroup,
            "broken_by_ang": kept.broken_by_ang,
            "is_symmetric_minimum": kept.is_minimum,
            "is_released": kept.is_released,
            "release_steps": kept.n_release_steps,
            "release_note": kept.note or None,
        }
    )
    return {**values, **columns}


@pytest.mark.parametrize("kept", [SADDLE, MINIMUM, UNKNOWN, None])
def test_columns_of_a_table_give_back_what_the_relaxation_found(kept: KeptSymmetry | None) -> None:
    assert kept_of(row_of(kept)) == kept
    assert kept_of({"id": "of a run without such columns"}) is None


def test_a_remark_says_group_fall_and_where_it_fell() -> None:
    assert remark(SADDLE) == SAID
    assert remark(MINIMUM) == "minimum of Fm-3m (225)"
    assert remark(UNKNOWN) == "not known in C2/m (12); it was not released: in its group it ended as 'step cap'"
    lower_within = dataclasses.replace(SADDLE, is_minimum=True, released_spacegroup=221)
    assert remark(lower_within) == "minimum of Pm-3m (221); released, -0.0120 eV/atom"


def test_the_page_counts_saddle_points_and_marks_their_rows(
    in_their_groups: ReportInputs, inputs: ReportInputs
) -> None:
    page = report_html(in_their_groups)
    assert "1<small> of 3</small></dd>" in page
    assert "Saddle points of their space groups: 1 of the 3 that relaxed in one" in page
    assert f'title="{SAID}"' in page
    assert page.count(">saddle point</span>") == 1
    assert "In its space group" not in report_html(inputs)


def test_the_markdown_and_the_table_rows_say_so_too(in_their_groups: ReportInputs, inputs: ReportInputs) -> None:
    assert "Saddle points of their space groups: 1 of the 3" in markdown_report(in_their_groups)
    head, _, *lines = candidates_markdown(in_their_groups.candidates, limit=4).splitlines()
    place = head.split(" | ").index("In its space group")
    assert [line.split(" | ")[place] for line in lines] == [SAID, remark(MINIMUM), remark(UNKNOWN), ""]
    rows = candidate_rows(in_their_groups.candidates)
    assert [row["there a"] for row in rows[:4]] == ["saddle point", "minimum", "not known", ""]
    assert [row["dE on release (eV/atom)"] for row in rows[:4]] == [-0.012, 0.0, "", ""]
    assert not {key for key in candidate_rows(inputs.candidates)[0] if "group" in key} - {"space group"}


def test_the_table_on_the_terminal_has_the_remark_only_where_groups_were_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row_of(SADDLE, rank=1, formula="TiN"), row_of(None, rank=2, formula="AlN")]
    shown = in_groups(rows)
    show_table(shown, with_groups(shown, RANKED))
    assert SAID in capsys.readouterr().out
    plain = in_groups([{"rank": 1, "formula": "TiN"}])
    assert with_groups(plain, RANKED) is RANKED


def test_counts_over_rows_of_a_file_are_those_over_the_shown_candidates(in_their_groups: ReportInputs) -> None:
    named = {"e_above_hull_ev_per_atom": 0.0, "known_match": None, "relax_status": "converged", "proposed_by": "x"}
    counts = counts_of([RankedRow.of(row_of(kept, **named)) for kept in (SADDLE, MINIMUM, UNKNOWN, None)])
    assert (counts.n_kept, counts.n_saddle_points) == (3, 1)
    assert counts_of(in_their_groups.candidates).n_saddle_points == 1
    assert counts_of([RankedRow.of(named)]).n_kept == 0


def test_optimade_gives_the_columns_of_a_run_that_has_them_and_the_fields_of_before_to_others(tmp_path: Path) -> None:
    crystal = {
        "lattice_ang": [3.0, 0, 0, 0, 3.0, 0, 0, 0, 3.0],
        "frac_coords": [0.0, 0, 0, 0.5, 0.5, 0.5],
        "atomic_numbers": [22, 7],
    }
    row = {"id": "a", "rank": 1, "formula": "TiN", "proposed_by": "generator", **crystal}
    row |= {f"relaxed_{name}": value for name, value in crystal.items()}
    found = {}
    for name, rows, fields in (
        ("kept", [row_of(SADDLE, **row)], [*CANDIDATES, *KEPT]),
        ("free", [row], [*CANDIDATES]),
    ):
        write_table(table_of(rows, fields), tmp_path / f"{name}.parquet")
        *_, entry = lines_of(origin_of(tmp_path / f"{name}.parquet"), False, lambda n: None)
        found[name] = entry["attributes"]
    assert found["kept"]["_hullward_is_symmetric_minimum"] is False
    assert found["kept"]["_hullward_kept_spacegroup"] == 221
    assert found["kept"]["_hullward_broken_by"] == 0.2
    added = set(found["kept"]) - set(found["free"])
    assert len(added) == len(KEPT)
