"""Candidates as a markdown table and as rows for a table artifact."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from tasks.discover.candidates import Proposer
from tasks.report.run.kept_symmetry import any_kept, change_on_release_ev_per_atom, group_name, remark, verdict
from tasks.report.run.model import ReportCandidate
from tasks.report.run.opinions import any_judged, percent
from tasks.report.run.opinions import verdict as verdict_of_opinion
from tasks.report.run.summary import any_phonons, is_number, number, prototype_name


def escape_markdown(text: object) -> str:
    """Text as it stands, in markdown and inside a GFM table cell: one line, nothing of it read as markup.

    Backslashes, not character references: Prefect's older page shows those literally. An underscore in a word, as in
    a space group, is no markup and stays.
    """
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*{}\[\]<>#|~$!&]|(?<!\w)_|_(?!\w))", r"\\\1", one_line)


def markdown_formula(formula: str) -> str:
    """A formula with its counts as subscripts, safe in markdown."""
    return re.sub(r"(?<=[A-Za-z)])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", escape_markdown(formula))


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small table of texts as HTML."""
    cells = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="card scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def plain_markdown(head: Sequence[str], rows: Sequence[Sequence[str]], escaped: int = 0) -> str:
    """A small table of texts as Markdown.

    Args: headings; rows; escaped: so many leading columns are Markdown already.
    """
    lines = ["| " + " | ".join(head) + " |", "|:--|" + "--:|" * (len(head) - 1)]
    for row in rows:
        cells = [*row[:escaped], *(escape_markdown(cell) for cell in row[escaped:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def candidates_markdown(candidates: Sequence[ReportCandidate], limit: int = 20) -> str:
    """The best candidates as a GFM table with units in every heading, by rank.

    Args:
        candidates: in any order.
        limit: rows at most.
    """
    has_phonons, has_kept = any_phonons(candidates), any_kept(c.kept for c in candidates)
    has_judge = any_judged(c.opinion for c in candidates)
    second = " By the judge (eV/atom) | Within 0.1 by DFT |" if has_judge else ""
    extra = f"{' In its space group |' if has_kept else ''}{' Lowest phonon (THz) |' if has_phonons else ''}"
    header = (
        f"| Rank | Formula | Energy above hull (eV/atom) |{second} Formation energy (eV/atom) | Space group "
        f"| ΔE (eV/atom) | ΔV (Å³/atom) |{extra} In a database | Prototype | Id |"
    )
    sides = f"{':--|' if has_kept else ''}{'--:|' if has_phonons else ''}"
    rows = [header, f"|--:|:--|--:|{'--:|--:|' if has_judge else ''}--:|:--|--:|--:|{sides}:--|:--|:--|"]
    for c in sorted(candidates, key=lambda c: (c.rank, c.id))[:limit]:
        group = "" if c.spacegroup_number is None else f"{escape_markdown(c.spacegroup_symbol)} ({c.spacegroup_number})"
        cells = [
            str(c.rank),
            f"**{markdown_formula(c.formula)}**",
            number(c.e_above_hull_ev_per_atom),
            *(_second(c) if has_judge else []),
            number(c.formation_energy_ev_per_atom),
            group,
            number(c.delta_e_ev_per_atom, signed=True),
            number(c.delta_v_ang3_per_atom, 2, signed=True),
            *(["" if c.kept is None else escape_markdown(remark(c.kept))] if has_kept else []),
            *([number(c.lowest_phonon_thz, 2)] if has_phonons else []),
            escape_markdown(c.known_match) if c.known_match else "new",
            escape_markdown(prototype_name(c)) + (" (offered)" if c.proposed_by == Proposer.PROTOTYPE else ""),
            escape_markdown(c.id),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _second(c: ReportCandidate) -> list[str]:
    if c.opinion is None:
        return ["", ""]
    return [number(c.opinion.e_above_hull_ev_per_atom), percent(c.opinion.probability)]


def candidate_rows(candidates: Sequence[ReportCandidate]) -> list[dict[str, Any]]:
    """One dictionary per candidate by rank, keys with units; unknown values are empty text and show as blank."""

    def rounded(value: float | None, digits: int) -> float | str:
        return round(float(value), digits) if value is not None and is_number(value) else ""

    def said(value: bool | None) -> str:
        return "" if value is None else ("yes" if value else "no")

    def dynamics(c: ReportCandidate) -> dict[str, Any]:
        return {
            "lowest phonon (THz)": rounded(c.lowest_phonon_thz, 3),
            "dynamically stable": said(c.dynamically_stable),
            "phonon note": c.phonon_note,
        }

    def in_group(c: ReportCandidate) -> dict[str, Any]:
        change = None if c.kept is None else change_on_release_ev_per_atom(c.kept)
        return {
            "relaxed in space group": "" if c.kept is None else group_name(c.kept.spacegroup),
            "there a": "" if c.kept is None else verdict(c.kept),
            "dE on release (eV/atom)": rounded(change, 4),
            "release": "" if c.kept is None else remark(c.kept),
        }

    def judged(c: ReportCandidate) -> dict[str, Any]:
        o = c.opinion
        return {
            "above hull by the judge (eV/atom)": "" if o is None else rounded(o.e_above_hull_ev_per_atom, 4),
            "formation energy by the judge (eV/atom)": "" if o is None else rounded(o.formation_energy_ev_per_atom, 4),
            "probability within 0.1 eV/atom by DFT": "" if o is None else rounded(o.probability, 3),
            "opinions": "" if o is None else verdict_of_opinion(o),
            "rank before the judge": "" if o is None else o.first_rank,
            "judge's note": "" if o is None else "; ".join(filter(None, (o.note, o.hull_note))),
        }

    has_phonons, has_kept = any_phonons(candidates), any_kept(c.kept for c in candidates)
    has_judge = any_judged(c.opinion for c in candidates)
    return [
        {
            "rank": c.rank,
            "formula": c.formula,
            "energy above hull (eV/atom)": rounded(c.e_above_hull_ev_per_atom, 4),
            **(judged(c) if has_judge else {}),
            "formation energy (eV/atom)": rounded(c.formation_energy_ev_per_atom, 4),
            "space group": "" if c.spacegroup_number is None else f"{c.spacegroup_symbol} ({c.spacegroup_number})",
            "dE on relaxing (eV/atom)": rounded(c.delta_e_ev_per_atom, 4),
            "dV on relaxing (A^3/atom)": rounded(c.delta_v_ang3_per_atom, 3),
            "rms ((V/atom)^1/3)": rounded(c.rms, 4),
            "relaxation": c.relax_status,
            "steps": c.relax_steps,
            **(in_group(c) if has_kept else {}),
            **(dynamics(c) if has_phonons else {}),
            "in a database": c.known_match or "",
            "proposed by": c.proposed_by,
            "prototype": prototype_name(c),
            "SMACT charge-neutral": said(c.smact_valid),
            "decomposes into (atomic fractions)": c.decomposition,
            "id": c.id,
            "CIF": c.cif_path,
            "VASP inputs": c.inputs_path or "",
            "note": c.hull_note,
        }
        for c in sorted(candidates, key=lambda c: (c.rank, c.id))
    ]
