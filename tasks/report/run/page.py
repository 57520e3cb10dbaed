"""`report.html`: one self-contained page with the interactive hull, the candidate table and rotatable crystals.

The page loads nothing: plotly's script comes from the installed wheel, style and behaviour from the files beside this
one, and a content security policy forbids the rest. Identical inputs give identical bytes.
"""

from __future__ import annotations

import html
from pathlib import Path

from plotly.offline import get_plotlyjs

from storage.atomic import write_text
from tasks.report.html_parts import asset, data_element
from tasks.report.hull_interactive import hull_figures
from tasks.report.run.asked import asked_section
from tasks.report.run.candidate_table import candidate_section
from tasks.report.run.model import ReportInputs
from tasks.report.run.next_steps import next_section
from tasks.report.run.page_sections import (
    dialog,
    explanation_section,
    gallery_section,
    header,
    hull_section,
    provenance_section,
    yield_section,
)
from tasks.report.run.phase_table import phase_section
from tasks.report.run.phonons import phonon_section
from tasks.report.run.proposers import proposer_section
from tasks.report.run.second_opinion import opinion_section
from tasks.report.scene import build_scene, scene_json

MOST_CRYSTALS = 300
"""Crystals that can be turned on the page, by rank: about 4 kB each."""

SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "worker-src blob:"
)
"""Nothing is fetched. plotly's WebGL half compiles small functions, hence 'unsafe-eval'."""


def report_html(inputs: ReportInputs) -> str:
    """The whole page.

    Raises: ValueError: if a hull phase lies outside the hull's elements, or a candidate's crystal is disordered.
    """
    scenes = {
        c.id: scene_json(build_scene(c.structure, palette_elements=inputs.elements))
        for c in inputs.ranked[:MOST_CRYSTALS]
    }
    body = "\n".join(
        [
            header(inputs),
            "<main>",
            hull_section(inputs),
            gallery_section(inputs),
            candidate_section(inputs),
            phase_section(inputs),
            opinion_section(inputs.ranked),
            phonon_section(inputs.phonons, inputs.potential_method),
            asked_section(inputs.asked, inputs.best_of_formulas, inputs.potential_method),
            yield_section(inputs),
            proposer_section(inputs.proposers),
            explanation_section(inputs),
            next_section(inputs),
            provenance_section(inputs),
            "</main>",
            "<footer>Written by Hullward. This file needs no network; links to CIF files and VASP inputs work while it "
            "lies in its run folder.</footer>",
        ]
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">',
            f"<title>{html.escape(inputs.system)} \u2013 {html.escape(inputs.run_name)} \u2013 Hullward</title>",
            f"<style>{asset('report.css')}</style></head>",
            f'<body><div class="page">{body}</div>',
            dialog(),
            data_element("scenes", scenes),
            data_element("figures", hull_figures(inputs.hull, inputs.ranked)),
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{asset('crystals.js')}\n{asset('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def write_report(inputs: ReportInputs, path: Path) -> Path:
    """Write the page to `path`, whole or not at all, and return it."""
    write_text(path, report_html(inputs))
    return path
