"""The sections of report.html as HTML text. Everything that came from outside passes through `safe`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from storage.wording import amount
from tasks.discover.candidates import Proposer
from tasks.report.hull_geometry import phase_counts, placed_candidates
from tasks.report.hull_traces import html_formula
from tasks.report.palette import element_colours
from tasks.report.run import opinions
from tasks.report.run.candidate_table import space_group
from tasks.report.run.kept_symmetry import any_kept, counts_sentence
from tasks.report.run.model import ReportInputs
from tasks.report.run.summary import (
    NEAR_HULL_EV_PER_ATOM,
    duration,
    flattened,
    number,
    proposers,
    safe,
    summarise,
    theory_warning,
)

N_GALLERY = 8
MOST_REASONS = 40
"""Reasons shown of one stage: with a filter on compositions there may be one for every formula."""

PROTOTYPE_TAG = ' <span class="tag plain">prototype</span>'


def header(inputs: ReportInputs) -> str:
    """Title, one sentence on what came out, warnings, and the counts."""
    summary = summarise(inputs.candidates, inputs.counts)
    names = "<span>\u2013</span>".join(safe(e) for e in inputs.elements)
    if summary.best is None:
        lead = f"<b>{summary.n_candidates}</b> candidates; none of them has a place on a convex hull."
    else:
        lead = (
            f"<b>{amount(summary.n_candidates, 'candidate')}</b> relaxed and ranked"
            f"{': ' + proposers(summary) if proposers(summary) else ''}. "
            f"<b>{summary.n_on_hull}</b> on or below the hull of the competing phases; the best is "
            f"<b>{html_formula(summary.best.formula)}</b> at "
            f"<b>{number(summary.best.e_above_hull_ev_per_atom)}&nbsp;eV/atom</b>"
            + ("." if summary.best.opinion is None else f" ({safe(opinions.remark(summary.best.opinion))}).")
        )
    notes = "".join(f"<li>{safe(note)}</li>" for note in inputs.notes)
    figures = [
        (str(summary.n_candidates), "ranked candidates"),
        (str(summary.n_new), "are in no database"),
        (str(summary.n_on_hull), "on or below the hull"),
        (str(summary.n_near_hull), f"within {NEAR_HULL_EV_PER_ATOM} eV/atom of it"),
        (f"{summary.n_converged}<small> of {summary.n_candidates}</small>", "relaxations converged"),
    ]
    if summary.n_kept:
        figures.append(
            (f"{summary.n_saddle_points}<small> of {summary.n_kept}</small>", "saddle points of their groups")
        )
    judged = opinions.counts_sentence(c.opinion for c in inputs.candidates)
    second = f'<p class="lead">{safe(judged)}.</p>' if judged else ""
    in_groups = f'<p class="lead">{safe(counts_sentence(summary))}.</p>' if summary.n_kept else ""
    counts = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in figures)
    return (
        '<header class="top"><button type="button" class="pill theme" id="theme" aria-label="Switch between light and '
        f'dark">Dark</button><p class="eyebrow">Hullward &middot; {safe(inputs.run_name)}</p><h1>{names}</h1>'
        f'<p class="lead">{lead}</p>{second}{in_groups}<p class="lead">{safe(theory_warning(inputs))}.</p>'
        + (f'<ul class="notes" aria-label="Warnings">{notes}</ul>' if notes else "")
        + f'<dl class="figures">{counts}</dl></header>'
    )


def hull_section(inputs: ReportInputs) -> str:
    """The interactive hull, drawn by the page's script."""
    missing = len(inputs.candidates) - len(placed_candidates(inputs.candidates, inputs.hull))
    theory = inputs.hull.level_of_theory or inputs.potential_method
    stable = sum(p.stable for p in inputs.hull.phases)
    left_out = f" {amount(missing, 'candidate')} without hull numbers left out." if missing else ""
    if inputs.n_left_out:
        left_out += f" Shown are the {len(inputs.candidates)} candidates of the table below."
    switch, flat = "", {3: "Triangle", 4: "Energies"}.get(len(inputs.hull.elements))
    if flat is not None:
        switch = (
            '<div class="switch" role="group" aria-label="View of the hull">'
            f'<button type="button" class="pill" data-figure="plane" aria-pressed="true">{flat}</button>'
            '<button type="button" class="pill" data-figure="space" aria-pressed="false">3D</button></div>'
        )
    return (
        '<section id="hull"><div class="head"><div><h2>Convex hull</h2>'
        f'<p class="hint">{amount(len(inputs.hull.phases), "competing phase")}, {stable} of them stable, at the level '
        f"of {safe(theory)}: {safe(phase_counts(inputs.hull.phases))}. Stars (diamonds in 3D) lie on or below the "
        f"hull. Click a candidate to open it.{left_out}</p></div>{switch}</div>"
        f'<div class="card hull"><div class="plot" id="hull-plot" role="img" '
        f'aria-label="Convex hull of {safe(inputs.system)} with {amount(len(inputs.candidates), "candidate")}; '
        'the table below holds the same numbers"></div></div></section>'
    )


