"""Markdown, table rows and CIF files of the candidates, and the numbers they lead with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser

from tasks.report.run.cif_files import write_cifs
from tasks.report.run.markdown import MARKDOWN_LIMIT_BYTES, markdown_report
from tasks.report.run.model import ReportInputs
from tasks.report.run.summary import duration, flattened, number, summarise
from tasks.report.run.tables import candidate_rows, candidates_markdown, escape_markdown, markdown_formula


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_markdown_table_is_ranked_has_units_and_as_many_cells_in_every_row(inputs: ReportInputs) -> None:
    lines = candidates_markdown(inputs.candidates[::-1], limit=10).splitlines()
    assert len(lines) == 12
    assert {len(cells(line)) for line in lines} == {10}
    assert "Energy above hull (eV/atom)" in cells(lines[0])
    assert [cells(line)[0] for line in lines[2:]] == [str(rank) for rank in range(1, 11)]


def test_phonons_have_columns_only_where_they_were_asked_for(inputs: ReportInputs) -> None:
    first, second, *rest = inputs.candidates
    with_phonons = (
        dataclasses.replace(first, lowest_phonon_thz=-2.5, dynamically_stable=False),
        dataclasses.replace(second, phonon_note="a supercell of Ti2N is too large"),
        *rest,
    )
    head, _, *lines = candidates_markdown(with_phonons, limit=3).splitlines()
    place = cells(head).index("Lowest phonon (THz)")
    assert [cells(line)[place] for line in lines] == ["\u22122.50", "", ""]
    assert {len(cells(line)) for line in (head, *lines)} == {11}
    rows = candidate_rows(with_phonons)
    assert [row["dynamically stable"] for row in rows[:3]] == ["no", "", ""]
    assert rows[0]["lowest phonon (THz)"] == -2.5
    assert rows[1]["phonon note"] == "a supercell of Ti2N is too large"
    assert not {key for key in candidate_rows(inputs.candidates)[0] if "phonon" in key}


def test_a_pipe_or_a_tag_in_a_name_cannot_break_a_table() -> None:
    escaped = escape_markdown("a|b\n<script> `c` **d** [e](f) $x$ _g_ &amp;")
    assert not re.search(r"(?<!\\)[|<>`*\[\]$&\n]|(?<!\\)\b_|(?<!\\)_(?!\w)", escaped)
    assert re.sub(r"\\(.)", r"\1", escaped) == "a|b <script> `c` **d** [e](f) $x$ _g_ &amp;"
    assert escape_markdown("P6_3/mmc") == "P6_3/mmc"
    assert markdown_formula("Ti3(AlN)2") == "Ti<sub>3</sub>(AlN)<sub>2</sub>"


def test_unknown_numbers_are_blank_in_the_table_rows(inputs: ReportInputs) -> None:
    rows = candidate_rows(inputs.candidates)
    assert [row["rank"] for row in rows] == sorted(row["rank"] for row in rows)
    lost = next(row for row in rows if row["note"])
    assert lost["energy above hull (eV/atom)"] == ""
    assert None not in lost.values()
    assert len({tuple(row) for row in rows}) == 1  # the same columns in every row


def test_the_markdown_report_holds_pictures_table_yields_notes_and_folder_and_stays_small(inputs: ReportInputs) -> None:
    text = markdown_report(inputs)
    assert len(text.encode()) < MARKDOWN_LIMIT_BYTES
    assert text == markdown_report(inputs)
    assert text.count("data:image/png;base64,") >= 2
    assert text.count("data:image/webp;base64,") == 1
    assert "not DFT" in text
    assert "runs/quickstart" in text
    assert "| screen | 96 | 61 |" in text
    for note in inputs.notes:
        assert escape_markdown(note) in text
    assert "<script" not in text
    assert "<svg" not in text


def test_the_markdown_report_stays_small_whatever_the_run_holds(make_inputs: Callable[..., ReportInputs]) -> None:
    inputs = make_inputs(6)
    huge = dataclasses.replace(
        inputs,
        notes=tuple("a long sentence " * 20 for _ in range(400)),
        provenance={f"package {i}": "1.2.3 " * 300 for i in range(500)},
    )
    assert len(markdown_report(huge).encode()) < MARKDOWN_LIMIT_BYTES


def test_a_run_without_candidates_says_so(inputs: ReportInputs) -> None:
    assert "No crystal passed every stage" in markdown_report(dataclasses.replace(inputs, candidates=()))


def test_cifs_read_back_as_the_same_crystals_under_their_ids(inputs: ReportInputs, tmp_path: Path) -> None:
    files = write_cifs(inputs.candidates[:6], tmp_path, {"checkpoint": "41ac"})
    matcher = StructureMatcher(primitive_cell=False, scale=False, ltol=1e-3, stol=1e-3, angle_tol=0.01)
    for candidate, file in zip(inputs.candidates[:6], files, strict=True):
        assert file == tmp_path / candidate.cif_path
        text = file.read_text(encoding="utf-8")
        assert f"\ndata_{candidate.id}\n" in text
        assert "# checkpoint: 41ac" in text
        assert matcher.fit(Structure.from_file(file), candidate.structure)
    assert not [p for p in tmp_path.rglob("*.tmp")]


def test_the_symmetrised_twin_has_the_space_group_and_the_crystal(inputs: ReportInputs, tmp_path: Path) -> None:
    candidate = next(c for c in inputs.candidates if c.spacegroup_number == 225)
    (file,) = write_cifs([candidate], tmp_path)
    twin = file.with_name(f"{file.stem}_symmetrised.cif")
    assert "_symmetry_Int_Tables_number   225" in twin.read_text(encoding="utf-8")
    (structure,) = CifParser(twin).parse_structures(primitive=True)
    assert StructureMatcher().fit(structure, candidate.structure)


def test_the_cif_of_a_prototype_names_no_generator_and_no_seed(inputs: ReportInputs, tmp_path: Path) -> None:
    drawn = inputs.candidates[0]
    offered = dataclasses.replace(
        drawn, proposed_by="prototype", prototype_match="prototypes:AB_cF8_225_a_b[Cl=N]", cif_path="cifs/other.cif"
    )
    lineage = {"generator sha256": "41ac", "seed": "7", "run": "quickstart"}
    first, second = (path.read_text(encoding="utf-8") for path in write_cifs([drawn, offered], tmp_path, lineage))
    assert "# generator sha256: 41ac" in first
    assert "# seed: 7" in first
    assert "generator" not in second
    assert "# seed" not in second
    assert "# proposed by: prototype; prototype: AB_cF8_225_a_b[Cl=N]" in second
    assert "# run: quickstart" in second


def test_a_cif_path_outside_the_run_folder_is_refused(inputs: ReportInputs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the run folder"):
        write_cifs([dataclasses.replace(inputs.candidates[0], cif_path="../x.cif")], tmp_path)


def test_the_summary_counts_what_the_candidates_say(inputs: ReportInputs) -> None:
    summary = summarise(inputs.candidates)
    energies = {c.id: c.e_above_hull_ev_per_atom for c in inputs.candidates if c.e_above_hull_ev_per_atom is not None}
    assert summary.n_with_hull == len(inputs.candidates) - 1
    assert summary.n_on_hull == sum(e <= 1e-6 for e in energies.values()) > 0
    assert summary.best is not None
    assert summary.best.id == min(energies, key=lambda i: energies[i])


def test_numbers_are_written_for_reading() -> None:
    assert number(-0.01234) == "\u22120.012"
    assert number(-0.0001) == "0.000"
    assert number(0.25, 2, signed=True) == "+0.25"
    assert number(None) == number(float("nan")) == ""
    assert [duration(s) for s in (None, 3.44, 118.0, 7260.0)] == ["", "3.4 s", "1 min 58 s", "2 h 1 min"]
    assert flattened({"a": {"b": [1, 2], "c": None}, "d": {}}) == [("a.b", "1, 2"), ("a.c", "\u2013"), ("d", "\u2013")]
