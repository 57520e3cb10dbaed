"""A candidate's page: self-contained, with the very crystal in it, and every number where a colleague looks for it."""

from __future__ import annotations

import base64
import dataclasses
import html
import re

import numpy as np
import pytest
from pymatgen.core.structure import Structure

from tasks.report.candidate.model import CandidateInputs, DftJob, NearKnown
from tasks.report.candidate.page import candidate_html, page_name
from tasks.report.run.cif_files import cif_text
from tasks.report.run.model import ReportInputs, SecondOpinion
from tasks.report.run.sources import page_of
from tests.tasks.report.test_report_page import HOSTILE, outline


@pytest.fixture(scope="module")
def made(inputs: ReportInputs) -> CandidateInputs:
    opinion = SecondOpinion(
        method="SevenNet-l3i5", first_rank=3, e_above_hull_ev_per_atom=0.087, formation_energy_ev_per_atom=-1.234,
        decomposition="1.00 TiN", probability=0.62, source="measured",
    )  # fmt: skip
    candidate = dataclasses.replace(next(c for c in inputs.candidates if c.formula == "Ti2AlN"), opinion=opinion)
    return CandidateInputs(
        run=inputs,
        candidate=candidate,
        cif=cif_text(candidate.structure, candidate.id),
        lineage={"seed": 0, "checkpoint sha256": "41ac" * 16},
        nearest=(NearKnown("mp_20_val:mp-5110", "Ti2AlN", 194, "same composition", None),),
        jobs=(DftJob("relaxation", "done", "runs/.dft/abc", -7.654, 0.0321),),
    )


def test_the_page_stands_alone(made: CandidateInputs) -> None:
    page = candidate_html(made)
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert {"img", "script"} <= set(found.tags)
    assert not {"link", "iframe", "object"} & set(found.tags)
    assert all(value and value.startswith("data:") for name, value in found.attributes if name == "src")
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page
    assert len(page) < 150_000
    assert page == candidate_html(made)


def test_the_cif_to_copy_and_the_one_to_download_are_the_crystal(made: CandidateInputs) -> None:
    page = candidate_html(made)
    shown = html.unescape(re.search(r'<pre id="cif">(.*?)</pre>', page, re.S).group(1))  # type: ignore[union-attr]
    coded = re.search(r'href="data:chemical/x-cif;base64,([^"]+)"', page).group(1)  # type: ignore[union-attr]
    assert base64.b64decode(coded).decode() == shown == made.cif
    read = Structure.from_str(shown, fmt="cif")
    assert np.allclose(read.lattice.abc, made.candidate.structure.lattice.abc, atol=1e-6)
    assert read.composition == made.candidate.structure.composition


def test_every_opinion_folder_and_neighbour_is_on_the_page(made: CandidateInputs) -> None:
    page = candidate_html(made)
    for said in ("0.087", "\u22121.234", "62 %", "0.032", "runs/.dft/abc", "41ac" * 16, ">194<", "not DFT"):
        assert said in page, said
    assert "https://materialsproject.org/materials/mp-5110" in page
    assert f"hullward report RUN --candidate {made.candidate.id}" in page
    assert page_name(made.candidate) == f"Ti2AlN-{made.candidate.id}.html"


def test_text_from_outside_never_becomes_markup(made: CandidateInputs) -> None:
    candidate = dataclasses.replace(
        made.candidate, id=HOSTILE, formula=HOSTILE, decomposition=HOSTILE, known_match=HOSTILE, hull_note=HOSTILE
    )
    bad = dataclasses.replace(
        made, candidate=candidate, cif=HOSTILE, lineage={HOSTILE: HOSTILE},
        nearest=(NearKnown(HOSTILE, HOSTILE, 1, HOSTILE),), jobs=(DftJob(HOSTILE, HOSTILE, HOSTILE, reason=HOSTILE),),
        run=dataclasses.replace(made.run, run_name=HOSTILE, run_folder=HOSTILE, settings={HOSTILE: HOSTILE}),
    )  # fmt: skip
    found = outline(candidate_html(bad))
    assert found.tags.count("img") == 1  # the hull
    assert found.tags.count("script") == 2
    assert not [name for name, _ in found.attributes if name.startswith("on")]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("mp_20_train_part:mp-30", "https://materialsproject.org/materials/mp-30"),
        ("files:folder/mp-30", "https://materialsproject.org/materials/mp-30"),
        ("prototypes:A_cF8_227_a[C=Si]", "https://aflow.org/prototype-encyclopedia/A_cF8_227_a.html"),
        ("prototypes:A_hR2_166_c#3[As=Cu]", None),
        ("alexandria:agm001", "https://alexandria.icams.rub.de/pbe/v1/structures/agm001"),
        ("own:TiN-rocksalt.cif", None),
        ("own:comp-30", None),
        ("wbm_val:wbm-1-30", None),
    ],
)
def test_an_entry_is_linked_where_its_page_is_known(name: str, address: str | None) -> None:
    assert page_of(name) == address


def test_no_folder_of_the_machine_is_on_the_page_but_names_of_files_are(made: CandidateInputs) -> None:
    settings = {"data": {"sources": [{"path": "/home/somebody/crystals/known.csv"}]}, "name": "x", "n": 3}
    page = candidate_html(dataclasses.replace(made, run=dataclasses.replace(made.run, settings=settings)))
    assert "somebody" not in page
    assert ".../known.csv" in page
