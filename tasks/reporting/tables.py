"""Candidates as a markdown table, as rows for a table artifact, and as CIF files."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from storage.atomic import write_text
from tasks.candidates import Proposer
from tasks.reporting.model import ReportCandidate
from tasks.reporting.summary import any_phonons, is_number, number, prototype_name

REFINE_TOLERANCE_ANG = 0.1
"""Symmetry tolerance of the refined CIFs; the Materials Project uses the same for relaxed crystals."""


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
    shaken = any_phonons(candidates)
    header = (
        "| Rank | Formula | Energy above hull (eV/atom) | Formation energy (eV/atom) | Space group | ΔE (eV/atom) "
        f"| ΔV (Å³/atom) |{' Lowest phonon (THz) |' if shaken else ''} In a database | Prototype | Id |"
    )
    rows = [header, f"|--:|:--|--:|--:|:--|--:|--:|{'--:|' if shaken else ''}:--|:--|:--|"]
    for c in sorted(candidates, key=lambda c: (c.rank, c.id))[:limit]:
        group = "" if c.spacegroup_number is None else f"{escape_markdown(c.spacegroup_symbol)} ({c.spacegroup_number})"
        cells = [
            str(c.rank),
            f"**{markdown_formula(c.formula)}**",
            number(c.e_above_hull_ev_per_atom),
            number(c.formation_energy_ev_per_atom),
            group,
            number(c.delta_e_ev_per_atom, signed=True),
            number(c.delta_v_ang3_per_atom, 2, signed=True),
            *([number(c.lowest_phonon_thz, 2)] if shaken else []),
            escape_markdown(c.known_match) if c.known_match else "new",
            escape_markdown(prototype_name(c)) + (" (offered)" if c.proposed_by == Proposer.PROTOTYPE else ""),
            escape_markdown(c.id),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


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

    shaken = any_phonons(candidates)
    return [
        {
            "rank": c.rank,
            "formula": c.formula,
            "energy above hull (eV/atom)": rounded(c.e_above_hull_ev_per_atom, 4),
            "formation energy (eV/atom)": rounded(c.formation_energy_ev_per_atom, 4),
            "space group": "" if c.spacegroup_number is None else f"{c.spacegroup_symbol} ({c.spacegroup_number})",
            "dE on relaxing (eV/atom)": rounded(c.delta_e_ev_per_atom, 4),
            "dV on relaxing (A^3/atom)": rounded(c.delta_v_ang3_per_atom, 3),
            "rms ((V/atom)^1/3)": rounded(c.rms, 4),
            "relaxation": c.relax_status,
            "steps": c.relax_steps,
            **(dynamics(c) if shaken else {}),
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


def write_cifs(
    candidates: Sequence[ReportCandidate], folder: Path, lineage: Mapping[str, str] | None = None
) -> list[Path]:
    """Write each candidate's CIF at its `cif_path` below the run folder, with its lineage as comments.

    The cell is written as relaxed, in P1. Where spglib finds a symmetry, a refined twin stands beside it, with
    `_symmetrised` in its name. The data block is named by the candidate's id.

    Args:
        candidates: those without a cif_path go to cifs/<id>.cif.
        folder: the run folder.
        lineage: more comment lines, such as checkpoint and dataset digests, the same for all.
    Returns: The files as relaxed, in the order given.
    Raises: ValueError: if a cif_path leaves the folder.
    """
    written = []
    for candidate in candidates:
        relative = PurePosixPath(candidate.cif_path or f"cifs/{candidate.id}.cif")
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"cif_path of {candidate.id} is {str(relative)!r}, expected a path inside the run folder")
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        comments = _comments(candidate, lineage or {})
        write_text(target, cif_text(candidate.structure, candidate.id, [*comments, "cell: as relaxed, P1"]))
        refined = _refined(candidate)
        if refined is not None:
            note = f"cell: conventional, symmetrised within {REFINE_TOLERANCE_ANG} A; not exactly as relaxed"
            twin = target.with_name(f"{target.stem}_symmetrised.cif")
            write_text(twin, _headed(refined, f"{candidate.id}_symmetrised", [*comments, note]))
        written.append(target)
    return written


def cif_text(structure: Structure, name: str, comments: Sequence[str] = ()) -> str:
    """A P1 CIF whose data block is `name`, led by comment lines."""
    return _headed(str(CifWriter(structure)), name, comments)


def _headed(text: str, name: str, comments: Sequence[str]) -> str:
    block = re.sub(r"[^\x21-\x7e]", "_", name) or "crystal"
    body = re.sub(r"(?m)^data_.*$", lambda _: f"data_{block}", text, count=1)
    lines = ["# " + " ".join(comment.split()) for comment in comments]
    return "\n".join([*lines, body.rstrip("\n"), ""])


def _refined(candidate: ReportCandidate) -> str | None:
    """The symmetrised CIF, or None if there is no symmetry to speak of or none can be found."""
    if candidate.spacegroup_number is not None and candidate.spacegroup_number <= 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(CifWriter(candidate.structure, symprec=REFINE_TOLERANCE_ANG, refine_struct=True))
        except Exception:  # spglib and pymatgen raise a dozen types here; the P1 file is complete without this one
            return None


def _comments(candidate: ReportCandidate, lineage: Mapping[str, str]) -> list[str]:
    def energy(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.4f} eV/atom (screening energy, not DFT)"

    # A prototype was not drawn: neither generator nor seed lead to it.
    skipped = {"generator sha256", "seed"} if candidate.proposed_by == Proposer.PROTOTYPE else set()
    return [
        f"Hullward candidate {candidate.id}, rank {candidate.rank}, {candidate.formula}",
        f"energy above hull: {energy(candidate.e_above_hull_ev_per_atom)}",
        f"formation energy: {energy(candidate.formation_energy_ev_per_atom)}",
        f"relaxation: {candidate.relax_status} after {candidate.relax_steps} steps",
        f"in a database: {candidate.known_match or 'not in the data set'}",
        f"proposed by: {candidate.proposed_by}; prototype: {prototype_name(candidate) or 'like none'}",
        *(f"{key}: {value}" for key, value in sorted(lineage.items()) if key not in skipped),
        "lineage: the row of this id in candidates.parquet, and manifest.json of the run",
    ]
