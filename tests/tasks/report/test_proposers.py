"""What became of each proposer's candidates: counts over a table made by hand, which add up to those of the run."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from tasks.discover.report import rejections_of, unheeded_notes, yields_by_proposer, yields_of
from tasks.report.run.markdown import markdown_report
from tasks.report.run.model import ProposerYield, ReportInputs
from tasks.report.run.page import report_html
from tasks.report.run.proposers import HEAD, proposer_rows

FLOW, TEMPLATES, IDLE = "generator:flow", "generator:templates", "generator:idle"

MADE = [
    # proposed by, turned away by, energy above hull of those that were not
    (FLOW, "validity", None),
    (FLOW, "composition", None),
    (FLOW, "known", None),
    (FLOW, "duplicate", None),
    (FLOW, "relaxation", None),
    (FLOW, None, 0.3),
    (FLOW, None, 0.1),
    (FLOW, None, -0.02),
    (TEMPLATES, "known", None),
    (TEMPLATES, "known", None),
    (TEMPLATES, "known after relaxation", None),
    (TEMPLATES, "duplicate after relaxation", None),
    (TEMPLATES, None, 0.0),
    (TEMPLATES, None, None),
    ("prototype", None, -0.1),
]
ROWS: list[dict[str, Any]] = [
    {
        "proposed_by": who,
        "rejected_by": stage,
        "reason": stage and "because",
        "rank": None if stage else 1 + number,
        "e_above_hull_ev_per_atom": above,
        "known_match": None,
        "known_origin": "reported",
        "relax_status": "converged",
    }
    for number, (who, stage, above) in enumerate(MADE)
]
YIELDS = (
    # drawn, valid, new, unique, relaxed, ranked, within 0.1 eV/atom, on the hull; counted by eye
    ProposerYield("flow", 8, 6, 5, 4, 3, 3, 2, 1),
    ProposerYield("templates", 6, 6, 4, 4, 4, 2, 1, 1),
    ProposerYield("idle", 0, 0, 0, 0, 0, 0, 0, 0),
    ProposerYield("stable prototypes", 1, 1, 1, 1, 1, 1, 1, 1),
)


def test_each_proposer_has_what_was_left_of_its_own_candidates() -> None:
    assert tuple(yields_by_proposer(ROWS, [FLOW, TEMPLATES, IDLE])) == YIELDS


def test_yields_of_proposers_add_up_to_those_of_the_run() -> None:
    generators = YIELDS[:3]
    run = {step.stage: step for step in yields_of(ROWS, 0.1, {})}
    assert run["sampled"].n_out == sum(y.n_drawn for y in generators)
    for stage, name in (("valid", "n_valid"), ("novel", "n_new"), ("unique", "n_unique"), ("relaxed", "n_relaxed")):
        assert run[stage].n_out == sum(getattr(y, name) for y in generators)
    assert run["unique after relaxation"].n_out == sum(y.n_ranked for y in generators)
    assert run["within 0.1 eV/atom of the hull"].n_out == sum(y.n_near_hull for y in YIELDS)
    assert sum(r.count for r in rejections_of(ROWS)) == sum(y.n_drawn - y.n_ranked for y in YIELDS)


def test_counts_are_written_with_what_they_are_out_of_and_their_sum_stands_last() -> None:
    rows = proposer_rows(YIELDS)
    assert all(len(row) == len(HEAD) for row in rows)
    assert rows[0] == ("flow", "8", "6 of 8", "5 of 8", "4 of 8", "3 of 8", "3 of 8", "2 of 8", "1 of 8")
    assert rows[-1][:3] == ("all", "15", "13 of 15")
    assert rows[-1][-2:] == ("4 of 15", "3 of 15")


def test_page_and_markdown_compare_proposers_where_there_are_several(inputs: ReportInputs) -> None:
    hostile = dataclasses.replace(YIELDS[0], proposer="<b>|flow")
    several = dataclasses.replace(inputs, proposers=(hostile, *YIELDS[1:]))
    page, text = report_html(several), markdown_report(several)
    section = re.search('<section id="proposers">.*?</section>', page, re.DOTALL)
    assert section is not None
    assert "<td>&lt;b&gt;|flow</td><td>8</td><td>6 of 8</td>" in section[0]
    assert "| \\<b\\>\\|flow | 8 | 6 of 8 |" in text
    assert "| all | 15 | 13 of 15 |" in text


def test_with_one_generator_nothing_is_compared(inputs: ReportInputs) -> None:
    assert "Yield by proposer" not in report_html(inputs) + markdown_report(inputs)


@pytest.mark.parametrize(
    ("spacegroup", "said"), [(225, ["flow does not heed what was asked of spacegroup"]), (None, [])]
)
def test_a_generator_that_does_not_heed_what_was_asked_is_named(spacegroup: int | None, said: list[str]) -> None:
    group = "null" if spacegroup is None else spacegroup
    asked = f'{{"formula_counts":[["Al",1]],"spacegroup":{group},"formation_energy_ev_per_atom":null}}'
    rows = [{"proposed_by": who, "condition": asked} for who in (FLOW, TEMPLATES)]
    heeds = {FLOW: {"heeds": ["composition"]}, TEMPLATES: {"heeds": ["composition", "spacegroup"]}}
    assert [note.split(";")[0] for note in unheeded_notes(rows, heeds)] == said
