"""Hull pictures: tie-lines against pymatgen, figures against plotly's own validation."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition

from tasks.report.hull_geometry import lower_facets, phase_arrays, tie_lines
from tasks.report.hull_interactive import hull_figures
from tasks.report.hull_plot import hull_png
from tasks.report.hull_traces import html_formula
from tasks.report.png import PNG_LIMIT_BYTES
from tasks.report.run.model import HullData, HullPhase, ReportInputs

SYSTEMS = [("Al", "Ti"), ("Al", "Ti", "N")]


@pytest.mark.parametrize("seed", range(5))
def test_facets_are_those_of_pymatgens_phase_diagram(seed: int) -> None:
    rng = np.random.default_rng(seed)
    elements = ["Al", "Ti", "N"]
    formulas = [*elements, *dict.fromkeys("".join(f"{e}{rng.integers(1, 5)}" for e in elements) for _ in range(12))]
    energies = [0.0] * 3 + [float(e) for e in rng.uniform(-2.0, 0.3, len(formulas) - 3)]
    entries = [PDEntry(Composition(f), e * Composition(f).num_atoms) for f, e in zip(formulas, energies, strict=True)]
    fractions = np.array([[Composition(f).get_atomic_fraction(e) for e in elements] for f in formulas])
    diagram = PhaseDiagram(entries)
    expected = {frozenset(diagram.qhull_entries[i].composition.formula for i in facet) for facet in diagram.facets}
    found = {
        frozenset(Composition(formulas[i]).formula for i in f) for f in lower_facets(fractions, np.array(energies))
    }
    assert found == expected


def test_elements_alone_make_one_triangle_and_three_tie_lines() -> None:
    facets = lower_facets(np.eye(3), np.zeros(3))
    assert facets == [(0, 1, 2)]
    assert tie_lines(facets) == [(0, 1), (0, 2), (1, 2)]


def test_without_one_of_the_elements_there_is_no_hull_to_draw() -> None:
    assert lower_facets(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]), np.array([0.0, 0.0, -1.0])) == []


@pytest.mark.parametrize("elements", SYSTEMS)
def test_phases_marked_stable_are_the_corners_of_the_facets(
    make_inputs: Callable[..., ReportInputs], elements: tuple[str, ...]
) -> None:
    hull = make_inputs(4, elements).hull
    corners = {i for facet in lower_facets(*phase_arrays(hull.phases, elements)) for i in facet}
    assert {hull.phases[i].id for i in corners} == {p.id for p in hull.phases if p.stable}


@pytest.mark.parametrize("elements", [("Ti",), ("Al", "Ti"), ("Al", "Ti", "N"), ("Al", "Ti", "N", "O")])
def test_a_hull_of_any_dimension_is_drawn_small_and_repeatably(inputs: ReportInputs, elements: tuple[str, ...]) -> None:
    phases = tuple(p for p in inputs.hull.phases if set(p.fractions) <= set(elements))
    hull = HullData(elements=elements, phases=phases)
    raw = hull_png(hull, inputs.candidates)
    assert raw == hull_png(hull, inputs.candidates)
    assert len(raw) < PNG_LIMIT_BYTES
    assert Image.open(io.BytesIO(raw)).size[0] == pytest.approx(760, abs=2)
    for figure in hull_figures(hull, inputs.candidates).values():
        go.Figure(figure)  # refuses unknown properties and wrong values


def test_an_empty_hull_without_candidates_is_still_drawn() -> None:
    hull = HullData(elements=("Al", "Ti", "N"), phases=())
    assert hull_png(hull, ())[:4] == b"\x89PNG"
    assert set(hull_figures(hull, ())) == {"plane", "space"}


def test_the_figure_shows_each_placed_candidate_once_in_3d_and_once_per_composition_in_the_triangle(
    inputs: ReportInputs,
) -> None:
    figures = hull_figures(inputs.hull, inputs.candidates)
    shown = {
        name: next(trace for trace in figure["data"] if trace["meta"] == "candidate")
        for name, figure in figures.items()
    }
    placed = [c for c in inputs.candidates if c.e_above_hull_ev_per_atom is not None]
    assert sorted(shown["space"]["customdata"]) == sorted(c.id for c in placed)
    assert len(shown["plane"]["customdata"]) == len({c.formula for c in placed})
    best = min(placed, key=lambda c: c.rank)
    text = shown["plane"]["text"][shown["plane"]["customdata"].index(best.id)]
    assert best.id in text
    assert f"{best.e_above_hull_ev_per_atom:.3f} eV/atom" in text


def test_names_from_outside_cannot_become_markup_in_a_hover(inputs: ReportInputs) -> None:
    phase = HullPhase(
        id="<img src=x>", formula="TiN", fractions={"Ti": 0.5, "N": 0.5},
        formation_energy_ev_per_atom=-1.9, e_above_hull_ev_per_atom=0.0, stable=True,
    )  # fmt: skip
    hull = dataclasses.replace(inputs.hull, phases=(*inputs.hull.phases, phase))
    assert "<img" not in str(hull_figures(hull, ()))
    assert html_formula("Ti3(AlN)2<b>") == "Ti<sub>3</sub>(AlN)<sub>2</sub>&lt;b&gt;"


def test_a_phase_outside_the_system_is_refused_by_name(inputs: ReportInputs) -> None:
    with pytest.raises(ValueError, match="does not lie in Al-Ti"):
        hull_png(HullData(elements=("Al", "Ti"), phases=inputs.hull.phases), ())
