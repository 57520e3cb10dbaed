"""The table of all candidates on report.html. Everything that came from outside passes through `safe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from tasks.discover.candidates import Proposer
from tasks.report.hull_traces import html_formula
from tasks.report.run.kept_symmetry import any_kept, change_on_release_ev_per_atom, group_name, remark, verdict
from tasks.report.run.model import ReportCandidate, ReportInputs
from tasks.report.run.opinions import any_judged, percent
from tasks.report.run.sources import linked_entry, page_of
from tasks.report.run.summary import NEAR_HULL_EV_PER_ATOM, any_phonons, is_number, number, prototype_name, safe

NONE = '<span class="none">\u2013</span>'


def space_group(candidate: ReportCandidate) -> str:
    """Symbol and number, or a dash."""
    if candidate.spacegroup_number is None:
        return NONE
    return f"{safe(candidate.spacegroup_symbol)} <span class='small'>({candidate.spacegroup_number})</span>"


@dataclass(frozen=True)
class Column:
    """One column of the candidate table: its key, heading, unit, and how it sorts."""

    key: str
    label: str
    unit: str = ""  # HTML
    kind: Literal["number", "text"] = "number"
    further: bool = False  # shown with all columns only: the others fit on a page of 1150 px


PHONON = Column("phonon", "Lowest phonon", "THz, negative: imaginary")
"""Only where phonons were asked for."""

KEPT = Column("kept", "In its space group", "\u0394E on release, eV/atom", "text")
"""Only in a run where space groups were kept."""

JUDGE = Column("judge", "Above hull by the judge", "eV/atom")
CHANCE = Column("chance", f"Within {NEAR_HULL_EV_PER_ATOM:g} eV/atom by DFT", "probability")
JUDGE_FORMATION = Column("judge_formation", "Formation energy by the judge", "eV/atom")
"""Only in a run with a judge, and the probability where the judge's errors were measured."""

COLUMNS = (
    Column("rank", "Rank"),
    Column("formula", "Formula", kind="text"),
    Column("above", "Energy above hull", "eV/atom"),
    JUDGE,
    CHANCE,
    Column("formation", "Formation energy", "eV/atom"),
    JUDGE_FORMATION,
    Column("spacegroup", "Space group"),
    KEPT,
    PHONON,
    Column("known", "In a database", "matched id", "text"),
    Column("files", "Files", kind="text"),
    Column("decomposition", "Decomposes into", "atomic fractions", "text", further=True),
    Column("prototype", "Prototype", "structure type", "text", further=True),
    Column("status", "Relaxation", "steps", "text", further=True),
    Column("delta_e", "\u0394E on relaxing", "eV/atom", further=True),
    Column("delta_v", "\u0394V on relaxing", "\u00c5\u00b3/atom", further=True),
    Column("rms", "RMS displacement", "(V/atom)<sup>1/3</sup>", further=True),
    Column("smact", "SMACT", "charge-neutral", "text", further=True),
    Column("notes", "Notes", kind="text", further=True),
)


def _columns(candidates: Sequence[ReportCandidate]) -> list[Column]:
    shown = {
        PHONON: any_phonons(candidates),
        KEPT: any_kept(c.kept for c in candidates),
        JUDGE: any_judged(c.opinion for c in candidates),
        JUDGE_FORMATION: any(
            c.opinion is not None and c.opinion.formation_energy_ev_per_atom is not None for c in candidates
        ),
        CHANCE: any(c.opinion is not None and c.opinion.probability is not None for c in candidates),
    }
    return [column for column in COLUMNS if shown.get(column, True)]


def _link(path: str, text: str) -> str:
    return f'<a href="{safe(quote(path))}">{text}</a>'


def _figure(value: float | None, digits: int = 3, signed: bool = False) -> tuple[str, str]:
    exact = repr(float(value)) if value is not None and is_number(value) else ""
    return exact, number(value, digits, signed) or NONE


def _phonon(c: ReportCandidate) -> tuple[str, str]:
    exact, shown = _figure(c.lowest_phonon_thz, 2)
    tag = "" if c.dynamically_stable is None or c.dynamically_stable else ' <span class="tag plain">saddle point</span>'
    return exact, shown + tag


