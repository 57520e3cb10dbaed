"""A candidate's page, one self-contained file: the crystal, its CIF, what each opinion says, and where it comes from.

Nothing is fetched, and nothing in it needs the run's folder; links to public entries are the only ones that lead out.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from tasks.discover.candidates import Proposer
from tasks.report.candidate.model import CandidateInputs
from tasks.report.html_parts import asset, data_element, table_of_pairs
from tasks.report.hull_plot import hull_png
from tasks.report.hull_traces import html_formula
from tasks.report.palette import element_colours
from tasks.report.run import opinions
from tasks.report.run.candidate_table import NONE, space_group
from tasks.report.run.kept_symmetry import remark
from tasks.report.run.model import ReportCandidate
from tasks.report.run.phonons import verdict_of
from tasks.report.run.sources import linked_entry, source_and_entry
from tasks.report.run.summary import NEAR_HULL_EV_PER_ATOM, flattened, number, safe, theory_warning
from tasks.report.scene import build_scene, scene_json

SYMPREC_ANG = 0.1
"""Tolerance of the symmetry stated, as in the run's table."""

MOST_SITES = 40
"""Rows of inequivalent sites."""

SECURITY_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page_name(candidate: ReportCandidate) -> str:
    """File name of a candidate's page, the same whatever its rank."""
    return f"{candidate.formula}-{candidate.id}.html"


def candidate_html(inputs: CandidateInputs) -> str:
    """The whole page. Raises: ValueError: if the crystal is disordered, or lies outside the hull's elements."""
    c = inputs.candidate
    scene = scene_json(build_scene(c.structure, palette_elements=inputs.run.elements))
    body = "\n".join(
        [
            _header(inputs),
            "<main>",
            _crystal(inputs),
            _energies(inputs),
            _nearest(inputs),
            _cif(inputs),
            _origin(inputs),
            "</main>",
            "<footer>Written by Hullward. This file needs no network and no other file.</footer>",
        ]
    )
    script = (importlib.resources.files("tasks.report.candidate") / "candidate.js").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}">',
            f"<title>{safe(c.formula)} {safe(c.id)} \u2013 Hullward</title>",
            f"<style>{asset('report.css')}</style></head>",
            f'<body><div class="page">{body}</div>',
            data_element("scene", scene),
            f"<script>{asset('crystals.js')}\n{script}</script>",
            "</body></html>\n",
        ]
    )


def _header(inputs: CandidateInputs) -> str:
    c, run = inputs.candidate, inputs.run
    lead = [f"Rank <b>{c.rank}</b> of {run.n_ranked} candidates of the run {safe(run.run_name)}"]
    if above := number(c.e_above_hull_ev_per_atom):
        lead.append(f"<b>{above}&nbsp;eV/atom</b> above the hull of {safe(run.system)} by {safe(run.potential_method)}")
    if c.opinion is not None and (said := opinions.remark(c.opinion)):
        lead.append(safe(said))
    known = f"matches {linked_entry(c.known_match)}" if c.known_match else "matches no crystal of the run's databases"
    return (
        '<header class="top"><button type="button" class="pill theme" id="theme" aria-label="Switch between light and '
        f'dark">Dark</button><p class="eyebrow">Candidate <code>{safe(c.id)}</code></p>'
        f"<h1>{html_formula(c.formula)}</h1>"
        f'<p class="lead">{"; ".join(lead)}. It {known}.</p><p class="lead">{safe(theory_warning(run))}.</p></header>'
    )