def gallery_section(inputs: ReportInputs) -> str:
    """The best candidates as rotatable crystals."""
    best = inputs.ranked[:N_GALLERY]
    if not best:
        return ""
    colours = element_colours(inputs.elements)
    key = "".join(f'<span><i style="background:rgb{colours[e]}"></i>{safe(e)}</span>' for e in inputs.elements)
    cards = []
    for c in best:
        above = number(c.e_above_hull_ev_per_atom)
        tag = PROTOTYPE_TAG if c.proposed_by == Proposer.PROTOTYPE else ""
        second = f"<p>{safe(opinions.remark(c.opinion))}</p>" if c.opinion is not None else ""
        cards.append(
            f'<article class="card"><canvas class="crystal" data-crystal="{safe(c.id)}" role="img" tabindex="0" '
            f'aria-label="Crystal structure of {safe(c.formula)}; drag or use the arrow keys to turn it"></canvas>'
            f'<div class="name"><h3>{html_formula(c.formula)}</h3><span class="rank">no. {c.rank}</span></div>'
            f"<p>{space_group(c)}{tag}</p><p>{above + ' eV/atom above hull' if above else 'no place on the hull'}</p>"
            f'{second}<button type="button" class="pill" data-inspect="{safe(c.id)}">Open</button></article>'
        )
    return (
        '<section id="best"><h2>Best candidates</h2><p class="hint">Drag to turn. Relaxed crystals, drawn as the '
        "conventional cell where a symmetry is found; thin cells are repeated, the outline marks one cell.</p>"
        f'<div class="key" aria-label="Colours of the elements">{key}</div>'
        f'<div class="gallery">{"".join(cards)}</div></section>'
    )


def yield_section(inputs: ReportInputs) -> str:
    """How many crystals each stage let through, and why it refused the others."""
    if not inputs.yields:
        return ""
    largest = max(1, *(max(y.n_in, y.n_out) for y in inputs.yields))
    stages = []
    for entry in inputs.yields:
        reasons = sorted((r for r in inputs.rejected if r.stage == entry.stage), key=lambda r: (-r.count, r.reason))
        why = "".join(f"<li><b>{r.count}</b> {safe(r.reason)}</li>" for r in reasons[:MOST_REASONS])
        if others := sum(r.count for r in reasons[MOST_REASONS:]):
            why += f"<li><b>{others}</b> for {len(reasons) - MOST_REASONS} other reasons</li>"
        note = f"<li>{safe(entry.note)}</li>" if entry.note else ""
        seconds = duration(entry.seconds)
        stages.append(
            f"<li><h3>{safe(entry.stage)}</h3>"
            f'<div class="track" aria-hidden="true"><span class="in" '
            f'style="width:{100 * entry.n_in / largest:.2f}%"></span>'
            f'<span class="out" style="width:{100 * entry.n_out / largest:.2f}%"></span></div>'
            f'<div class="count">{entry.n_in} \u2192 '
            f"<b>{entry.n_out}</b>{f' <small>{seconds}</small>' if seconds else ''}</div>"
            + (f'<ul class="why">{why}{note}</ul>' if why or note else "")
            + "</li>"
        )
    placed = {y.stage for y in inputs.yields}
    elsewhere = [r for r in inputs.rejected if r.stage not in placed]
    rest = "".join(f"<li><b>{r.count}</b> {safe(r.stage)}: {safe(r.reason)}</li>" for r in elsewhere[:MOST_REASONS])
    return (
        '<section id="yield"><h2>Yield</h2><p class="hint">Crystals in, crystals out, and why the others were '
        "turned away. "
        f'Rejected crystals stay on record with their reason.</p><ol class="card funnel">{"".join(stages)}'
        + (f'<li><h3>turned away</h3><ul class="why">{rest}</ul></li>' if rest else "")
        + "</ol></section>"
    )