def _kept(c: ReportCandidate) -> tuple[str, str]:
    if c.kept is None:
        return "", NONE
    word, plain = verdict(c.kept), "" if c.kept.is_minimum else " plain"
    change = number(change_on_release_ev_per_atom(c.kept), 4, signed=True)
    shown = f'<span class="tag{plain}">{word}</span> <span class="small">{safe(group_name(c.kept.spacegroup))}'
    if c.kept.is_released:
        shown += f"<br>released {change}"
    return safe(word), f'<span title="{safe(remark(c.kept))}">{shown}</span></span>'


def _judge(c: ReportCandidate) -> tuple[str, str]:
    if c.opinion is None:
        return "", NONE
    exact, shown = _figure(c.opinion.e_above_hull_ev_per_atom)
    tag = '<br><span class="tag plain">opinions differ</span>' if c.opinion.agree is False else ""
    mark = f' <abbr title="{safe(notes)}">*</abbr>' if (notes := _judges_notes(c)) else ""
    return exact, shown + mark + tag


def _judges_notes(c: ReportCandidate) -> str:
    return "" if c.opinion is None else "; ".join(filter(None, (c.opinion.note, c.opinion.hull_note)))


def _known(c: ReportCandidate) -> tuple[str, str]:
    if not c.known_match:
        return "0", "new"
    return "1" + safe(c.known_match), linked_entry(c.known_match)


def _chance(c: ReportCandidate) -> tuple[str, str]:
    probability = None if c.opinion is None else c.opinion.probability
    return ("", NONE) if probability is None else (repr(float(probability)), percent(probability))


def _prototype(c: ReportCandidate) -> tuple[str, str]:
    if not c.prototype_match:
        return "", NONE
    name = safe(prototype_name(c))
    offered = '<span class="tag plain">offered</span> ' if c.proposed_by == Proposer.PROTOTYPE else ""
    page = page_of(c.prototype_match)
    shown = name if page is None else f'<a href="{safe(page)}" rel="noreferrer">{name}</a>'
    return name, f"{offered}<span class='small'>{shown}</span>"


def _cells(c: ReportCandidate) -> dict[str, tuple[str, str]]:
    """(sorting value, HTML) of each column."""
    files = [_link(c.page_path, "Page")] if c.page_path else []
    files += [_link(c.cif_path, "CIF")] if c.cif_path else []
    files += [_link(c.inputs_path + "/", "VASP")] if c.inputs_path else []
    judged = None if c.opinion is None else c.opinion.formation_energy_ev_per_atom
    notes = safe("; ".join(filter(None, (c.hull_note, _judges_notes(c), c.phonon_note))))
    status = f'<span class="{"tag" if c.relax_status == "converged" else "tag plain"}">{safe(c.relax_status)}</span>'
    smact = {None: ("", NONE), True: ("1", "yes"), False: ("0", "no")}[c.smact_valid]
    return {
        "rank": (str(c.rank), str(c.rank)),
        "formula": (
            safe(c.formula),
            f'<button type="button"><span class="text">{html_formula(c.formula)}</span></button>'
            f'<br><code class="small">{safe(c.id)}</code>',
        ),
        "above": _figure(c.e_above_hull_ev_per_atom),
        "judge": _judge(c),
        "chance": _chance(c),
        "formation": _figure(c.formation_energy_ev_per_atom),
        "spacegroup": ("" if c.spacegroup_number is None else str(c.spacegroup_number), space_group(c)),
        "delta_e": _figure(c.delta_e_ev_per_atom, signed=True),
        "delta_v": _figure(c.delta_v_ang3_per_atom, 2, signed=True),
        "rms": _figure(c.rms),
        "kept": _kept(c),
        "phonon": _phonon(c),
        "status": (
            safe(f"{c.relax_status} {c.relax_steps:06d}"),
            f"{status} <span class='small'>{c.relax_steps}</span>",
        ),
        "known": _known(c),
        "prototype": _prototype(c),
        "smact": smact,
        "decomposition": (safe(c.decomposition), safe(c.decomposition) or NONE),
        "judge_formation": _figure(judged),
        "notes": (notes, notes or NONE),
        "files": ("", " &middot; ".join(files) or NONE),
    }


