"""Phonons of the best candidates: a section of the report, as HTML and as Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence

from tasks.report.run.model import PhononFigure
from tasks.report.run.tables import markdown_formula, plain_markdown, plain_table

HEAD = ("formula", "rank", "space group", "lowest, THz", "imaginary modes", "lowest at", "supercell", "verdict")


def verdict_of(figure: PhononFigure) -> str:
    """What the phonons say of a candidate."""
    if figure.lowest_thz is None:
        return f"none: {figure.notes}"
    said = "saddle point" if figure.n_imaginary else "dynamically stable"
    return f"{said}; {figure.notes}" if figure.notes else said


def summary_of(figures: Sequence[PhononFigure], method: str) -> str:
    """How many were computed and how many have imaginary modes, in a sentence; `method` where none is stated."""
    done = [figure for figure in figures if figure.lowest_thz is not None]
    method = next((figure.method for figure in figures if figure.method), method)
    unstable = sum(bool(figure.n_imaginary) for figure in done)
    return (
        f"{unstable} of {len(done)} candidates whose phonons were computed with {method} have imaginary modes (written "
        "as negative frequencies): in their direction the energy falls, so such a crystal is no phase at 0 K."
    )


def _rows(figures: Sequence[PhononFigure]) -> list[tuple[str, ...]]:
    return [
        (
            f.formula,
            str(f.rank),
            f.spacegroup_symbol,
            "" if f.lowest_thz is None else f"{f.lowest_thz:z.2f}",
            "" if f.n_imaginary is None else str(f.n_imaginary),
            f.q_point,
            f.supercell,
            verdict_of(f),
        )
        for f in figures
    ]


def phonon_section(figures: Sequence[PhononFigure], method: str) -> str:
    """The section of the report's page; empty where no phonons were asked for."""
    if not figures:
        return ""
    hint = f'<p class="hint">{html.escape(summary_of(figures, method))}</p>'
    table = plain_table(HEAD, _rows(figures))
    return f'<section id="phonons"><h2>Phonons of the best candidates</h2>{hint}{table}</section>'


def phonon_markdown(figures: Sequence[PhononFigure], method: str) -> list[str]:
    """The same as Markdown blocks."""
    if not figures:
        return []
    rows = [(markdown_formula(row[0]), *row[1:]) for row in _rows(figures)]
    table = plain_markdown(HEAD, rows, escaped=1)
    return ["## Phonons of the best candidates", summary_of(figures, method), table]