def explanation_section(inputs: ReportInputs) -> str:
    """What each number is, in plain words, with its level of theory."""
    terms = "".join(
        f"<div><dt>{term} <small>{unit}</small></dt><dd>{text}</dd></div>" for term, unit, text in _terms(inputs)
    )
    return (
        '<section id="meaning"><h2>What the numbers mean</h2>'
        f'<p class="hint">{safe(theory_warning(inputs))}.</p><dl class="terms">{terms}</dl></section>'
    )


def _terms(inputs: ReportInputs) -> Sequence[tuple[str, str, str]]:
    method = safe(inputs.potential_method)
    tolerances = (
        ", ".join(f"{safe(key)} {safe(value)}" for key, value in flattened(inputs.tolerances)) or "not recorded"
    )
    return (
        (
            "Energy above hull", "eV/atom",
            f"How far the relaxed crystal lies above the convex hull of the competing phases, all with "
            f"{method}; a prototype is measured against all the others. Zero or less: "
            f"no mixture of them is lower in energy. Up to about {NEAR_HULL_EV_PER_ATOM} is worth a DFT "
            f"calculation. "
            "No temperature, no pressure, no vibrations.",
        ),
        ("Formation energy", "eV/atom", "Energy of the crystal minus that of its elements in their reference phases, "
         "with the same potential."),
        ("Decomposes into", "fractions of atoms", "The mixture of competing phases that lies below the crystal on "
        "the hull."),
        ("\u0394E on relaxing", "eV/atom", "Energy of the relaxed minus that of the generated crystal, same "
        "potential. Near "
         "zero: the generator already found the minimum."),
        ("\u0394V on relaxing", "\u00c5\u00b3/atom", "Volume of the relaxed minus that of the generated crystal."),
        ("RMS displacement", "(V/atom)<sup>1/3</sup>", "Between generated and relaxed crystal after the best match by "
         "pymatgen's StructureMatcher. A dash: the two no longer match, the crystal changed on relaxing."),
        ("Relaxation", "status, steps", "\u201cconverged\u201d: forces and stress fell below the threshold. \u201cstep "
         "cap\u201d: stopped before that; its energy may still fall."),
        ("Space group", "", "Found by spglib on the relaxed crystal."),
        ("In a database", "", "The id of the database's crystal that it matches, or \u201cnew\u201d: it matches none "
         "in the run's data set. New to this data set is not new to the world."),
        ("Prototype", "", "The decorated prototype of a common structure type that it is like; \u201coffered\u201d: "
         "the candidate is that prototype itself, stable and in no database. Likeness does not make it known."),
        *_kept_terms(inputs),
        *_opinion_terms(inputs),
        *_phonon_terms(inputs, method),
        ("SMACT", "", "Whether some choice of common oxidation states is charge-neutral. Real borides and "
        "intermetallics "
         "often are not; it is shown, not judged by."),
        ("Tolerances", "", f"Every match and symmetry above rests on: {tolerances}."),
    )  # fmt: skip


