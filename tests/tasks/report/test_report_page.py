"""report.html: self-contained, repeatable, escaped, and with every number where a reader looks for it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.report.run.model import Rejection, ReportInputs, StageYield
from tasks.report.run.page import report_html, write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"meta", "br", "input", "img", "link", "hr"}


class Outline(HTMLParser):
    """Elements, ids and attributes of a page; fails on a tag that closes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def page(inputs: ReportInputs) -> str:
    return report_html(inputs)


def without_plotly(page: str) -> str:
    return re.sub(r"<script>.{1000000,}?</script>", "", page, flags=re.S)


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    ids = outline(page).ids
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    ours = without_plotly(page)
    assert len(ours) < 1_000_000
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", ours)
    assert "default-src 'none'" in ours
    assert "Plotly" in page


def test_identical_inputs_give_identical_pages(page: str, make_inputs: Callable[..., ReportInputs]) -> None:
    again = make_inputs()
    shuffled = dataclasses.replace(again, candidates=again.candidates[::-1])
    assert report_html(shuffled) == page


def test_every_candidate_has_a_row_and_a_crystal_and_its_exact_energy_to_sort_by(
    page: str, inputs: ReportInputs
) -> None:
    scenes = json.loads(re.search(r'id="scenes">(.*?)</script>', page, re.S).group(1))  # type: ignore[union-attr]
    for candidate in inputs.candidates:
        assert candidate.id in scenes
        row = re.search(rf'<tr data-id="{candidate.id}".*?</tr>', page, re.S)
        assert row is not None
        energy = candidate.e_above_hull_ev_per_atom
        expected = "" if energy is None else repr(energy)
        assert f'data-column="above" data-value="{expected}"' in row.group(0)


def test_warnings_tolerances_yields_and_fingerprints_are_on_the_page(page: str, inputs: ReportInputs) -> None:
    for note in inputs.notes:
        assert note in page
    assert "not DFT" in page
    assert "two atoms closer than 0.5 A" in page
    assert inputs.provenance["dataset"]["fingerprint"] in page
    assert "matcher_stol 0.3" in page
    assert "runs/quickstart" in page


def test_text_from_outside_never_becomes_markup(inputs: ReportInputs) -> None:
    bad = dataclasses.replace(
        inputs,
        run_name=HOSTILE,
        potential_method=HOSTILE,
        notes=(HOSTILE,),
        settings={HOSTILE: HOSTILE},
        provenance={HOSTILE: {"dataset": HOSTILE}},
        tolerances={HOSTILE: 1},
        yields=(StageYield(HOSTILE, 2, 1, 1.0, HOSTILE),),
        rejected=(Rejection(HOSTILE, HOSTILE, 1), Rejection("elsewhere", HOSTILE, 1)),
        run_folder=HOSTILE,
        candidates=(
            dataclasses.replace(
                inputs.candidates[0], id=HOSTILE, formula=HOSTILE, spacegroup_symbol=HOSTILE, decomposition=HOSTILE,
                relax_status=HOSTILE, known_match=HOSTILE, cif_path=HOSTILE, inputs_path=HOSTILE, hull_note=HOSTILE,
            ),
        ),
    )  # fmt: skip
    page = without_plotly(report_html(bad))
    found = outline(page)
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.tags.count("script") == 3  # two of data, one of behaviour; plotly's was taken out above


def test_a_run_without_candidates_phases_or_yields_still_has_a_page(inputs: ReportInputs) -> None:
    empty = dataclasses.replace(
        inputs, candidates=(), yields=(), rejected=(), notes=(), provenance={}, settings={},
        hull=dataclasses.replace(inputs.hull, phases=()),
    )  # fmt: skip
    page = report_html(empty)
    outline(page)
    assert "no crystal passed every stage" in page


def test_the_page_is_written_whole_and_leaves_no_other_file(inputs: ReportInputs, tmp_path: Path) -> None:
    path = write_report(inputs, tmp_path / "run" / "report.html")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