def _crystal(inputs: CandidateInputs) -> str:
    c = inputs.candidate
    colours = element_colours([*inputs.run.elements, *c.fractions])
    key = "".join(f'<span><i style="background:rgb{colours[e]}"></i>{safe(e)}</span>' for e in sorted(c.fractions))
    lattice = c.structure.lattice
    rows = [
        ("Space group", space_group(c)),
        ("Cell as relaxed, a b c", f"{lattice.a:.4f} {lattice.b:.4f} {lattice.c:.4f} \u00c5"),
        ("Angles \u03b1 \u03b2 \u03b3", f"{lattice.alpha:.3f} {lattice.beta:.3f} {lattice.gamma:.3f}\u00b0"),
        ("Atoms in the cell", str(len(c.structure))),
        ("Volume", f"{c.structure.volume / len(c.structure):.3f} \u00c5\u00b3/atom"),
        ("Density", f"{float(c.structure.density):.3f} g/cm\u00b3"),
    ]
    sites: list[tuple[str, ...]] = []
    if (found := _symmetric(c)) is not None:
        conventional, point_group, system, sites = found
        abc = " ".join(f"{x:.4f}" for x in conventional[:3])
        angles = " ".join(f"{x:.2f}" for x in conventional[3:])
        rows += [("Crystal system, point group", f"{safe(system)}, {safe(point_group)}")]
        rows += [("Conventional cell", f"{abc} \u00c5, {angles}\u00b0")]
    body = "".join("<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in site) + "</tr>" for site in sites[:MOST_SITES])
    listed = (
        '<div class="scroll"><table><caption>Inequivalent sites of the conventional cell, symmetrised within '
        f"{SYMPREC_ANG} \u00c5.</caption><thead><tr><th>Element</th><th>Wyckoff</th><th>x</th><th>y</th><th>z</th></tr>"
        f"</thead><tbody>{body}</tbody></table></div>"
        if sites
        else ""
    )
    return (
        '<section id="structure"><h2>Structure</h2><p class="hint">Drag to turn, scroll to come nearer. The '
        "conventional cell where a symmetry is found; thin cells are repeated, the outline marks one.</p>"
        '<div class="inspect card">'
        '<div><canvas class="crystal" id="crystal" data-zoom role="img" tabindex="0" aria-label="Crystal structure of '
        f'{safe(c.formula)}; drag or use the arrow keys to turn it"></canvas><div class="key">{key}</div></div>'
        f"<div>{table_of_pairs(rows)}{listed}</div></div></section>"
    )


def _symmetric(c: ReportCandidate) -> tuple[tuple[float, ...], str, str, list[tuple[str, ...]]] | None:
    """Conventional cell (a, b, c, angles), point group, crystal system, inequivalent sites; None without symmetry."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            refined = SpacegroupAnalyzer(c.structure, SYMPREC_ANG, -1).get_refined_structure()
            analyzer = SpacegroupAnalyzer(refined, SYMPREC_ANG, -1)
            symmetrised = analyzer.get_symmetrized_structure()
            point_group, system = analyzer.get_point_group_symbol(), analyzer.get_crystal_system()
        except Exception:  # spglib and pymatgen raise a dozen types here; the cell as relaxed is shown all the same
            return None
    sites = [
        (site.specie.symbol, symbol, *(f"{x % 1:.4f}" for x in site.frac_coords))
        for (site, *_), symbol in zip(symmetrised.equivalent_sites, symmetrised.wyckoff_symbols, strict=True)
    ]
    return refined.lattice.parameters, point_group, str(system), sites


def _energies(inputs: CandidateInputs) -> str:
    c, run = inputs.candidate, inputs.run
    columns = [
        (
            run.potential_method,
            number(c.formation_energy_ev_per_atom),
            number(c.e_above_hull_ev_per_atom),
            c.decomposition,
            c.hull_note,
        )
    ]
    if (o := c.opinion) is not None:
        formation = number(o.formation_energy_ev_per_atom)
        notes = "; ".join(
            filter(None, (opinions.verdict(o) and f"opinions {opinions.verdict(o)}", o.note, o.hull_note))
        )
        columns.append((o.method, formation, number(o.e_above_hull_ev_per_atom), o.decomposition, notes))
    for job in inputs.jobs:
        if job.energy_ev_per_atom is not None:
            above, place = (
                number(job.e_above_hull_ev_per_atom),
                f"total energy {number(job.energy_ev_per_atom)} eV/atom",
            )
            columns.append((f"DFT, {job.purpose}", "", above, "", place))
    head = "<tr><th></th>" + "".join(f"<th>{safe(column[0])}</th>" for column in columns) + "</tr>"
    names = ("Formation energy, eV/atom", "Energy above hull, eV/atom", "Decomposes into, atomic fractions", "Notes")
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{safe(column[i]) or NONE}</td>" for column in columns)
        + "</tr>"
        for i, name in enumerate(names, start=1)
    )
    further = [("Relaxation", f"{safe(c.relax_status)} after {c.relax_steps} steps")]
    if o is not None and o.probability is not None:
        chance = f"{opinions.percent(o.probability)} <span class='small'>({safe(o.source)})</span>"
        further.append((f"Within {NEAR_HULL_EV_PER_ATOM:g} eV/atom of the hull by DFT", chance))
    if c.kept is not None:
        further.append(("In its space group", safe(remark(c.kept))))
    if (p := inputs.phonons) is not None:
        lowest = (
            f"lowest {number(p.lowest_thz, 2)} THz, supercell {p.supercell}, {p.method}: "
            if p.lowest_thz is not None
            else ""
        )
        further.append(("Phonons", safe(lowest + verdict_of(p))))
    else:
        further.append(("Phonons", "not computed"))
    picture = ""
    if c.e_above_hull_ev_per_atom is not None and run.hull.phases:
        uri = base64.b64encode(hull_png(run.hull, [c])).decode()
        picture = f'<img class="still" alt="Its place on the hull" src="data:image/png;base64,{uri}">'
    return (
        '<section id="energies"><h2>Energies by each opinion</h2><p class="hint">Screening energies of machine-learned '
        "potentials unless DFT is written above them; opinions of different methods do not share a hull.</p>"
        f'<div class="card scroll"><table class="opinions"><thead>{head}</thead><tbody>{body}</tbody></table></div>'
        f"{table_of_pairs(further)}{picture}</section>"
    )


def _nearest(inputs: CandidateInputs) -> str:
    rows = "".join(
        f"<tr><td><b>{html_formula(n.formula)}</b></td><td>{n.spacegroup or NONE}</td><td>{safe(n.relation)}</td>"
        f'<td class="num">{number(n.rms) or NONE}</td><td>{safe(source_and_entry(n.id)[0]) or NONE}</td>'
        f"<td>{linked_entry(n.id)}</td></tr>"
        for n in inputs.nearest
    )
    table = (
        '<div class="card scroll"><table><thead><tr><th>Formula</th><th>Space group</th><th>Near in</th>'
        '<th class="num">RMS<small>(V/atom)<sup>1/3</sup></small></th><th>Source</th><th>Entry</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else '<p class="hint">None of its composition or of its structure type among the crystals of the run.</p>'
    )
    return (
        '<section id="nearest"><h2>Nearest known structures</h2><p class="hint">Among the crystals that the run knows '
        "of its chemical system: of the same composition, and of the same structure type with the elements exchanged "
        f"(pymatgen's StructureMatcher).</p>{table}</section>"
    )


def _cif(inputs: CandidateInputs) -> str:
    name = f"{inputs.candidate.formula}-{inputs.candidate.id}.cif"
    uri = base64.b64encode(inputs.cif.encode()).decode()
    return (
        '<section id="crystal-file"><h2>CIF</h2><p><button type="button" class="pill" id="copy">Copy</button> '
        f'<a class="pill" download="{safe(name)}" href="data:chemical/x-cif;base64,{uri}">Download {safe(name)}</a></p>'
        f'<div class="card scroll"><pre id="cif">{safe(inputs.cif)}</pre></div></section>'
    )


def _without_places(settings: Any) -> Any:
    """Settings with the names of files and folders, but not where on this machine they lie: the page goes elsewhere."""
    if isinstance(settings, Mapping):
        return {key: _without_places(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_without_places(value) for value in settings]
    if isinstance(settings, str) and settings.startswith("/"):
        return f".../{Path(settings).name}"
    return settings


def _origin(inputs: CandidateInputs) -> str:
    c, run = inputs.candidate, inputs.run
    how = (
        "It is a decorated prototype that lies on the hull and that no database holds; nothing was drawn."
        if c.proposed_by == Proposer.PROTOTYPE
        else "It was drawn by a generator; its id is a hash of checkpoint, condition, sampler, seed and index."
    )
    # Where the work was done is nothing to repeat, and names folders of this machine.
    elsewhere = {name: value for name, value in run.settings.items() if name != "execution"}
    settings = json.dumps(_without_places(elsewhere), indent=2, sort_keys=True, default=str)
    name = re.sub(r"[^A-Za-z0-9_-]", "-", run.run_name)
    commands = f"hullward discover {name}.json\nhullward report RUN --candidate {shlex.quote(c.id)}"
    inputs_path = f"RUN/{c.inputs_path}" if c.inputs_path else ""
    folders = [("VASP inputs", safe(inputs_path) or "none written; the best of a run have some")]
    folders += [
        (
            f"DFT job, {safe(job.purpose)}",
            f"{safe(job.folder)} ({safe(job.state)}{safe(job.reason and '; ' + job.reason)})",
        )
        for job in inputs.jobs
    ]
    if not inputs.jobs:
        folders.append(("DFT jobs", "none submitted"))
    lineage = [(safe(key), safe(value)) for key, value in flattened(inputs.lineage)]
    return (
        f'<section id="origin"><h2>Where it comes from, and how to make it again</h2><p class="hint">{how} The '
        f"same settings, checkpoint and data give the same candidate: with the settings below as {safe(name)}.json. "
        f"RUN is the folder of the run {safe(run.run_name)}, wherever it lies.</p>"
        f'<div class="card scroll"><pre>{safe(commands)}</pre></div>{table_of_pairs([*lineage, *folders])}'
        f"<details><summary>Settings of the run ({safe(name)}.json)</summary>"
        f'<div class="scroll"><pre><code>{safe(settings)}</code></pre></div></details></section>'
    )