def _kept_terms(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    if not any_kept(c.kept for c in inputs.candidates):
        return []
    about = (
        "The crystal relaxed in its space group, was nudged, and relaxed freely. \u201csaddle point\u201d: its "
        "energy then fell by \u0394E and the group broke; the row holds the lower crystal, its energies and its own "
        "space group. \u201cminimum\u201d: nothing in its cell led down from a nudge of this size. A dash: it has no "
        "symmetry to keep."
    )
    return [("In its space group", "\u0394E, eV/atom", about)]


def _opinion_terms(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    if not opinions.any_judged(c.opinion for c in inputs.candidates):
        return []
    judge = safe(" and ".join(inputs.judges))
    about = (
        f"The same by the judge, {judge}: the best and the competing phases near their hull, relaxed a few steps "
        "further, on a hull of the judge's own energies. It decides the rank. A dash: not judged, "
        "ranked behind those that are."
    )
    chance = safe(opinions.probability_sentence(c.opinion for c in inputs.candidates)) + "."
    bound = f"Within {NEAR_HULL_EV_PER_ATOM:g} eV/atom by DFT"
    return [("Above hull by the judge", "eV/atom", about), (bound, "probability", chance)]


def _phonon_terms(inputs: ReportInputs, method: str) -> list[tuple[str, str, str]]:
    if not inputs.phonons:
        return []
    method = safe(next((figure.method for figure in inputs.phonons if figure.method), "")) or method
    about = (
        f"Lowest frequency of the crystal's vibrations, with {method}, at the q-points looked at. Negative stands for "
        "imaginary: the energy falls along the mode, so the crystal is a saddle point and no phase at 0 K. A dash: not "
        "computed, or the section on phonons says why not."
    )
    return [("Lowest phonon", "THz", about)]


def provenance_section(inputs: ReportInputs) -> str:
    """From the files back to the data: lineage, then every recorded value."""
    rows = flattened(inputs.provenance)
    groups = (
        ("Known crystals", ("known crystals", "dataset")),
        ("Generator", ("generator", "checkpoint")),
        ("Random draws", ("seed",)),
    )
    steps = []
    for title, words in groups:
        found = [(key.split(".")[-1], value) for key, value in rows if key.lower().startswith(words)]
        text = "<br>".join(
            f'{safe(key)} <code title="{safe(value)}">{safe(_short(value))}</code>' for key, value in found
        )
        steps.append(f'<li class="card"><b>{title}</b>{text or "not recorded"}</li>')
    steps.append(
        f'<li class="card"><b>Relaxation and hull</b>{safe(inputs.potential_method)}, the same for candidates '
        "and competing phases</li>"
    )
    steps.append('<li class="card"><b>Candidate id</b>a hash of checkpoint, conditions, seed and index; names '
    'the CIF and '
                 "the VASP folder, whose lineage leads back here</li>")  # fmt: skip
    folder = f'<p class="hint">Run folder: <code>{safe(inputs.run_folder)}</code></p>' if inputs.run_folder else ""
    raw = safe(json.dumps(inputs.settings, indent=2, sort_keys=True, default=str))
    return (
        '<section id="provenance"><h2>Where it comes from</h2><p class="hint">Every number can be walked back '
        "to the data, "
        f'the checkpoint and the seed; the same settings and data give the same candidates.</p><ol class="lineage">'
        f"{''.join(steps)}</ol>{folder}"
        f"<details open><summary>Provenance</summary>{_rows(rows)}</details>"
        f"<details><summary>Settings</summary>{_rows(flattened(inputs.settings))}</details>"
        f'<details><summary>Settings as JSON</summary><div class="scroll"><pre><code>{raw}</code></pre></div></details>'
        "</section>"
    )


def _short(value: str) -> str:
    return f"{value[:12]}\u2026" if len(value) > 40 and " " not in value else value


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return '<p class="hint">Nothing recorded.</p>'
    body = "".join(
        f'<tr><th scope="row">{safe(key)}</th><td class="mono">{safe(value)}</td></tr>' for key, value in rows
    )
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


def dialog() -> str:
    """The window that shows one candidate large; filled by the page's script."""
    return (
        '<dialog id="inspect" aria-labelledby="inspect-title"><div class="inspect"><div>'
        '<canvas class="crystal" id="inspect-canvas" data-zoom role="img" tabindex="0"></canvas>'
        '<p class="hint" id="inspect-missing" hidden>The best 300 crystals are drawn; open the CIF for this one.</p>'
        '<div class="key" id="inspect-key"></div></div><div><p class="eyebrow">Candidate <code '
        'id="inspect-id"></code></p>'
        '<h2 id="inspect-title"></h2><dl id="inspect-numbers"></dl><nav aria-label="Candidates">'
        '<button type="button" class="pill" id="inspect-previous">Previous</button>'
        '<button type="button" class="pill" id="inspect-next">Next</button>'
        '<button type="button" class="pill" id="inspect-close">Close</button></nav></div></div></dialog>'
    )