def candidate_section(inputs: ReportInputs) -> str:
    """The candidates in one table that sorts and filters; where they are but the best, with a link to all."""
    if not inputs.candidates:
        return (
            '<section><h2>Candidates</h2><p class="hint">None: no crystal passed every stage. The yield below '
            "says where "
            "they were lost.</p></section>"
        )
    heads = []
    columns = _columns(inputs.candidates)
    for column in columns:
        unit = f"<small>{column.unit}</small>" if column.unit else ""
        label = column.label if column.key == "files" else f'<button type="button">{column.label}</button>'
        number_class = ' class="num"' if column.kind == "number" and column.key != "spacegroup" else ""
        said = safe(f"{column.label}, {column.unit}" if column.unit else column.label)
        order = ' aria-sort="ascending"' if column.key == "rank" else ""
        heads.append(
            f'<th scope="col" data-column="{column.key}" data-kind="{column.kind}" data-label="{said}"'
            f"{' data-further' * column.further}{number_class}{order}>{label}{unit}</th>"
        )
    rows = "\n".join(_row(c, columns) for c in inputs.ranked)
    title, listed = "All candidates", ""
    if inputs.n_left_out:
        title = f"The best {len(inputs.candidates)} candidates"
        listed = (
            f" {inputs.n_left_out} more of lower rank are left out; all {inputs.n_ranked} are in "
            f"{_link(inputs.listing_path, safe(inputs.listing_path))} (numbers) and "
            f"{_link('candidates.parquet', 'candidates.parquet')} (crystals too)."
        )
    return (
        f'<section id="all"><h2>{title}</h2><p class="hint">Click a heading to sort, a row to see the '
        f"crystal and all its numbers.{listed}</p>"
        '<div class="filters" role="search"><label><span>Find</span><input type="search" id="filter-text" '
        'placeholder="formula, id, space group"></label>'
        '<label><span>Energy above hull at most</span><input type="number" id="filter-energy" step="0.01" '
        'aria-label="Energy above hull at most, eV/atom"><span>eV/atom</span></label>'
        '<label><input type="checkbox" id="filter-new">new only</label>'
        '<label><input type="checkbox" id="filter-converged">converged only</label>'
        '<label><input type="checkbox" id="all-columns">all columns</label>'
        f'<output id="filter-count" aria-live="polite">{len(inputs.candidates)} of {len(inputs.candidates)} '
        f"shown</output>"
        '</div><div class="card scroll" role="region" aria-label="Candidate table" tabindex="0">'
        f'<table class="candidates" id="candidates"><caption>Energies: {_energies(inputs)}, not DFT. '
        f"\u0394 is relaxed minus generated.</caption><thead><tr>{''.join(heads)}</tr></thead><tbody>\n{rows}\n</tbody>"
        "</table></div></section>"
    )


def _energies(inputs: ReportInputs) -> str:
    judges = f"; the judge's: {' and '.join(inputs.judges)}" if inputs.judges else ""
    return safe(inputs.potential_method + judges)


def _row(c: ReportCandidate, columns: Sequence[Column]) -> str:
    above = c.e_above_hull_ev_per_atom
    search = (
        f"{c.formula} {c.id} {c.spacegroup_symbol} {c.spacegroup_number or ''} {'-'.join(sorted(c.fractions))}".lower()
    )
    cells = []
    values = _cells(c)
    for column in columns:
        value, text = values[column.key]
        names = {
            "formula": "formula",
            "decomposition": "wrap",
            "prototype": "wrap",
            "spacegroup": "line",
            "status": "line",
            "kept": "line",
            "known": "wrap",
            "notes": "wrap",
        }
        name = names.get(column.key, "num" if column.kind == "number" else "")
        cells.append(
            f'<td data-column="{column.key}" data-value="{value}"{" data-further" * column.further}'
            f"{f' class={name}' if name else ''}>{text}</td>"
        )
    energy = repr(float(above)) if above is not None and is_number(above) else ""
    return (
        f'<tr data-id="{safe(c.id)}" data-rank="{c.rank}" data-energy="{energy}" '
        f'data-new="{int(c.known_match is None)}" '
        f'data-status="{safe(c.relax_status)}" data-search="{safe(search)}">{"".join(cells)}</tr>'
    )
