"""Crystals and hulls as notebooks show them: the pictures and figures of the report."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms
    from plotly.graph_objects import Figure
    from pymatgen.core.structure import Structure

    from tasks.report.run.model import HullData, ReportCandidate

PLOTLY = "application/vnd.plotly.v1+json"
"""What JupyterLab, VS Code and Colab draw themselves, with values under the pointer; others show the picture."""


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture, which a notebook shows; a hull can be looked at closely too.

    Attributes:
        title: in one line.
        png: the picture.
        figures: interactive figures by name, plotly's JSON: of a hull 'plane', of three elements 'space' besides.
    """

    title: str
    png: bytes
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def figure(self, name: str = "plane") -> Figure:
        """An interactive figure, to be changed or shown. Raises: ValueError: if there is none of this name."""
        if name not in self.figures:
            there = ", ".join(self.figures) or "none"
            raise ValueError(f"{self.title} has no figure {name!r}: there is {there}")
        from plotly.graph_objects import Figure

        return Figure(_plain(self.figures[name]))

    def save(self, path: str | Path) -> Path:
        """Write the picture, PNG; returns where it lies."""
        place = Path(path)
        place.write_bytes(self.png)
        return place

    def __repr__(self) -> str:
        return f"<drawing of {self.title}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        shown: dict[str, Any] = {"text/plain": repr(self), "image/png": base64.b64encode(self.png).decode("ascii")}
        if "plane" in self.figures:
            shown[PLOTLY] = _plain(self.figures["plane"])
        return shown


def _plain(figure: Mapping[str, Any]) -> dict[str, Any]:
    """The figure on white paper: a notebook's page may be dark, and its ink is not."""
    shown: dict[str, Any] = copy.deepcopy({"data": figure["data"], "layout": figure["layout"]})
    shown["layout"].update(paper_bgcolor="white", plot_bgcolor="white")
    return shown


def draw(crystal: Structure | Atoms, size_px: int = 360, elements: Sequence[str] = ()) -> Drawing:
    """A picture of a crystal's conventional cell with a legend of its elements.

    Args:
        crystal: a pymatgen Structure or ASE Atoms.
        size_px: width and height, 64 to 1024 pixels.
        elements: chemical system, so that an element has one colour in several pictures.

    Raises: ValueError: if the size is out of range, or the crystal is none or disordered.
    """
    from tasks.discover.given_crystals import crystal_of
    from tasks.report.pictures import crystal_png

    structure = crystal_of(crystal).to_structure()
    return Drawing(structure.composition.reduced_formula, crystal_png(structure, size_px, elements))


def draw_hull(hull: HullData, candidates: Sequence[ReportCandidate]) -> Drawing:
    """The hull of competing phases with candidates on it, as in the report."""
    from tasks.report.hull_interactive import hull_figures
    from tasks.report.hull_plot import hull_png

    title = f"the hull of {'-'.join(hull.elements)}"
    return Drawing(title, hull_png(hull, candidates), hull_figures(hull, candidates))
